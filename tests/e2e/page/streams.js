// Count the opened streams in `streams`.
window.streams = 0;
window.EventSource = class extends EventSource {
  constructor(...all) {
    super(...all);
    window.streams += 1;
  }
};
