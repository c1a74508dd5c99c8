"""WebShop: speed of steps, restoring and search, size and time of large catalogues.

    python benchmarks/webshop.py [--json] [--products 100000] [--full]
                                 [--official CHECKOUT] [--official-python PYTHON] [--keep FOLDER]

Products are generated (`parts/bulk_products.py`): 1,000 for the speed of steps, and `--products`
as files of the official schema, from which `load_official` builds its catalogue on disk; `--full`
adds 1.18 million (about 15 minutes on two idle cores, 7 GB of disk meanwhile). Generating is
reported apart (`generate_s`) and has no goal; building includes parsing the files. Every figure
about memory or opening comes from a process of its own. Steps are timed in CPU seconds, everything
else by the clock.

With `--official`, the official text environment runs the same action scripts over the same
catalogue in the same run (`official/webshop_driver.py` says what its Python needs), and its
observations and rewards are compared; it is also made over `--products` products. Without it,
official figures measured once elsewhere stand in (`REFERENCE`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REFERENCE = {"reset": 4.0, "search": 14.0, "next": 22.0, "item": 22.0, "option": 17.0, "buy": 25.0}
"""CPU milliseconds a step of the official environment, Python 3.11; at any catalogue size."""
REFERENCE_100_000 = {"construct_s": 11.4, "peak_mb": 1126.0}
"""The official environment over 100,000 products: seconds to make it, and its memory."""
SEARCHES = ("search", "next")
"""Kinds of steps on which the official environment searches."""
FULL = 1_180_000

GOALS: dict[str, tuple[float | None, str]] = {
    "speedup_search_included": (50.0, "x"),
    "speedup_search_excluded": (200.0, "x"),
    "step_ms": (0.4, "ms"),
    "click_ms": (0.4, "ms"),
    "new_search_median_ms": (1.0, "ms"),
    "restore_13_steps_ms": (2.0, "ms"),
    "start_128_ms": (50.0, "ms"),
    "open_s": (0.12, "s"),
    "rss_mb": (250.0, "MB"),
    "envs_1000_extra_mb": (50.0, "MB"),
    "full_build_s": (600.0, "s"),
    "full_build_peak_mb": (4096.0, "MB"),
    "full_build_disk_mb": (4096.0, "MB"),
    "full_open_s": (3.0, "s"),
    "full_search_median_ms": (60.0, "ms"),
    "full_search_p95_ms": (200.0, "ms"),
}
"""Name -> (goal, unit); a speed-up is to be at least that, everything else at most."""


def part(*arguments: object) -> dict[str, Any]:
    """One measurement in a fresh process: the last line that `parts/ARGUMENTS[0].py` prints."""
    script = Path(__file__).with_name("parts") / f"{arguments[0]}.py"
    command = [sys.executable, str(script), *map(str, arguments[1:])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments[:2]))} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def drive(options: argparse.Namespace, *arguments: object) -> dict[str, Any]:
    """What the official environment measures of itself, in its own Python."""
    driver = Path(__file__).with_name("official") / "webshop_driver.py"
    command = [options.official_python, driver, options.official, *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the official environment failed:\n{done.stderr[-3000:]}")
    return json.loads(Path(arguments[-1]).read_text("utf-8"))


def mean_ms(kinds: dict[str, list[float]], wanted: set[str]) -> float:
    """Milliseconds a step over all steps of these kinds."""
    spent = [s for kind, seconds in kinds.items() if kind in wanted for s in seconds]
    return 1e3 * sum(spent) / len(spent)


def compare_official(job: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """Speed-ups over what the driver measured, and how far it saw the same."""
    out: dict[str, Any] = {}
    for name in ("excluded", "included"):
        if name not in result:
            continue
        theirs, ours = result[name], job["ours"][name]
        kinds = set(theirs["kinds"]) - {"reset"}
        slow, fast = mean_ms(theirs["kinds"], kinds), mean_ms(ours["kinds"], kinds)
        out[f"speedup_search_{name}"] = slow / fast
        out[f"official_step_ms_search_{name}"] = slow
        for kind in theirs["kinds"]:
            out[f"official_{kind}_ms_search_{name}"] = mean_ms(theirs["kinds"], {kind})
        same = sum(a == b for a, b in zip(theirs["texts"], ours["texts"], strict=True))
        out[f"same_observations_search_{name}"] = same / len(theirs["texts"])
        same = sum(a == b for a, b in zip(theirs["rewards"], ours["rewards"], strict=True))
        out[f"same_rewards_search_{name}"] = same / len(theirs["rewards"])
    out["official_construct_1000_s"] = result["construct_s"]
    out["official_peak_1000_mb"] = result["peak_mb"]
    return out


def compare_reference(job: dict[str, Any]) -> dict[str, Any]:
    """Speed-ups over the figures of `REFERENCE`, weighted as the scripts' steps are."""
    out = {}
    ours = job["ours"]["included"]["kinds"]
    known = set(REFERENCE) & set(ours) - {"reset"}
    for name, kinds in (("included", known), ("excluded", known - set(SEARCHES))):
        slow = sum(REFERENCE[k] * len(ours[k]) for k in kinds) / sum(len(ours[k]) for k in kinds)
        out[f"speedup_search_{name}"] = slow / mean_ms(ours, kinds)
    return out


def steps(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about single steps, over 1,000 products."""
    job_file, result = folder / "job.json", folder / "result.json"
    out = part("webshop_steps", job_file)
    job = json.loads(job_file.read_text("utf-8"))
    if options.official is None:
        return {**out, **compare_reference(job), "official": "reference figures"}
    found = compare_official(job, drive(options, job_file, result))
    if "speedup_search_included" not in found:
        found["speedup_search_included"] = compare_reference(job)["speedup_search_included"]
        found["search_included"] = "reference figures: no Lucene in the official Python"
    return {**out, **found, "official": "measured in this run"}


def large(folder: Path, products: int, prefix: str) -> dict[str, Any]:
    """Everything about one catalogue on disk."""
    out = {}
    for name, label in (
        ("generate", "generate_"), ("build", "build_"), ("open", ""), ("search", "search_"),
    ):  # fmt: skip
        size = [products] if name == "generate" else []
        found = part("webshop_large", name, folder, *size)
        out |= {f"{prefix}{label}{key}": value for key, value in found.items()}
    return out


def compare_construction(
    folder: Path, ours: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """How much quicker and smaller a start is than that of the official environment."""
    theirs = REFERENCE_100_000
    if options.official is not None:
        with tempfile.TemporaryDirectory() as temporary:
            theirs = drive(options, folder, Path(temporary) / "result.json")
    return {
        "official_construct_s": theirs["construct_s"],
        "official_peak_mb": theirs["peak_mb"],
        "construct_speedup": theirs["construct_s"] / ours["open_s"],
        "memory_ratio": theirs["peak_mb"] / ours["rss_mb"],
        "official_construct": "reference figures of 100,000 products"
        if options.official is None
        else "measured in this run",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--products", type=int, default=100_000, help="on disk (100,000)")
    parser.add_argument("--full", action="store_true", help=f"{FULL:,} products too")
    parser.add_argument("--official", type=Path, help="a checkout of princeton-nlp/WebShop")
    parser.add_argument("--official-python", default=sys.executable, help="the Python to run it")
    parser.add_argument("--keep", type=Path, help="leave the catalogues in this folder")
    options = parser.parse_args()
    load = os.getloadavg()[0]  # the clock is fair to an idle machine only
    with tempfile.TemporaryDirectory() as temporary:
        base = options.keep or Path(temporary)
        base.mkdir(parents=True, exist_ok=True)
        figures = steps(Path(temporary), options)
        figures |= {"products": options.products}
        figures |= large(base / f"catalogue-{options.products}", options.products, "")
        folder = base / f"catalogue-{options.products}"
        figures |= compare_construction(folder, figures, options)
        figures |= part("webshop_large", "environments", folder)
        if options.full:
            figures |= large(base / f"catalogue-{FULL}", FULL, "full_")
    figures |= {"cores": os.cpu_count(), "load_before": load, "load_after": os.getloadavg()[0]}
    out = {}
    for name, value in figures.items():
        goal, unit = GOALS.get(name, (None, ""))
        better = goal is None or (value >= goal if unit == "x" else value <= goal)
        out[name] = {"value": value, "goal": goal, "unit": unit, "holds": better}
        if not options.json:
            text = f"{value:14,.3f}" if isinstance(value, float) else f"{value!s:>14}"
            print(f"{name:36} {text} {unit:3} goal {goal} {'ok' if better else 'MISSED'}")
    if options.json:
        print(json.dumps(out))


if __name__ == "__main__":
    main()
