"""Pictures of every widget and of the report, light and dark, for the README.

    python scripts/screenshots.py [RUN] [--out docs/images]

RUN is a run folder; without one, a small demo run is made first (a minute). It is copied, since
an annotated trajectory belongs into the picture. Widgets are those of a real JupyterLab in headless
Chromium, the report is opened as a file. Needs what the browser tests need (`make setup`).
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "browser"))
from conftest import ARGS, NAMES
from jupyter import SECONDS, jupyter_lab, open_notebook, run_cell, write_notebook

from eeflib.analysis.annotations import Annotations
from eeflib.analysis.collection import Collection, Item
from eeflib.analysis.report import write_report

COLOURS = 255
"""A palette keeps a picture at some 80 kB."""

CELLS = {
    "explorer": (
        "from eeflib.analysis.widgets import *\n"
        "from eeflib.analysis.views.explorer import ExplorerState, GridState\n"
        "Explorer('run', author='ann', state=ExplorerState(GridState(per_page=6)))"
    ),
    "recovery_map": "RecoveryMap('run')",
    "compare": "Compare('run')",
    "annotator": (
        "from eeflib.analysis.annotations import Annotations\n"
        "from eeflib.analysis.collection import Collection\n"
        "Annotator(Annotations('run', 'ann'), Collection.of('run').find({name!r}))"
    ),
    "loss_mask": (
        "from eeflib.analysis.run import Run\n"
        "from eeflib.masking import encode_samples\n"
        "from eeflib.policies.loading import load_student\n"
        "from eeflib.prompts import get_format\n"
        "from eeflib.analysis.views.mask import MaskState\n"
        "run = Run('run')\n"
        "samples = [s for place, s in run.samples() if place.method == 'EEF']\n"
        "tokenizer = load_student(run.manifest['config']['student'])[1]\n"
        "data = encode_samples(samples, get_format('act', samples[0].env), tokenizer)\n"
        "telling = max(samples, key=lambda s: (len(set(s.labels)), -len(s.steps)))\n"
        "LossMask(samples, data, tokenizer, state=MaskState(sample=telling.id))"
    ),
}


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


def height_until(view: Locator, stop: Locator | None) -> int | None:
    """Pixels of the view above a part of it."""
    if stop is None:
        return None
    whole, part = view.bounding_box(), stop.bounding_box()
    assert whole is not None
    assert part is not None
    return int(part["y"] - whole["y"])


def save(picture: bytes, path: Path, height: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image = image.crop((0, 0, image.width, height or image.height))
    # the palette that covers the most, not the most frequent ones: a small mark keeps its colour
    few = image.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    print(f"{path}: {image.width} x {image.height}, {path.stat().st_size / 1000:.0f} kB")


def widgets(browser: Browser, folder: Path, out: Path, dark: bool) -> None:
    item = telling(folder / "run")
    notebook = f"look-{'dark' if dark else 'light'}.ipynb"
    cells = [code.replace("{name!r}", repr(item.key.id)) for code in CELLS.values()]
    write_notebook(folder / notebook, cells)
    number = Collection.of(folder / "run").position(item.key) or 0
    with jupyter_lab(folder, theme=f"JupyterLab {'Dark' if dark else 'Light'}") as address:
        context = browser.new_context(viewport={"width": 1400, "height": 3200})
        context.set_default_timeout(SECONDS)
        page = context.new_page()
        expect.set_options(timeout=SECONDS)
        open_notebook(page, address, notebook)
        for i, name in enumerate(CELLS):
            view = run_cell(page, i).locator(".eef-view").first
            expect(view).to_be_visible()
            prepare(name, page, view, number, wrong_turn(item))
            page.evaluate("document.activeElement.blur()")
            page.mouse.move(2, 2)
            page.wait_for_timeout(700)
            stop = view.locator(".eef-panel") if name == "explorer" else None  # see `annotator`
            save(
                view.screenshot(),
                out / f"{name}_{'dark' if dark else 'light'}.png",
                height_until(view, stop),
            )
        context.close()


def prepare(name: str, page: Page, view: Locator, number: int, turn: int) -> None:
    """Bring a widget into a state that shows what it is for."""
    if name == "explorer":
        view.get_by_label("no.").fill(str(number + 1))
        page.keyboard.press("Enter")
        expect(view.locator(".goal")).to_be_visible()
        view.get_by_role("button", name=f"step {turn + 1}", exact=True).click()
        expect(view.locator(".step.is-open")).to_have_count(2)
    elif name == "recovery_map":
        view.locator(".eef-cell.lost + .eef-cell.won").first.click()
        expect(view.locator(".goal")).to_be_visible()
    elif name == "compare":
        task = view.locator("select").first
        task.select_option(index=number)
        expect(view.locator(".diverge")).to_be_visible()
    elif name == "loss_mask":
        expect(view.locator(".tokens")).to_be_visible()


def pick_sample(page: Page) -> None:
    """A recovery sample, with a harmful action in its context if there is one."""
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
    context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", nargs="?", type=Path, help="a run folder with EEF in it")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--only", choices=["widgets", "report"], help="only these pictures")
    args = parser.parse_args()
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
                widgets(browser, folder, args.out, dark)
            if args.only != "widgets":
                report(browser, folder, args.out, dark)
        browser.close()


if __name__ == "__main__":
    main()
