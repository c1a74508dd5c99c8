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
def test_on_the_cpu_both_backends_agree_and_learn(tmp_path):
    done = run("--cpu", "--steps", "6", "--out", str(tmp_path / "report.json"))
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report == json.loads((tmp_path / "report.json").read_text())
    assert report["ok"]
    assert [r["backend"] for r in report["runs"]] == ["peft", "unsloth"]
    assert "32 bit: first losses agree" in report["checks"]
    assert all(r["tokens_per_second"] > 0 for r in report["runs"])
