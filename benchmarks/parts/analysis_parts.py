"""One measurement of the analysis in a process of its own: `analysis_parts.py PART FOLDER`.

Parts: `frames`, `figures`, `taxonomy`, `compare`, `report`, `read`. The last line is a JSON object.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def clock(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall-clock and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def file_lines(path: Path, times: int) -> Iterator[str]:
    for _ in range(times):
        with open(path, encoding="utf-8") as file:
            yield from file


def frames(folder: Path) -> dict[str, Any]:
    """Every frame of the run, from its files."""
    from eeflib.analysis import frames as f

    names = ("tasks", "trajectories", "steps", "branches", "states", "samples", "evaluations")
    sizes: dict[str, int] = {}

    def work() -> None:
        loaded = f.load(folder)
        sizes.update({name: len(getattr(loaded, name)) for name in names})

    wall, cpu = clock(work)
    rows = {f"rows_{name}": n for name, n in sizes.items()}
    return {"frames_s": wall, "frames_cpu_s": cpu, "frames_peak_mb": peak_mb(), **rows}


def taxonomy(folder: Path) -> dict[str, Any]:
    """The main kind and the evidence of every failed trajectory."""
    from eeflib.analysis import frames as f
    from eeflib.analysis.taxonomy import coverage

    loaded = f.load(folder)
    wall, cpu = clock(lambda: loaded.failures)
    n = coverage(loaded.failures).n
    return {"failures_s": wall, "failures_cpu_s": cpu, "failures": n}


def figures(folder: Path) -> dict[str, Any]:
    """Each figure from frames that are there: the slowest, and their sizes."""
    from eeflib.analysis import figures as draw
    from eeflib.analysis.findings import Findings
    from eeflib.analysis.run import Run

    found = Findings(Run(folder))
    f = found
    tables = (f.states, found.actions, found.changes, found.costs, found.other_m, f.failures)
    best = found.annotated[0]
    work: dict[str, Callable[[], Any]] = {
        "recovery_map": lambda: draw.recovery_map(f.states),
        "recovery_curve": lambda: draw.recovery_curve(f.states),
        "trajectory_curve": lambda: draw.trajectory_curve(
            f.states, best.trajectory.id, best.key.seed
        ),
        "segment_ribbon": lambda: draw.segment_ribbon(best.trajectory, best.segments, best.states),
        "simplicity_bias": lambda: draw.simplicity_bias(found.actions, found.focus),
        "newly_solved": lambda: draw.newly_solved(found.changes),
        "budget": lambda: draw.budget(found.costs),
        "other_m": lambda: draw.other_m(found.other_m),
        "outcome_by_type": lambda: draw.outcome_by_type(f.trajectories),
        "lengths": lambda: draw.lengths(f.trajectories),
        "rewards": lambda: draw.rewards(f.trajectories),
        "steps_to_failure": lambda: draw.steps_to_failure(f.failures),
        "win_rates": lambda: draw.win_rates(f.evaluations),
        "failure_kinds": lambda: draw.failure_kinds(f.failures),
    }
    assert all(len(t) for t in tables)
    times = {name: min(clock(w) for _ in range(3))[1] * 1e3 for name, w in work.items()}
    size = sum(len(w().to_json()) for w in work.values()) / 1000
    slowest = max(times, key=lambda n: times[n])
    out = {"figures_slowest_cpu_ms": times[slowest], "figures_slowest": slowest}
    return {**out, "figures_kb": size, **{f"figure_{n}_cpu_ms": t for n, t in times.items()}}


def compare(folder: Path) -> dict[str, Any]:
    """Two methods of the run against each other."""
    from eeflib.analysis.compare import compare_runs

    wall, cpu = clock(lambda: compare_runs(folder, folder, method_a="RFT", method_b="EEF"))
    return {"compare_s": wall, "compare_cpu_s": cpu}


def report(folder: Path) -> dict[str, Any]:
    """The report of the run, as one file."""
    from eeflib.analysis.report import write_report

    page = folder / "report.html"
    wall, cpu = clock(lambda: write_report(folder, page))
    size = page.stat().st_size / 1e6
    return {"report_s": wall, "report_cpu_s": cpu, "report_mb": size}


def read(folder: Path) -> dict[str, Any]:
    """The run's trajectories as ETO publishes them: one JSON array, streamed, ten times over."""
    from eeflib.interop.read import stream_trajectories
    from eeflib.interop.sources import ImportReport

    path, count = folder / "eto.json", 0
    with open(path, "w", encoding="utf-8") as out:
        for line in file_lines(folder / "seed-1/trajectories.jsonl", 10):
            t = json.loads(line)
            said = [("human", "You are web shopping."), ("gpt", "OK")]
            for s in t["steps"]:
                said.append(("human", f"Observation:\n{s['observation']}"))
                said.append(("gpt", f"Thought: t\nAction: {s['action']}"))
            turns = [{"from": who, "value": text} for who, text in said]
            out.write(("," if count else "[") + json.dumps({"id": t["id"], "conversations": turns}))
            count += 1
        out.write("]")
    size, before, report = path.stat().st_size / 1e6, peak_mb(), ImportReport()
    wall, cpu = clock(lambda: sum(1 for _ in stream_trajectories(path, report)))
    path.unlink()
    assert report.read == count
    speeds = {"read_s_per_100mb": 100 * wall / size, "read_cpu_s_per_100mb": 100 * cpu / size}
    return {**speeds, "read_size_mb": size, "read_grown_mb": peak_mb() - before}


if __name__ == "__main__":
    parts = {f.__name__: f for f in (frames, taxonomy, figures, compare, report, read)}
    print(json.dumps(parts[sys.argv[1]](Path(sys.argv[2]))))
