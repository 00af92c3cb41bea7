// Counts in `streams` how often the page listens.
window.streams = 0;
window.EventSource = class extends EventSource {
  constructor(...all) {
    super(...all);
    window.streams += 1;
  }
};
