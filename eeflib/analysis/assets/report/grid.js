// The grid of trajectories: filters, search, sorting, rows. Calls back with the trajectory picked.
const FIELDS = ["task", "thought", "action", "observation"];
const SIGNS = { solved: ["ok", "\u2713 solved"], failed: ["no", "\u2717 failed"], fault: ["no", "\u26a0 fault"] };
const RANK = { failed: 0, fault: 1, solved: 2 };
const ROWS = 250;
const HINTS = {
  failure: "the main kind of failure, by rules", reward: "0 to 1; a task is solved at its threshold", length: "actions",
  invalid: "actions that were not understood", tokens: "read and written", cost: "dollars", seconds: "seconds of the policy",
  segments: "high and blue: beneficial actions; low and orange: harmful; thin and grey: unknown",
};

function columnsOf(data) {
  const { text, items } = data;
  const has = (f) => items.some(f);
  const all = [
    ["outcome", "outcome", (x) => RANK[x.outcome], (x) => h("span", { class: SIGNS[x.outcome][0] }, SIGNS[x.outcome][1])],
    ["task", "task", (x) => text(x.task), (x) => h("span", { dir: "auto", title: text(x.goal).slice(0, 300) }, text(x.goal).slice(0, 200))],
    has((x) => x.level) && ["level", "level", (x) => text(x.level), (x) => text(x.level).slice(0, 24)],
    has((x) => x.failure) && ["failure", "failure", (x) => (x.failure ? `0${x.failure}` : "1"), (x) => (x.failure ? h("span", { title: meaningOf(data, x.failure) }, titleOf(data, x.failure)) : "")],
    ["reward", "reward", (x) => x.reward, (x) => x.reward.toFixed(2), true],
    ["length", "steps", (x) => x.steps.length, (x) => number(x.steps.length), true],
    has((x) => x.invalid) && ["invalid", "invalid", (x) => x.invalid, (x) => x.invalid || "", true],
    has((x) => x.tokens) && ["tokens", "tokens", (x) => x.tokens || 0, (x) => number(x.tokens || 0), true],
    has((x) => x.cost) && ["cost", "$", (x) => x.cost ?? -1, (x) => x.cost ?? "\u2013", true],
    has((x) => x.seconds) && ["seconds", "s", (x) => x.seconds || 0, (x) => (x.seconds || 0).toFixed(1), true],
    new Set(items.map((x) => x.seed)).size > 1 && ["seed", "seed", (x) => x.seed, (x) => x.seed, true],
    has((x) => x.segments.length) && ["segments", "exploration", (x) => x.states.filter((s) => s[3]).length,
      (x) => (x.segments.length ? ribbon(x.segments.map(([a, b, l]) => [a, b, l]), true) : "")],
  ];
  return all.filter(Boolean);
}

function makeGrid(data, pick) {
  const { text, items } = data;
  const columns = columnsOf(data);
  const state = { outcome: "", failure: "", level: "", marked: false, text: "", regex: false,
    fields: [...FIELDS], sort: "", down: false, reward: [0, 1], steps: [0, Infinity], cost: [0, Infinity] };
  let rows = [];
  let drawn = 0;
  let listed = false;
  let chosen = -1;

  const message = h("span", { class: "no", role: "alert" });
  const count = h("span", { class: "count", role: "status" });
  const body = h("tbody");
  const heads = columns.map(([name, title, , , right]) => h("th", { scope: "col", title: HINTS[name],
    class: `${right ? "num " : ""}c-${name}`, "aria-sort": "none" },
  h("button", { on: { click: () => sortBy(name) } }, title)));
  const table = h("table", { class: "grid" }, h("thead", null, h("tr", null, h("th", { class: "num at c-at" }, "#"), heads)), body);
  const pane = h("div", { class: "rows", tabindex: "-1" }, table);
  pane.addEventListener("scroll", () => {
    if (pane.scrollTop + pane.clientHeight > pane.scrollHeight - 400) draw(drawn + ROWS);
  });

  const search = h("input", { type: "search", placeholder: "search  ( / )", "aria-label": "search",
    on: { input: later(() => set({ text: search.value })) } });
  const toggle = (name, on, act) => {
    const button = h("button", { "aria-pressed": String(on), class: "pill", on: { click: () => {
      const now = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(now));
      act(now);
    } } }, name);
    return button;
  };
  const regex = toggle("regex", false, (on) => set({ regex: on }));
  const fields = FIELDS.map((name) => toggle(name, true, (on) => set({
    fields: FIELDS.filter((f) => (f === name ? on : state.fields.includes(f))) })));
  const select = (name, options) => h("select", { "aria-label": name, on: { change: (e) => set({ [name]: e.target.value }) } },
    options.map(([value, shown]) => h("option", { value }, shown)));
  const tally = (f) => {
    const counts = new Map();
    for (const x of items) if (f(x)) counts.set(f(x), (counts.get(f(x)) || 0) + 1);
    return [...counts].sort((a, b) => b[1] - a[1]);
  };
  const span = (name, key, most, step) => {
    const parse = (field, none) => (field.value === "" || Number.isNaN(Number(field.value)) ? none : Number(field.value));
    const from = h("input", { type: "number", min: 0, max: most, step, placeholder: "0", "aria-label": `${name} from` });
    const to = h("input", { type: "number", min: 0, max: most, step, placeholder: most, "aria-label": `${name} to` });
    for (const field of [from, to]) {
      field.addEventListener("input", later(() => set({ [key]: [parse(from, 0), parse(to, Infinity)] })));
    }
    return h("span", { class: "span" }, `${name} `, from, "\u2013", to);
  };
  const most = Math.max(1, ...items.map((x) => x.steps.length));
  const dearest = Math.max(0, ...items.map((x) => x.cost || 0));
  const marked = items.some((x) => x.notes) ? toggle("annotated", false, (on) => set({ marked: on })) : "";
  const controls = h("div", { class: "controls" },
    h("div", null, search, regex, fields),
    h("div", null,
      select("outcome", [["", "any outcome"], ...tally((x) => x.outcome).map(([v, n]) => [v, `${v} (${n})`])]),
      select("failure", [["", "any failure"], ...tally((x) => x.failure).map(([v, n]) => [v, `${titleOf(data, v)} (${n})`])]),
      select("level", [["", "any level"], ...tally((x) => text(x.level)).map(([v, n]) => [v, `${v} (${n})`])]),
      marked,
      span("reward", "reward", 1, 0.01), span("steps", "steps", most, 1),
      dearest ? span("$", "cost", dearest, "any") : "",
      h("button", { class: "pill", on: { click: reset } }, "reset")),
    h("div", null, count, " ", message));

  function reset() {
    for (const field of controls.querySelectorAll("input,select")) field.value = "";
    for (const button of [regex, ...fields, marked]) if (button) button.setAttribute("aria-pressed", String(fields.includes(button)));
    set({ outcome: "", failure: "", level: "", marked: false, text: "", regex: false, fields: [...FIELDS],
      reward: [0, 1], steps: [0, Infinity], cost: [0, Infinity] });
  }

  function sortBy(name) {
    if (state.sort !== name) set({ sort: name, down: false });
    else if (!state.down) set({ down: true });
    else set({ sort: "", down: false });
  }

  function set(changes) {
    Object.assign(state, changes);
    refresh();
  }

  function query() {
    return { text: state.text, regex: state.regex, fields: state.fields };
  }

  function fits(x, hit) {
    if (state.outcome && x.outcome !== state.outcome) return false;
    if (state.failure && x.failure !== state.failure) return false;
    if (state.level && text(x.level) !== state.level) return false;
    if (state.marked && !x.notes) return false;
    if (x.reward < state.reward[0] - 1e-9 || x.reward > state.reward[1] + 1e-9) return false;
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
    listed = true;
    const [hit, problem] = matcher(data, query());
    message.textContent = problem;
    try {
      rows = items.filter((x) => fits(x, state.fields.length ? hit : null));
    } catch (error) {
      if (error.message !== "slow") throw error;
      message.textContent = "stopped after 2 s: this expression takes too long on these texts";
      rows = [...items];
    }
    const column = columns.find(([name]) => name === state.sort);
    if (column) {
      const key = column[2];
      const sign = state.down ? -1 : 1;
      rows.sort((x, y) => (key(x) < key(y) ? -sign : key(x) > key(y) ? sign : x.number - y.number));
    }
    columns.forEach(([name], i) => {
      heads[i].setAttribute("aria-sort", name !== state.sort ? "none" : state.down ? "descending" : "ascending");
    });
    count.textContent = rows.length === items.length ? `${number(items.length)} trajectories`
      : `${number(rows.length)} of ${number(items.length)} trajectories`;
    drawn = 0;
    body.replaceChildren();
    draw(ROWS);
    if (!rows.length) body.append(h("tr", null, h("td", { colspan: columns.length + 1 }, items.length ? "None fits." : "No trajectory is recorded.")));
  }

  function refresh() {
    list();
    pick(rows.find((x) => x.number === chosen) || rows[0] || null, false);
  }

  function draw(until) {
    for (; drawn < Math.min(until, rows.length); drawn += 1) {
      const x = rows[drawn];
      body.append(h("tr", { "data-item": x.number, class: x.number === chosen ? "on" : null,
        on: { click: () => pick(x, true) } },
      h("td", { class: "num at" }, x.number + 1, x.notes ? h("span", { class: "noted" }, "\u270e") : ""),
      columns.map(([name, , , cell, right]) => h("td", { class: `${right ? "num " : ""}c-${name}` }, cell(x)))));
    }
  }

  function choose(item) {
    chosen = item ? item.number : -1;
    if (!listed) list(); // a link leads to an item before anything was listed
    const place = rows.findIndex((x) => x.number === chosen);
    if (place >= drawn) draw(place + 20);
    for (const row of body.querySelectorAll("tr.on")) row.classList.remove("on");
    const row = place < 0 ? null : body.children[place];
    if (row) {
      row.classList.add("on");
      row.scrollIntoView({ block: "nearest" });
    }
  }

  function neighbour(by) {
    const place = rows.findIndex((x) => x.number === chosen);
    return rows[Math.min(Math.max(0, place + by), rows.length - 1)] || null;
  }

  return { element: [controls, pane], search, query, refresh, choose, neighbour, state };
}

function later(act) {
  let waiting = 0;
  return () => { clearTimeout(waiting); waiting = setTimeout(act, 120); };
}
