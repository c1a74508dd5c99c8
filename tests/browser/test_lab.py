"""The viewer in a real JupyterLab: what an analyst clicks and types there, and what is left of it.

Records in it would like to run, to hide text, or to be too long for a page.
"""

from __future__ import annotations

import json
import re
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
from eeflib.records import Branch, Step, Trajectory

NASTY = (
    '<img src=x onerror="window.ran=1"><script>window.ran=1</script>"\'><b>bold</b>'
    "</div></style><svg onload=window.ran=1> \u202ertl \x1b[31mred\x1b[0m \u05e9\u05dc\u05d5\u05dd "
    "\U0001fad6 &lt;i&gt;"
)
LONG = 5000
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
            nasty("huge", 200_000),
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
        "import eeflib as eef\neef.Viewer('run', author='ann')",
        "game = eef.play(eef.webshop(train=2, test=0), run='run')\ngame",
        "from eeflib.masking import EncodedSet, encode_samples\n"
        "from eeflib.analysis.run import Run\n"
        "from eeflib.policies.loading import load_student\n"
        "from eeflib.prompts import get_format\n"
        "model, tokenizer = load_student('tiny', device='cpu')\n"
        "samples = [s for _, s in Run('run').samples()][:20]\n"
        "data = encode_samples(samples, get_format('act', 'webshop'), tokenizer)\n"
        "eef.Viewer(data, samples=samples)",
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
        context = browser.new_context(viewport={"width": 1500, "height": 1400})
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


def viewer(page: Page, cell: int = 0) -> Locator:
    view = run_cell(page, cell).locator(".eef[data-ready]").first
    expect(view).to_be_visible()
    return view


def press(view: Locator, name: str) -> None:
    view.get_by_role("button", name=name, exact=True).click()


def row(view: Locator, number: int) -> Locator:
    return view.locator(f"tr[data-item='{number}']")


def test_filter_search_keys_annotate_reload_and_the_note_is_still_there(page: Page, run: Path):
    everything = Collection.of(run)
    view = viewer(page)
    count = view.locator(".count").first
    expect(count).to_have_text("33 trajectories")

    for order in ("ascending", "descending", "none"):
        press(view, "reward")
        expect(view.locator("th.c-reward")).to_have_attribute("aria-sort", order)

    failed = [x for x in everything if x.outcome == "failed"]
    view.get_by_label("outcome").select_option("failed")
    expect(count).to_have_text(f"{len(failed)} of 33 trajectories")
    expect(view.locator("td .ok")).to_have_count(0)

    view.get_by_label("search").fill("(oops")
    press(view, "regex")
    expect(view.get_by_role("alert")).to_contain_text("not a regular expression")
    view.get_by_label("search").fill("(a+)+b")
    expect(view.get_by_role("alert")).to_contain_text("may never end")
    view.get_by_label("search").fill("is it EASY.to")
    wandered = [x for x in failed if any("Is it easy" in s.thought for s in x.trajectory.steps)]
    expect(count).to_have_text(f"{len(wandered)} of 33 trajectories")
    expect(view.locator(".chip", has_text="match").first).to_be_visible()

    numbers = [everything.position(x.key) for x in wandered]
    goal = view.locator(".goal")
    row(view, numbers[1]).click()
    expect(goal).to_contain_text(wandered[1].trajectory.instruction)
    page.keyboard.press("j")
    expect(goal).to_contain_text(wandered[2].trajectory.instruction)
    page.keyboard.press("k")
    page.keyboard.press("o")
    steps = view.locator("details.step[data-step]")
    expect(view.locator("details.step[data-step][open]")).to_have_count(
        wandered[1].trajectory.length
    )
    page.keyboard.press("o")
    steps.nth(1).locator("summary").click()
    expect(steps.nth(1)).to_contain_text("Total results: 50")

    page.keyboard.press("a")
    page.keyboard.type("did not look")
    view.get_by_label("note", exact=True).fill(f"page 1 was enough {NASTY}")
    press(view, "Save")
    expect(view.locator("dd.note")).to_have_count(2)
    kept = Annotations(run).of(wandered[1].key)
    assert [(a.kind, a.author, a.text) for a in kept] == [
        ("label", "ann", "did not look"),
        ("note", "ann", f"page 1 was enough {NASTY}"),
    ]
    Annotations(run, "bea").add_note(wandered[1].key, "I disagree")

    page.reload()
    wait_for_kernel(page)
    view = viewer(page)
    press(view, "more filters")
    press(view, "annotated")
    expect(view.locator(".count").first).to_have_text("1 of 33 trajectories")
    expect(view.locator("dd.note").first).to_contain_text("did not look")
    expect(view.locator("dd.note").nth(1)).to_contain_text("page 1 was enough <img")
    expect(view.locator("dd.note").nth(2)).to_contain_text("I disagree bea")
    view.get_by_role("button", name="take back").nth(2).click()
    expect(view.locator("dd.note")).to_have_count(2)
    assert [a.text for a in Annotations(run).of(wandered[1].key)][-1].startswith("page 1")
    assert_harmless(page, view)


def test_keys_are_the_viewers_only_while_it_has_the_focus(page: Page):
    view = viewer(page)
    row(view, 0).click()
    expect(row(view, 0)).to_have_class("on")
    page.keyboard.press("j")
    expect(row(view, 1)).to_have_class("on")
    page.locator(".jp-CodeCell").nth(1).locator(".jp-InputPrompt").click()
    page.keyboard.press("k")
    page.wait_for_timeout(300)
    expect(row(view, 1)).to_have_class("on")
    expect(page.locator(".jp-CodeCell")).to_have_count(3)


def test_a_cell_of_the_recovery_map_leads_to_the_rollouts_behind_it(page: Page, run: Path):
    collection = Collection.of(run)
    view = viewer(page)
    view.get_by_role("link", name="recovery map").click()
    failed = next(x for x in collection if not x.trajectory.solved and any(
        s.k and s.wins for s in x.states))  # fmt: skip
    state = next(s for s in failed.states if s.k and s.wins)
    (branch,) = collection.branches.at(failed, state.k)
    line = view.locator(".map tbody tr", has=page.get_by_title(failed.trajectory.instruction))
    cell = line.locator("td.c button").nth(state.k)
    expect(cell).to_have_text("1/1")
    hint = cell.get_attribute("title")
    assert f"s{state.k}, after {state.t} action" in hint
    assert "95 % interval 21 to 100 %" in hint
    cell.click()
    right = view.locator(".right")
    expect(right.locator(".caption")).to_contain_text(hint)
    expect(right.locator(".goal")).to_contain_text(failed.trajectory.instruction)
    own = right.locator("details.step[data-step]", has_text="student")
    expect(own).to_have_count(branch.rollout.length)
    own.first.locator("summary").click()
    expect(own.first).to_contain_text(branch.rollout.steps[0].action)
    expect(right.locator(".end")).to_contain_text("solved")
    right.get_by_role("link", name="the teacher's trajectory").click()
    expect(right.locator(".end")).to_contain_text("not solved")
    press(view, "compare")
    expect(right.locator(".diverge")).to_contain_text("Here they part")


def test_hostile_records_are_text_and_nothing_else(page: Page, run: Path):
    at = {x.key.id: i for i, x in enumerate(Collection.of(run))}
    view = viewer(page)
    watch_for_freezing(page)
    view.get_by_label("search").fill("onerror")
    expect(view.locator(".count").first).to_have_text("2 of 33 trajectories")
    for name, shown in (("huge", "more characters]"), ("nasty", "\u05e9\u05dc\u05d5\u05dd")):
        row(view, at[name]).click()
        expect(view.locator(".goal")).to_contain_text('<img src=x onerror="window.ran=1">')
        expect(view.locator(".goal")).to_contain_text(shown)
        press(view, "unfold all")
        expect(view.locator("details.step[open]")).to_have_count(4)
        press(view, "raw")
        expect(view.locator("details.step[open] pre").first).to_contain_text("<script>window.ran=")
        press(view, "raw")
    text = view.inner_text()
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert "\u27e8U+202E\u27e9" in text
    assert_harmless(page, view)
    press(view, "compare")
    expect(view.locator(".pair")).to_contain_text("<script>window.ran=1<")
    assert_harmless(page, view)
    view.get_by_role("link", name="recovery map").click()
    line = view.locator(".map tbody tr", has_text="<img")
    line.locator("td.c button").nth(1).click()
    expect(view.locator(".right .goal")).to_contain_text("<img src=x")
    line.locator("td.c button").nth(2).click()
    expect(view.locator(".right")).to_contain_text("could not be restored: <img src=x")
    assert_harmless(page, view)
    assert page.evaluate("window.longest") < FROZEN


def test_five_thousand_steps_do_not_freeze_the_page(page: Page):
    view = viewer(page)
    watch_for_freezing(page)
    press(view, "regex")
    view.get_by_label("search").fill("go 49[0-9]{2}$")
    expect(view.locator(".goal")).to_contain_text("walk far")
    view.locator(".right").focus()
    page.keyboard.press("n")
    expect(view.locator("details.step.here")).to_contain_text("room 4900")
    press(view, "reset")
    press(view, "steps")
    press(view, "steps")
    view.locator("tr[data-item]").first.click()
    expect(view.locator(".goal")).to_contain_text("walk far")
    assert page.evaluate("window.longest") < FROZEN


def test_the_loss_mask_shows_every_token_with_its_reason(page: Page):
    view = viewer(page, 2)
    expect(view.locator(".fine")).to_contain_text("No alarm")
    tokens = view.locator(".tokens")
    expect(tokens.locator(".r-trained").first).to_have_attribute(
        "title", re.compile(r"trained of step \d+: an action that carries loss; carries loss")
    )
    first = view.locator("tr[data-sample]").first.locator(".num").inner_text()
    trained, length = (int(x.replace(",", "")) for x in first.split("/"))
    expect(tokens.locator("i")).to_have_count(length)
    assert tokens.locator(".r-trained i, .r-end i").count() == trained
    view.locator(".right").focus()
    page.keyboard.press("j")
    expect(view.locator("tr.on")).to_have_attribute("data-sample", "1")
    expect(tokens.locator("i").first).to_be_visible()


def test_play_records_a_purchase(page: Page, run: Path):
    game = run_cell(page, 1)
    expect(game).to_contain_text("Your task")
    wish = game.locator("p", has_text="Your task").inner_text().removeprefix("Your task").strip()
    game.get_by_placeholder("search[<text>]").fill(wish)
    game.get_by_role("button", name="do it").click()
    game.get_by_role("button", name="click[b0").first.click()
    game.get_by_role("button", name="click[buy now]").click()
    expect(game.get_by_role("button", name="click[buy now]")).to_have_count(0)
    expect(game.get_by_text("needed")).to_be_visible()
    (line,) = (run / "human.jsonl").read_text("utf-8").splitlines()
    record = json.loads(line)
    assert [s["actor"] for s in record["steps"]] == ["human"] * 3
    assert record["steps"][0]["action"] == f"search[{wish}]"
    assert record["terminated"]


def assert_harmless(page: Page, view: Locator) -> None:
    assert page.evaluate("window.ran") is None, "text of a record was run"
    expect(view.locator("img, script, svg, iframe, .note b, .goal b")).to_have_count(0)


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
