// Delay the responses with dead letters in `delayed`. Each element is a function that delivers its response. Its promise
// resolves after the page has processed the response. An aborted response is delivered, too, as if the abort was late.
const real = window.fetch;
const CAUSES = "dead-letters?newest=true&bodies=false"; // The page reads causes apart from lists.
window.delayed = [];
window.fetch = (path, options) => {
  const isList = String(path).startsWith("dead-letters?") && !path.startsWith(CAUSES);
  if (!isList) return real(path, options);
  return new Promise((resolve) => window.delayed.push(Object.assign(async () => {
    const response = await real(path, { ...options, signal: null });
    const data = await response.json();
    resolve({ status: response.status, json: async () => data });
    await new Promise((done) => setTimeout(done));
  }, { signal: options.signal })));
};
