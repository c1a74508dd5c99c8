"""Make the run that the package ships: eeflib/assets/example_run (run.zip and README.md).

    OMP_NUM_THREADS=1 python scripts/example_run.py --work DIR

The laptop preset on development seeds, by `run_demo`; made again, an interrupted one goes on. All
records of all seeds are kept, of the models only EEF's of the first seed: 4 MB are the limit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import zipfile
from pathlib import Path

from eeflib.config import make_config
from eeflib.demo import run_demo

SEEDS = (100, 101, 102)
"""Development seeds: never those that results are reported for."""
KEPT = ("EEF",)
"""Methods whose last model is kept, of the first seed."""
OUT = Path(__file__).parents[1] / "eeflib" / "assets" / "example_run"
LEFT_OUT = ("report.html", ".lock", ".lock.owner", ".workers", ".partial", "checkpoint")
STAMP = (2026, 1, 1, 0, 0, 0)
"""Time of every file in the archive, so that equal runs make equal archives."""

README = """# The example run

An ordinary run of the laptop preset, unpacked by `eef.example_run()`. Made by

    python scripts/example_run.py

at commit {commit}, on the development seeds {seeds} (no figure in README is from them): {train}
training and {test} test tasks a seed, iterations {iterations}, M {M}, k {k}.

`run.zip` holds all records of all seeds, and of the models only that of {kept}, first seed, after
the last iteration; the others are left out: `run.student("RFTx{k}", 1)` says so.

| method | win rate |
|---|---|
{table}
"""


def wanted(path: Path, root: Path, iterations: int) -> bool:
    """Whether a file of the run in `root` goes into the archive."""
    place = path.relative_to(root)
    if any(path.name.startswith(x) for x in LEFT_OUT):
        return False
    if "model" not in place.parts and place.name != "train.json":
        return True
    return any(place.parts[:3] == (f"seed-{SEEDS[0]}", m, f"iter-{iterations}") for m in KEPT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the run")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    config = make_config("laptop", seeds=SEEDS, extras=False)
    summary = run_demo(config, args.work)
    args.out.mkdir(parents=True, exist_ok=True)
    files = sorted(p for p in args.work.rglob("*") if p.is_file())
    with zipfile.ZipFile(args.out / "run.zip", "w") as packed:
        for path in files:
            if wanted(path, args.work, config.iterations):
                info = zipfile.ZipInfo(path.relative_to(args.work).as_posix(), STAMP)
                info.compress_type, info.external_attr = zipfile.ZIP_LZMA, 0o644 << 16
                packed.writestr(info, path.read_bytes())
    command = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    rows = [f"| {m['method']} | {100 * m['win_rate']:.1f} % |" for m in summary["methods"]]
    text = README.format(
        commit=commit,
        seeds=f"{SEEDS[0]} to {SEEDS[-1]}",
        kept=" and ".join(KEPT),
        table="\n".join(rows),
        **{name: getattr(config, name) for name in ("train", "test", "iterations", "M", "k")},
    )
    (args.out / "README.md").write_text(text, "utf-8")
    size = (args.out / "run.zip").stat().st_size
    print(json.dumps({"bytes": size, "files": len(files), "methods": rows}))


if __name__ == "__main__":
    main()
