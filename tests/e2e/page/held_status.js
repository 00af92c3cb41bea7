// Hold the responses of /status.json in `held`. Each element is a function that delivers its response. Its promise
// resolves after the page has processed the response.
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
