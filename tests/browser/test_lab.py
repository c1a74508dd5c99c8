"""The viewer in a real JupyterLab: what only a kernel can give it, and what is left of it.

How it filters, searches and shows records is tested in the report, which runs the same module.
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
from sample_run import write_run

from eeflib.analysis.annotations import Annotations
from eeflib.analysis.collection import Collection

NASTY = '<img src=x onerror="window.ran=1"><script>window.ran=1</script><b>bold</b>'


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("lab") / "run", seeds=(1,), tasks=30)


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
    expect.set_options(timeout=20_000)
    assert trouble == []


def viewer(page: Page, cell: int = 0) -> Locator:
    view = run_cell(page, cell).locator(".eef[data-ready]").first
    expect(view).to_be_visible()
    return view


def press(view: Locator, name: str) -> None:
    view.get_by_role("button", name=name, exact=True).click()


def row(view: Locator, number: int) -> Locator:
    return view.locator(f"tr[data-item='{number}']")


def test_annotate_reload_and_the_note_is_still_there(page: Page, run: Path):
    item = Collection.of(run)[1]
    view = viewer(page)
    row(view, 1).click()
    expect(view.locator(".goal")).to_contain_text(item.trajectory.instruction)
    page.keyboard.press("a")
    page.keyboard.type("did not look")
    view.get_by_label("note", exact=True).fill(f"page 1 was enough {NASTY}")
    press(view, "Save")
    expect(view.locator("dd.note")).to_have_count(2)
    kept = Annotations(run).of(item.key)
    assert [(a.kind, a.author, a.text) for a in kept] == [
        ("label", "ann", "did not look"),
        ("note", "ann", f"page 1 was enough {NASTY}"),
    ]
    Annotations(run, "bea").add_note(item.key, "I disagree")

    page.reload()
    wait_for_kernel(page)
    view = viewer(page)
    press(view, "more filters")
    press(view, "annotated")
    expect(view.locator(".count").first).to_have_text("1 of 30 trajectories")
    expect(view.locator("dd.note").first).to_contain_text("did not look")
    expect(view.locator("dd.note").nth(1)).to_contain_text("page 1 was enough <img")
    expect(view.locator("dd.note").nth(2)).to_contain_text("I disagree bea")
    view.get_by_role("button", name="take back").nth(2).click()
    expect(view.locator("dd.note")).to_have_count(2)
    assert [a.text for a in Annotations(run).of(item.key)][-1].startswith("page 1")
    expect(view.locator("img, script, svg, iframe, .note b, .goal b")).to_have_count(0)


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
