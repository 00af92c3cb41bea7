// What the page asks of the relay beyond the status. The operator's token stays in this page's memory.

import { byId } from "./dom.js";

let token = "";
export const useToken = (text) => { token = text; };

// What the relay says. `status` is missing if no answer came, or none that can be read: the relay may have done
// what it was asked to all the same.
export async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  try {
    const answer = await fetch(path, { ...options, headers });
    const data = await answer.json();
    byId("token-form").hidden = answer.status !== 401;
    return { ...data, status: answer.status };
  } catch {
    return { success: false, error: "The relay does not answer." };
  }
}

export const post = (path, data) =>
  call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(data) });
