// Return the levels of the headings, duplicate ids, and references to missing ids.
const all = [...document.querySelectorAll("*")];
const ids = all.map((element) => element.id).filter(Boolean);
const named = ["for", "aria-labelledby", "aria-describedby"].flatMap((attribute) =>
  all.flatMap((element) => (element.getAttribute(attribute) ?? "").split(" ").filter(Boolean)));
const links = all.map((element) => element.getAttribute("href") ?? "").filter((href) => href.startsWith("#")).map((href) => href.slice(1));
return {
  levels: [...document.querySelectorAll("h1, h2, h3, h4")].map((heading) => Number(heading.tagName[1])),
  doubles: ids.filter((id, i) => ids.indexOf(id) !== i),
  dangling: [...named, ...links].filter((id) => !ids.includes(id)),
  language: document.documentElement.lang,
};
