// A trajectory, step by step. What is unfolded is remembered for every trajectory.
const CHUNK = 250; // steps of a long trajectory shown at once
const unfolded = new Map(); // name of a trajectory -> set of step numbers

function chip(words, name) {
  return h("span", { class: "chip", css: { "--c": `var(--${name})` } }, words);
}

// shown: {name, goal, facts, steps, last, verdict, segments, states, why, notes, env}; the evidence
// of a segment is a text's number, or words of ours
function transcript(data, shown, look) {
  const { text } = data;
  const open = unfolded.get(shown.name) || new Set();
  unfolded.set(shown.name, open);
  const pattern = marker(look.query);
  const words = (why) => (typeof why === "string" ? why : text(why));
  const find = (t) => (pattern ? marked(t, pattern) : [t]);
  const flags = new Map();
  for (const [kind, t] of shown.why || []) {
    flags.set(t, [...(flags.get(t) || []), chip(`\u2691 ${titleOf(data, kind)}`, "bad")]);
  }
  const notes = (t) => (shown.notes || []).filter(([kind, , a, b]) => kind !== "segment"
    && a != null && t >= a && t < (b == null ? a + 1 : b));

  function noteRow([kind, words, , , who, day]) {
    const content = kind === "note" ? text(words) : h("strong", null, text(words));
    return [h("dt", null, kind), h("dd", { class: "note", dir: "auto" }, content, " ",
      h("small", null, `${text(who)}, ${text(day)}`))];
  }

  function body(step, t) {
    const rows = [];
    const raw = (words) => h("pre", null, find(words));
    const action = text(step.action);
    rows.push(["saw", look.raw ? raw(text(step.saw)) : seen(text(step.saw), action, pattern)]);
    if (look.raw) rows.push(["reply", raw(text(step.reply) || usual(step))]);
    else if (step.thought) rows.push(["thought", find(text(step.thought))]);
    rows.push(["action", h("code", { dir: "auto" }, find(action))]);
    if (!step.valid) rows.push(["not valid", step.reason]);
    if (step.reply && !look.raw) rows.push(["raw reply", h("code", { dir: "auto" }, find(text(step.reply)))]);
    if (step.score != null) rows.push(["score", step.score.toFixed(2)]);
    return h("dl", null, rows.map(([name, value]) => [h("dt", null, name), h("dd", { dir: "auto" }, value)]),
      notes(t).map(noteRow));
  }

  function usual(step) {
    const thought = text(step.thought);
    return thought ? `Thought: ${thought}\nAction: ${text(step.action)}` : text(step.action);
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
    const chips = [];
    if (!step.valid) chips.push(chip("\u2717 invalid", "bad"));
    chips.push(...(flags.get(t) || []));
    const count = notes(t).length;
    if (count) chips.push(chip(`\u270e ${count}`, "won"));
    const hit = matches(step);
    if (hit) chips.push(chip("match", "accent"));
    const line = h("summary", { class: "sum" },
      h("span", { class: "n" }, t + 1),
      h("span", { class: "act" }, step.action
        ? h("code", { dir: "auto" }, find(text(step.action).slice(0, 160))) : h("em", null, "no action")),
      chips,
      step.thought ? h("q", { dir: "auto" }, text(step.thought).slice(0, 160)) : "",
      h("span", { class: "kind" }, `${step.actor} \u00b7 ${step.kind}`));
    const box = h("details", { class: look.here === t ? "step here" : "step", "data-step": t,
      "data-hit": hit }, line);
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
      const deep = shown.goTo ? h("a", { href: shown.goTo(k) }, won) : won;
      return h("span", { class: "state", title: "the student was put into this state of the trajectory and went on by itself" },
        "s", h("sub", null, k), n ? [" student ", deep, " from here"] : " could not be tried");
    });
    for (const [a, , label, why, on] of shown.segments || []) {
      if (a === t) {
        const loss = on == null ? "" : on ? "trained: " : "no loss: ";
        out.push(h("span", { class: "seghead", css: colour(label) }, `${LABEL[labelOf(label)]} ${loss}${label}`),
          why ? h("small", null, words(why)) : "");
      }
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
    more.replaceChildren(rest > 0 ? h("button", { on: { click: () => grow(at + CHUNK) } },
      `${number(rest)} more steps`) : "");
  }
  grow(look.here == null ? 0 : look.here + 1);

  const whole = (shown.notes || []).filter(([, , a]) => a == null);
  const why = (shown.why || []).map(([kind, t, evidence, rule], i) => [i ? h("br") : "",
    h("strong", { title: meaningOf(data, kind) }, titleOf(data, kind)), " ", text(evidence), " ",
    h("small", null, `(${t < shown.steps.length ? `step ${t + 1}` : "the end"}; rule: ${text(rule)})`)]);
  return h("article", { class: "eef-t" },
    h("p", { class: "goal", dir: "auto" }, h("strong", null, "Task "), text(shown.goal)),
    h("p", { class: "facts" }, shown.facts.filter(Boolean).join(" \u00b7 ")),
    why.length ? h("div", { class: "why" }, why) : "",
    whole.length ? h("dl", null, whole.map(noteRow)) : "",
    parts ? ribbon(parts.map(([a, b, label, why, on]) => [a, b, label, words(why), on])) : "",
    list, more,
    h("div", { class: "end" }, h("strong", null, shown.verdict), " ", flags.get(shown.steps.length) || ""),
    shown.last == null ? "" : h("details", { class: "step" },
      h("summary", { class: "sum" }, h("span", { class: "n" }, "s", h("sub", null, "T")), "what it saw last"),
      h("dl", null, h("dt", null, "saw"), h("dd", { dir: "auto" }, look.raw
        ? h("pre", null, find(text(shown.last))) : seen(text(shown.last), "", pattern)))));
}

const titleOf = (data, kind) => (Object.hasOwn(data.kinds, kind) ? data.kinds[kind][0]
  : kind.slice(0, 1).toUpperCase() + kind.slice(1).replaceAll("_", " "));
const meaningOf = (data, kind) => (Object.hasOwn(data.kinds, kind) ? data.kinds[kind][1] : null);

// A teacher's trajectory as `transcript` takes it.
function itemShown(data, item) {
  const { text } = data;
  const verdict = item.error ? `ended by a fault: ${text(item.error)}`
    : item.outcome === "solved" ? "solved"
      : `not solved: reward ${item.reward.toFixed(2)}, needed ${item.needed.toFixed(2)}`;
  return {
    ...item, name: `t${item.number}`, verdict,
    facts: [text(item.env), `policy ${text(item.policy)}`, text(item.task), `seed ${item.seed}`,
      text(item.level), actions(item.steps.length), `reward ${item.reward.toFixed(2)}`,
      item.invalid ? `${item.invalid} invalid` : "", item.limit ? "stopped by a limit" : "",
      item.tokens ? `${number(item.tokens)} tokens` : "", item.cost ? `$${item.cost}` : "",
      item.seconds ? `${item.seconds} s` : ""],
    goTo: (k) => (item.tries[k] ? `#!map/${item.number}/${k}` : null),
  };
}

// A student's rollout after the teacher's steps, or null where there is none.
function tryShown(data, item, k, n) {
  const one = (item.tries[k] || [])[n];
  if (!one || !one.steps) return null;
  const { text } = data;
  const steps = [...item.steps.slice(0, one.t), ...one.steps];
  const segments = [];
  if (one.t) segments.push([0, one.t, "context", `the teacher's actions up to s${k}`]);
  if (one.steps.length) segments.push([one.t, steps.length, "student", `the student's own, which ${one.won ? "won" : "did not win"}`]);
  return {
    name: `t${item.number}k${k}n${n}`, goal: item.goal, steps, segments, last: one.last,
    facts: [`student ${text(one.policy)}`, k > 0 ? `put into s${k} after ${actions(one.t)} of the teacher` : "from the start",
      `${actions(one.steps.length)} of its own`, `reward ${one.reward.toFixed(2)}`],
    verdict: one.error ? `ended by a fault: ${text(one.error)}` : one.won ? "solved" : `not solved: reward ${one.reward.toFixed(2)}`,
  };
}
