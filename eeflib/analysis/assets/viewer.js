// The viewer of eeflib: trajectories, transcripts, recovery map, comparison, training data, loss
// masks, annotations. One ES module, used by anywidget in notebooks (the default export) and inside
// report.html (startReport). Texts of records enter the page as text nodes only.

// ---- Elements -----------------------------------------------------------------------------------

function h(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value == null || value === false) continue;
    if (name === "on") for (const [event, act] of Object.entries(value)) made.addEventListener(event, act);
    else if (name === "css") for (const [key, v] of Object.entries(value)) made.style.setProperty(key, v);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((x) => x != null && x !== "" && x !== false));
  return made;
}

const LABEL = { beneficial: "\u25b2", harmful: "\u25bc", unknown: "?", student: "\u25cf", context: "\u00b7" };
const labelOf = (name) => (Object.hasOwn(LABEL, name) ? name : "unknown");
const colour = (name) => ({ "--c": `var(--l-${labelOf(name)})` });
const number = (x) => x.toLocaleString("en-US");
const many = (n, word) => `${number(n)} ${word}${n === 1 ? "" : "s"}`;
const chip = (words, name) => h("span", { class: "chip", css: { "--c": `var(--${name})` } }, words);
const missing = (words) => h("p", { class: "missing" }, words);

function pill(words, hint, act, pressed) {
  return h("button", { type: "button", class: "pill", title: hint, on: { click: act },
    "aria-pressed": pressed == null ? null : String(pressed) }, words);
}

function select(name, options, chosen, act) {
  return h("select", { "aria-label": name, on: { change: (e) => act(e.target.value) } },
    options.map(([value, words]) => h("option", { value, selected: String(value) === String(chosen) }, words)));
}

function current(link, on) {
  if (on) link.setAttribute("aria-current", "page");
  else link.removeAttribute("aria-current");
}

const pending = new Map(); // what is done once typing pauses, and its timer

function later(act) {
  return () => {
    clearTimeout(pending.get(act));
    pending.set(act, setTimeout(() => { pending.delete(act); act(); }, 50));
  };
}

// All of it at once: the next key may come before the pause is over.
function settle() {
  for (const [act, timer] of [...pending]) {
    clearTimeout(timer);
    pending.delete(act);
    act();
  }
}

// Segments [start, stop, label, why, trained] as a strip, as wide as they are long.
function ribbon(segments, small) {
  const span = (a, b) => (b - a > 1 ? `actions ${a + 1} to ${b}` : `action ${b}`);
  const words = segments.map(([a, b, label]) => `${span(a, b)} ${label}`).join("; ");
  return h("div", { class: small ? "ribbon small" : "ribbon", role: "img", "aria-label": words },
    segments.map(([a, b, label, why, on]) => h("span", {
      css: { ...colour(label), flex: `${b - a} 1 0` },
      class: `k-${labelOf(label)}${on === 0 ? " masked" : ""}`,
      title: `${span(a, b)}: ${label}${on === 0 ? ", no loss" : ""}${why ? `, ${why}` : ""}`,
    }, small ? "" : `${LABEL[labelOf(label)]} ${label}`)));
}

// Text with what is searched for marked.
function marked(text, pattern) {
  if (!pattern) return [text];
  const out = [];
  let at = 0;
  pattern.lastIndex = 0;
  for (let found, n = 0; n < 200 && (found = pattern.exec(text)); n += 1) {
    if (!found[0]) { pattern.lastIndex += 1; continue; }
    out.push(text.slice(at, found.index), h("mark", null, found[0]));
    at = found.index + found[0].length;
  }
  out.push(text.slice(at));
  return out;
}

// An observation: dividers between the strings of a web page, what was clicked underlined.
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

function interval(wins, n) { // Wilson's
  const z = 1.959963984540054;
  const p = wins / n;
  const centre = (p + (z * z) / (2 * n)) / (1 + (z * z) / n);
  const half = (z * Math.sqrt((p * (1 - p)) / n + (z * z) / (4 * n * n))) / (1 + (z * z) / n);
  return `${Math.round(100 * Math.max(0, centre - half))} to ${Math.round(100 * Math.min(1, centre + half))} %`;
}

// ---- Data ---------------------------------------------------------------------------------------

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
  return bytes;
}

// The data as viewer.py writes it, with a function for texts and steps as objects.
async function readData(packed) {
  const plain = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const data = JSON.parse(await new Response(plain).text());
  data.text = (n) => (typeof n === "string" ? n : data.texts[n || 0]); // or what was written meanwhile
  const { text } = data;
  const step = (row) => ({
    saw: row[0] || 0, action: row[1] || 0, actor: text(row[2]), kind: text(row[3]), thought: row[4] || 0,
    reply: row[5] || 0, valid: row[6] == null, reason: text(row[6]), score: row[7],
  });
  data.listed = data.items.filter(Boolean);
  data.items.forEach((item, i) => {
    if (!item) return;
    item.number = i;
    item.steps = item.steps.map(step);
    item.invalid = item.steps.filter((s) => !s.valid).length;
    item.tries = data.tries[i] || {};
    for (const group of Object.values(item.tries)) {
      for (const t of group) if (t.steps) t.steps = t.steps.map(step);
    }
  });
  data.samples.forEach((s, i) => { s.number = i; s.steps = s.steps.map(step); });
  return data;
}

const titleOf = (data, kind) => (Object.hasOwn(data.kinds, kind) ? data.kinds[kind][0]
  : kind.slice(0, 1).toUpperCase() + kind.slice(1).replaceAll("_", " "));
const meaningOf = (data, kind) => (Object.hasOwn(data.kinds, kind) ? data.kinds[kind][1] : null);

// A group that repeats and holds something that repeats: such expressions may never end.
const ENDLESS = /\((?:\\.|[^()\\])*[*+}](?:\\.|[^()\\])*\)\??[*+{]/;

const patternOf = (query, flags) => new RegExp(query.regex ? query.text : query.text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), flags);

// Which texts match: [test(number) -> bool, problem]. A text is looked at once, wherever it occurs.
function matcher(data, query) {
  if (!query.text) return [null, ""];
  if (query.regex && ENDLESS.test(query.text)) return [null, "not searched: a repeated group that repeats inside may never end"];
  let pattern;
  try {
    pattern = patternOf(query, "im");
  } catch (error) {
    return [null, `not a regular expression: ${error.message.split(": ").pop()}`];
  }
  const known = new Map();
  const end = performance.now() + 2000;
  return [(n) => {
    if (!known.has(n)) {
      if (performance.now() > end) throw new Error("slow");
      known.set(n, pattern.test(data.text(n)));
    }
    return known.get(n);
  }, ""];
}

// A pattern that marks what is looked for in a text, or null.
function marker(query) {
  if (!query || !query.text || (query.regex && ENDLESS.test(query.text))) return null;
  try {
    return patternOf(query, "gim");
  } catch {
    return null;
  }
}

// ---- A transcript -------------------------------------------------------------------------------

const CHUNK = 250; // steps of a long trajectory shown at once

const rewardOf = (x) => (x.unrated ? "?" : x.reward.toFixed(2));

// A recorded trajectory as `transcript` takes it.
function itemShown(data, item) {
  const { text } = data;
  const verdict = item.error ? `ended by a fault: ${text(item.error)}`
    : item.outcome === "solved" ? "solved" : item.outcome === "unknown" ? "reward unknown"
      : `not solved: reward ${item.reward.toFixed(2)}, needed ${item.needed.toFixed(2)}`;
  return {
    ...item, item, name: `t${item.number}`, verdict,
    facts: [text(item.env), whoOf(data, item), `policy ${text(item.policy)}`, text(item.task), `seed ${item.seed}`,
      text(item.split), text(item.level), many(item.steps.length, "action"), `reward ${rewardOf(item)}`,
      item.invalid ? `${item.invalid} invalid` : "", item.limit ? "stopped by a limit" : "",
      item.tokens ? `${number(item.tokens)} tokens` : "", item.cost ? `$${item.cost}` : "",
      item.seconds ? `${item.seconds} s` : "", ...(item.tags || []).map(text)],
    goTo: (k) => (item.tries[k] ? `#!map/${item.number}/${k}` : null),
  };
}

const whoOf = (data, item) => `${data.text(item.method)}${item.iteration ? ` ${item.iteration}` : ""}`;

// A student's rollout after the teacher's steps, or null where there is none.
function tryShown(data, item, k, n) {
  const one = item && (item.tries[k] || [])[n];
  if (!one || !one.steps) return null;
  const { text } = data;
  const steps = [...item.steps.slice(0, one.t), ...one.steps];
  const segments = [];
  if (one.t) segments.push([0, one.t, "context", `the teacher's actions up to s${k}`]);
  if (one.steps.length) segments.push([one.t, steps.length, "student", `the student's own, which ${one.won ? "won" : "did not win"}`]);
  return {
    name: `t${item.number}k${k}n${n}`, goal: item.goal, steps, segments, last: one.last,
    facts: [`student ${text(one.policy)}`, k > 0 ? `put into s${k} after ${many(one.t, "action")} of the teacher` : "from the start",
      `${many(one.steps.length, "action")} of its own`, `reward ${one.reward.toFixed(2)}`],
    verdict: one.error ? `ended by a fault: ${text(one.error)}` : one.won ? "solved" : `not solved: reward ${one.reward.toFixed(2)}`,
  };
}

// shown: {name, goal, facts, steps, last, verdict, segments, states, why, notes}; the evidence of a
// segment is a text's number, or words of ours. look: {raw, here, query, opened, form, retract}.
function transcript(data, shown, look) {
  const { text } = data;
  const open = look.opened(shown.name);
  const pattern = marker(look.query);
  const find = (t) => marked(t, pattern);
  const flags = new Map();
  for (const [kind, t] of shown.why || []) flags.set(t, [...(flags.get(t) || []), chip(`\u2691 ${titleOf(data, kind)}`, "bad")]);
  const notes = (t) => (shown.notes || []).filter(([kind, , a, b]) => kind !== "segment"
    && a != null && t >= a && t < (b == null ? a + 1 : b));

  function noteRow([kind, words, a, b, who, day, id]) {
    const span = kind === "segment" ? `actions ${a + 1} to ${b}: ` : "";
    return [h("dt", null, kind), h("dd", { class: "note", dir: "auto" },
      kind === "note" ? text(words) : h("strong", null, span, text(words)), " ",
      h("small", null, `${text(who)}, ${text(day)}`),
      look.retract ? [" ", h("button", { type: "button", class: "plain", title: "it stays in the file, marked as taken back",
        on: { click: () => look.retract(id) } }, "take back")] : "")];
  }

  function body(step, t) {
    const raw = (words) => h("pre", null, find(words));
    const action = text(step.action);
    const usual = step.thought ? `Thought: ${text(step.thought)}\nAction: ${action}` : action;
    const rows = [["saw", look.raw ? raw(text(step.saw)) : seen(text(step.saw), action, pattern)]];
    if (look.raw) rows.push(["reply", raw(text(step.reply) || usual)]);
    else if (step.thought) rows.push(["thought", find(text(step.thought))]);
    rows.push(["action", h("code", { dir: "auto" }, find(action))]);
    if (!step.valid) rows.push(["not valid", step.reason]);
    if (step.reply && !look.raw) rows.push(["raw reply", h("code", { dir: "auto" }, find(text(step.reply)))]);
    if (step.score != null) rows.push(["score", step.score.toFixed(2)]);
    return h("dl", null, rows.map(([name, value]) => [h("dt", null, name), h("dd", { dir: "auto" }, value)]),
      notes(t).map(noteRow), look.form ? h("dd", { class: "wide" }, h("button", { type: "button", class: "plain",
        on: { click: () => look.form.about(t) } }, "\u270e annotate this step")) : "");
  }

  function matches(step) {
    if (!pattern) return false;
    const fields = { thought: step.thought, action: step.action || step.reply, observation: step.saw };
    return Object.entries(fields).some(([name, n]) => {
      pattern.lastIndex = 0;
      return look.query.fields.includes(name) && pattern.test(text(n));
    });
  }

  function stepOf(t) {
    const step = shown.steps[t];
    const count = notes(t).length;
    const hit = matches(step);
    const chips = [step.valid ? "" : chip("\u2717 invalid", "bad"), flags.get(t) || "",
      count ? chip(`\u270e ${count}`, "won") : "", hit ? chip("match", "accent") : ""];
    const box = h("details", { class: look.here === t ? "step here" : "step", "data-step": t, "data-hit": hit },
      h("summary", { class: "sum" }, h("span", { class: "n" }, t + 1),
        h("span", { class: "act" }, step.action ? h("code", { dir: "auto" }, find(text(step.action).slice(0, 160)))
          : h("em", null, "no action")), chips,
        step.thought ? h("q", { dir: "auto" }, text(step.thought).slice(0, 160)) : "",
        h("span", { class: "kind" }, `${step.actor} \u00b7 ${step.kind}`)));
    const fill = () => { if (box.children.length < 2) box.append(body(step, t)); };
    if (open.has(t)) { box.open = true; fill(); }
    box.addEventListener("toggle", () => {
      if (box.open) { open.add(t); fill(); } else open.delete(t);
    });
    return box;
  }

  function before(t) {
    const out = (shown.states || []).filter((s) => s[1] === t).map(([k, , n, wins]) => {
      const won = `${wins ? "won" : "lost"} ${wins}/${n}`;
      const deep = shown.goTo && shown.goTo(k) ? h("a", { href: shown.goTo(k) }, won) : won;
      return h("span", { class: "state", title: "the student was put into this state of the trajectory and went on by itself" },
        "s", h("sub", null, k), n ? [" student ", deep, " from here"] : " could not be tried");
    });
    for (const [a, , label, why, on] of shown.segments || []) {
      if (a !== t) continue;
      const loss = on == null ? "" : on ? "trained: " : "no loss: ";
      out.push(h("span", { class: "seghead", css: colour(label) }, `${LABEL[labelOf(label)]} ${loss}${label}`),
        why ? h("small", null, text(why)) : "");
    }
    return out.length ? [h("div", { class: "mark" }, out)] : out;
  }

  const parts = shown.segments && shown.segments.length ? shown.segments : null;
  const list = h("div", { class: "steps" });
  const more = h("p", { class: "more" });
  let at = 0;
  function grow(until) {
    const stop = Math.min(shown.steps.length, Math.max(until, at + CHUNK));
    let section = null;
    for (; at < stop; at += 1) {
      const part = parts && parts.find(([a, b]) => at >= a && at < b);
      if (part && (part[0] === at || !section)) {
        section = h("section", { class: "seg", css: colour(part[2]) });
        list.append(section);
      }
      (section || list).append(...before(at), stepOf(at));
    }
    const rest = shown.steps.length - at;
    more.replaceChildren(...(rest > 0 ? [h("button", { type: "button", class: "plain", on: { click: () => grow(at + CHUNK) } },
      `${number(rest)} more steps`)] : []));
  }
  const first = pattern && shown.steps.findIndex(matches); // what is looked for is among what is drawn
  grow(Math.max(look.here == null ? 0 : look.here + 1, first ? first + 1 : 0));

  const about = (shown.notes || []).filter(([kind, , a]) => a == null || kind === "segment");
  const why = (shown.why || []).map(([kind, t, evidence, rule], i) => [i ? h("br") : "",
    h("strong", { title: meaningOf(data, kind) }, titleOf(data, kind)), " ", text(evidence), " ",
    h("small", null, `(${t < shown.steps.length ? `step ${t + 1}` : "the end"}; rule: ${text(rule)})`)]);
  return h("article", { class: "talk" },
    h("p", { class: "goal", dir: "auto" }, h("strong", null, "Task "), text(shown.goal)),
    h("p", { class: "facts" }, shown.facts.filter(Boolean).join(" \u00b7 ")),
    why.length ? h("div", { class: "why" }, why) : "",
    about.length ? h("dl", { class: "about" }, about.map(noteRow)) : "",
    look.form ? look.form.element : "",
    parts ? ribbon(parts.map(([a, b, label, words, on]) => [a, b, label, text(words), on])) : "",
    list, more,
    h("div", { class: "end" }, h("strong", null, shown.verdict), " ", flags.get(shown.steps.length) || ""),
    shown.last == null ? "" : h("details", { class: "step" },
      h("summary", { class: "sum" }, h("span", { class: "n" }, "s", h("sub", null, "T")), "what it saw last"),
      h("dl", null, h("dt", null, "saw"), h("dd", { dir: "auto" }, look.raw
        ? h("pre", null, find(text(shown.last))) : seen(text(shown.last), "", pattern)))));
}

// What a person writes about one trajectory. What could not be saved stays in the form.
function makeForm(item, labels, author, save) {
  const label = h("input", { placeholder: "label, e.g. misread the goal", "aria-label": "label", maxlength: 200 });
  const names = h("span", { class: "pills" }, labels.slice(0, 6).map((x) => pill(x, "use this label", () => { label.value = x; })));
  const note = h("textarea", { placeholder: "note", "aria-label": "note", rows: 2, maxlength: 20000 });
  const segment = select("segment", [["", "segment as found"], ...["beneficial", "harmful", "unknown"].map((x) => [x, `these actions are ${x}`])], "", () => {});
  const step = (name) => h("input", { type: "number", min: 1, max: item.steps.length, "aria-label": name });
  const [from, to] = [step("from step"), step("to step")];
  const who = h("input", { value: author, "aria-label": "author", maxlength: 80 });
  const message = h("span", { class: "note", role: "status" });
  const element = h("details", { class: "form" }, h("summary", null, "\u270e annotate", h("span", { class: "note" }, " (a)")),
    h("form", { on: { submit: send } }, h("div", null, label, names), note,
      h("div", null, "steps ", from, " to ", to, h("span", { class: "note" }, "empty: the whole trajectory")),
      h("div", null, segment, " by ", who, h("button", { class: "pill" }, "Save"), message)));

  async function send(event) {
    event.preventDefault();
    const first = from.value === "" ? null : Number(from.value);
    const last = to.value === "" ? first : Number(to.value);
    const span = first == null ? null : [first - 1, last];
    if (segment.value && !span) { message.textContent = "Say which steps the segment has."; return; }
    message.textContent = "saving \u2026";
    const said = await save({ label: label.value, note: note.value, segment: segment.value, span, author: who.value });
    message.textContent = said.error ? `Not saved: ${said.error}` : said.message;
    if (!said.error) for (const field of [label, note, segment]) field.value = "";
  }

  function about(t) {
    element.open = true;
    [from.value, to.value] = [t + 1, t + 1];
    note.focus();
    element.scrollIntoView({ block: "nearest" });
  }
  return { element, about, start: () => { element.open = true; label.focus(); } };
}

// ---- Lists --------------------------------------------------------------------------------------

const ROW = 34; // height in pixels, as in the style sheet

// A table of any length, of which only the rows in sight are drawn. rowOf(x) gives its cells.
function makeTable(kind, heads, key, rowOf, open) {
  const body = h("tbody");
  const pane = h("div", { class: "rows", tabindex: "-1", on: { scroll: () => draw(false) } },
    h("table", { class: `grid ${kind}` }, h("thead", null, h("tr", null, heads)), body));
  let rows = [];
  let drawn = [0, 0];
  let chosen = -1;
  const space = (n) => (n > 0 ? [h("tr", { class: "space" }, h("td", { css: { height: `${n * ROW}px` } }))] : []);

  function draw(anew) {
    const top = Math.floor(pane.scrollTop / ROW);
    const end = Math.min(rows.length, top + Math.ceil((pane.clientHeight || 3000) / ROW));
    if (!anew && top >= drawn[0] && end <= drawn[1]) return;
    drawn = [Math.max(0, top - 20), Math.min(rows.length, end + 20)];
    body.replaceChildren(...space(drawn[0]), ...rows.slice(...drawn).map((x) => h("tr", { [key]: x.number,
      class: x.number === chosen ? "on" : null, on: { click: () => open(x) } }, rowOf(x))), ...space(rows.length - drawn[1]));
  }

  return {
    pane,
    fill(found, none) {
      rows = found;
      draw(true);
      if (!rows.length) body.replaceChildren(h("tr", null, h("td", { colspan: heads.length }, none)));
    },
    choose(n) { // and scroll to it, the list and never the page around it
      chosen = n;
      const place = rows.findIndex((x) => x.number === n);
      for (const row of body.children) row.classList.toggle("on", row.getAttribute(key) === String(n));
      if (place < 0) return;
      const room = pane.clientHeight - 2 * ROW; // less the head
      if (place * ROW < pane.scrollTop) pane.scrollTop = place * ROW;
      else if (place * ROW > pane.scrollTop + room) pane.scrollTop = place * ROW - room;
      draw(false);
    },
    neighbour(by) {
      const place = rows.findIndex((x) => x.number === chosen);
      return rows[Math.min(Math.max(0, place + by), rows.length - 1)] || null;
    },
  };
}

// ---- The grid of trajectories -------------------------------------------------------------------

const FIELDS = ["task", "thought", "action", "observation"];
const KINDED = ["failure", "finding"]; // facets whose values are kinds of failure
const SPANS = ["reward", "steps", "shown"]; // filters of a least and a most, `0~5` in an address
const SIGNS = { solved: ["ok", "\u2713 solved"], failed: ["no", "\u2717 failed"], fault: ["no", "\u26a0 fault"], unknown: ["", "? unknown"] };
const RANK = { failed: 0, fault: 1, unknown: 2, solved: 3 };
const HINTS = {
  failure: "the main kind of failure, by rules", reward: "0 to 1; a task is solved at its threshold", length: "actions",
  invalid: "actions that were not understood", tokens: "read and written", cost: "dollars", seconds: "seconds of the policy",
  segments: "high and blue: beneficial actions; low and orange: harmful; thin and grey: unknown",
  method: "the teacher, or a student's method and iteration", model: "the policy that acted",
};

// What can be picked, also by an address: name -> values of a trajectory.
function facetsOf({ text, kinds }) {
  const one = (value) => (value ? [value] : []);
  return {
    outcome: (x) => [x.outcome], failure: (x) => one(x.failure),
    finding: (x) => [...new Set((x.why || []).map(([kind]) => kind))],
    explained: (x) => (x.failure ? kinds[x.failure][2] : []), counted: (x) => x.counted || [], method: (x) => one(text(x.method)),
    iteration: (x) => (text(x.method) === "teacher" ? [] : [String(x.iteration)]), model: (x) => one(text(x.policy)),
    split: (x) => one(text(x.split)), level: (x) => one(text(x.level)), tag: (x) => (x.tags || []).map(text),
    seed: (x) => [String(x.seed)], task: (x) => [...new Set([text(x.task), text(x.same)])],
  };
}

function columnsOf(data) {
  const { text, listed } = data;
  const has = (f) => listed.some(f);
  const differ = (f) => new Set(listed.map(f)).size > 1;
  const short = (t) => h("span", { title: t.length > 24 ? t : null }, t.slice(0, 60));
  return [ // name, title, what it is sorted by, what is shown, whether it is a number
    ["outcome", "outcome", (x) => RANK[x.outcome], (x) => h("span", { class: SIGNS[x.outcome][0] }, SIGNS[x.outcome][1])],
    ["task", "task", (x) => text(x.task), (x) => h("span", { dir: "auto", title: text(x.goal).slice(0, 300) }, text(x.goal).slice(0, 200))],
    differ((x) => `${x.method} ${x.iteration}`) && ["method", "method", (x) => whoOf(data, x), (x) => short(whoOf(data, x))],
    differ((x) => x.policy) && ["model", "model", (x) => text(x.policy), (x) => short(text(x.policy))],
    differ((x) => x.split) && ["split", "split", (x) => text(x.split), (x) => short(text(x.split))],
    has((x) => x.level) && ["level", "level", (x) => text(x.level), (x) => short(text(x.level))],
    has((x) => x.failure) && ["failure", "failure", (x) => (x.failure ? `0${x.failure}` : "1"), (x) => (x.failure
      ? h("span", { title: meaningOf(data, x.failure) }, titleOf(data, x.failure)) : "")],
    ["reward", "reward", (x) => (x.unrated ? -1 : x.reward), rewardOf, true],
    ["length", "steps", (x) => x.steps.length, (x) => number(x.steps.length), true],
    has((x) => x.invalid) && ["invalid", "invalid", (x) => x.invalid, (x) => x.invalid || "", true],
    has((x) => x.tokens) && ["tokens", "tokens", (x) => x.tokens || 0, (x) => (x.tokens ? number(x.tokens) : ""), true],
    has((x) => x.cost) && ["cost", "$", (x) => x.cost ?? -1, (x) => x.cost ?? "\u2013", true],
    has((x) => x.seconds) && ["seconds", "s", (x) => x.seconds || 0, (x) => (x.seconds || 0).toFixed(1), true],
    differ((x) => x.seed) && ["seed", "seed", (x) => x.seed, (x) => x.seed, true],
    has((x) => x.segments.length) && ["segments", "exploration", (x) => x.states.filter((s) => s[3]).length,
      (x) => (x.segments.length ? ribbon(x.segments.map(([a, b, l]) => [a, b, l]), true) : "")],
  ].filter(Boolean);
}

// Filters, search, sorting, rows. `pick(item, byHand)` is called with the trajectory to show.
function makeGrid(data, pick) {
  const { text, listed } = data;
  const columns = columnsOf(data);
  const facets = facetsOf(data);
  const fresh = () => ({ picked: {}, marked: false, text: "", regex: false, fields: [...FIELDS],
    reward: [0, 1], steps: [0, Infinity], cost: [0, Infinity], shown: [0, Infinity] });
  const state = { ...fresh(), sort: "", down: false };
  let rows = [];
  let listedOnce = false;
  let chosen = -1;

  const message = h("span", { class: "no", role: "alert" });
  const count = h("span", { class: "count", role: "status" });
  const asked = h("span", { class: "pills" });
  const heads = columns.map(([name, title, , , right]) => h("th", { scope: "col", title: HINTS[name],
    class: `${right ? "num " : ""}c-${name}`, "aria-sort": "none" },
  h("button", { type: "button", on: { click: () => sortBy(name) } }, title)));
  const table = makeTable("", [h("th", { class: "num at c-at" }, "#"), ...heads], "data-item", (x) => [
    h("td", { class: "num at" }, x.number + 1, x.notes ? h("span", { class: "noted" }, "\u270e") : ""),
    columns.map(([name, , , cell, right]) => h("td", { class: `${right ? "num " : ""}c-${name}` }, cell(x)))], (x) => pick(x, true));

  const search = h("input", { type: "search", placeholder: "search  ( / )", "aria-label": "search",
    on: { input: later(() => set({ text: search.value })) } });
  const toggle = (name, read, act) => {
    const button = pill(name, null, () => act(button.getAttribute("aria-pressed") !== "true"), false);
    syncs.push(() => button.setAttribute("aria-pressed", String(read())));
    return button;
  };
  const syncs = []; // what makes the controls say what the state says
  const regex = toggle("regex", () => state.regex, (on) => set({ regex: on }));
  const fields = FIELDS.map((name) => toggle(name, () => state.fields.includes(name), (on) => set({
    fields: FIELDS.filter((f) => (f === name ? on : state.fields.includes(f))) })));
  const menus = Object.entries(facets).filter(([name]) => name !== "task").map(([name, values]) => {
    const counts = new Map();
    for (const x of listed) for (const v of values(x)) counts.set(v, (counts.get(v) || 0) + 1);
    const all = [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
    if (!all.length || all.length > 60 || (all.length < 2 && all[0][1] === listed.length)) return null;
    const menu = select(name, [["", `any ${name}`], ...all.map(([v, n]) => [v,
      `${KINDED.includes(name) ? titleOf(data, v) : name === "iteration" || name === "seed" ? `${name} ${v}` : v} (${n})`])], "",
    (v) => set({ picked: { ...state.picked, [name]: v } }));
    syncs.push(() => { menu.value = state.picked[name] || ""; });
    return [name, menu];
  }).filter(Boolean);
  const spanFields = {};
  const span = (name, key, most, step) => {
    const parse = (field, none) => (field.value === "" || Number.isNaN(Number(field.value)) ? none : Number(field.value));
    const field = (words, placeholder) => h("input", { type: "number", min: 0, max: most, step, placeholder, "aria-label": `${name} ${words}`,
      on: { input: later(() => set({ [key]: [parse(from, 0), parse(to, Infinity)] })) } });
    const from = field("from", "0");
    const to = field("to", most);
    spanFields[key] = [from, to];
    return h("span", { class: "span" }, `${name} `, from, "\u2013", to);
  };
  const most = listed.reduce((a, x) => Math.max(a, x.steps.length), 1);
  const dearest = listed.reduce((a, x) => Math.max(a, x.cost || 0), 0);
  const shown = (usual) => menus.filter(([name]) => ["outcome", "failure", "method", "level"].includes(name) === usual).map((x) => x[1]);
  const rare = h("div", { hidden: true }, shown(false), toggle("annotated", () => state.marked, (on) => set({ marked: on })),
    span("reward", "reward", 1, 0.01), span("steps", "steps", most, 1), dearest ? span("$", "cost", dearest, "any") : "");
  const more = pill("more filters", null, () => {
    rare.hidden = !rare.hidden;
    more.setAttribute("aria-pressed", String(!rare.hidden));
  }, false);
  const controls = h("div", { class: "controls" }, h("div", null, search, regex, fields),
    h("div", null, shown(true), more, pill("reset", "no filter, no search", () => filter({}))), rare,
    h("div", null, count, asked, message));

  // Exactly these filters: names of facets, `text`, `regex`.
  function filter(wanted) {
    const picked = Object.fromEntries(Object.entries(wanted).filter(([name, v]) => Object.hasOwn(facets, name) && v !== ""));
    for (const field of controls.querySelectorAll("input")) field.value = "";
    search.value = wanted.text || "";
    const spans = Object.fromEntries(SPANS.filter((name) => wanted[name]).map((name) => [name, wanted[name].split("~").map(Number)]));
    for (const [name, ends] of Object.entries(spans)) {
      ends.forEach((end, i) => { if (spanFields[name]) spanFields[name][i].value = end; });
    }
    set({ ...fresh(), ...spans, picked, text: search.value, regex: Boolean(wanted.regex) });
  }

  function sortBy(name) {
    if (state.sort !== name) set({ sort: name, down: false });
    else set(state.down ? { sort: "", down: false } : { down: true });
  }

  function set(changes) {
    Object.assign(state, changes);
    refresh();
  }

  const query = () => ({ text: state.text, regex: state.regex, fields: state.fields });

  function fits(x, picked, hit) {
    for (const [values, wanted] of picked) if (!values(x).includes(wanted)) return false;
    if (state.marked && !x.notes) return false;
    if (x.reward < state.reward[0] - 1e-9 || x.reward > state.reward[1] + 1e-9) return false;
    if (state.shown[1] < Infinity && !(x.why && x.why[0] && x.why[0][1] <= state.shown[1])) return false;
    if (x.steps.length < state.steps[0] || x.steps.length > state.steps[1]) return false;
    const dear = state.cost[0] > 0 || state.cost[1] < Infinity;
    if (dear && (x.cost == null || x.cost < state.cost[0] || x.cost > state.cost[1])) return false;
    if (!hit) return true;
    const on = (name) => state.fields.includes(name);
    if (on("task") && (hit(x.goal) || hit(x.id) || hit(x.task))) return true;
    if (on("observation") && hit(x.last)) return true;
    return x.steps.some((s) => (on("action") && hit(s.action || s.reply)) || (on("thought") && hit(s.thought))
      || (on("observation") && hit(s.saw)));
  }

  function list() {
    listedOnce = true;
    const [hit, problem] = matcher(data, query());
    message.textContent = problem;
    const picked = Object.entries(state.picked).filter(([, v]) => v).map(([name, v]) => [facets[name], v]);
    try {
      rows = listed.filter((x) => fits(x, picked, state.fields.length ? hit : null));
    } catch (error) {
      if (error.message !== "slow") throw error;
      message.textContent = "stopped after 2 s: this expression takes too long on these texts";
      rows = [...listed];
    }
    const column = columns.find(([name]) => name === state.sort);
    if (column) {
      const keys = new Map(rows.map((x) => [x, column[2](x)]));
      const sign = state.down ? -1 : 1;
      rows.sort((x, y) => (keys.get(x) < keys.get(y) ? -sign : keys.get(x) > keys.get(y) ? sign : x.number - y.number));
    }
    columns.forEach(([name], i) => {
      heads[i].setAttribute("aria-sort", name !== state.sort ? "none" : state.down ? "descending" : "ascending");
    });
    for (const sync of syncs) sync();
    const bounded = SPANS.filter((name) => String(state[name]) !== String(fresh()[name]));
    asked.replaceChildren(...bounded.map((name) => pill(`${name}: ${state[name].join(" \u2013 ")} \u00d7`, "take this filter away",
      () => { for (const field of spanFields[name] || []) field.value = ""; set({ [name]: fresh()[name] }); })), ...Object.entries(state.picked).filter(([, v]) => v).map(([name, v]) =>
      pill(`${name}: ${KINDED.includes(name) ? titleOf(data, v) : v} \u00d7`, "take this filter away", () => set({ picked: { ...state.picked, [name]: "" } }))));
    count.textContent = rows.length === listed.length ? `${number(rows.length)} ${rows.length === 1 ? "trajectory" : "trajectories"}`
      : `${number(rows.length)} of ${number(listed.length)} trajectories`;
    table.fill(rows, listed.length ? "None fits." : "No trajectory is recorded.");
  }

  function refresh() {
    list();
    pick(rows.find((x) => x.number === chosen) || rows[0] || null, false);
  }

  function choose(item) {
    chosen = item ? item.number : -1;
    if (!listedOnce) list(); // a link leads to an item before anything was listed
    table.choose(chosen);
  }

  return { element: [controls, table.pane], search, query, filter, refresh, list, choose, neighbour: table.neighbour };
}

// ---- The recovery map ---------------------------------------------------------------------------

const SCREENFUL = 100; // rows of the map drawn at once

// Failed trajectories by expert state; a cell leads to the rollouts from it.
function makeMap(data, open) {
  const { text } = data;
  const failed = data.listed.filter((x) => x.outcome !== "solved" && x.states.length > 1);
  const lastWon = (x) => Math.max(-1, ...x.states.filter((s) => s[3] > 0).map((s) => s[0]));
  failed.sort((x, y) => lastWon(y) - lastWon(x) || x.seed - y.seed || x.number - y.number);
  if (!failed.length) return { element: [missing("No exploration from expert states is recorded, so there is no map.")], choose() {} };
  const width = failed.reduce((a, x) => Math.max(a, ...x.states.map((s) => s[0])), 0) + 1;
  const cells = new Map();
  const levels = failed.some((x) => x.level);
  const pane = h("div", { class: "rows", tabindex: "-1" });
  const cellOf = (x, k) => {
    const s = x.states.find((state) => state[0] === k);
    if (!s) return h("td", { class: "c" });
    const [, t, n, wins, status] = s;
    const kind = n ? (wins ? "won" : "lost") : "no";
    const hint = n ? `s${k}, after ${many(t, "action")}: won ${wins} of ${n}, 95 % interval ${interval(wins, n)}` : `s${k}: ${WHY_NOT[status] || status}`;
    const cell = h("td", { class: `c ${kind}`, css: { "--p": `${n ? (100 * wins) / n : 0}%` } },
      h("button", { type: "button", title: hint, disabled: !x.tries[k], on: { click: () => open(x.number, k) } },
        n ? `${wins}/${n}` : status === "untried" ? "\u2013" : "!"));
    cells.set(`${x.number}/${k}`, cell);
    return cell;
  };
  const rowOf = (x) => h("tr", null,
    h("td", null, h("a", { href: `#!t/${x.number}`, title: text(x.goal).slice(0, 300) }, text(x.task).slice(0, 60))),
    h("td", { class: "num note" }, x.seed), levels ? h("td", { class: "note" }, text(x.level).slice(0, 24)) : "",
    h("td", { class: "num note" }, number(x.steps.length)), Array.from({ length: width }, (_, k) => cellOf(x, k)));
  const body = h("tbody");
  let drawn = 0; // rows so far: more come as one scrolls down
  const draw = (until) => {
    body.append(...failed.slice(drawn, until).map(rowOf));
    drawn = Math.min(failed.length, Math.max(drawn, until));
  };
  draw(SCREENFUL);
  pane.addEventListener("scroll", () => {
    if (pane.scrollTop + pane.clientHeight > pane.scrollHeight - 20 * ROW) draw(drawn + SCREENFUL);
  });
  const never = failed.filter((x) => lastWon(x) < 0).length;
  const heads = Array.from({ length: width }, (_, k) => h("th", { class: "c", title: k
    ? `state ${k} of the teacher's trajectory, from which the student went on` : "the start of the task" }, "s", h("sub", null, k)));
  pane.append(h("table", { class: "map" }, h("thead", null, h("tr", null, h("th", null, "task"), h("th", { class: "num" }, "seed"),
    levels ? h("th", null, "level") : "", h("th", { class: "num" }, "steps"), heads)), body));
  return {
    element: [h("p", { class: "caption" }, `${number(failed.length)} trajectories in which the teacher failed; ${number(never)} were won from no state. `
      + `A cell: rollouts the student won / tried from the teacher's state (${text(data.explored.method)}, iteration ${data.explored.iteration}). `
      + "First those that could be won latest. ! = not restorable, or ended by a fault; \u2013 = never tried."), pane],
    choose(place) {
      for (const cell of body.querySelectorAll(".at")) cell.classList.remove("at");
      draw(failed.findIndex((x) => place.startsWith(`${x.number}/`)) + SCREENFUL);
      const cell = cells.get(place);
      if (!cell) return;
      cell.classList.add("at");
      const [box, at] = [pane.getBoundingClientRect(), cell.getBoundingClientRect()];
      if (at.top < box.top + ROW || at.bottom > box.bottom) pane.scrollTop += at.top - box.top - box.height / 2;
    },
  };
}

const WHY_NOT = { unrestorable: "could not be restored", faulted: "every rollout was ended by a fault", untried: "never tried" };

// What stands behind a cell: the rollouts from the state, one of them in full.
function behind(data, item, k, n, look) {
  const group = item.tries[k] || [];
  const names = group.map((one, i) => h("a", { href: `#!map/${item.number}/${k}/${i}`, class: "pill",
    "aria-current": i === n ? "true" : null },
  `${i + 1}: ${one.steps ? `${one.won ? "\u2713" : "\u2717"} reward ${one.reward.toFixed(2)}` : "not restored"}`));
  const state = item.states.find((s) => s[0] === k);
  const around = item.segments.filter(([a, b]) => state && (a === state[1] || (b === state[1] && k)))
    .map(([a, , label, why]) => `${a === state[1] ? "after" : "before"} it: ${label} (${data.text(why)})`);
  const shown = tryShown(data, item, k, n);
  const one = group[n];
  return h("div", null,
    h("p", { class: "caption" }, h("strong", null, state && state[2]
      ? `s${k}, after ${many(state[1], "action")}: won ${state[3]} of ${state[2]}, 95 % interval ${interval(state[3], state[2])}` : `s${k}`),
    around.length ? ` \u00b7 ${around.join(" \u00b7 ")}` : "", " \u00b7 ",
    h("a", { href: `#!t/${item.number}` }, "the teacher's trajectory")),
    h("p", { class: "pills" }, names),
    shown ? transcript(data, shown, { ...look, here: one.t })
      : missing(one && one.why ? `The state could not be restored: ${data.text(one.why)}` : "No rollout from this state is kept here."));
}

// ---- Two episodes side by side ------------------------------------------------------------------

// Rows [step of a or null, step of b or null, same]: the equal beginning, the two steps where they
// part, then what they share by a longest common subsequence.
export function align(a, b) {
  const shorter = Math.min(a.length, b.length);
  let at = 0;
  const pairs = [];
  while (at < shorter && a[at] === b[at]) { pairs.push([at, at, true]); at += 1; }
  if (at < shorter) { pairs.push([at, at, false]); at += 1; }
  const [n, m] = [a.length - at, b.length - at];
  const shared = [];
  if (n * m <= 4e6) {
    const best = Array.from({ length: n + 1 }, () => new Uint16Array(m + 1));
    for (let i = n - 1; i >= 0; i -= 1) {
      for (let j = m - 1; j >= 0; j -= 1) {
        best[i][j] = a[at + i] === b[at + j] ? best[i + 1][j + 1] + 1 : Math.max(best[i + 1][j], best[i][j + 1]);
      }
    }
    for (let i = 0, j = 0; i < n && j < m;) {
      if (a[at + i] === b[at + j]) { shared.push([at + i, at + j]); i += 1; j += 1; }
      else if (best[i + 1][j] >= best[i][j + 1]) i += 1;
      else j += 1;
    }
  } else { // too long for that: step by step
    for (let i = 0; i < Math.min(n, m); i += 1) if (a[at + i] === b[at + i]) shared.push([at + i, at + i]);
  }
  let [i, j] = [at, at];
  for (const [p, q] of [...shared, [a.length, b.length]]) {
    while (i < p && j < q) pairs.push([i++, j++, false]);
    while (i < p) pairs.push([i++, null, false]);
    while (j < q) pairs.push([null, j++, false]);
    if (p < a.length) { pairs.push([p, q, true]); i = p + 1; j = q + 1; }
  }
  return pairs;
}

// The first row in which they part, and why; -1 if they never do.
function parting(a, b, pairs) {
  for (let r = 0; r < pairs.length; r += 1) {
    const [p, q, same] = pairs[r];
    if (p == null || q == null) return [r, "Here one of them ends"];
    if (a[p].saw !== b[q].saw) return [r, "Here they part: after the same actions, they see something else"];
    if (!same) return [r, "Here they part: seeing the same, they act differently"];
  }
  return [-1, ""];
}

// Every episode of an item's task: [name, shown]; the item itself first, then what won.
function episodes(data, item) {
  const sign = (won) => (won ? "\u2713" : "\u2717");
  const own = data.listed.filter((x) => x.same === item.same && x.seed === item.seed).map((x) => [
    `${whoOf(data, x)}: ${sign(x.outcome === "solved")} ${data.text(x.policy)}, reward ${rewardOf(x)}`, itemShown(data, x)]);
  const at = own.findIndex(([, s]) => s.item === item);
  own.unshift(...own.splice(at, 1));
  const tries = [];
  for (const [k, group] of Object.entries(item.tries)) {
    group.forEach((one, n) => {
      const shown = tryShown(data, item, k, n);
      if (shown) tries.push([`student from s${k}, rollout ${n + 1}: ${sign(one.won)} ${one.reward.toFixed(2)}`, shown, one.won, one.t]);
    });
  }
  tries.sort((x, y) => y[2] - x[2] || y[3] - x[3]);
  return [own[0], ...(tries.length ? tries : []), ...own.slice(1)];
}

// names: of the two episodes, as transcripts are named; the first two if they are not given.
function beside(data, item, names, visit) {
  const all = episodes(data, item);
  for (const name of names) { // one of another task was asked for
    const other = /^t\d+$/.test(name) && data.items[Number(name.slice(1))];
    if (other && !all.some(([, s]) => s.name === name)) all.push([`${whoOf(data, other)}, ${data.text(other.task)}`, itemShown(data, other)]);
  }
  if (all.length < 2) return missing("This task has one episode only; a second comes from exploration or from another policy.");
  const at = [0, 1].map((side) => {
    const found = all.findIndex(([, s]) => s.name === names[side]);
    return found < 0 ? side : found;
  });
  const [a, b] = at.map((n) => all[n][1]);
  const pick = (side) => select(side ? "right" : "left", all.map(([name], n) => [n, name]), at[side], (n) => {
    const next = [a.name, b.name];
    next[side] = all[n][1].name;
    visit(`#!t/${item.number}/compare/${next.join("/")}`, true);
  });
  const word = (s) => data.text(s.action).split(/\s+/).filter(Boolean).join(" ").toLowerCase();
  const pairs = align(a.steps.map(word), b.steps.map(word));
  const [part, why] = parting(a.steps, b.steps, pairs);
  const cell = (shown, t, same, open) => {
    if (t == null) return h("div", { class: "gap" });
    const step = shown.steps[t];
    const action = data.text(step.action);
    const box = h("details", { class: same ? null : "other", open },
      h("summary", null, h("code", { dir: "auto" }, action.slice(0, 300) || "no action"), step.valid ? "" : chip("\u2717 invalid", "bad"),
        h("span", { class: "note" }, step.actor)));
    const fill = () => {
      if (box.children.length > 1) return;
      box.append(h("div", { class: "body", dir: "auto" }, step.thought ? h("em", null, `${data.text(step.thought)}\n`) : "",
        seen(data.text(step.saw), action, null)));
    };
    if (open) fill();
    box.addEventListener("toggle", fill);
    return box;
  };
  const rows = [h("div", { class: "num" }), h("div", { class: "head" }, pick(0)), h("div", { class: "head" }, pick(1))];
  pairs.slice(0, 600).forEach(([p, q, same], r) => {
    if (r === part) rows.push(h("div", { class: "diverge" }, `\u25c7 ${why}`));
    const name = p === q ? p + 1 : [p, q].map((t) => (t == null ? "\u2013" : t + 1)).join("/");
    const [left, right] = [p, q].map((t) => (t == null ? "nothing" : `step ${t + 1}`));
    rows.push(h("div", { class: "num", title: `left: ${left}, right: ${right}` }, name), cell(a, p, same, r === part), cell(b, q, same, r === part));
  });
  rows.push(h("div", { class: "num" }), [a, b].map((x) => h("div", null, h("strong", null, x.verdict))));
  const shared = pairs.filter((p) => p[2]).length;
  return h("div", null,
    h("p", { class: "goal", dir: "auto" }, h("strong", null, "Task "), data.text(item.goal)),
    h("p", { class: "caption" }, part < 0 ? "They never part: the same steps from start to end."
      : `The same up to step ${pairs[part][0] ?? pairs[part][1]}, then they part. ${shared} of ${a.steps.length} and ${b.steps.length} actions are shared.`),
    h("div", { class: "pair" }, rows),
    pairs.length > 600 ? h("p", { class: "caption" }, `${number(pairs.length - 600)} more rows`) : "");
}

// ---- Training data ------------------------------------------------------------------------------

const FATE = {
  beneficial: "led from a lost to a won state", student: "the student's own, which won",
  harmful: "read, never trained: it led from a won to a lost state", unknown: "read, not trained: nothing says that it helped",
  context: "read, not trained: it stands before",
};
const KIND = {
  positive: "a whole solved trajectory", s0: "solves the task from its start", all: "whatever happened",
  recovery: "solves the task from a state in which the teacher's actions had made it worse",
};
const meaningOfKind = (kind) => (Object.hasOwn(KIND, kind) ? KIND[kind] : null);

// A list of training sequences, with menus: name -> [options, fits(s, chosen option)].
function makeList({ all, heads, menus, cells, count, above, open }) {
  const picked = {};
  const said = h("span", { class: "count", role: "status" });
  const table = makeTable("samples", Object.entries(heads).map(([name, hint]) => h("th", { scope: "col", title: hint }, name)),
    "data-sample", cells, (s) => open(s.number));
  const controls = h("div", { class: "controls" }, h("div", null, Object.entries(menus).map(([name, [options]]) =>
    select(name, options, "", (v) => { picked[name] = v; draw(); }))), h("div", null, said));
  function draw() {
    const rows = all.filter((s) => Object.entries(menus).every(([name, [, fits]]) => !picked[name] || fits(s, picked[name])));
    said.textContent = count(rows.length);
    table.fill(rows, "None fits.");
  }
  draw();
  return { element: [controls, above || "", table.pane], choose: table.choose, neighbour: table.neighbour };
}

function fates(sample) {
  const out = [];
  sample.labels.forEach((label, t) => {
    const on = sample.trained[t];
    const last = out[out.length - 1];
    if (last && last[2] === label && last[4] === on) last[1] = t + 1;
    else out.push([t, t + 1, label, FATE[labelOf(label)], on]);
  });
  return out;
}

function sampleShown(data, s) {
  const n = s.trained.reduce((a, b) => a + b, 0);
  return {
    name: `s${s.number}`, goal: s.goal, steps: s.steps, segments: fates(s), last: null,
    facts: [`${s.kind} sample of ${data.text(data.focus)}`, data.text(s.task), `seed ${s.seed}`, `from ${data.text(s.source)}`,
      `${n} of ${s.steps.length} actions trained`],
    verdict: n ? `${many(n, "action")} ${n === 1 ? "carries" : "carry"} loss` : "no action carries loss",
  };
}

const kindMenu = (all) => [[["", "any kind"], ...[...new Set(all.map((s) => s.kind))].filter(Boolean).map((k) => [k, k])], (s, k) => s.kind === k];

function makeSamples(data, open) {
  const all = data.samples;
  if (!all.length) {
    return { element: [missing("No training sequence is kept here (samples.jsonl of the method that the report is about).")], choose() {}, neighbour() {} };
  }
  return makeList({ all, open,
    heads: { kind: "what the sequence teaches", task: "", trained: "actions that carry loss, of all",
      actions: "strong: trained; pale: read as context, without loss" },
    menus: { kind: kindMenu(all), mask: [[["", "any mask"], ["harmful", "with harmful actions"], ["context", "with masked actions"]],
      (s, v) => (v === "harmful" ? s.labels.includes("harmful") : s.trained.includes(0))] },
    count: (n) => `${number(n)} of ${number(all.length)} training sequences of ${data.text(data.focus)}`,
    cells: (s) => [h("td", { title: meaningOfKind(s.kind) }, s.kind), h("td", null, h("span", { dir: "auto" }, data.text(s.goal).slice(0, 160))),
      h("td", { class: "num" }, `${s.trained.reduce((a, b) => a + b, 0)}/${s.steps.length}`),
      h("td", { class: "c-segments" }, ribbon(fates(s), true))] });
}

// ---- The loss mask, token by token --------------------------------------------------------------

const TOKENS = 1500; // shown at once
const REASON = { // as masking.Reason names them: [look, name, why]
  trained_action: ["trained", "trained", "an action that carries loss"],
  end_of_action: ["end", "end of turn, trained", "the model must learn to stop here"],
  context_action: ["context", "action, context", "read, not learnt: it stands before"],
  harmful_action: ["harmful", "harmful, masked", "led from a won to a lost state"],
  unknown_action: ["unknown", "unknown, masked", "nothing says that it helped"],
  observation: ["text", "task and observations", "the environment's words, no loss"],
  system: ["text", "system text", "the prompt, no loss"],
  template: ["template", "template", "markers of the chat template, no loss"],
};

const totals = (counts, length, trained) => h("div", { class: "totals" }, Object.entries(REASON).filter(([name]) => counts[name])
  .map(([name, [look, title, why]]) => h("span", { title: why }, h("span", { class: `r-${look}` }, title), " ", h("b", null, number(counts[name])))),
h("span", null, "all ", h("b", null, number(length)), ", with loss ", h("b", null, number(trained))));

function makeMasks(data, open) {
  const { all, counts } = data.masks;
  const kept = all.filter((s) => !s.dropped);
  const sum = (f) => kept.reduce((a, s) => a + f(s), 0);
  const [tokens, trained, alarmed] = [sum((s) => s.length), sum((s) => s.trained), all.filter((s) => s.alarms.length).length];
  if (!all.length) return { element: [missing("There are no training samples.")], choose() {}, neighbour() {} };
  return makeList({ all, open,
    heads: { kind: "what the sequence teaches", sample: "", trained: "tokens that carry loss, of all", alarm: "what should make you look twice" },
    menus: { kind: kindMenu(all), alarms: [[["", "with or without alarm"], ["yes", "only alarms"]], (s) => s.alarms.length] },
    count: (n) => `${number(n)} of ${number(all.length)} samples`,
    above: h("div", null,
      h("p", { class: "caption" }, `${number(kept.length)} samples, ${number(tokens)} tokens, ${number(trained)} of them trained${tokens ? ` (${Math.round((100 * trained) / tokens)} %)` : ""}.`),
      totals(counts, tokens, trained),
      alarmed ? h("p", { class: "alarm" }, `\u26a0 ${number(alarmed)} of ${number(all.length)} samples have an alarm, ${number(all.length - kept.length)} of them are dropped.`)
        : h("p", { class: "fine" }, "No alarm: every sample trains something, nothing is cut, no harmful or unknown action, observation or marker carries loss.")),
    cells: (s) => [h("td", { title: meaningOfKind(s.kind) }, s.kind), h("td", { title: data.text(s.id) }, data.text(s.id)),
      h("td", { class: "num" }, s.dropped ? "dropped" : `${number(s.trained)}/${number(s.length)}`),
      h("td", { class: "no" }, s.alarms.length ? `\u26a0 ${s.alarms[0]}` : "")] });
}

// One sample; its tokens [reason, step, trained, texts], in runs, are asked for.
function maskShown(data, s, ask) {
  const place = h("div", { class: "tokens", dir: "auto" }, "reading \u2026");
  const more = h("p", { class: "more" });
  function fill(runs) {
    let [run, at] = [0, 0];
    const grow = () => {
      for (let n = 0; n < TOKENS && run < runs.length;) {
        const [reason, step, on, texts] = runs[run];
        const [look, name, why] = REASON[reason];
        const some = texts.slice(at, at + TOKENS - n);
        if (reason === "template" && run && !at) place.append(h("br")); // a turn begins
        place.append(h("span", { class: `r-${look}`, title: `${name}${step >= 0 ? ` of step ${step + 1}` : ""}: ${why}; ${on ? "carries loss" : "no loss"}` },
          some.map((t) => h("i", null, t.replaceAll("\n", "\u21b5\n")))));
        n += some.length;
        at += some.length;
        if (at >= texts.length) { run += 1; at = 0; }
      }
      const rest = runs.slice(run).reduce((a, r) => a + r[3].length, -at);
      more.replaceChildren(...(rest > 0 ? [h("button", { type: "button", class: "plain", on: { click: grow } }, `${number(rest)} more tokens`)] : []));
    };
    place.replaceChildren();
    grow();
  }
  if (s.dropped) place.replaceChildren();
  else if (!ask) place.replaceChildren("The tokens of this sample are shown where the notebook's kernel runs.");
  else {
    ask({ kind: "tokens", sample: s.number }).then((said) => {
      if (said.error) place.replaceChildren(h("p", { class: "alarm" }, said.error));
      else fill(said.runs);
    });
  }
  return h("div", null, h("p", { class: "caption" }, h("code", null, data.text(s.id)), s.kind ? ` \u00b7 ${s.kind}` : ""),
    s.alarms.map((words) => h("p", { class: "alarm" }, `\u26a0 ${words}`)),
    s.dropped ? "" : totals(s.counts, s.length, s.trained), place, more);
}

// ---- The views, and how one gets from one to another --------------------------------------------

const VIEWS = { t: "trajectories", map: "recovery map", s: "training data", mask: "loss mask" };
const HELP = [["j / k, arrows", "next, previous"], ["/", "search"], ["n / p", "next, previous match, or evidence"],
  ["o", "unfold or fold all steps"], ["r", "texts as recorded"], ["c", "compare with another episode"], ["a", "annotate"],
  ["1 2 3 \u2026", "the views"], ["Esc", "leave the field or the comparison"]];

// Shows data in an element. Addresses such as `#!t/12` name what is shown.
// host: {keys: where keys are listened to, first: views before ours that have an address,
//   ask: sends a message and promises an answer, missing in a report; live: annotations can be kept,
//   changed(address, stay): the address is another now, entered(name): so is the view}
export function mount(root, data, host) {
  const left = h("div", { class: "left" });
  const right = h("div", { class: "right", tabindex: "-1" });
  const tools = h("div", { class: "tools" });
  const views = Object.keys(VIEWS).filter((name) => (host.first ? name !== "mask"
    : { t: data.listed.length || !data.masks, map: data.listed.some((x) => x.states.length > 1), s: data.samples.length, mask: data.masks }[name]));
  const tabs = host.first || views.length < 2 ? "" : h("nav", { class: "views", "aria-label": "Views" },
    views.map((name) => h("a", { href: `#!${name}` }, VIEWS[name])));
  root.replaceChildren(...(tabs ? [tabs] : []), ...data.notices.map(missing),
    h("div", { class: "panes" }, left, h("div", { class: "side" }, tools, right)));
  const forms = new Map();
  const unfolded = new Map(); // name of a transcript -> set of its steps
  const opened = (name) => {
    if (!unfolded.has(name)) unfolded.set(name, new Set());
    return unfolded.get(name);
  };
  const look = { raw: false, here: null, opened };
  let view = "";
  let item = null;
  let compared = null; // names of the two episodes, while they are compared
  let address = "";

  const plain = () => ({ ...look, query: { text: "", fields: [] } });
  const grid = makeGrid(data, (picked, byHand) => {
    if (view !== "t") return;
    if (byHand) visit(`#!t/${picked.number}`);
    else showItem(picked);
  });
  const made = { t: grid };
  const make = {
    map: () => makeMap(data, (n, k) => visit(`#!map/${n}/${k}`)),
    s: () => makeSamples(data, (n) => visit(`#!s/${n}`)),
    mask: () => makeMasks(data, (n) => visit(`#!mask/${n}`)),
  };
  const part = (name) => (made[name] ||= make[name]()); // when it is first looked at

  const previous = pill("\u2039 previous", "previous (k)", () => step(-1));
  const next = pill("next \u203a", "next (j)", () => step(1));
  const raw = pill("raw", "texts as recorded (r)", () => { look.raw = !look.raw; go(address); }, false);
  const fold = pill("unfold all", "unfold or fold all steps (o)", foldAll);
  const compare = pill("compare", "with another episode of this task (c)", () => {
    if (item) visit(`#!t/${item.number}${compared ? "" : "/compare"}`);
  }, false);
  const help = h("dialog", { "aria-label": "keys" }, h("h3", null, "Keys"),
    h("dl", null, HELP.map(([key, what]) => [h("dt", null, key), h("dd", null, what)])),
    h("form", { method: "dialog" }, h("button", { class: "pill" }, "close")));
  root.append(help);
  const keys = pill("?", "keys", () => help.showModal());
  const buttons = { t: [previous, next, fold, raw, compare, keys], map: [fold, raw, keys], s: [previous, next, fold, raw, keys], mask: [previous, next, keys] };

  // At once, not when the browser gets round to it: keys may come faster.
  function visit(place, stay) {
    host.changed(place, stay);
    go(place);
  }

  function showItem(picked, at = null) { // at: a step, from 0
    const top = item === picked ? right.scrollTop : 0;
    item = picked;
    if (item && at != null) opened(`t${item.number}`).add(at);
    grid.choose(item);
    right.replaceChildren(!item ? missing(data.listed.length ? "Nothing to show." : "No trajectory is recorded.")
      : compared ? beside(data, item, compared, visit)
        : transcript(data, itemShown(data, item), { ...look, here: at, query: grid.query(), form: host.live && formOf(item), retract: host.live && retract }));
    right.scrollTop = top;
    const here = right.querySelector(".here");
    if (here) here.scrollIntoView({ block: "nearest" });
    if (item && host.live && !compared) write({ kind: "notes", item: item.number });
  }

  function formOf(one) {
    if (!forms.has(one)) {
      forms.set(one, makeForm(one, data.labels || [], data.author || "", (said) => write({ kind: "annotate", item: one.number, ...said })));
    }
    return forms.get(one);
  }

  const retract = (id) => write({ kind: "retract", item: item.number, id });

  // Sends what a person wrote, or asks what others wrote; shows what is known of the item then.
  async function write(message) {
    const about = data.items[message.item];
    const said = await host.ask(message);
    if (said.error && message.kind === "retract") right.prepend(h("p", { class: "alarm" }, said.error));
    if (said.error || !said.segments) return said;
    const known = JSON.stringify([about.notes && about.notes.map((x) => x[6]), about.segments.length]);
    about.notes = said.notes;
    about.segments = said.segments;
    if (known !== JSON.stringify([about.notes && about.notes.map((x) => x[6]), about.segments.length])) {
      grid.list();
      if (item === about && view === "t") showAgain();
    }
    return said;
  }

  function showAgain() {
    const top = right.scrollTop;
    const focus = document.activeElement;
    grid.choose(item);
    if (compared) return;
    right.replaceChildren(transcript(data, itemShown(data, item), { ...look, query: grid.query(), form: formOf(item), retract }));
    right.scrollTop = top;
    if (focus && right.contains(focus)) focus.focus();
  }

  function step(by) {
    const list = view && part(view);
    const other = list && list.neighbour && list.neighbour(by);
    if (other && (view !== "t" || other !== item)) visit(`#!${view}/${other.number}`, true);
  }

  function foldAll() {
    const boxes = [...right.querySelectorAll("details.step, .pair details")];
    const on = boxes.some((box) => !box.open);
    for (const box of boxes) box.open = on;
  }

  function seek(by) {
    const boxes = [...right.querySelectorAll(right.querySelector("[data-hit]") ? "[data-hit]" : ".step:has(.chip)")];
    if (!boxes.length) return;
    const at = boxes.findIndex((box) => box.classList.contains("here"));
    const box = boxes[(at + by + boxes.length) % boxes.length] || boxes[0];
    for (const other of right.querySelectorAll(".here")) other.classList.remove("here");
    box.classList.add("here");
    box.open = true;
    box.scrollIntoView({ block: "center" });
  }

  // Shows what an address names; false: it is none of ours.
  function go(place) {
    const [path, search] = place.replace(/^#/, "").split("?");
    const [name, ...rest] = path.startsWith("!") ? path.slice(1).split("/") : [""];
    const inside = Object.hasOwn(VIEWS, name) && Boolean(name !== "mask" || data.masks);
    address = place;
    if (name !== view) {
      view = inside ? name : "";
      left.replaceChildren(...(inside ? part(name).element : []));
      tools.replaceChildren(...(inside ? buttons[name] : []));
      for (const link of tabs ? tabs.children : []) current(link, link.getAttribute("href") === `#!${view}`);
      if (host.entered) host.entered(view);
    }
    if (!inside) return false;
    raw.setAttribute("aria-pressed", String(look.raw));
    const n = Number(rest[0]);
    if (name === "t") {
      compared = rest[1] === "compare" ? rest.slice(2) : null;
      compare.setAttribute("aria-pressed", String(Boolean(compared)));
      if (search != null) {
        item = null;
        grid.filter(Object.fromEntries(new URLSearchParams(search)));
      } else if (rest.length && data.items[n]) showItem(data.items[n], /^\d+$/.test(rest[1]) ? Number(rest[1]) - 1 : null);
      else grid.refresh();
    } else if (name === "map") {
      const row = data.items[n];
      if (rest.length > 1 && row) {
        part(name).choose(`${n}/${rest[1]}`);
        right.replaceChildren(behind(data, row, Number(rest[1]), Number(rest[2] || 0), plain()));
      } else right.replaceChildren(missing("Pick a cell: behind it are the student's rollouts from that state."));
    } else {
      const s = (name === "s" ? data.samples : data.masks.all)[rest.length ? n : 0];
      part(name).choose(s ? s.number : -1);
      right.replaceChildren(!s ? "" : name === "s" ? transcript(data, sampleShown(data, s), plain()) : maskShown(data, s, host.ask));
    }
    return true;
  }

  root.addEventListener("click", (event) => { // links between our views, also where the page has an address of its own
    const link = event.target.closest && event.target.closest("a[href^='#!']");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    visit(link.getAttribute("href"));
  });
  host.keys.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "Escape" && typing) { // which would also empty a search field
      event.preventDefault();
      (host.first ? event.target : right)[host.first ? "blur" : "focus"]();
      return;
    }
    if (typing) return;
    const all = [...(host.first || []), ...views.map((name) => `#!${name}`)];
    const act = {
      j: () => step(1), k: () => step(-1), ArrowDown: () => step(1), ArrowUp: () => step(-1),
      "/": () => view === "t" && grid.search.focus(), n: () => seek(1), p: () => seek(-1), o: foldAll,
      r: () => raw.click(), c: () => view === "t" && compare.click(), "?": () => help.showModal(),
      a: () => view === "t" && item && host.live && !compared && formOf(item).start(),
      Escape: () => compared && compare.click(),
    }[event.key] || (all[Number(event.key) - 1] && (() => visit(all[Number(event.key) - 1])));
    if (!act || (!view && !"123456789?".includes(event.key))) return;
    event.preventDefault();
    event.stopPropagation();
    settle();
    act();
  });
  return { go, visit, views };
}

// The report: one page, its findings before our views; annotations are shown only.
export async function startReport() {
  const root = document.getElementById("app");
  const main = document.querySelector("main");
  const nav = document.querySelector("nav.tabs");
  let viewer = null;
  let before = "";
  try {
    const data = await readData(bytesOf(document.getElementById("data").textContent));
    viewer = mount(root, data, {
      keys: document, first: ["#findings"],
      changed: (address, stay) => history[stay ? "replaceState" : "pushState"](null, "", address),
      entered: (name) => {
        document.body.classList.toggle("in-app", Boolean(name));
        root.hidden = !name;
        main.hidden = Boolean(name);
        for (const link of nav.querySelectorAll("a")) {
          current(link, link.getAttribute("href") === (name ? `#!${name}` : "#findings"));
        }
        const place = before && !name && document.getElementById(location.hash.slice(1));
        if (place) place.scrollIntoView(); // among the findings, which were hidden when the address changed
        before = name;
      },
    });
  } catch (error) {
    root.hidden = false;
    root.replaceChildren(`The data of this page could not be read: ${error.message}`);
    return;
  }
  addEventListener("hashchange", () => viewer.go(location.hash));
  nav.hidden = false;
  if (!viewer.go(location.hash)) current(nav.querySelector("a"), true);
  document.documentElement.dataset.ready = "true";
  document.dispatchEvent(new Event("viewer"));
}

// The notebook: data comes from the kernel when asked for, what is written goes there.
function render({ model, el }) {
  const root = h("div", { class: "eef in-notebook", tabindex: "0", "data-lm-suppress-shortcuts": "true" }, h("p", { class: "note" }, "reading \u2026"));
  el.append(root);
  const waiting = new Map();
  let asked = 0;
  let viewer = null;
  const ask = (message) => new Promise((answer) => {
    asked += 1;
    waiting.set(asked, answer);
    model.send({ ...message, request: asked, view: id });
  });
  const id = Math.random().toString(36).slice(2);

  async function hear(message, buffers) {
    if (message.kind === "answer") {
      if (message.view !== id || !waiting.has(message.request)) return;
      waiting.get(message.request)(message);
      waiting.delete(message.request);
    } else if (message.kind === "go" && viewer) {
      viewer.go(message.address);
    } else if (message.kind === "data" && !viewer) {
      try {
        const data = await readData(buffers[0]);
        viewer = mount(root, data, { keys: root, ask, live: message.live, changed: (address) => model.send({ kind: "at", address }) });
        if (!viewer.go(message.address)) viewer.go(`#!${viewer.views[0]}`);
        root.dataset.ready = "true";
      } catch (error) {
        root.replaceChildren(`The data of this view could not be read: ${error.message}`);
      }
    }
  }
  model.on("msg:custom", hear);
  model.send({ kind: "ready" });
  return () => model.off("msg:custom", hear);
}

export default { render };
