"""What a reader waits for, measured in a process of its own: `analysis_views.py PART FOLDER`.

Parts: `widgets` (the kernel's side of every view of the widgets, over the run in FOLDER) and
`browser` (FOLDER/report.html in headless Chromium). The last line is a JSON object.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

REPEATS = 3
SAMPLES = 200
"""Training sequences in the view of the loss mask."""


def clock(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall-clock and processor milliseconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)


def widgets(folder: Path) -> dict[str, Any]:
    """Every view once more from the same state: the least of some repeats; opening a run: once."""
    from eeflib.analysis.annotations import Annotations
    from eeflib.analysis.collection import Collection
    from eeflib.analysis.widgets import Annotator, Compare, Explorer, RecoveryMap

    opened: dict[str, float] = {}
    held: list[Any] = []
    opened["open_collection_ms"] = clock(lambda: held.append(Collection.of(folder)))[0]
    collection = held.pop()
    made: dict[str, Any] = {}
    for kind in (Explorer, RecoveryMap, Compare):
        name = f"open_{kind.__name__.lower()}_ms"
        opened[name] = clock(lambda k=kind: made.update({k.__name__: k(collection)}))[0]
    for i, item in enumerate(collection.items[:50]):
        Annotations(folder, "ann").add_note(item.key, f"note {i}")
    explorer, maps, compare = made["Explorer"], made["RecoveryMap"], made["Compare"]
    annotator = Annotator(Annotations(folder, "ann"), collection[0])
    mask = loss_mask(folder)
    grid, start = explorer.state.grid, explorer.state
    query = replace(grid.query, text="crimson kettle")
    regex = replace(grid.query, text=r"\bpage [2-4]\b.*desk", regex=True)
    # the first search of all reads every text; later ones look at what is indexed
    opened["first_search_ms"] = clock(lambda: looks(explorer, grid=replace(grid, query=query)))[0]
    key, other = collection[0].key, collection[1200].key
    steps = collection[0].trajectory.length
    deep = next((x, max(c)) for x in maps.data.rows(maps.state) if (c := maps.data.cells[x.key]))
    tasks = compare.episodes.tasks
    samples = [x.id for x in mask.masks.items]
    turns = {"n": 0}

    def turn(names: list[Any]) -> Any:
        turns["n"] += 1
        return names[turns["n"] % len(names)]

    work: dict[str, Callable[[], Any]] = {
        "explorer_all": lambda: looks(explorer, grid=grid),
        "explorer_filter": lambda: looks(explorer, grid=replace(grid, outcome="failed")),
        "explorer_sort": lambda: looks(explorer, grid=replace(grid, sort="task", descending=True)),
        "explorer_search": lambda: looks(explorer, grid=replace(grid, query=query)),
        "explorer_regex": lambda: looks(explorer, grid=replace(grid, query=regex)),
        "explorer_select": lambda: setattr(explorer, "state", start.select(turn([key, other]))),
        "explorer_unfold": lambda: setattr(explorer, "state", start.unfold(key, range(steps))),
        "explorer_page": lambda: looks(explorer, grid=replace(grid, page=turn([3, 90]))),
        "explorer_twin": explorer.twin,
        "map_all": lambda: setattr(maps, "state", replace(maps.state, key=None, page=0)),
        "map_page": lambda: setattr(maps, "state", replace(maps.state, page=turn([1, 30]))),
        "map_cell": lambda: setattr(
            maps, "state", maps.state.pick(deep[0].key, turn([0, deep[1]]))
        ),
        "map_twin": maps.twin,
        "compare_task": lambda: setattr(compare, "state", compare.state.at(turn(tasks))),
        "compare_unfold": lambda: setattr(
            compare, "state", replace(compare.state, all_open=turn([True, False]))
        ),
        "compare_twin": compare.twin,
        "mask_sample": lambda: setattr(mask, "state", mask.state.look_at(turn(samples))),
        "mask_twin": mask.twin,
        "annotator_about": lambda: annotator.about(turn([collection[3], collection[4]])),
    }
    times = {name: [clock(w) for _ in range(REPEATS)] for name, w in work.items()}
    wall = {name: min(t[0] for t in found) for name, found in times.items()}
    slowest = max(wall, key=lambda n: wall[n])
    return {
        "widgets_slowest_ms": wall[slowest],
        "widgets_slowest_cpu_ms": max(min(t[1] for t in found) for found in times.values()),
        "widgets_slowest": slowest,
        **{f"view_{name}_ms": ms for name, ms in wall.items()},
        **opened,
    }


def looks(explorer: Any, **changes: Any) -> None:
    explorer.state = replace(explorer.state, **changes)


def loss_mask(folder: Path) -> Any:
    """The loss mask of a method's first sequences, with the tiny student's tokens."""
    from eeflib.analysis.run import Run
    from eeflib.analysis.widgets import LossMask
    from eeflib.masking import encode_samples
    from eeflib.policies.loading import load_student
    from eeflib.prompts import get_format

    samples = [s for place, s in Run(folder).samples() if place.method == "EEF"][:SAMPLES]
    tokenizer = load_student("tiny")[1]
    return LossMask(
        samples, encode_samples(samples, get_format("act", "webshop"), tokenizer), tokenizer
    )


def browser(folder: Path) -> dict[str, Any]:
    """From the double click until the page answers: its findings, its grid, a filter, a search."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, names)), None)
    address = (folder / "report.html").as_uri()
    out: list[dict[str, float]] = []
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for _ in range(REPEATS + 1):  # the first one warms the browser up
            page = chromium.new_context(viewport={"width": 1440, "height": 900}).new_page()
            begin = time.perf_counter()
            page.goto(address)
            page.wait_for_selector("html[data-ready]", state="attached")
            ready = time.perf_counter() - begin
            page.keyboard.press("2")
            page.wait_for_selector(".right .goal")
            shown = time.perf_counter() - begin
            out.append({"ready": ready, "shown": shown, **page.evaluate(ANSWERS)})
            page.context.close()
        chromium.close()
    least = {name: min(row[name] for row in out[1:]) for name in out[0]}
    return {
        "report_ready_s": least["ready"],
        "report_interactive_s": least["shown"],
        "report_filter_ms": least["filter"],
        "report_search_ms": least["search"],
        "report_open_ms": least["open"],
    }


# What a change of a control takes until the next picture is drawn; typing is answered after 120 ms.
ANSWERS = """async () => {
  const drawn = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const timed = async (act) => {
    const begin = performance.now();
    act();
    await drawn();
    return performance.now() - begin;
  };
  const choose = (label, value) => () => {
    const field = document.querySelector(`[aria-label="${label}"]`);
    field.value = value;
    field.dispatchEvent(new Event("change"));
  };
  const filter = await timed(choose("outcome", "failed"));
  await timed(choose("outcome", ""));
  const field = document.querySelector("[aria-label=search]");
  field.value = "crimson kettle";
  field.dispatchEvent(new Event("input"));
  const count = document.querySelector(".count");
  const before = count.textContent;
  const begin = performance.now();
  while (count.textContent === before && performance.now() - begin < 10000) {
    await new Promise((done) => setTimeout(done, 2));
  }
  await drawn();
  const search = performance.now() - begin;
  const open = await timed(() => document.querySelector(".rows tbody tr:nth-child(2)").click());
  return { filter, search, open };
}"""


if __name__ == "__main__":
    parts = {f.__name__: f for f in (widgets, browser)}
    print(json.dumps(parts[sys.argv[1]](Path(sys.argv[2]))))
