// Two episodes of a task side by side; the same rules as eeflib/analysis/alignment.py.
function align(data, a, b) {
  const word = (s) => data.text(s.action).split(/\s+/).filter(Boolean).join(" ").toLowerCase();
  const x = a.map(word);
  const y = b.map(word);
  const shorter = Math.min(x.length, y.length);
  let at = 0;
  const pairs = [];
  while (at < shorter && x[at] === y[at]) { pairs.push([at, at, true]); at += 1; }
  if (at < shorter) { pairs.push([at, at, false]); at += 1; }
  const n = x.length - at;
  const m = y.length - at;
  const shared = [];
  if (n * m <= 4e6) { // longest common subsequence
    const best = Array.from({ length: n + 1 }, () => new Uint16Array(m + 1));
    for (let i = n - 1; i >= 0; i -= 1) {
      for (let j = m - 1; j >= 0; j -= 1) {
        best[i][j] = x[at + i] === y[at + j] ? best[i + 1][j + 1] + 1 : Math.max(best[i + 1][j], best[i][j + 1]);
      }
    }
    for (let i = 0, j = 0; i < n && j < m;) {
      if (x[at + i] === y[at + j]) { shared.push([at + i, at + j]); i += 1; j += 1; }
      else if (best[i + 1][j] >= best[i][j + 1]) i += 1;
      else j += 1;
    }
  }
  let i = at;
  let j = at;
  for (const [p, q] of [...shared, [x.length, y.length]]) {
    while (i < p && j < q) pairs.push([i++, j++, false]);
    while (i < p) pairs.push([i++, null, false]);
    while (j < q) pairs.push([null, j++, false]);
    if (p < x.length) { pairs.push([p, q, true]); i = p + 1; j = q + 1; }
  }
  let parting = -1;
  let why = "";
  for (let r = 0; r < pairs.length && parting < 0; r += 1) {
    const [p, q, same] = pairs[r];
    if (p == null || q == null) [parting, why] = [r, "Here one of them ends"];
    else if (a[p].saw !== b[q].saw) [parting, why] = [r, "Here they part: after the same actions, they see something else"];
    else if (!same) [parting, why] = [r, "Here they part: seeing the same, they act differently"];
  }
  return { pairs, parting, why };
}

// Every episode of an item's task: [name, shown].
function episodes(data, item) {
  const out = [];
  for (const other of data.items) {
    if (other.task === item.task && other.seed === item.seed) {
      const sign = other.outcome === "solved" ? "\u2713" : "\u2717";
      out.push([`teacher: ${sign} ${data.text(other.policy)}, reward ${other.reward.toFixed(2)}`, itemShown(data, other)]);
    }
  }
  const tries = [];
  for (const [k, group] of Object.entries(item.tries)) {
    group.forEach((one, n) => {
      const shown = tryShown(data, item, k, n);
      if (shown) tries.push([`student from s${k}, rollout ${n + 1}: ${one.won ? "\u2713" : "\u2717"} ${one.reward.toFixed(2)}`, shown, one.won, one.t]);
    });
  }
  tries.sort((x, y) => y[2] - x[2] || y[3] - x[3]);
  const own = out.findIndex(([, s]) => s.name === `t${item.number}`);
  if (own > 0) out.unshift(...out.splice(own, 1));
  return [...out, ...tries];
}

function beside(data, item, chosen, change) {
  const all = episodes(data, item);
  if (all.length < 2) {
    return h("p", { class: "missing" }, "This task has one episode only; a second comes from exploration or from another teacher.");
  }
  const at = chosen.map((n) => Math.min(n, all.length - 1));
  const [a, b] = at.map((n) => all[n][1]);
  const pick = (side) => h("select", { "aria-label": side ? "right" : "left", on: { change: (e) => {
    const next = [...at];
    next[side] = Number(e.target.value);
    change(next);
  } } }, all.map(([name], n) => h("option", { value: n, selected: n === at[side] }, name)));
  const { pairs, parting, why } = align(data, a.steps, b.steps);
  const rows = [h("div", { class: "num" }), h("div", { class: "head" }, pick(0)), h("div", { class: "head" }, pick(1))];
  const cell = (shown, t, same, open) => {
    if (t == null) return h("div", { class: "gap" });
    const step = shown.steps[t];
    const action = data.text(step.action);
    const box = h("details", { class: same ? null : "other", open },
      h("summary", null, h("code", { dir: "auto" }, action || "no action"), step.valid ? "" : chip("\u2717 invalid", "bad"),
        h("span", { class: "note" }, step.actor)));
    const fill = () => {
      if (box.children.length < 2) {
        box.append(h("div", { class: "body", dir: "auto" }, step.thought ? h("em", null, `${data.text(step.thought)}\n`) : "", seen(data.text(step.saw), action, null)));
      }
    };
    if (open) fill();
    box.addEventListener("toggle", fill);
    return box;
  };
  pairs.slice(0, 600).forEach(([p, q, same], r) => {
    if (r === parting) rows.push(h("div", { class: "diverge" }, `\u25c7 ${why}`));
    const name = p === q ? p + 1 : [p, q].map((t) => (t == null ? "\u2013" : t + 1)).join("/");
    const [left, right] = [p, q].map((t) => (t == null ? "nothing" : `step ${t + 1}`));
    rows.push(h("div", { class: "num", title: `left: ${left}, right: ${right}` }, name), cell(a, p, same, r === parting), cell(b, q, same, r === parting));
  });
  rows.push(h("div", { class: "num" }), h("div", null, h("strong", null, a.verdict)), h("div", null, h("strong", null, b.verdict)));
  const shared = pairs.filter((p) => p[2]).length;
  return h("div", { class: "eef" },
    h("p", { dir: "auto" }, h("strong", null, "Task "), data.text(item.goal)),
    h("p", { class: "caption" }, parting < 0 ? "They never part: the same steps from start to end."
      : `The same up to step ${(pairs[parting][0] ?? pairs[parting][1])}, then they part. ${shared} of ${a.steps.length} and ${b.steps.length} actions are shared.`),
    h("div", { class: "pair" }, rows),
    pairs.length > 600 ? h("p", { class: "caption" }, `${number(pairs.length - 600)} more rows`) : "");
}
