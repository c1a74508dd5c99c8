"""docs/analysis.md: its programs run as they stand, its pictures are there and small."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sample_run import write_run

from eeflib.analysis.collection import Collection
from tests import pagecode

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "analysis.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a run where the page expects one."""
    made = tmp_path_factory.mktemp("page")
    write_run(made / "runs" / "demo-webshop", seeds=(1, 2), tasks=20)
    return made


@pytest.fixture(scope="module")
def printed(folder: Path) -> str:
    """What the page's programs print, in order, as a reader would run them."""
    return pagecode.program("\n".join(pagecode.blocks(PAGE, "python")), folder)


def test_the_programs_write_what_the_page_says(printed, folder):
    for name in ("runs/demo-webshop/report.html", "mine/report.html"):
        assert name in printed
        assert (folder / name).read_text("utf-8").startswith("<!doctype html>")
    assert "plotly" in (folder / "recovery.html").read_text("utf-8")


def test_the_figures_printed_are_those_of_the_run(printed, folder):
    run = Collection.of(folder / "runs" / "demo-webshop")
    failed = [x for x in run if x.outcome == "failed"]
    levels = {x.level for x in run}
    for level in levels:
        n = sum(x.level == level for x in run)
        share = sum(x.level == level and x.outcome == "solved" for x in run) / n
        assert re.search(rf"^{level} +{share:.2f} +{n}$", printed, re.M), level
    first = failed[0].diagnosis.findings[0]
    assert f"at step {first.t + 1} ({first.rule}): {first.text}" in printed
    assert "tasks gained" in printed
    assert "1 actions, score 0.00" in printed, "the reader's own trajectory"


def test_pictures_of_the_pages_are_there_and_small():
    for page in (PAGE, ROOT / "README.md"):
        named = re.findall(r"[\w/]+\.png", page.read_text("utf-8"))
        assert named
        for name in named:
            path = page.parent / name
            assert path.is_file(), f"{page.name} shows {name}"
            assert path.with_name(path.name.replace("_light", "_dark")).is_file()
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs/images").glob("*.png")}
    assert max(sizes.values()) <= 150_000
    assert sum(sizes.values()) <= 2_000_000
