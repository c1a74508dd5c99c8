"""Make the ScienceWorld run that the package ships: eeflib/assets/example_scienceworld.

    OMP_NUM_THREADS=1 python scripts/scienceworld_run.py --work DIR

The tiny student on two task types with short solutions, on a development seed, by `run_demo`; made
again, an interrupted one goes on. All records are kept, no models: 500 kB are the limit. Needs
Java.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from example_run import LEFT_OUT, pack

from eeflib.config import Config, make_config
from eeflib.demo import run_demo
from eeflib.run import open_run

SEED = 100
"""A development seed: never one that results are reported for."""
OUT = Path(__file__).parents[1] / "eeflib" / "assets" / "example_scienceworld"

README = """# The ScienceWorld run

An ordinary run of the tiny student on ScienceWorld, unpacked by
`eef.example_run(PATH, env="scienceworld")`. Made by

    python scripts/scienceworld_run.py --work DIR

at commit {commit}, on the development seed {seed}, so its figures are no result. The task types
are {types}.
Their solutions and texts are short. In a run with ten task types (README.md of the repository) the
tiny student won nothing.

{train} training and {test} test tasks, {steps} optimiser steps for each training, iterations
{iterations}, M {M}. `run.zip` holds all records. Models are left out: `run.student("EEF", 1)`
says so.

| method | win rate | mean reward |
|---|---|---|
{table}

The clone won {won_s0} of {n_s0} rollouts from the start, and {won} of {n} from the teacher's
states.
"""


def settings() -> Config:
    return make_config(
        "laptop",
        "scienceworld",
        mix={"lifespan-longest-lived": 0.5, "lifespan-shortest-lived": 0.5},
        train=80,
        test=40,
        M=3,
        max_steps=300,
        methods=("SFT", "RFT", "EEF"),
        seeds=(SEED,),
    )


def kept(path: Path, root: Path) -> bool:
    """Whether a file of the run in `root` goes into the archive."""
    left_out = path.name.startswith(LEFT_OUT) or path.name == "train.json"
    return not left_out and "model" not in path.relative_to(root).parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the run")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    config = settings()
    summary = run_demo(config, args.work)
    run = open_run(args.work.absolute())
    args.out.mkdir(parents=True, exist_ok=True)
    files = sorted(p for p in args.work.rglob("*") if p.is_file() and kept(p, args.work))
    pack(args.work, files, args.out / "run.zip")
    rows = [
        f"| {m['method']} | {100 * m['win_rate']:.1f} % | {m['reward']:.2f} |"
        for m in summary["methods"]
    ]
    from_s0 = [b.won for b in run.branches() if b.k == 0]
    from_states = [b.won for b in run.branches() if b.k > 0]
    text = README.format(
        commit=summary["code"]["commit"][:12],
        seed=SEED,
        types=" and ".join(f"`{kind}`" for kind in config.mix),
        steps=config.training.max_steps,
        table="\n".join(rows),
        won_s0=sum(from_s0),
        n_s0=len(from_s0),
        won=sum(from_states),
        n=len(from_states),
        **{name: getattr(config, name) for name in ("train", "test", "iterations", "M")},
    )
    (args.out / "README.md").write_text(text, "utf-8")
    size = (args.out / "run.zip").stat().st_size
    print(json.dumps({"bytes": size, "files": len(files), "methods": rows}))


if __name__ == "__main__":
    main()
