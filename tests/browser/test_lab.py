"""Widgets in a real JupyterLab: what an analyst clicks and types there, and what is left of it.

Records in it would like to run, to hide text, or to be too long for a page.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from jupyter import SECONDS, jupyter_lab, open_notebook, run_cell, wait_for_kernel, write_notebook
from playwright.sync_api import Browser, Dialog, Locator, Page, expect

sys.path.append(str(Path(__file__).parents[1] / "analysis"))
from sample_run import write_jsonl, write_run

from eeflib.analysis.annotations import Annotations
from eeflib.analysis.collection import Collection
from eeflib.analysis.views.recovery import RecoveryData, RecoveryState
from eeflib.records import Branch, Step, Trajectory

NASTY = (
    '<img src=x onerror="window.ran=1"><script>window.ran=1</script>"\'><b>bold</b>'
    "</div></style><svg onload=window.ran=1> \u202ertl \x1b[31mred\x1b[0m \u05e9\u05dc\u05d5\u05dd "
    "\U0001fad6 &lt;i&gt;"
)
LONG = 5000
MAP = RecoveryState(per_page=40)
FROZEN = 5000
"""Milliseconds for which the page may do nothing else, also on a machine with other work."""


def nasty(name: str, size: int = 0) -> Trajectory:
    text = NASTY + "w" * size
    steps = tuple(
        Step(f"{t} {text}", f"click[{text}]", "teacher", text, text, t == 0, text) for t in range(3)
    )
    return Trajectory(name, f"task {NASTY}", "webshop", text, NASTY, steps, text, 0.1, True, False)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of 30 tasks and 3 trajectories more: hostile, huge and hostile, long."""
    path = write_run(tmp_path_factory.mktemp("lab") / "run", seeds=(1,), tasks=30)
    here = path / "seed-1"
    steps = tuple(Step(f"room {t}", f"go {t}", "teacher", "", f"hm {t}") for t in range(LONG))
    more = {
        "trajectories": [
            nasty("nasty"),
            nasty("huge", 1_000_000),
            Trajectory("long", "l", "toy", "walk far", "gpt", steps, "end", 0.0, False, True),
        ],
        "EEF/iter-1/branches": [
            Branch("nb", nasty("n").task_id, 1, 1, 0, "nasty", nasty("r"), iteration=1),
            Branch("nc", nasty("n").task_id, 2, 2, 0, "nasty", None, NASTY, iteration=1),
        ],
    }
    for name, records in more.items():
        file = here / f"{name}.jsonl"
        before = file.read_text("utf-8")
        write_jsonl(file, records)
        file.write_text(before + file.read_text("utf-8"), "utf-8")
    return path


@pytest.fixture(scope="module")
def page(run: Path, browser: Browser) -> Iterator[Page]:
    """One notebook, one kernel: the tests run its cells. A busy machine is waited for."""
    cells = [
        "from eeflib.analysis.widgets import *\nExplorer('run', author='ann')",
        "from eeflib.analysis.views.recovery import RecoveryState\n"
        f"RecoveryMap('run', state=RecoveryState(per_page={MAP.per_page}))",
        f"Compare('run', state=Compare('run').state.at((1, {nasty('n').task_id!r})))",
    ]
    write_notebook(run.parent / "look.ipynb", cells)
    trouble: list[str] = []

    def watch(request) -> None:
        if urlsplit(request.url).hostname not in ("127.0.0.1", None):
            trouble.append(f"request to {request.url}")

    def answer(dialog: Dialog) -> None:
        if dialog.type == "beforeunload":  # the notebook is not saved, on purpose
            dialog.accept()
        else:
            trouble.append(f"dialog {dialog.message}")
            dialog.dismiss()

    expect.set_options(timeout=SECONDS / 2)
    with jupyter_lab(run.parent) as address:
        context = browser.new_context(viewport={"width": 1400, "height": 2200})
        context.set_default_timeout(SECONDS / 2)
        page = context.new_page()
        page.on("request", watch)
        page.on("dialog", answer)
        open_notebook(page, address, "look.ipynb")
        yield page
        assert page.evaluate("window.ran") is None, "text of a record was run"
        context.close()
    expect.set_options(timeout=5000)
    assert trouble == []


def explorer(page: Page) -> Locator:
    return run_cell(page, 0).locator(".eef-view").first


def press(view: Locator, name: str) -> None:
    view.get_by_role("button", name=name, exact=True).click()


def places(found: Locator) -> list[float]:
    """Left edge and width of each that is shown, in pixels."""
    boxes = [x.bounding_box() for x in found.all() if x.is_visible()]
    return [edge for b in boxes if b for edge in (b["x"], b["width"])]


def look_for(view: Locator, text: str) -> None:
    search = view.get_by_placeholder("search, then Enter")
    search.fill(text)
    search.press("Enter")


def test_filter_search_step_annotate_reload_and_the_note_is_still_there(page: Page, run: Path):
    everything = Collection.of(run)
    view = explorer(page)
    caption = view.locator(".caption").first
    expect(caption).to_have_text("33 trajectories")

    for order in ("ascending", "descending", "none"):
        press(view, "sort by reward")
        expect(view.locator("th.c-reward")).to_have_attribute("aria-sort", order)
    for width in (1000, 1400):  # a click on a column's head is one on that column's button
        page.set_viewport_size({"width": width, "height": 2200})
        heads, buttons = (places(view.locator(x)) for x in (".grid th", ".eef-heads button"))
        assert len(heads) > 5
        assert heads == pytest.approx(buttons, abs=3), f"in a window {width} wide"

    failed = [x for x in everything if x.outcome == "failed"]
    view.locator("select").first.select_option("failed")
    expect(caption).to_contain_text(f"{len(failed)} of 33 trajectories: failed")
    expect(view.locator(".grid .ok")).to_have_count(0)

    view.get_by_placeholder("search, then Enter").fill("(oops")
    view.get_by_label("regex").check()
    expect(caption).to_contain_text("not a regular expression: missing )")
    look_for(view, "is it EASY.to")
    wandered = [x for x in failed if any("Is it easy" in s.thought for s in x.trajectory.steps)]
    expect(caption).to_contain_text(f"{len(wandered)} of 33 trajectories")
    expect(view.locator(".chip", has_text="match").first).to_be_visible()

    press(view, f"open trajectory {everything.items.index(wandered[1]) + 1}")
    goal = view.locator(".goal")
    expect(goal).to_contain_text(wandered[1].trajectory.instruction)
    steps = view.locator(".step.is-open")
    expect(steps).to_have_count(1)  # what was seen last
    press(view, "step 2")
    expect(steps).to_have_count(2)
    expect(steps.first).to_contain_text("Total results: 50")
    press(view, "next \u203a")
    expect(goal).to_contain_text(wandered[2].trajectory.instruction)
    expect(steps).to_have_count(1)
    view.get_by_label("no.").press("ArrowDown")
    expect(goal).to_contain_text(wandered[1].trajectory.instruction)
    expect(steps).to_have_count(2)  # remembered

    view.get_by_placeholder("label, e.g.").press_sequentially("did not look")
    view.get_by_placeholder("note", exact=True).press_sequentially(f"page 1 was enough {NASTY}")
    press(view, "Save")
    expect(view.locator(".note-line")).to_have_count(2)
    kept = Annotations(run).of(wandered[1].key)
    assert [(a.kind, a.author, a.text) for a in kept] == [
        ("label", "ann", "did not look"),
        ("note", "ann", f"page 1 was enough {NASTY}"),
    ]

    page.reload()
    wait_for_kernel(page)
    view = explorer(page)
    view.get_by_label("annotated").check()
    expect(view.locator(".caption").first).to_contain_text("1 of 33 trajectories: annotated")
    expect(view.locator(".note-line").first).to_contain_text("did not look")
    expect(view.locator(".note-line").nth(1)).to_contain_text("page 1 was enough <img")
    assert_harmless(page, view)


def test_a_cell_of_the_recovery_map_leads_to_the_rollouts_behind_it(page: Page, run: Path):
    data = RecoveryData(Collection.of(run))
    items = data.page(MAP)
    rows = [data.cells[x.key] for x in items]
    at = next(i for i, r in enumerate(rows) if {c.kind for c in r.values()} >= {"won", "lost"})
    first, row = items[at], rows[at]
    won = max(c.k for c in row.values() if c.wins)
    lost = next(k for k, c in row.items() if c.n and not c.wins)
    view = run_cell(page, 1).locator(".eef-view").first
    cells = view.locator(".eef-cell")
    cell = cells.nth(at * data.width + won)
    expect(cell).to_have_text("1/1")
    expect(cell).to_have_attribute("title", row[won].hint)
    cell.click()
    expect(view.locator(".caption").nth(1)).to_contain_text(row[won].hint)
    expect(view.locator(".goal")).to_contain_text(first.trajectory.instruction)
    (branch,) = data.attempts(MAP.pick(first.key, won))
    expect(view.locator(".step", has_text="student")).to_have_count(branch.rollout.length)
    press(view, f"step {row[won].t + 1}")
    expect(view.locator(".step.is-open").first).to_contain_text(branch.rollout.steps[0].action)
    cells.nth(at * data.width + lost).click()
    expect(view.locator(".end").first).to_contain_text("not solved")


def test_hostile_records_are_text_and_nothing_else(page: Page, run: Path):
    view = explorer(page)
    watch_for_freezing(page)
    look_for(view, "onerror")
    expect(view.locator(".caption").first).to_contain_text("2 of 33 trajectories")
    for shown in ("more characters]", "\u05e9\u05dc\u05d5\u05dd"):  # the huge one, then the other
        press(view, "next \u203a" if shown.startswith("more") else "\u2039 previous")
        expect(view.locator(".goal")).to_contain_text('<img src=x onerror="window.ran=1">')
        expect(view.locator(".goal")).to_contain_text(shown)
        press(view, "unfold all")
        expect(view.locator(".step.is-open")).to_have_count(4)
        view.get_by_role("button", name="raw", exact=True).click()
        expect(view.locator(".step.is-open pre").first).to_contain_text("<script>window.ran=1<")
        view.get_by_role("button", name="raw", exact=True).click()
        expect(view.locator(".step.is-open pre")).to_have_count(0)
    text = view.inner_text()
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert "\u27e8U+202E\u27e9" in text
    assert_harmless(page, view)

    data = RecoveryData(Collection.of(run))
    at = next(i for i, x in enumerate(data.page(MAP)) if x.key.id == "nasty")
    view = run_cell(page, 1).locator(".eef-view").first
    view.locator(".eef-cell").nth(at * data.width + 1).click()
    expect(view.locator(".goal")).to_contain_text("<img src=x")
    view.locator(".eef-cell").nth(at * data.width + 2).click()
    expect(view).to_contain_text("could not be restored: <img src=x")
    assert_harmless(page, view)
    view = run_cell(page, 2).locator(".eef-view").first
    expect(view.locator(".pair")).to_contain_text("<script>window.ran=1<")
    assert_harmless(page, view)
    assert page.evaluate("window.longest") < FROZEN


def test_five_thousand_steps_do_not_freeze_the_page(page: Page):
    view = explorer(page)
    watch_for_freezing(page)
    look_for(view, "go 49[0-9]{2}$")
    view.get_by_label("regex").check()
    expect(view.locator(".goal")).to_contain_text("walk far")
    expect(view.locator(".step:visible")).to_have_count(41)  # a window of them, and the end
    press(view, "next match")
    expect(view.locator(".step.is-open").first).to_contain_text("room 4900")
    press(view, "unfold all")
    expect(view.locator(".step.is-open:visible")).to_have_count(41)
    view.get_by_title("next steps").click()
    expect(view).to_contain_text("4,920 steps before")
    expect(view.locator(".step.is-open").first).to_contain_text("room 4920")
    assert page.evaluate("window.longest") < FROZEN


def assert_harmless(page: Page, view: Locator) -> None:
    assert page.evaluate("window.ran") is None, "text of a record was run"
    expect(view.locator("img, script, svg, iframe, .note-line b, .goal b")).to_have_count(0)


def watch_for_freezing(page: Page) -> None:
    """From now on `window.longest` is how long the page was deaf at most, in milliseconds."""
    page.evaluate(
        """() => {
          window.longest = 0;
          let last = performance.now();
          setInterval(() => {
            const now = performance.now();
            window.longest = Math.max(window.longest, now - last);
            last = now;
          }, 50);
        }"""
    )
