"""docs/import.md: its commands and programs run as they stand, and do what the page says."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from eeflib.interop.formats import FORMATS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/import.md").read_text("utf-8")
DATA = ROOT / "tests/data/interop"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("page")
    theirs = (DATA / "openai_messages/tool_calls.jsonl").read_text("utf-8")
    (made / "their-trajectories.jsonl").write_text(theirs, "utf-8")
    talk = [{"speaker": "user", "text": "Go."}, {"speaker": "assistant", "text": "Action: go"}]
    (made / "mine.jsonl").write_text(json.dumps({"talk": talk, "points": 5, "by": "me"}))
    make = (
        "import eeflib as eef\n"
        "run = eef.open_run('runs/demo-webshop', preset='tiny', seeds=(7,), train=4, test=1)\n"
        "eef.collect(run.world(), run=run)"
    )
    subprocess.run([sys.executable, "-c", make], cwd=made, check=True)
    return made


def test_the_commands(folder):
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    assert [c.split()[1] for c in commands] == ["import", "view", "import"]
    said = []
    for command in commands:
        program = [sys.executable, "-c", "from eeflib.cli import main; main()"]
        done = subprocess.run(
            [*program, *shlex.split(command)[1:]],
            cwd=folder,
            env={**os.environ, "BROWSER": "true"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert "1 episodes read from 1 files (1 openai messages)" in said[0]
    assert (folder / said[1].strip()).read_text("utf-8").startswith("<!doctype html>")
    assert "4 of 4 episodes played again reproduce" in said[2]
    assert (folder / "runs/again/tasks.jsonl").read_text() == "".join(
        line
        for line in (folder / "runs/demo-webshop/seed-7/tasks.jsonl").read_text().splitlines(True)
        if '"split":"train"' in line
    )


def test_the_programs(folder):
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks("python"))],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, *_, theirs, mine = done.stdout.splitlines()
    assert "1 episodes read" in first
    assert theirs.startswith("some-model-1 ('search[green desk lamp]'")
    assert mine == "me 0.5 ('go',)"


def test_the_table_has_every_format():
    told = [row for row in PAGE.splitlines() if row.startswith("| ")]
    for form in FORMATS:
        if form.name not in ("webshop pages", "messages"):
            assert any(form.keys.split()[0] in row for row in told) or form.name in PAGE, form
