// The recovery map: failed trajectories by expert state; a cell leads to the rollouts from it.
function makeMap(data, open) {
  const { text } = data;
  const failed = data.items.filter((x) => x.outcome !== "solved" && x.states.length > 1);
  const lastWon = (x) => Math.max(-1, ...x.states.filter((s) => s[3] > 0).map((s) => s[0]));
  failed.sort((x, y) => lastWon(y) - lastWon(x) || x.seed - y.seed || x.number - y.number);
  const width = Math.max(0, ...failed.map((x) => Math.max(...x.states.map((s) => s[0])))) + 1;
  const cells = new Map();
  const levels = failed.some((x) => x.level);
  const body = h("tbody");
  for (const x of failed) {
    const row = Array.from({ length: width }, (_, k) => {
      const s = x.states.find((state) => state[0] === k);
      if (!s) return h("td", { class: "c" });
      const [, t, n, wins] = s;
      const words = n ? `${wins}/${n}` : "!";
      const kind = n ? (wins ? "won" : "lost") : "no";
      const hint = n ? `s${k}, after ${actions(t)}: won ${wins} of ${n}, 95 % interval ${interval(wins, n)}` : `s${k}: not restorable or ended by a fault`;
      const button = h("button", { title: hint, disabled: !x.tries[k], on: { click: () => open(x.number, k) } }, words);
      const cell = h("td", { class: `c ${kind}`, css: { "--p": `${n ? (100 * wins) / n : 0}%` } }, button);
      cells.set(`${x.number}/${k}`, cell);
      return cell;
    });
    body.append(h("tr", null, h("td", null, h("a", { href: `#!t/${x.number}`, title: text(x.goal).slice(0, 300) }, text(x.task))),
      h("td", { class: "num note" }, x.seed), levels ? h("td", { class: "note" }, text(x.level)) : "",
      h("td", { class: "num note" }, number(x.steps.length)), row));
  }
  const never = failed.filter((x) => lastWon(x) < 0).length;
  const heads = Array.from({ length: width }, (_, k) => h("th", { class: "c", title: k
    ? `state ${k} of the teacher's trajectory, from which the student went on` : "the start of the task" }, "s", h("sub", null, k)));
  const element = failed.length ? [
    h("p", { class: "caption" }, `${number(failed.length)} trajectories in which the teacher failed; ${number(never)} were won from no state. A cell: rollouts the student won / tried from the teacher's state (${text(data.explored.method)}, iteration ${data.explored.iteration}). First those that could be won latest. ! = not restorable, or ended by a fault.`),
    h("div", { class: "rows" }, h("table", { class: "map" }, h("thead", null, h("tr", null, h("th", null, "task"),
      h("th", { class: "num" }, "seed"), levels ? h("th", null, "level") : "", h("th", { class: "num" }, "steps"), heads)), body)),
  ] : [h("p", { class: "missing" }, "No exploration from expert states is recorded, so there is no map.")];
  return {
    element,
    choose(place) {
      for (const cell of body.querySelectorAll(".at")) cell.classList.remove("at");
      const cell = cells.get(place);
      if (cell) { cell.classList.add("at"); cell.scrollIntoView({ block: "nearest" }); }
    },
  };
}

function interval(wins, n) { // Wilson's
  const z = 1.959963984540054;
  const p = wins / n;
  const centre = (p + (z * z) / (2 * n)) / (1 + (z * z) / n);
  const half = (z * Math.sqrt((p * (1 - p)) / n + (z * z) / (4 * n * n))) / (1 + (z * z) / n);
  return `${Math.round(100 * Math.max(0, centre - half))} to ${Math.round(100 * Math.min(1, centre + half))} %`;
}

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
      ? `s${k}, after ${actions(state[1])}: won ${state[3]} of ${state[2]}, 95 % interval ${interval(state[3], state[2])}` : `s${k}`),
    around.length ? ` \u00b7 ${around.join(" \u00b7 ")}` : "", " \u00b7 ",
    h("a", { href: `#!t/${item.number}` }, "the teacher's trajectory")),
    h("p", { class: "pills" }, names),
    shown ? transcript(data, shown, { ...look, here: one.t })
      : h("p", { class: "missing" }, one && one.why ? `The state could not be restored: ${data.text(one.why)}` : "No rollout from this state is kept in this file."));
}
