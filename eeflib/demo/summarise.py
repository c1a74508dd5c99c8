"""A demo's files as the object that is printed, written to summary.json and reported.

Owns which comparisons are made and what is counted where. Knows nothing about how the files came
about, nor how a row is computed (`eeflib.summary`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eeflib.demo.plan import BETTER_TEACHER, contenders, declared_methods, seed_folder, unmasked
from eeflib.methods import Method
from eeflib.pipeline import CLONING
from eeflib.records import Branch, Evaluation, Trajectory
from eeflib.store import RunFolder
from eeflib.summary import compare, method_row

__all__ = ["DemoResult", "summarise"]

DemoResult = dict[str, Any]
"""The content of summary.json."""

_STEPS = ("explore", "train", "evaluate")
"""What is timed of a method."""


def summarise(run: RunFolder, config: Mapping[str, Any]) -> DemoResult:
    """The content of summary.json, from the run's files alone."""
    methods = declared_methods(config)
    found = _case(run, config, "", methods)
    out: DemoResult = {
        "env": config["env"],
        "student": config["student"],
        "preset": config["preset"],
        "seeds": list(config["seeds"]),
        "methods": found["rows"],
        "paired": found["paired"],
        "teacher_on_training_tasks": found["teacher"],
    }
    if config["extras"]:
        ablation = unmasked(config)
        without = _outcomes(run, config, "", ablation.name)
        masked = [o for o in _outcomes(run, config, "", "EEF") if o.iteration == 1]
        out["masking"] = {
            "note": "after one iteration, on the same rollouts",
            **compare(masked, without),
            "win_rates": [
                method_row("EEF", masked, simulations=0, seconds=0)["win_rate"],
                method_row(ablation.name, without, simulations=0, seconds=0)["win_rate"],
            ],
        }
        if config["env"] == "webshop":
            one = {**config, "seeds": config["seeds"][:1]}
            better = _case(run, one, BETTER_TEACHER, contenders(config))
            out["better_teacher"] = {
                "note": "one seed, one iteration, a teacher that tires later",
                "methods": better["rows"],
                "paired": better["paired"],
                "teacher_on_training_tasks": better["teacher"],
            }
    return out


def _case(
    run: RunFolder, config: Mapping[str, Any], case: str, methods: Sequence[Method]
) -> dict[str, Any]:
    outcomes = {m.name: _outcomes(run, config, case, m.name) for m in methods}
    rows = [
        method_row("teacher", _outcomes(run, config, case, "teacher"), simulations=0, seconds=0.0)
    ]
    cloning = _seconds(run, config, case, CLONING)
    for m in methods:
        seconds = _seconds(run, config, case, m.name) + (cloning if m.explores else 0.0)
        rows.append(
            method_row(
                m.name,
                outcomes[m.name],
                simulations=_simulations(run, config, case, m),
                seconds=seconds,
            )
        )
    paired = {}
    names = [m.name for m in methods]
    for a, b in (("EEF", f"RFTx{config['k']}"), (f"RFTx{config['k']}", CLONING), ("EEF", "RFT")):
        if a in names and b in names:
            paired[f"{a} - {b}"] = compare(outcomes[a], outcomes[b])
    solved = [
        t.solved
        for seed in config["seeds"]
        for t in run.sub(seed_folder(case, seed)).read("trajectories", Trajectory)
    ]
    teacher = {
        "solved": sum(solved),
        "n": len(solved),
        "win_rate": round(sum(solved) / len(solved), 4),
    }
    return {"rows": rows, "paired": paired, "teacher": teacher}


def _outcomes(
    run: RunFolder, config: Mapping[str, Any], case: str, method: str
) -> list[Evaluation]:
    return [
        outcome
        for seed in config["seeds"]
        for outcome in run.sub(f"{seed_folder(case, seed)}/{method}").read(
            "evaluations", Evaluation
        )
    ]


def _iterations(
    run: RunFolder, config: Mapping[str, Any], case: str, method: str
) -> list[RunFolder]:
    return [
        run.sub(f"{seed_folder(case, seed)}/{method}/{path.name}")
        for seed in config["seeds"]
        for path in sorted((run.path / seed_folder(case, seed) / method).glob("iter-*"))
    ]


def _simulations(run: RunFolder, config: Mapping[str, Any], case: str, method: Method) -> float:
    """Student rollouts per seed, counted in the files."""
    count = sum(
        branch.restored
        for folder in _iterations(run, config, case, method.name)
        if folder.exists("branches")
        for branch in folder.read("branches", Branch)
    )
    return count / len(config["seeds"])


def _seconds(run: RunFolder, config: Mapping[str, Any], case: str, method: str) -> float:
    """Measured seconds per seed, over all parts of an interrupted run."""
    total = 0.0
    for folder in _iterations(run, config, case, method):
        if folder.exists("timings"):
            rows = folder.read("timings")
            total += sum(float(r["seconds"]) for r in rows if r.get("name") in _STEPS)
    return total / len(config["seeds"])
