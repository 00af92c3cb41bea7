// Requests of the page other than the status. The operator token exists only in this page's memory.

import { byId } from "./dom.js";

let token = "";
export const useToken = (text) => { token = text; };

// Return the relay's response. `status` is missing if no readable response arrived; the relay may nevertheless have
// performed the action.
export async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  try {
    const response = await fetch(path, { ...options, headers });
    const data = await response.json();
    byId("token-form").hidden = response.status !== 401;
    return { ...data, status: response.status };
  } catch {
    return { success: false, error: "The relay does not respond." };
  }
}

export const post = (path, data) =>
  call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(data) });
