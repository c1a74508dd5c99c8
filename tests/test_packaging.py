"""The wheel: it holds the whole library, and works alone, away from the checkout."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]

READS_ALL_IT_SHIPS = """
import sys
from pathlib import Path

import eeflib

assert Path(eeflib.__file__).is_relative_to(sys.argv[1]), eeflib.__file__

from eeflib import data
from eeflib.analysis.style import asset
from eeflib.envs.scienceworld import ScienceWorldEnv
from eeflib.envs.scienceworld_splits import subset_choices
from eeflib.envs.webshop.goals import scheme_places
from eeflib.notebook import hand_labelled
from eeflib.world import webshop
from transformers import PreTrainedTokenizerFast

tokenizer = PreTrainedTokenizerFast.from_pretrained(data.path("tiny"))
assert tokenizer.decode(tokenizer("search").input_ids) == "search"
assert (data.path("tiny") / "model.safetensors").stat().st_size > 100_000

world = webshop(7, train=3, test=0)  # its products are made of the lexicon
env = world.make_env()
assert world.tasks[0].instruction in env.reset(world.tasks[0]).text
assert len(scheme_places("eto")["train"]) > 1000
assert subset_choices(ScienceWorldEnv(), "eto", "test")

assert len(hand_labelled("writing")) + len(hand_labelled("held_out")) == 158
assert "export default" in asset("viewer.js")
assert "{" in asset("report.css")
assert "<main" in asset("report.html")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one of the zip for Colab."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, ROOT / "scripts" / "colab_zip.py", "--out", folder]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_holds_every_file_of_the_library_and_nothing_else(wheel):
    held = {n for n in ZipFile(wheel).namelist() if ".dist-info/" not in n}
    ours = {
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / "eeflib").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert held == ours


def test_alone_in_an_empty_folder_it_finds_all_that_it_ships(wheel, tmp_path):
    target, empty = tmp_path / "target", tmp_path / "empty"
    empty.mkdir()
    pip("install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel)
    # -S: no .pth file is read, so an editable install of the checkout cannot be imported
    paths = [str(target), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    done = subprocess.run(
        [sys.executable, "-S", "-c", READS_ALL_IT_SHIPS, str(target)],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not list(empty.iterdir()), "reading leaves nothing behind"
