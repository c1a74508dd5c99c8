// Building the page: elements and text only. No text ever becomes markup.
function h(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value == null || value === false) continue;
    if (name === "on") for (const [event, act] of Object.entries(value)) made.addEventListener(event, act);
    else if (name === "css") for (const [key, v] of Object.entries(value)) made.style.setProperty(key, v);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((x) => x != null && x !== ""));
  return made;
}

const LABEL = { beneficial: "\u25b2", harmful: "\u25bc", unknown: "?", student: "\u25cf", context: "\u00b7" };
const labelOf = (name) => (Object.hasOwn(LABEL, name) ? name : "unknown");
const colour = (name) => ({ "--c": `var(--l-${labelOf(name)})` });

function ribbon(segments, small) {
  const words = segments.map(([a, b, label]) => `actions ${a + 1} to ${b} ${label}`).join("; ");
  return h("div", { class: small ? "ribbon small" : "ribbon", role: "img", "aria-label": words },
    segments.map(([a, b, label, why, on]) => h("span", {
      css: { ...colour(label), flex: `${b - a} 1 0` },
      class: `k-${labelOf(label)}${on === 0 ? " masked" : ""}`,
      title: `${b - a > 1 ? `actions ${a + 1} to ${b}` : `action ${b}`}: ${label}${on === 0 ? ", no loss" : ""}${why ? `, ${why}` : ""}`,
    }, small ? "" : `${LABEL[labelOf(label)]} ${label}`)));
}

// Text with what is searched for marked.
function marked(text, pattern) {
  if (!pattern) return [text];
  const out = [];
  let at = 0;
  let n = 0;
  pattern.lastIndex = 0;
  for (let found; n < 200 && (found = pattern.exec(text)); ) {
    if (!found[0]) { pattern.lastIndex += 1; continue; }
    out.push(text.slice(at, found.index), h("mark", null, found[0]));
    at = found.index + found[0].length;
    n += 1;
  }
  out.push(text.slice(at));
  return out;
}

// An observation: dividers between the strings of a page, what was clicked underlined.
function seen(text, action, pattern) {
  const target = /^\s*click\[([^]*)\]\s*$/i.exec(action || "");
  const want = target && target[1].trim().toLowerCase();
  const parts = text.includes("[SEP]") ? text.split("[SEP]").map((p) => p.trim()) : [text];
  const found = parts.indexOf("Instruction:"); // the goal stands on every page: dimmed
  const goal = found >= 0 && found < parts.length - 1 ? found : -2;
  return parts.flatMap((part, i) => {
    const shown = marked(part, pattern);
    let here = want && part.toLowerCase() === want ? [h("b", { class: "clicked" }, shown)] : shown;
    if (i === goal || i === goal + 1) here = [h("span", { class: "again" }, here)];
    if (!i) return here;
    if (i === goal + 1) return [" ", ...here];
    if (i === goal + 2 || /^[A-Z0-9]{10}$/.test(part)) return ["\n", ...here]; // a product: a line
    return [h("span", { class: "sep" }, " \u00b7 "), ...here];
  });
}

const number = (x) => x.toLocaleString("en-US");
const actions = (n) => (n === 1 ? "1 action" : `${number(n)} actions`);
