// Return the contrast of each visible text, control edge and curve with its background, by the formula of WCAG.
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
function rgba(color) {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = color;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
}
function luminance([r, g, b]) {
  const [x, y, z] = [r, g, b].map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
}
function contrast(one, other) {
  const [a, b] = [luminance(one), luminance(other)].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
}
function behind(element) {
  for (let at = element; at; at = at.parentElement) {
    const color = rgba(getComputedStyle(at).backgroundColor);
    if (color[3] === 255) return color;
  }
  return rgba("Canvas");
}
const measured = [];
function measure(element, color, back, least) {
  const what = `${element.tagName}.${element.getAttribute("class") ?? ""} ${element.textContent.trim().slice(0, 40)}`;
  measured.push({ what, least, contrast: Math.round(100 * contrast(rgba(color), back)) / 100 });
}
for (const element of document.querySelectorAll("body *")) {
  if (!element.checkVisibility() || element.disabled || element.closest("dialog, .skip")) continue;
  const style = getComputedStyle(element);
  const own = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
  if (element.matches("svg text")) measure(element, style.fill, behind(element.parentElement), 4.5);
  if (own && !(element instanceof SVGElement)) measure(element, style.color, behind(element), 4.5);
  if (element.matches("input:not([type=checkbox]), select")) measure(element, style.borderTopColor, behind(element.parentElement), 3);
  if (element.matches("svg .curve")) measure(element, style.stroke, behind(element.parentElement), 3);
  if (element.matches("svg rect")) measure(element, style.fill, behind(element.parentElement), 3);
}
return measured;
