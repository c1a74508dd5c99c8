"""docs/export.md: its commands and programs run as they stand, and it names every format."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import small_run

from eeflib.interop.write import DIALECTS
from tests import pagecode

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "export.md"


def blocks(kind: str) -> list[str]:
    return pagecode.blocks(PAGE, kind)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a run where the page expects one, and what the page's commands make of it."""
    made = tmp_path_factory.mktemp("page")
    small_run.write_run(made / "runs" / "first")
    for line in "".join(blocks("sh")).splitlines():
        assert "4 samples, 11 of 16 replies trained" in pagecode.command(line, made)
    return made


def test_the_commands_write_what_the_page_says(folder):
    for name in ("trl.jsonl", "verl.parquet", "trackio.jsonl"):
        assert (folder / name).stat().st_size > 0
    assert list((folder / "runs" / "first" / "seed-7" / "export").iterdir())


def test_the_page_names_every_format_and_no_other():
    assert re.findall(r"^\| `(\w[\w-]*)` \|", PAGE.read_text("utf-8"), re.M) == list(DIALECTS)


def test_the_program_for_trl_trains(folder):
    (program,) = blocks("python")
    assert float(pagecode.program(program, folder).splitlines()[-1]) > 0
