"""Pictures of the notebooks' figures, the viewer, the report and the game, for README and docs.

    python scripts/screenshots.py [RUN] [--out docs/images]

RUN is a run folder; without one, a small demo run is made first (a minute). It is copied, since
an annotated trajectory belongs into the picture. The viewer and the game run in a real JupyterLab
in headless Chromium, the report is opened as a file. Needs what the browser tests need.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "browser"))
from conftest import ARGS, NAMES
from jupyter import SECONDS, jupyter_lab, open_notebook, run_cell, write_notebook

from eeflib.analysis.annotations import Annotations
from eeflib.analysis.collection import Collection, Item
from eeflib.analysis.report import write_report

COLOURS = 255
"""A palette keeps a picture at some 80 kB."""

CELLS = {
    "viewer": "import eeflib as eef\neef.Viewer('run', author='ann').show({name!r}, step={step})",
    "loss_mask": (
        "run = eef.open_run('run')\n"
        "samples = run.samples('EEF', 1)\n"
        "samples.sort(key=lambda s: (-len(set(s.labels)), len(s.steps)))\n"
        "student = run.student()\n"
        "eef.Viewer(eef.encode(samples, student), samples=samples)"
    ),
    "play": (
        "game = eef.play(run.world())\ngame.act(f'search[{game.task.goal[\"query\"]}]')\ngame"
    ),
}
"""Picture -> the cell whose output it shows."""

FIGURES = {"00": 0, "01": 0, "02": 0, "03": 0, "04": 0, "05": -1, "06": 0, "07": 0, "08": 0}
"""Notebook -> which of the figures in its outputs stands for it in README."""

DOSE = "figures.dose_response("
"""The cell of notebook 05 whose figure README shows, too."""

SECTIONS = {
    "curve": "#recovery",
    "solved": "#newly-solved",
    "actions": "#actions",
    "budget": "#budget",
}
"""Picture -> the section of the report that it shows."""


def telling(run: Path) -> Item:
    """A failure with beneficial and harmful actions, not too long."""
    items = [x for x in Collection.of(run) if x.outcome == "failed"]

    def worth(item: Item) -> tuple[int, int]:
        labels = {s.label for s in item.segments} & {"beneficial", "harmful"}
        return (-len(labels), abs(item.trajectory.length - 7))

    return min(items, key=worth)


def wrong_turn(item: Item) -> int:
    """The first action that made it worse."""
    return next((s.start for s in item.segments if s.label == "harmful"), 0)


def save(picture: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    # the palette that covers the most, not the most frequent ones: a small mark keeps its colour
    few = image.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    print(f"{path}: {image.width} x {image.height}, {path.stat().st_size / 1000:.0f} kB")


def notebook(browser: Browser, folder: Path, out: Path, dark: bool) -> None:
    item = telling(folder / "run")
    name = f"look-{'dark' if dark else 'light'}.ipynb"
    first = CELLS["viewer"].format(name=item.key.id, step=wrong_turn(item) + 1)
    write_notebook(folder / name, [first, *list(CELLS.values())[1:]])
    with jupyter_lab(folder, theme=f"JupyterLab {'Dark' if dark else 'Light'}") as address:
        context = browser.new_context(viewport={"width": 1400, "height": 1600})
        context.set_default_timeout(SECONDS)
        page = context.new_page()
        expect.set_options(timeout=SECONDS)
        open_notebook(page, address, name)
        for i, picture in enumerate(CELLS):
            output = run_cell(page, i)
            shown = ".widget-vbox" if picture == "play" else ".eef[data-ready]"
            view = output.locator(shown).first
            expect(view).to_be_visible()
            page.evaluate("document.activeElement.blur()")
            page.mouse.move(2, 2)
            page.wait_for_timeout(1000)
            save(view.screenshot(), out / f"{picture}_{'dark' if dark else 'light'}.png")
        context.close()


def figures(out: Path) -> None:
    """A picture for each notebook, out of its committed outputs."""
    for path in sorted(Path("notebooks").glob("0*.ipynb")):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        found = [
            ("".join(cell["source"]), base64.b64decode("".join(o["data"]["image/png"])))
            for cell in cells
            for o in cell.get("outputs", ())
            if "image/png" in o.get("data", {})
        ]
        number = path.name[:2]
        save(found[FIGURES[number]][1], out / f"notebook_{number}.png")
        for source, picture in found:
            if source.startswith(DOSE):
                save(picture, out / "dose.png")


def pick_sample(page: Page) -> None:
    """A recovery sample, with a harmful action in its context if there is one."""
    if page.get_by_role("option", name="recovery").count():
        page.get_by_label("kind", exact=True).select_option("recovery")
    rows = page.locator(".samples tbody tr")
    harmful = rows.filter(has=page.locator(".k-harmful"))
    (harmful if harmful.count() else rows).first.click()


def report(browser: Browser, folder: Path, out: Path, dark: bool) -> None:
    path = write_report(folder / "run", folder / "report.html")
    collection = Collection.of(folder / "run")
    item = telling(folder / "run")
    number, turn = collection.position(item.key), wrong_turn(item)
    views: dict[str, tuple[str, Callable[[Page], None]]] = {
        "findings": ("", lambda page: None),
        "trajectories": (
            f"#!t/{number}",
            lambda page: page.locator(".right summary").nth(turn).click(),
        ),
        "map": ("#!map", lambda page: page.locator("#app td.lost + td.won button").first.click()),
        "compare": (f"#!t/{number}/compare", lambda page: None),
        "training": ("#!s", pick_sample),
    }
    scheme = "dark" if dark else "light"
    context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme=scheme)
    for name, (place, act) in views.items():
        page = context.new_page()
        page.goto(path.as_uri() + place)
        expect(page.locator("html[data-ready]")).to_be_attached(timeout=SECONDS)
        act(page)
        page.wait_for_timeout(300)
        save(page.screenshot(), out / f"report_{name}_{scheme}.png")
        page.close()
    page = context.new_page()
    page.goto(path.as_uri())
    expect(page.locator("html[data-ready]")).to_be_attached(timeout=SECONDS)
    page.evaluate("document.querySelector('nav.tabs').hidden = true")  # it lies on what is scrolled
    for name, place in SECTIONS.items():
        section = page.locator(place)
        section.scroll_into_view_if_needed()
        page.wait_for_timeout(1500)  # its figures are drawn when they come into sight
        save(section.screenshot(), out / f"report_{name}_{scheme}.png")
    context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", nargs="?", type=Path, help="a run folder with EEF in it")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument(
        "--only", choices=["notebook", "report", "figures"], help="only these pictures"
    )
    args = parser.parse_args()
    if args.only in (None, "figures"):
        figures(args.out)
    if args.only == "figures":
        return
    with tempfile.TemporaryDirectory(prefix="eef-pictures-") as name, sync_playwright() as driver:
        folder = Path(name)
        if args.run is None:
            command = [sys.executable, "-c", "from eeflib.cli import main; main()", "demo"]
            subprocess.run([*command, "--preset", "tiny", "--run", str(folder / "run")], check=True)
        else:
            shutil.copytree(args.run, folder / "run")
        item = telling(folder / "run")
        notes = Annotations(folder / "run", "ann")
        turn = wrong_turn(item)
        notes.add_label(item.key, "took what looked right")
        notes.add_note(item.key, "This is where it goes wrong.", (turn, turn + 1))
        found = next(filter(None, map(shutil.which, NAMES)), None)
        browser = driver.chromium.launch(executable_path=found, args=ARGS)
        for dark in (False, True):
            if args.only != "report":
                notebook(browser, folder, args.out, dark)
            if args.only != "notebook":
                report(browser, folder, args.out, dark)
        browser.close()


if __name__ == "__main__":
    main()
