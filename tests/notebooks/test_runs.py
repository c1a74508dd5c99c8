"""The notebooks, run on fresh kernels with their own asserts and the solutions of their exercises.

In a file of its own: this takes minutes, and a file of tests stays in one process.
"""

import shutil
from pathlib import Path

import execute
import nbformat
import pytest

pytestmark = pytest.mark.slow
NAMES = {name[:2]: name for name in execute.names()}
SHARED = "webshop-tiny"
"""The run that notebook 01 begins and 02 to 05 go on with, where their switch is on."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def folder(home):
    """Empty, but for the shared run as far as the notebooks before have brought it."""
    for path in [*home.glob("*"), *home.glob("runs/*")]:
        if path.is_file():
            path.unlink()
        elif path.name not in ("runs", SHARED):
            shutil.rmtree(path)
    return home


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [c for c in notebook.cells if c.cell_type == "code"]


def printed(notebook: nbformat.NotebookNode) -> str:
    cells = code(execute.clean(notebook))
    return "".join(o.text for c in cells for o in c.outputs if o.output_type == "stream")


def played(number: str, folder: Path, *writes: str, own: bool = False) -> str:
    """Run a notebook; it has outputs where the saved one has, and writes these runs."""
    name = NAMES[number]
    saved = code(nbformat.read(execute.FOLDER / name, as_version=4))
    notebook = execute.run(name, folder, solutions=True, own=own)
    for before, now in zip(saved, code(notebook), strict=False):
        assert bool(before.outputs) == bool(now.outputs), f"saved outputs are stale: {now.source}"
    assert {path.parent.name for path in folder.glob("runs/*/manifest.json")} == {*writes}
    return printed(notebook)


def test_01_collects_and_a_second_time_goes_on_from_the_files(folder):
    first = played("01", folder, SHARED, "paid-tiny")
    assert "0 of 24 already done" in first
    assert "interrupted" in first
    again = printed(execute.run(NAMES["01"], folder))
    assert again.count("24 of 24 already done") == 1


def test_02_reads_failures_also_of_the_run_that_01_collected(folder):
    assert "collect: 24 of 24 already done" in played("02", folder, "example", SHARED, own=True)


@pytest.mark.parametrize("number", ["03", "04", "05"])
def test_a_run_of_ones_own_goes_on_where_the_notebook_before_stopped(number, folder):
    played(number, folder, "example", SHARED, own=True)


def test_00_has_a_run_of_its_own_and_goes_on_from_it(folder):
    """It is the run that notebook 05 makes, under another name."""
    own = folder / "runs" / "quickstart-tiny"
    shutil.copytree(folder / "runs" / SHARED, own)
    made = {p: p.read_bytes() for p in own.glob("**/*.safetensors")}
    assert len(made) >= 4, "the methods' students"
    played("00", folder, "example", SHARED, own.name, own=True)
    assert made == {p: p.read_bytes() for p in made}


@pytest.mark.parametrize(
    ("number", "writes"), [("06", "example-scienceworld"), ("07", "real-tiny"), ("08", "example")]
)
def test_the_others_write_a_run_each(number, writes, folder):
    played(number, folder, SHARED, writes)
