// Indent a JSON text without parsing it, so that numbers, escapes and repeated fields stay as they are.

export function pretty(json) {
  let [shown, depth, quoted] = ["", 0, false];
  const line = () => `\n${"  ".repeat(Math.min(depth, 32))}`;
  for (let i = 0; i < json.length; i += 1) {
    const at = json[i];
    if (quoted) {
      shown += at;
      if (at === "\\") shown += json[(i += 1)] ?? "";
      else if (at === '"') quoted = false;
    } else if (at === '"') {
      shown += at;
      quoted = true;
    } else if (at === "{" || at === "[") {
      depth += 1;
      const rest = json.slice(i + 1, i + 40).trimStart();
      shown += at + (rest.startsWith("}") || rest.startsWith("]") ? "" : line());
    } else if (at === "}" || at === "]") {
      depth = Math.max(0, depth - 1);
      shown += (/[{[]$/.test(shown) ? "" : line()) + at;
    } else if (at === ",") shown += at + line();
    else if (at === ":") shown += ": ";
    else if (at.trim()) shown += at;
  }
  return shown;
}
