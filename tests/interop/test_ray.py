"""Rollouts by a real local Ray: same records, also when a worker dies in the middle."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import eeflib as eef
from eeflib.config import make_config
from eeflib.errors import DataError, EnvironmentFault, PrerequisiteError
from eeflib.exploration import Exploration
from eeflib.run import open_run

PAGE = Path(__file__).parents[2] / "docs" / "ray.md"
SEED = 11
SIZES = {"train": 8, "test": 3, "mix": "easy", "M": 2, "k": 2, "lockstep": 4}
CONFIG = make_config("tiny", **SIZES, seeds=(SEED,), steps=2)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (None, r"ray is not installed; run `pip install 'eeflib\[ray\]'`"),
        ("2.9.3", r"ray 2\.9\.3 is installed, 2\.40 or newer and below 3 is needed"),
    ],
)
def test_without_ray_the_error_names_the_version(monkeypatch, found, told):
    def version(package: str) -> str:
        if found is None:
            raise importlib.metadata.PackageNotFoundError(package)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.delitem(sys.modules, "eeflib.interop.ray", raising=False)
    with pytest.raises(PrerequisiteError, match=told):
        importlib.import_module("eeflib.interop.ray")


@pytest.fixture(scope="module")
def spread():
    ray = pytest.importorskip("ray", reason="ray is not in the pinned set (docs/ray.md)")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield importlib.import_module("eeflib.interop.ray").spread
    ray.shutdown()


@pytest.fixture(scope="module")
def cloned(tmp_path_factory):
    """A run with a clone, explored and tested here."""
    run = open_run(tmp_path_factory.mktemp("here") / "run", CONFIG)
    eef.run_method(run, "SFT", progress=False)
    tries = eef.collect(run.world(), run=run, progress=False)
    found = eef.explore(run.world(), tries, run.student("SFT"), run=run, progress=False)
    return run, tries, found


def untimed(found: Exploration) -> list[dict]:
    return [b.to_dict(timing=False) for b in found.branches]


def test_branches_and_evaluations_are_those_of_this_process(spread, cloned, tmp_path):
    run, tries, found = cloned
    student = spread(run.student("SFT"), run)
    other = open_run(tmp_path / "run", CONFIG)
    again = eef.explore(run.world(), tries, student, run=other, progress=False)
    assert again.report == found.report
    files = [r.folder.sub("EEF/iter-1").file("branches").read_bytes() for r in (run, other)]
    assert files[0] == files[1]
    assert [o.reward for o in eef.evaluate(run.world(), student, progress=False)] == [
        o.reward for o in run.evaluations("SFT")
    ]
    # what is on file is not played again, and the base is spread like what was tuned of it
    once_more = eef.explore(run.world(), tries, student, run=other, progress=False)
    assert untimed(once_more) == untimed(found)
    assert eef.evaluate(run.world(), spread(run.student(), run), progress=False)


@contextlib.contextmanager
def killer() -> Iterator[list[int]]:
    """Kills the first worker that plays a chunk, and puts its number into the list."""
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.05) and not killed:
            for process in psutil.process_iter(["cmdline"]):
                if (process.info["cmdline"] or [""])[0] == "ray::_play":
                    time.sleep(0.3)
                    process.kill()
                    killed.append(process.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def test_a_worker_that_dies_changes_nothing(spread, cloned):
    run, tries, found = cloned
    student = spread(run.student("SFT"), run)
    with killer() as killed:
        again = eef.explore(run.world(), tries, student, method="EEF", M=2, progress=False)
    assert killed
    assert untimed(again) == untimed(found)


def test_workers_that_die_too_often_are_an_error_and_what_came_back_is_kept(
    spread, cloned, tmp_path
):
    run, tries, found = cloned
    student = spread(run.student("SFT"), run, max_retries=0)
    other = open_run(tmp_path / "run", CONFIG)
    with (
        killer() as killed,
        pytest.raises(EnvironmentFault, match="died 1 times over a chunk of 4"),
    ):
        eef.explore(run.world(), tries, student, run=other, progress=False)
    assert killed
    again = eef.explore(run.world(), tries, student, run=other, progress=False)
    assert untimed(again) == untimed(found)


def test_the_program_of_the_page_runs(spread, tmp_path, monkeypatch, capsys):
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    monkeypatch.chdir(tmp_path)
    exec(compile(program.replace("ray.init()", ""), str(PAGE), "exec"), {})
    assert "Rate(" in capsys.readouterr().out


def test_what_a_worker_refuses_is_said_here(spread, cloned):
    run, tries, _ = cloned
    student = spread(run.student("SFT"), run)
    student.fingerprint = "0" * 16
    with pytest.raises(DataError, match="other weights than where the run is"):
        eef.explore(run.world(), tries, student, progress=False)
    with pytest.raises(DataError, match="plays many episodes at once from here"):
        spread(eef.Student("tiny", engine="http://127.0.0.1:1/v1"), run)
