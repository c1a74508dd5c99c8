"""How long `import eeflib` takes: the median of fresh interpreters, less an empty interpreter's.

`python benchmarks/import_time.py [--runs 9] [--json]`
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

GOAL_SECONDS = 0.5


def seconds(code: str) -> tuple[float, float]:
    """Wall-clock and processor seconds of a fresh interpreter running `code`."""
    before = os.times()
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    wall = time.perf_counter() - start
    after = os.times()
    used = after.children_user + after.children_system
    return wall, used - before.children_user - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9, help="interpreters started of each kind")
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    args = parser.parse_args()
    seconds("import eeflib")  # the first run writes byte code
    # side by side, so that what else the machine does meets both
    pairs = [(seconds("pass"), seconds("import eeflib")) for _ in range(args.runs)]
    rows = {}
    for kind, name in enumerate(("import_seconds", "import_cpu_seconds")):
        value = statistics.median(ours[kind] - empty[kind] for empty, ours in pairs)
        rows[name] = {
            "value": round(value, 4),
            "goal": GOAL_SECONDS,
            "unit": "s",
            "holds": value < GOAL_SECONDS,
        }
        print(f"{name}: {value:.3f} (median of {args.runs}, goal < {GOAL_SECONDS})")
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
