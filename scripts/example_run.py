"""Make the run that the package ships: eeflib/assets/example_run (run.zip and README.md).

    OMP_NUM_THREADS=1 python scripts/example_run.py --work DIR

The laptop preset on development seeds, by `run_demo`; made again, an interrupted one goes on. All
records of all seeds are kept, of the models only EEF's of the first seed: 4 MB are the limit. Some
failures of the first seed are explored once more, often, into the folder `closer`.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

from eeflib.config import make_config
from eeflib.demo import run_demo
from eeflib.envs.webshop.skills import skills_shown
from eeflib.pipeline import explore
from eeflib.run import Run, open_run
from eeflib.states import state_outcomes

SEEDS = (100, 101, 102)
"""Development seeds: never those that results are reported for."""
KEPT = ("EEF",)
"""Methods whose last model is kept, of the first seed."""
CLOSER = 8
"""Failures that are explored once more, and rollouts from each of their states."""
OUT = Path(__file__).parents[1] / "eeflib" / "assets" / "example_run"
LEFT_OUT = ("report.html", ".lock", ".lock.owner", ".workers", ".partial", "checkpoint")
STAMP = (2026, 1, 1, 0, 0, 0)
"""Time of every file in the archive."""

README = """# The example run

An ordinary run of the laptop preset, unpacked by `eef.example_run()`. Made by

    python scripts/example_run.py --work DIR

at commit {commit}, on the development seeds {seeds}, on which settings were chosen, so its figures
are no result: {train} training and {test} test tasks a seed, iterations {iterations}, M {M}, k {k}.

`run.zip` holds all records of all seeds, and of the models only that of {kept}, first seed, after
the last iteration; the others are left out: `run.student("RFTx{k}", 1)` says so.

`closer` holds the first {closer} failures of the first seed that the clone won from some state, but
not from the start. They are explored again, with {closer} rollouts from each state.

| method | win rate |
|---|---|
{table}

What EEF's samples hold: recovery samples start in the middle of a failure, masked ones hold a
harmful action of the teacher that is not trained. Newly solved are the tasks that the teacher
failed and that have a sample now; skills are counted by the actions of those samples.

| seed | samples | recovery | masked | tasks newly solved | skills in them |
|---|---|---|---|---|---|
{facts}
"""


def wanted(path: Path, root: Path, iterations: int) -> bool:
    """Whether a file of the run in `root` goes into the archive."""
    place = path.relative_to(root)
    if any(path.name.startswith(x) for x in LEFT_OUT):
        return False
    if "model" not in place.parts and place.name != "train.json":
        return True
    return any(place.parts[:3] == (f"seed-{SEEDS[0]}", m, f"iter-{iterations}") for m in KEPT)


def pack(root: Path, files: list[Path], target: Path) -> None:
    """Archive `files` of the folder `root`; equal files make an equal archive."""
    with zipfile.ZipFile(target, "w") as packed:
        for path in files:
            info = zipfile.ZipInfo(path.relative_to(root).as_posix(), STAMP)
            info.compress_type, info.external_attr = zipfile.ZIP_LZMA, 0o644 << 16
            packed.writestr(info, path.read_bytes())


def look_closer(run: Run) -> None:
    """Explore the first failures that were won from some state but s0, `CLOSER` times a state."""
    tries = run.trajectories()
    outcomes = state_outcomes(tries, run.branches("EEF", 1))
    found = [t for t in tries if not t.solved and not outcomes[t.id][0].won]
    chosen = [t for t in found if any(o.won for o in outcomes[t.id])][:CLOSER]
    world, ids = run.world(), {t.task_id for t in chosen}
    few = replace(world, tasks=tuple(t for t in world.tasks if t.id in ids))
    often = {"M": run.config.M, "attempts": CLOSER, "attempts_state": CLOSER}
    again = explore(few, chosen, run.student("SFT"), **often)
    with Run(run.root, run.config, run.seed, "closer").folder as folder:
        folder.rewrite("tasks", few.tasks)
        folder.rewrite("trajectories", chosen)
        folder.sub("EEF/iter-1").rewrite("branches", again.branches)


def facts(run: Run) -> str:
    """A row on what the EEF samples of one seed hold."""
    samples = run.samples("EEF", run.config.iterations)
    solved = {t.task_id for t in run.trajectories() if t.solved}
    recovery = sum(s.kind == "recovery" for s in samples)
    masked = sum(
        any(x == "harmful" and not on for x, on in zip(s.labels, s.trained, strict=True))
        for s in samples
    )
    shown: dict[str, set[str]] = {}
    for s in samples:
        if s.task_id not in solved:
            shown.setdefault(s.task_id, set()).update(skills_shown(s.steps))
    counts = Counter(skill for skills in shown.values() for skill in skills)
    skills = ", ".join(f"{name} {n}" for name, n in counts.most_common())
    shares = " | ".join(f"{100 * n / len(samples):.1f} %" for n in (recovery, masked))
    return f"| {run.seed} | {len(samples)} | {shares} | {len(shown)} | {skills} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the run")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    config = make_config("laptop", seeds=SEEDS, extras=False)
    summary = run_demo(config, args.work)
    run = open_run(args.work.absolute())
    look_closer(run)
    args.out.mkdir(parents=True, exist_ok=True)
    files = sorted(p for p in args.work.rglob("*") if p.is_file())
    kept = [p for p in files if wanted(p, args.work, config.iterations)]
    pack(args.work, kept, args.out / "run.zip")
    rows = [f"| {m['method']} | {100 * m['win_rate']:.1f} % |" for m in summary["methods"]]
    text = README.format(
        commit=summary["code"]["commit"][:12],
        seeds=f"{SEEDS[0]} to {SEEDS[-1]}",
        kept=" and ".join(KEPT),
        closer=CLOSER,
        table="\n".join(rows),
        facts="\n".join(facts(run.at(seed)) for seed in SEEDS),
        **{name: getattr(config, name) for name in ("train", "test", "iterations", "M", "k")},
    )
    (args.out / "README.md").write_text(text, "utf-8")
    size = (args.out / "run.zip").stat().st_size
    print(json.dumps({"bytes": size, "files": len(files), "methods": rows}))


if __name__ == "__main__":
    main()
