"""Does a demo that is killed at random moments end with the records of an undisturbed one?

    python scripts/kill_check.py [--kills 20] [--seed 0] [--out result.json] [--run DIR]

Runs `eef demo --preset tiny --seeds 1` once undisturbed. Then runs it in other folders, kills the
whole process group with SIGKILL at random moments, and starts the same command again until it is
done. Compares the set of records of every record file (times and order do not count), the hashes
of the models and summary.json. Runs go on until there are enough kills, 5 of them while exploring
and 5 while training (fewer for --kills below 15).

A line per kill; the last line is one JSON object {kills, by_phase, runs, equal}; two workers may be
in two phases, and such a kill counts for both. Exit code 1 if anything differs. The eeflib in use
is the one that this interpreter imports from the current folder or PYTHONPATH. Linux and macOS.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from oracle import canonical, file_digest, read_rows, visible

COMMAND = (sys.executable, "-c", "from eeflib.cli import main; main()")
DEMO = ("demo", "--preset", "tiny", "--seeds", "1")
WORDS = {"exploring": "explor", "training": "train", "evaluating": "evaluat"}
"""What the progress bar says in a phase: the folder alone cannot tell a phase from its start-up."""
WANTED = ("exploring", "training")
WORKERS = min(os.cpu_count() or 1, 2)
POLL_SECONDS = 0.05


class Demo:
    """One start of the command, in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder.with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*COMMAND, *DEMO, "--run", str(folder)],
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        self.started = time.monotonic()
        atexit.register(self.kill)  # Ctrl-C leaves no demo behind

    def running(self) -> bool:
        return self.process.poll() is None

    def output(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def kill(self) -> None:
        if self.running():
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def finish(self) -> None:
        if self.process.wait():
            sys.exit(f"the command failed in {self.folder}:\n{self.output()[-2000:]}")


class Whole:
    """The undisturbed run: what a finished run holds, and how far another one is."""

    def __init__(self, demo: Demo) -> None:
        self.seconds = time.monotonic() - demo.started
        self.words = {phase: word for phase, word in WORDS.items() if word in demo.output()}
        self.records = records_of(demo.folder)
        # a unit is the folder of one method and iteration
        self.units = sorted({str(Path(n).parent) for n in self.records if "/samples" in n})

    def phases(self, demo: Demo) -> set[str]:
        """What the workers of `demo` are doing now, from which files are there."""
        busy, waiting, cloned = [], 0, True
        models = [name for name, _ in visible(demo.folder, "*.safetensors")]
        for unit in self.units:
            here = demo.folder / unit
            explores = any(name.startswith(f"{unit}/branches") for name in self.records)
            if not any(here.glob("samples*.jsonl")):
                waiting += explores
            elif not any(name.startswith(f"{unit}/") for name in models):
                busy.append("training")
            elif not any(p for at in (here, here.parent) for p in at.glob("evaluations*.jsonl")):
                busy.append("evaluating")
            else:
                continue
            cloned = cloned and explores
        if cloned and waiting and len(busy) < WORKERS:  # a free worker explores what is left
            busy.append("exploring")
        output = demo.output()
        return {p for p in busy if self.words.get(p, "") in output} or {"starting"}

    def differences(self, folder: Path) -> list[str]:
        """How the finished run in `folder` differs, a line for every file and kind of fault."""
        out, other = [], records_of(folder)
        for name in sorted(self.records.keys() | other.keys()):
            ours, theirs = self.records.get(name, Counter()), other.get(name, Counter())
            for what, rows in (("lost", ours - theirs), ("doubled or new", theirs - ours)):
                if rows:
                    first = min(rows)[:300]
                    out.append(f"{folder / name}: {rows.total()} records {what}, first: {first}")
        return out


def records_of(folder: Path) -> dict[str, Counter[str]]:
    """Every record of every record file; summary.json and each model's hash as one more."""
    found = {
        name: Counter(map(canonical, read_rows(path)))
        for name, path in visible(folder, "*.jsonl")
        if not path.name.startswith("timings")
    }
    found |= {name: Counter([file_digest(p)]) for name, p in visible(folder, "*.safetensors")}
    summary = canonical(json.loads((folder / "summary.json").read_bytes()))
    return {**found, "summary.json": Counter([summary])}


def one_kill(demo: Demo, whole: Whole, wanted: str, rng: random.Random) -> dict[str, Any] | None:
    """Kill `demo` at a random moment, of the phase `wanted` if there is one; None: it had ended."""
    while wanted and demo.running() and wanted not in whole.phases(demo):
        time.sleep(POLL_SECONDS)
    until = time.monotonic() + rng.uniform(0, whole.seconds * (0.2 if wanted else 1))
    while demo.running() and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
        if wanted and wanted not in whole.phases(demo):
            break  # the phase was shorter: at its end
    if not demo.running():
        return None
    phases, seconds = whole.phases(demo), time.monotonic() - demo.started
    demo.kill()
    return {"phase": "+".join(sorted(phases)), "seconds": round(seconds, 2), "wanted": wanted}


def check(base: Path, kills: int, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    base.mkdir(parents=True, exist_ok=True)
    first = Demo(base / "undisturbed")
    first.finish()
    whole = Whole(first)
    records = sum(rows.total() for rows in whole.records.values())
    print(f"undisturbed: {whole.seconds:.1f} s, {records} records", flush=True)
    need = min(5, kills // 3)
    by_phase, runs = Counter[str](), 0
    done, differences = list[dict[str, Any]](), list[str]()
    while len(done) < kills or min(by_phase[p] for p in WANTED) < need:
        runs += 1
        folder = base / f"killed-{runs}"
        for _ in range(rng.randint(3, 7)):
            lacking = [p for p in WANTED if by_phase[p] < need]
            demo = Demo(folder)
            kill = one_kill(demo, whole, rng.choice([*lacking, *lacking, ""]), rng)
            if kill is None:
                demo.finish()
                break
            done.append({"run": runs, **kill})
            by_phase.update(kill["phase"].split("+"))
            print(
                f"kill {len(done)}: run {runs}, {kill['phase']}, {kill['seconds']} s in", flush=True
            )
        Demo(folder).finish()
        found = whole.differences(folder)
        print("\n".join([f"run {runs}: {'DIFFERS' if found else 'equal'}", *found]), flush=True)
        differences += found
    counts = {"kills": len(done), "by_phase": dict(by_phase), "runs": runs}
    return {**counts, "equal": not differences, "differences": differences, "moments": done}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="also write the result, with every kill")
    parser.add_argument("--run", type=Path, help="folder for the runs; default: a temporary one")
    options = parser.parse_args()
    for new in (options.run, options.out):
        if new and new.exists():
            parser.error(f"{new} exists: name a new one")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # `timeout` leaves no demo behind
    subprocess.run([sys.executable, "-c", "import eeflib; print(eeflib.__file__)"], check=True)
    with tempfile.TemporaryDirectory() as temporary:
        result = check(options.run or Path(temporary), options.kills, options.seed)
    if options.out:
        with options.out.open("x", encoding="utf-8") as file:
            file.write(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: result[k] for k in ("kills", "by_phase", "runs", "equal")}))
    sys.exit(not result["equal"])


if __name__ == "__main__":
    main()
