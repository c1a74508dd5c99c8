// Training sequences: which of their steps carry loss, and why the others do not.
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
const HEADS = { kind: "what the sequence teaches", task: "", trained: "actions that carry loss, of all",
  actions: "strong: trained; pale: read as context, without loss" };

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
  const segments = fates(s);
  const n = s.trained.reduce((a, b) => a + b, 0);
  return {
    name: `s${s.number}`, goal: s.goal, steps: s.steps, segments, last: null,
    facts: [`${s.kind} sample of ${data.text(data.focus)}`, data.text(s.task), `seed ${s.seed}`, `from ${data.text(s.source)}`,
      `${n} of ${s.steps.length} actions trained`],
    verdict: n ? `${n} actions carry loss` : "no action carries loss",
  };
}

function makeSamples(data, open) {
  if (!data.samples.length) {
    return { element: [h("p", { class: "missing" }, "No training sequence is kept in this file (samples.jsonl of the method that the report is about).")], choose() {} };
  }
  const kinds = [...new Set(data.samples.map((s) => s.kind))];
  const body = h("tbody");
  const kind = h("select", { "aria-label": "kind", on: { change: draw } },
    h("option", { value: "" }, "any kind"), kinds.map((k) => h("option", { value: k, title: meaningOfKind(k) }, k)));
  const masked = h("select", { "aria-label": "mask", on: { change: draw } },
    h("option", { value: "" }, "any mask"), h("option", { value: "harmful" }, "with harmful actions"), h("option", { value: "context" }, "with masked actions"));
  const count = h("span", { class: "count", role: "status" });
  let chosen = -1;
  function draw() {
    const fitting = data.samples.filter((s) => (!kind.value || s.kind === kind.value)
      && (masked.value !== "harmful" || s.labels.includes("harmful")) && (masked.value !== "context" || s.trained.includes(0)));
    count.textContent = `${number(fitting.length)} of ${number(data.samples.length)} training sequences of ${data.text(data.focus)}`;
    body.replaceChildren(...fitting.map((s) => h("tr", { "data-sample": s.number, class: s.number === chosen ? "on" : null,
      on: { click: () => open(s.number) } },
    h("td", { title: meaningOfKind(s.kind) }, s.kind), h("td", null, h("span", { dir: "auto" }, data.text(s.goal).slice(0, 160))),
    h("td", { class: "num" }, `${s.trained.reduce((a, b) => a + b, 0)}/${s.steps.length}`),
    h("td", { class: "c-segments" }, ribbon(fates(s), true)))));
  }
  draw();
  return {
    element: [h("div", { class: "controls" }, h("div", null, kind, masked), h("div", null, count)),
      h("div", { class: "rows" }, h("table", { class: "grid samples" }, h("thead", null, h("tr", null,
        Object.entries(HEADS).map(([x, hint]) => h("th", { scope: "col", title: hint }, x)))), body))],
    choose(n) {
      chosen = n;
      for (const row of body.children) row.classList.toggle("on", Number(row.dataset.sample) === n);
    },
  };
}
