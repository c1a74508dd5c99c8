"""The study with real parts, very small: its plan, its files, a kill, and the page."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import eeflib as eef
from eeflib.config import REPORT_SEED, make_config
from eeflib.data import path
from eeflib.envs.webshop.skills import skills_shown
from eeflib.errors import DataError
from eeflib.records import Branch
from eeflib.run import Run, RunFolder
from eeflib.study import NEW_SEEDS, SEEDS, doses, forecast, plan_study, run_study, write_study

SEED = 41
SMALL = {"train": 12, "test": 6, "mix": "paging", "iterations": 1, "M": 2, "k": 2}
CONFIG = make_config("tiny", **SMALL, steps=2)
PARTS = plan_study(["methods", "dose-paging-2"], [SEED])
COMMAND = f"""
from eeflib import config
config.PRESETS["tiny"] = config.Config("tiny", **{SMALL}, extras=False)
config._STEPS["tiny"] = 2
from eeflib.cli import main
main()
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two parts that nothing interrupted: their runs in `work`, their files in `results`."""
    home = tmp_path_factory.mktemp("study")
    run_study(CONFIG, PARTS, home / "work", home / "results", processes=1, progress=False)
    return home


def result(home: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / "results" / f"{name}.json").read_text("utf-8"))
    return found


def test_the_plan_says_what_is_run_before_it_is():
    parts = plan_study()
    assert {p.seed for p in parts if p.what == "neighbours"} == set(NEW_SEEDS)
    assert {p.seed for p in parts if p.what != "neighbours"} == set(SEEDS)
    assert not set(SEEDS) & set(NEW_SEEDS)
    assert min(SEEDS) > REPORT_SEED + 8
    assert len({p.name for p in parts}) == len(parts)
    assert f"{len(parts)} parts" in forecast(parts, CONFIG)
    assert [p.name for p in plan_study(["dose-sub-page-16", "teachers"], [7, 8])] == [
        *("dose-sub-page-16-7", "dose-sub-page-16-8", "teachers-7", "teachers-8")
    ]
    with pytest.raises(DataError, match="no part is called doses; parts are methods, dose-paging"):
        plan_study(["doses"])


def test_methods_share_their_rollouts_and_rftx_steps_keeps_to_its_budget(whole):
    found = result(whole, f"methods-{SEED}")
    rows = {row["method"]: row for row in found["rows"]}
    assert len(rows["EEF"]["rewards"]) == len(found["levels"]) == CONFIG.test
    assert rows["RFTx2"]["simulations"] == 2 * CONFIG.train
    folder = whole / "work" / "methods" / f"seed-{SEED}"
    explored = {p.parent.parent.name for p in folder.glob("*/iter-1/branches.jsonl")}
    assert explored == {"EEF", "RFTx2", "RFTx-steps"}
    for name in set(rows) - {"teacher", "SFT", "RFT", "RFTx2", "RFTx-steps"}:
        assert rows[name]["steps"] == rows["EEF"]["steps"], name
    branches = list(RunFolder(folder / "RFTx-steps" / "iter-1").read("branches", Branch))
    lengths = [b.rollout.length for b in branches if b.rollout]
    assert sum(lengths[:-1]) < rows["EEF"]["steps"] <= sum(lengths) == rows["RFTx-steps"]["steps"]
    strong = {b.id: b for b in RunFolder(folder / "RFTx2" / "iter-1").read("branches", Branch)}
    assert [strong[b.id] for b in branches if b.attempt < 2] == branches[: 2 * CONFIG.train]


def test_a_dose_is_how_many_successes_show_the_skill(whole):
    found = result(whole, f"dose-paging-2-{SEED}")
    run = Run(RunFolder(whole / "work"), CONFIG, SEED, "dose-paging-2")
    shown = [t for t in run.trajectories() if t.solved and "paging" in skills_shown(t.steps)]
    assert len(shown) == found["shown"]["paging"] == 2
    tasks = {t.id: t for t in run.tasks()}
    test = {t.goal["asin"] for t in tasks.values() if t.split == "test"}
    taught = [tasks[t.task_id] for t in run.trajectories()]
    assert {t.split for t in taught} == {"train"}
    assert not {t.goal["asin"] for t in taught} & test
    own = {
        t.id
        for t in eef.webshop(SEED, train=SMALL["train"], test=SMALL["test"], mix="paging").split(
            "test"
        )
    }
    assert own == {t.id for t in tasks.values() if t.split == "test"}


def test_doses_are_counted_on_the_tasks_that_take_the_skill_and_the_shipped_ones_follow(whole):
    found = result(whole, f"dose-paging-2-{SEED}")
    (row,) = doses(PARTS, whole / "results")
    on = [level in ("page2", "page3") for level in found["levels"]]
    assert row["tasks"] == sum(on) > 0
    for name, method in (("EEF", "EEF"), ("RFTxk", "RFTx2")):
        (rewards,) = (r["rewards"] for r in found["rows"] if r["method"] == method)
        assert row[name] == sum(x == 1 for x, counts in zip(rewards, on, strict=True) if counts)
    kept = Path(__file__).parents[2] / "benchmarks" / "results" / "study"
    assert json.loads(path("doses.json").read_text()) == doses(plan_study(["dose-paging"]), kept)


def test_the_page_says_what_is_missing_and_only_what_the_figures_say(whole, tmp_path):
    more = plan_study(["methods", "dose-paging-2", "teachers"], [SEED, 42])
    text = write_study(more, whole / "results", tmp_path / "study.md").read_text("utf-8")
    start = r"^\| methods \| "
    assert "from 2 of 6 parts" in text
    assert f"Missing: methods-42, dose-paging-2-42, teachers-{SEED}, teachers-42" in text
    assert "A cheap teacher" not in text
    rows = {row["method"]: row for row in result(whole, f"methods-{SEED}")["rows"]}
    wins = {name: sum(r == 1 for r in row["rewards"]) for name, row in rows.items()}
    for name, n in wins.items():
        assert re.search(rf"{start}{name} \| {100 * n / CONFIG.test:.1f} \|", text, re.M), name
    points = 100 * (wins["EEF"] - wins["RFTx2"]) / CONFIG.test
    row = re.search(rf"{start}EEF - RFTx2 \| ([+-][\d.]+) \| (\S+) to (\S+): (.*?) \|", text, re.M)
    assert row
    assert float(row[1]) == pytest.approx(points, abs=0.05)
    assert (float(row[2]) <= 0 <= float(row[3])) == (row[4] == "includes 0")
    assert "one seed: nothing is known of how other training seeds differ" in text
    with pytest.raises(DataError, match="holds none of these 1 parts"):
        write_study(plan_study(["teachers"], [42]), whole / "results", tmp_path / "none.md")


def test_neighbours_share_the_clone_and_have_a_row_each(tmp_path):
    (part,) = plan_study(["neighbours"], [SEED])
    # rollouts of the test tasks and large steps of pairs would take most of the time
    config = make_config("tiny", **{**SMALL, "test": 2}, steps=1, batch_size=2)
    run_study(config, [part], tmp_path / "work", tmp_path / "results", processes=1, progress=False)
    rows = {row["method"]: row for row in result(tmp_path, part.name)["rows"]}
    assert {*rows} == {
        *("SFT", "RFTx2", "EEF", "SFT-all", "NAT", "ETO", "ETO-states"),
        *("PivotRL-like", "TCOD-like", "Backplay"),
    }
    assert rows["NAT"]["samples"] == rows["SFT-all"]["samples"] > rows["SFT"]["samples"]
    assert rows["TCOD-like"]["simulations"] <= rows["EEF"]["simulations"]
    assert 0 < rows["Backplay"]["simulations"] < rows["TCOD-like"]["simulations"]
    home = tmp_path / "work" / part.case / f"seed-{SEED}"
    assert sorted(p.name for p in (home / "TCOD-like").glob("iter-*")) == [
        *("iter-1", "iter-2", "iter-3")
    ]
    page = write_study([part], tmp_path / "results", tmp_path / "study.md").read_text("utf-8")
    assert "EEF - TCOD-like" in page


def test_a_killed_study_goes_on_and_ends_with_the_same_figures(whole, tmp_path):
    work, results = tmp_path / "work", tmp_path / "results"
    args = ["study", "--preset", "tiny", "--seeds", str(SEED), "--parts", "dose-paging-2"]
    args += ["--work", str(work), "--results", str(results), "--processes", "1"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(eef.__file__).parents[1])},
        )

    first, begun = start(), work / "dose-paging-2" / f"seed-{SEED}" / "EEF" / "iter-1"
    while not (begun / "branches.jsonl").exists() and first.poll() is None:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not list(results.glob("*.json"))
    second = start()
    said, _ = second.communicate(timeout=600)
    assert second.returncode == 0, said
    mine, theirs = (result(p, f"dose-paging-2-{SEED}") for p in (tmp_path, whole))
    timed = {"seconds": 0, "code": None}
    assert {**mine, **timed} == {**theirs, **timed}
    before = (results / f"dose-paging-2-{SEED}.json").read_bytes()
    run_study(CONFIG, PARTS[1:], work, results, processes=1, progress=False)  # it is finished
    assert (results / f"dose-paging-2-{SEED}.json").read_bytes() == before
