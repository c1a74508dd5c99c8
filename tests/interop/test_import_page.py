"""docs/import.md: its commands and programs run as they stand, and do what the page says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import eeflib as eef
from eeflib.interop.formats import FORMATS
from tests import pagecode

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/import.md"
DATA = ROOT / "tests/data/interop"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("page")
    theirs = (DATA / "openai_messages/tool_calls.jsonl").read_text("utf-8")
    (made / "their-trajectories.jsonl").write_text(theirs, "utf-8")
    talk = [{"speaker": "user", "text": "Go."}, {"speaker": "assistant", "text": "Action: go"}]
    (made / "mine.jsonl").write_text(json.dumps({"talk": talk, "points": 5, "by": "me"}))
    run = eef.open_run(made / "runs/demo-webshop", preset="tiny", seeds=(7,), train=4, test=1)
    eef.collect(run.world(), run=run)
    return made


def test_the_commands(folder, monkeypatch):
    monkeypatch.setenv("BROWSER", "true")
    commands = "".join(pagecode.blocks(PAGE, "bash")).splitlines()
    assert [c.split()[1] for c in commands] == ["import", "view", "import"]
    said = [pagecode.command(line, folder) for line in commands]
    assert "1 episodes read from 1 files (1 openai messages)" in said[0]
    assert (folder / said[1].strip()).read_text("utf-8").startswith("<!doctype html>")
    assert "4 of 4 episodes played again reproduce" in said[2]
    assert (folder / "runs/again/tasks.jsonl").read_text() == "".join(
        line
        for line in (folder / "runs/demo-webshop/seed-7/tasks.jsonl").read_text().splitlines(True)
        if '"split":"train"' in line
    )


def test_the_programs(folder):
    printed = pagecode.program("\n".join(pagecode.blocks(PAGE, "python")), folder)
    first, *_, theirs, mine = printed.splitlines()
    assert "1 episodes read" in first
    assert theirs.startswith("some-model-1 ('search[green desk lamp]'")
    assert mine == "me 0.5 ('go',)"


def test_the_table_has_every_format():
    page = PAGE.read_text("utf-8")
    told = [row for row in page.splitlines() if row.startswith("| ")]
    for form in FORMATS:
        if form.name not in ("webshop pages", "messages"):
            assert any(form.keys.split()[0] in row for row in told) or form.name in page, form
