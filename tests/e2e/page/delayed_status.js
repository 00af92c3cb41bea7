// Delay the responses of /status.json in `delayed`. Each element is a function that delivers its response. Its promise
// resolves after the page has processed the response.
const real = window.fetch;
window.delayed = [];
window.fetch = async (path, options) => {
  const response = await real(path, options);
  if (path !== "status.json") return response;
  const data = await response.json();
  return new Promise((resolve, reject) => {
    options?.signal?.addEventListener("abort", () => reject(options.signal.reason));
    window.delayed.push(async () => {
      resolve({ ok: response.ok, json: async () => data });
      await new Promise((done) => setTimeout(done));
    });
  });
};
