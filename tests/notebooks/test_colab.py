"""On Colab: from the zip alone, with a stub of `google.colab`; and the badges."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import colab
import execute
import nbformat
import pytest

PUBLISH = Path(__file__).parents[2] / "scripts" / "publish_notebooks.py"
DRIVE = "/content/drive"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    return colab.unpack(tmp_path_factory.mktemp("zip"))


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    return colab.fresh_python(tmp_path_factory.mktemp("fresh"))


def first_cell(name: str, folder: Path = execute.FOLDER) -> str:
    cells = json.loads((folder / name).read_text("utf-8"))["cells"]
    return next("".join(c["source"]) for c in cells if c["cell_type"] == "code")


def test_every_notebook_begins_with_the_same_cell_and_names_no_repository_of_its_own():
    cells = {first_cell(name) for name in execute.names()}
    assert len(cells) == 1
    assert 'REPOSITORY = ""' in cells.pop()


AFTERWARDS = """
import eeflib as eef

print("from", eef.__file__)
subprocess.run = None  # the same cell again has nothing to do
---
{first}
---
print("key", eef.notebook.api_key().reveal())
---
try:
    eef.open_run("runs/misspelt", preset="tinny")
except eef.errors.EefError as exc:
    print(exc)
"""


@pytest.mark.slow
def test_a_notebook_of_the_zip_installs_the_wheel_beside_it_and_runs(unpacked, python, monkeypatch):
    name = execute.names()[2]
    notebook = nbformat.read(unpacked / name, as_version=4)
    more = AFTERWARDS.replace("{first}", first_cell(name)).split("---\n")
    notebook.cells += map(nbformat.v4.new_code_cell, more)
    nbformat.write(notebook, unpacked / "more.ipynb")
    monkeypatch.setenv("JUPYTER_PATH", "")  # restored afterwards
    colab.add_kernel(python.parents[2], python)
    done = execute.run("more.ipynb", unpacked, source=unpacked, kernel=colab.KERNEL)
    said = ["".join(o.get("text", "") for o in c.outputs) for c in done.cells if "outputs" in c]
    assert said[0] == "", "quiet"
    assert said[-4].startswith(f"from {python.parents[1]}"), "not from a checkout"
    assert said[-3] == ""
    assert said[-2] == f"key {colab.SECRET}\n", "from Colab's userdata"
    assert said[-1] == "unknown preset 'tinny'; choose one of tiny, laptop, colab, paper\n"
    viewers = [o for c in done.cells for o in c.get("outputs", []) if execute.WIDGET in str(o)]
    assert any("the widgets of the stub" in str(o) for o in viewers)


SPY = """
import subprocess
def shown(command, **_):
    print("pip", *command[command.index("--quiet") + 1:])
    return subprocess.CompletedProcess(command, 0)
subprocess.run = shown
"""


def source_of(python: Path, folder: Path, *, repository: str = "", drive: str = "") -> str:
    """What pip is asked for by the first cell, with `folder` as working directory."""
    cell = first_cell(execute.names()[0]).replace(DRIVE, str(folder / "mounted"))
    cell = cell.replace('REPOSITORY = ""', f'REPOSITORY = "{repository}"')
    done = subprocess.run(
        [python, "-c", SPY + cell],
        cwd=folder,
        env={**os.environ, **colab.alone(), "STUB_DRIVE": drive},
        capture_output=True,
        text=True,
    )
    assert "ImportError" in done.stderr, "nothing was really installed"
    return done.stdout.replace(str(folder), "").strip()


def test_it_looks_beside_the_notebook_then_on_drive_then_in_the_repository(tmp_path_factory):
    python = colab.fresh_python(tmp_path_factory.mktemp("other"))
    folder = tmp_path_factory.mktemp("content")
    mine = folder / "of-drive" / "MyDrive"
    (mine / "eeflib-0.1.0").mkdir(parents=True)
    (folder / "eeflib").mkdir()  # a mere folder of that name is no eeflib
    repository = "git+https://host/owner/name@v1"
    assert source_of(python, folder, repository=repository) == f"pip eeflib[colab] @ {repository}"
    assert source_of(python, folder, drive=str(mine.parent)) == "pip eeflib[colab]"
    assert (folder / "mounted").is_symlink(), "Drive was asked for"
    (mine / "eeflib-0.1.0" / "eeflib-0.1.0-py3-none-any.whl").touch()
    on_drive = "/mounted/MyDrive/eeflib-0.1.0/eeflib-0.1.0-py3-none-any.whl[colab]"
    assert source_of(python, folder, repository=repository) == f"pip {on_drive}"
    (folder / "mounted").unlink()
    (folder / "eeflib-0.1.0-py3-none-any.whl").touch()
    beside = "pip eeflib-0.1.0-py3-none-any.whl[colab]"
    assert source_of(python, folder) == beside, "and Drive is not asked for"


def test_elsewhere_it_installs_nothing_and_says_what_is_missing(tmp_path):
    python = colab.fresh_python(tmp_path, colab=False)
    cell = first_cell(execute.names()[0])
    done = subprocess.run(
        [python, "-c", SPY + cell],
        cwd=tmp_path,
        env={**os.environ, **colab.alone()},
        capture_output=True,
        text=True,
    )
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: {python} has no eeflib: install it there, or use `make lab`"
    )


def test_publishing_writes_badge_and_repository_and_again_the_next_tag(tmp_path):
    for repo, ref in (("someone/eef", "v1"), ("else/eef.fork", "v0.2.0")):
        command = [sys.executable, PUBLISH, "--repo", repo, "--ref", ref, "--out", tmp_path]
        subprocess.run(command, check=True, capture_output=True)
        assert sorted(p.name for p in tmp_path.iterdir()) == execute.names()
        for name in execute.names():
            line = f'REPOSITORY = "git+https://github.com/{repo}@{ref}"'
            assert line in first_cell(name, tmp_path)
            text = (tmp_path / name).read_text("utf-8")
            links = re.findall(r"\]\((https:[^)]+/blob/[^)]+\.ipynb)\)\\n", text)
            assert [x.split("/github/")[1] for x in links] == [
                f"{repo}/blob/{ref}/notebooks/{name}"
            ]
    done = subprocess.run(
        [sys.executable, PUBLISH, "--repo", "someone", "--ref", "v1"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "wanted OWNER/NAME" in done.stderr
    files = [p for p in execute.FOLDER.glob("*") if p.is_file()]
    assert "Open in Colab" not in "".join(p.read_text("utf-8") for p in files)
