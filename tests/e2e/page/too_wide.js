// Return the elements beyond the given width. A phone would widen its window with the page.
const [width] = arguments;
if (document.scrollingElement.scrollWidth <= width) return [];
const found = [...document.querySelectorAll("body *")]
  .filter((element) => element.checkVisibility() && element.getBoundingClientRect().right > width + 0.5)
  .map((element) => `${element.tagName}#${element.id}.${element.getAttribute("class") ?? ""} ${element.getBoundingClientRect().right}`);
return [`${document.scrollingElement.scrollWidth} of ${width}`, ...found];
