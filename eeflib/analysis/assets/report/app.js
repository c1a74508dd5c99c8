// The page's views and how one gets from one to another: addresses (#!t/12), buttons, keys.
const VIEWS = { t: "trajectories", map: "recovery map", s: "training data" };
const HELP = [["j / k, arrows", "next, previous trajectory"], ["/", "search"], ["n / p", "next, previous match, or evidence"],
  ["o", "unfold or fold all steps"], ["r", "texts as recorded"], ["c", "compare with another episode"],
  ["1 2 3 4", "findings, trajectories, recovery map, training data"], ["Esc", "leave the field or the comparison"]];

async function start() {
  const data = await readData();
  const main = document.querySelector("main");
  const app = document.getElementById("app");
  const left = h("div", { class: "left" });
  const right = h("div", { class: "right", tabindex: "-1", "aria-live": "off" });
  const tools = h("div", { class: "tools" });
  const side = h("div", { class: "side" }, tools, right);
  app.replaceChildren(h("div", { class: "panes" }, left, side));
  const look = { raw: false, here: null };
  const compared = new Map();
  let view = "";
  let item = null;

  const grid = makeGrid(data, (picked, go) => {
    if (view !== "t") return;
    if (go && picked) visit(`#!t/${picked.number}`);
    else showItem(picked);
  });
  const map = makeMap(data, (n, k) => visit(`#!map/${n}/${k}`));
  const samples = makeSamples(data, (n) => visit(`#!s/${n}`));

  const button = (words, hint, act) => h("button", { class: "pill", title: hint, on: { click: act } }, words);
  const previous = button("\u2039 previous", "previous trajectory (k)", () => step(-1));
  const next = button("next \u203a", "next trajectory (j)", () => step(1));
  const raw = button("raw", "texts as recorded (r)", () => { look.raw = !look.raw; route(); });
  const fold = button("unfold all", "unfold or fold all steps (o)", foldAll);
  const compare = button("compare", "with another episode of this task (c)", () => {
    if (item) visit(comparing ? `#!t/${item.number}` : `#!t/${item.number}/compare`);
  });
  const help = h("dialog", { "aria-label": "keys" }, h("h3", null, "Keys"),
    h("dl", null, HELP.map(([key, what]) => [h("dt", null, key), h("dd", null, what)])),
    h("form", { method: "dialog" }, h("button", { class: "pill" }, "close")));
  const keys = button("?", "keys", () => help.showModal());
  document.body.append(help);
  let comparing = false;

  // At once, not when the browser gets round to it: keys may come faster.
  function visit(address, stay) {
    if (stay) history.replaceState(null, "", address);
    else history.pushState(null, "", address);
    route();
  }

  function showItem(picked) {
    const top = item === picked ? right.scrollTop : 0;
    item = picked;
    grid.choose(item);
    look.here = null;
    right.replaceChildren(item ? (comparing ? beside(data, item, compared.get(item.number) || [0, 1], (pair) => {
      compared.set(item.number, pair);
      route();
    }) : transcript(data, itemShown(data, item), { ...look, query: grid.query() })) : h("p", { class: "missing" }, "Nothing to show."));
    right.scrollTop = top;
  }

  function step(by) {
    if (view !== "t") return;
    const other = grid.neighbour(by);
    if (other && other !== item) visit(`#!t/${other.number}`, true);
  }

  function foldAll() {
    const boxes = [...right.querySelectorAll("details.step")];
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

  function enter(name) {
    const inside = Object.hasOwn(VIEWS, name);
    if (name !== view) {
      view = inside ? name : "";
      document.body.classList.toggle("in-app", inside);
      app.hidden = !inside;
      main.hidden = inside;
      left.replaceChildren(...(view === "t" ? grid.element : view === "map" ? map.element : view === "s" ? samples.element : []));
      tools.replaceChildren(...(view === "t" ? [previous, next, fold, raw, compare, keys] : [fold, raw, keys]));
    }
    raw.setAttribute("aria-pressed", String(look.raw));
    for (const link of document.querySelectorAll("nav.tabs a")) {
      const here = link.getAttribute("href") === (inside ? `#!${name}` : "#findings");
      if (here) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    return inside;
  }

  function route() {
    const [name, ...rest] = location.hash.startsWith("#!") ? location.hash.slice(2).split("/") : [""];
    const before = view;
    if (!enter(name)) { // back among the findings, which were hidden when the address changed
      const place = before && document.getElementById(location.hash.slice(1));
      if (place) place.scrollIntoView();
      return;
    }
    const n = Number(rest[0]);
    if (name === "t") {
      comparing = rest[1] === "compare";
      compare.setAttribute("aria-pressed", String(comparing));
      if (rest.length && data.items[n]) showItem(data.items[n]);
      else grid.refresh();
    } else if (name === "map") {
      const place = data.items[n];
      if (rest.length > 1 && place) {
        map.choose(`${n}/${rest[1]}`);
        right.replaceChildren(behind(data, place, Number(rest[1]), Number(rest[2] || 0), { ...look, query: { text: "", fields: [] } }));
      } else right.replaceChildren(h("p", { class: "missing" }, "Pick a cell: behind it are the student's rollouts from that state."));
    } else {
      const s = data.samples[rest.length ? n : 0];
      samples.choose(s ? s.number : -1);
      right.replaceChildren(s ? transcript(data, sampleShown(data, s), { ...look, query: { text: "", fields: [] } }) : "");
    }
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "Escape" && typing) { // which would also empty a search field
      event.preventDefault();
      event.target.blur();
      return;
    }
    if (typing) return;
    const act = {
      j: () => step(1), k: () => step(-1), ArrowDown: () => step(1), ArrowUp: () => step(-1),
      "/": () => view === "t" && grid.search.focus(), n: () => seek(1), p: () => seek(-1), o: foldAll,
      r: () => raw.click(), c: () => view === "t" && compare.click(), "?": () => help.showModal(),
      Escape: () => comparing && compare.click(),
      1: () => visit("#findings"), 2: () => visit("#!t"), 3: () => visit("#!map"), 4: () => visit("#!s"),
    }[event.key];
    if (!act || (!view && !"1234?".includes(event.key))) return;
    event.preventDefault();
    act();
  });
  addEventListener("hashchange", route);
  for (const words of data.notices) app.prepend(h("p", { class: "missing" }, words));
  document.querySelector("nav.tabs").hidden = false;
  route();
  document.documentElement.dataset.ready = "true";
}

start().catch((error) => {
  document.getElementById("app").replaceChildren(`The data of this page could not be read: ${error.message}`);
});
