"""Speed of the simulators in a JVM: ours against their own interfaces, restoring, two JVMs.

    python benchmarks/simulators.py [--json] [--only scienceworld|textworld] [--rounds 5]

`raw` is the simulator's own call for a step, with score and end; `stock` is the published package's
`env.step`, which ScienceWorld's builds the list of valid actions for; `ours` is our environment:
validity, a fingerprint of the state, the rules of an episode. All are timed in turn in one warm
JVM; a ratio is the median of the rounds' ratios. Wall-clock seconds: other work on the machine
blurs them, and two JVMs need two idle cores. The parts are in `benchmarks/parts`.
"""

from __future__ import annotations

import argparse
import json

from parts import scienceworld_parts, textworld_parts

PARTS = {"scienceworld": scienceworld_parts, "textworld": textworld_parts}
UNITS = {"per_second": "1/s", "_us": "us", "_ms": "ms", "seconds": "s", "mega": "MB"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = {}
    for part in [options.only] if options.only else PARTS:
        goals = PARTS[part].GOALS
        for key, value in PARTS[part].measure(options.rounds).items():
            goal, sense = goals.get(key, (None, ""))
            unit = next((u for word, u in UNITS.items() if word in key), "x")
            holds = goal is None or (value >= goal if sense == "at least" else value <= goal)
            name = f"{part}_{key}"
            rows[name] = {"value": round(value, 4), "goal": goal, "unit": unit, "holds": holds}
            wanted = f" goal {sense} {goal}{'' if holds else '  MISSED'}" if goal else ""
            print(f"{name:50} {value:10.3f} {unit:6}{wanted}", flush=True)
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
