// The answers of /status.json wait in `held` until they are let go: each is a function, whose promise is kept when
// the page has done with the answer.
const real = window.fetch;
window.held = [];
window.fetch = async (path, options) => {
  const answer = await real(path, options);
  if (path !== "status.json") return answer;
  const data = await answer.json();
  return new Promise((go, refuse) => {
    options?.signal?.addEventListener("abort", () => refuse(options.signal.reason));
    window.held.push(async () => {
      go({ ok: answer.ok, json: async () => data });
      await new Promise((done) => setTimeout(done));
    });
  });
};
