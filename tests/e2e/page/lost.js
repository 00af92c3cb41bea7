// Lose the responses to requests for the path in `lost`. The requests reach the relay.
const real = window.fetch;
window.lost = arguments[0];
window.fetch = async (path, options) => {
  const answer = await real(path, options);
  if (window.lost && String(path).startsWith(window.lost)) throw new TypeError("Failed to fetch");
  return answer;
};
