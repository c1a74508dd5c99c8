"""The script that fingerprints a demo run, on a run folder written by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ORACLE = Path(__file__).parents[1] / "scripts" / "oracle.py"
SAMPLES = "seed-1/EEF/iter-1/samples.jsonl"


def sample(name: str, trained: list[bool]) -> dict[str, Any]:
    steps = [{"action": "search[pan]", "reward": 0.0}, {"action": "click[Buy]", "reward": 1.0}]
    labels = ["beneficial", "student"]
    return {"schema": 1, "id": name, "steps": steps, "trained": trained, "labels": labels}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def oracle(*args: object) -> tuple[int, str]:
    command = [sys.executable, str(ORACLE), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two samples and two branches, and its fingerprint in `oracle.json` beside it."""
    run = tmp_path / "run"
    write(run / SAMPLES, [sample("a", [False, True]), sample("b", [True, True])])
    branches = [
        {"id": "a.s0", "k": 0, "rollout": {"id": "a.s0"}},
        {"id": "a.k1", "k": 1, "rollout": None, "restore_mismatch": "another page"},
    ]
    write(run / "seed-1/EEF/iter-1/branches.jsonl", branches)
    row = {"method": "EEF", "win_rate": 0.5, "interval": [0.1, 0.9], "reward": 0.5}
    summary = {"methods": [row], "teacher_on_training_tasks": {"solved": 1, "n": 2}, "seeds": [1]}
    (run / "summary.json").write_text(json.dumps(summary), "utf-8")
    (run / "manifest.json").write_text("{}", "utf-8")
    assert oracle(run, "--write", tmp_path / "oracle.json") == (0, "")
    return run


def check(run: Path) -> tuple[int, str]:
    return oracle(run, "--against", run.parent / "oracle.json")


def test_a_run_equals_itself(run: Path) -> None:
    code, text = check(run)
    assert (code, text.strip()) == (0, "2 files: 0 differences, 0 notes")


def test_a_changed_trained_flag_is_a_difference(run: Path) -> None:
    write(run / SAMPLES, [sample("a", [True, True]), sample("b", [True, True])])
    code, text = check(run)
    assert code == 1
    assert f"{SAMPLES}: values differ in trained; training content DIFFERS" in text


def test_another_order_of_rows_and_another_schema_are_the_same_content(run: Path) -> None:
    rows = [sample("b", [True, True]), sample("a", [False, True])]
    write(run / SAMPLES, [{**row, "schema": 2, "created": "2026-11-27"} for row in rows])
    code, text = check(run)
    assert code == 0
    assert f"note     {SAMPLES}: same content, other bytes" in text


def test_a_doubled_record_is_a_difference(run: Path) -> None:
    rows = [sample("a", [False, True]), sample("b", [True, True])]
    write(run / SAMPLES, [*rows, rows[0]])
    code, text = check(run)
    assert code == 1
    assert f"{SAMPLES}: records 2 -> 3" in text


def test_a_moved_file_is_named_with_both_places(run: Path) -> None:
    (run / SAMPLES).rename(run / "seed-1/EEF/iter-1/samples-M5.jsonl")
    code, text = check(run)
    assert code == 0
    assert f"{SAMPLES}: moved to seed-1/EEF/iter-1/samples-M5.jsonl, same content" in text


def test_restores_are_counted_without_the_initial_states(run: Path) -> None:
    _, text = oracle(run)
    assert json.loads(text)["restores"] == {"restorations": 1, "verified": 0}


def test_an_unfinished_run_is_said_in_one_line(run: Path) -> None:
    (run / "summary.json").unlink()
    code, text = check(run)
    assert code == 2
    assert len(text.splitlines()) == 1
