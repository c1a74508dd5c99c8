"""Pages of docs/ whose programs are followed by what they print: they print that, in an empty
folder, block after block in one namespace."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import eeflib as eef

DOCS = Path(__file__).parents[1] / "docs"


def run_blocks(page: str, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    """What the page's code leaves behind."""
    scope: dict[str, object] = {}
    capsys.readouterr()
    for code, _, shown in re.findall(r"```python\n(.*?)```(\n\n```\n(.*?)```)?", page, re.DOTALL):
        exec(code, scope)
        assert capsys.readouterr().out == shown, code
    return scope


def test_questions(capsys, tmp_path, monkeypatch):
    page = (DOCS / "questions.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    run_blocks(page, capsys)
    for name in re.findall(r"\]\(([a-z_]+\.md)\)", page):
        assert (DOCS / name).exists(), name
    for part in re.findall(r"--parts ([a-z-]+)", page):
        from eeflib.study import plan_study

        assert plan_study([part])


def test_neighbours(capsys, tmp_path, monkeypatch):
    page = (DOCS / "neighbours.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    left = run_blocks(page, capsys)
    assert left["tuned"].result.steps == 3  # type: ignore[attr-defined]
    for name in eef.METHODS:
        family = name.startswith(("SFT", "RFT", "EEF"))
        assert family or f"| `{name}` |" in page, name
