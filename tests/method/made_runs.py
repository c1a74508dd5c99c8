"""What a run leaves, and seeds for small ones."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import eeflib as eef

TIMED = ("timings.jsonl", "timing.json", "manifest.json", "summary.json", "report.html")


def lasting(path: Path) -> dict[str, bytes | list[bytes]]:
    """Everything a run leaves, less measured times, what holds them, half lines, and locks; the
    records of a file in any order."""
    files = (f for f in sorted(path.rglob("*")) if f.is_file() and f.name not in TIMED)
    return {
        str(f.relative_to(path)): sorted(f.read_bytes().splitlines())
        if f.suffix == ".jsonl"
        else f.read_bytes()
        for f in files
        if f.suffix != ".torn" and not f.name.startswith((".lock", ".workers"))
    }


@cache
def seed_whose_teacher_solves(some: bool) -> int:
    """A development seed whose teacher solves two of eight training tasks, or none of one."""
    for seed in range(41, 80):
        world = eef.webshop(seed, train=8 if some else 1, test=6 if some else 1)
        solved = sum(t.solved for t in eef.collect(world, progress=False))
        if (solved >= 2) if some else (solved == 0):
            return seed
    raise AssertionError("no seed will do")
