"""scripts/gpu_check.py, run as a user runs it (on the CPU)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "gpu_check.py"), *options],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_without_a_gpu_it_says_so_and_fails():
    done = run()
    assert done.returncode == 2
    assert done.stderr.startswith("no NVIDIA GPU")
    assert "--cpu" in done.stderr


@pytest.mark.slow
def test_a_dry_run_on_the_cpu_comes_to_its_end_with_a_row_for_each_stage(tmp_path):
    done = run("--cpu", "--student", "random", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report == json.loads((tmp_path / "summary.json").read_text())
    assert report["ok"]
    assert not report["skipped"]
    assert report["rows"] == [
        json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()
    ]
    rows = {row["stage"]: row for row in report["rows"]}
    assert rows["explore EEF"]["restores"] == rows["explore EEF"]["verified"] > 0
    assert rows["train SFT"]["first_loss"] == rows["train SFT, unsloth"]["first_loss"]
    assert rows["EEF against RFTxk"]["n"] == 4
    assert report["checks"]["the cache applies in the student's precision"]


def test_what_the_budget_has_no_room_for_is_a_row_and_no_silence(tmp_path):
    done = run("--cpu", "--student", "random", "--budget", "0", "--out", str(tmp_path))
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["skipped"] == ["machine"]
