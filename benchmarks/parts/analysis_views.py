"""What a reader waits for, measured in a process of its own: `analysis_views.py PART FOLDER`.

Parts: `viewer` (the notebook's viewer over the run in FOLDER) and `browser` (FOLDER/report.html),
both in headless Chromium. The last line is a JSON object.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

REPEATS = 3
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Waits until what an act changed is on the screen; typing is answered after a pause of 50 ms.
TOOLS = """
const drawn = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
const timed = async (act, changed) => {
  const begin = performance.now();
  act();
  while (changed && !changed() && performance.now() - begin < 10000) {
    await new Promise((done) => setTimeout(done, 2));
  }
  await drawn();
  return performance.now() - begin;
};
const find = (selector) => document.querySelector(selector);
const choose = (label, value) => () => {
  const field = find(`[aria-label="${label}"]`);
  field.value = value;
  field.dispatchEvent(new Event("change"));
};
const count = () => find(".count").textContent;
const type = (text) => {
  const before = count();
  const field = find("[aria-label=search]");
  return timed(() => {
    field.value = text;
    field.dispatchEvent(new Event("input"));
  }, () => count() !== before);
};
const row = (n) => () => find(`.rows tbody tr:nth-child(${n})`).click();
"""

REPORT = """async () => {
  const filter = await timed(choose("outcome", "failed"));
  await timed(choose("outcome", ""));
  const search = await type("crimson kettle");
  const open = await timed(row(2));
  return { filter, search, open };
}"""

VIEWER = """async () => {
  const press = (key) => timed(() => find(".eef").dispatchEvent(
    new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true })));
  const button = (name) =>
    [...document.querySelectorAll("button")].find((b) => b.textContent === name);
  const out = {};
  out.filter = await timed(choose("outcome", "failed"));
  out.unfilter = await timed(choose("outcome", ""));
  out.sort = await timed(() => find("thead th:nth-child(4) button, thead th:nth-child(4)").click());
  out.open = await timed(row(2));
  out.next = await press("j");
  out.unfold = await press("o");
  out.compare = await press("c");
  out.end_compare = await press("c");
  out.search = await type("crimson kettle");
  out.regex = await timed(() => button("regex").click());
  out.regex_typed = await type("page [2-4].*desk");
  out.map = await press("2");
  out.cell = await timed(() => find("table.map button:not([disabled])").click());
  out.samples = await press("3");
  out.sample = await timed(row(3));
  out.grid = await press("1");
  return out;
}"""

PAGE = """<!doctype html><meta charset="utf-8"><style>{style}</style>
<div id="place"></div><script type="text/plain" id="data">{data}</script>
<script type="module">{script}
const model = {{
  on(name, hear) {{ this.hear = hear; }},
  off() {{}},
  send(message) {{
    const text = atob(document.getElementById("data").textContent);
    const known = {{ kind: "data", address: "#!t", live: true }};
    if (message.kind === "ready") this.hear(known, [Uint8Array.from(text, (c) => c.charCodeAt(0))]);
  }},
}};
render({{ model, el: document.getElementById("place") }});
</script>"""


@contextmanager
def chromium() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


def with_tools(work: str) -> str:
    """A script as a function that knows `TOOLS`; the report's policy allows no script tag."""
    return f"async () => {{ {TOOLS} return await ({work})(); }}"


def least(rows: list[dict[str, float]]) -> dict[str, float]:
    """Of each number; the first row warmed the browser up."""
    return {name: min(row[name] for row in rows[1:]) for name in rows[0]}


def viewer(folder: Path) -> dict[str, Any]:
    """Every view once more from the same state; opening the run in the kernel: once."""
    from eeflib.analysis.viewer import script, sheet
    from eeflib.analysis.widget import Viewer

    begin = time.perf_counter()
    shown = Viewer(folder, author="ann")
    opened = time.perf_counter()
    sent: list[bytes] = []
    shown.send = lambda message, buffers=(): sent.extend(buffers)
    shown._hear(shown, {"kind": "ready"}, [])
    answered = time.perf_counter()
    rows = []
    with tempfile.TemporaryDirectory() as temporary, chromium() as browser:
        page_file = Path(temporary) / "viewer.html"
        page_file.write_text(
            PAGE.format(style=sheet(), data=b64encode(sent[0]).decode(), script=script()), "utf-8"
        )
        for _ in range(REPEATS + 1):
            page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
            start = time.perf_counter()
            page.goto(page_file.as_uri())
            page.wait_for_selector(".eef[data-ready]")
            ready = time.perf_counter() - start
            rows.append({"ready": 1e3 * ready, **page.evaluate(with_tools(VIEWER))})
            page.context.close()
    views = least(rows)
    ready = views.pop("ready")
    slowest = max(views, key=lambda name: views[name])
    return {
        "viewer_slowest_ms": views[slowest],
        "viewer_slowest": slowest,
        **{f"viewer_{name}_ms": ms for name, ms in views.items()},
        "viewer_open_kernel_ms": 1e3 * (opened - begin),
        "viewer_data_ms": 1e3 * (answered - opened),
        "viewer_data_mb": len(sent[0]) / 1e6,
        "viewer_open_browser_ms": ready,
    }


def browser(folder: Path) -> dict[str, Any]:
    """From the double click until the page answers: its findings, its grid, a filter, a search."""
    address = (folder / "report.html").as_uri()
    rows = []
    with chromium() as found:
        for _ in range(REPEATS + 1):
            page = found.new_context(viewport={"width": 1440, "height": 900}).new_page()
            begin = time.perf_counter()
            page.goto(address)
            page.wait_for_selector("html[data-ready]", state="attached")
            ready = time.perf_counter() - begin
            page.keyboard.press("2")
            page.wait_for_selector(".right .goal")
            shown = time.perf_counter() - begin
            rows.append({"ready": ready, "shown": shown, **page.evaluate(with_tools(REPORT))})
            page.context.close()
    fast = least(rows)
    return {
        "report_ready_s": fast["ready"],
        "report_interactive_s": fast["shown"],
        "report_filter_ms": fast["filter"],
        "report_search_ms": fast["search"],
        "report_open_ms": fast["open"],
    }


if __name__ == "__main__":
    parts = {f.__name__: f for f in (viewer, browser)}
    print(json.dumps(parts[sys.argv[1]](Path(sys.argv[2]))))
