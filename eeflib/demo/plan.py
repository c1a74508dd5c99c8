"""What a demo consists of: its configuration, its methods, and where their files lie.

Owns the names. Knows nothing about how anything is run or summarised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from eeflib.errors import DataError
from eeflib.methods import Method, get_method
from eeflib.pipeline import CLONING
from eeflib.presets import REPORT_SEED, Preset, get_preset
from eeflib.world import WORLDS

__all__ = [
    "BETTER_TEACHER",
    "config_of",
    "contenders",
    "declared_methods",
    "preset_of",
    "seed_folder",
    "unmasked",
]

BETTER_TEACHER = "better-teacher"
"""Subfolder of the runs with a teacher that tires later."""


def config_of(
    env: str = "webshop",
    preset: str | Preset = "laptop",
    student: str = "tiny",
    seeds: Sequence[int] | int | None = None,
) -> dict[str, Any]:
    """Everything that decides a demo's results, as JSON values for the manifest.

    Raises:
        DataError: no such environment or preset; seeds that are negative, repeated or none.
    """
    p = get_preset(preset, env) if isinstance(preset, str) else preset
    if seeds is None or isinstance(seeds, int):
        seeds = [REPORT_SEED + i for i in range(p.seeds if seeds is None else seeds)]
    if env not in WORLDS:
        raise DataError(f"unknown environment {env!r}; choose one of {', '.join(WORLDS)}")
    if not seeds or min(seeds) < 0 or len({*seeds}) < len(seeds):
        raise DataError(f"seeds are {[*seeds]}; give one or more, different, none below 0")
    return {
        "env": env,
        "student": student,
        "preset": p.name,
        "counts": dict(p.counts),
        "iterations": p.iterations,
        "M": p.M,
        "k": p.k,
        "steps": p.steps,
        "methods": list(p.methods),
        "extras": p.extras,
        "seeds": list(seeds),
    }


def declared_methods(config: Mapping[str, Any]) -> list[Method]:
    """The declared methods with the demo's sizes; RFTxk becomes RFTx6 for k = 6."""
    out = []
    for name in config["methods"]:
        method = get_method(f"RFTx{config['k']}" if name == "RFTxk" else name)
        if method.explores:
            method = replace(method, iterations=config["iterations"])
        if method.explores_states:
            method = replace(method, M=config["M"])
        out.append(method)
    return out


def unmasked(config: Mapping[str, Any]) -> Method:
    """The masking ablation: EEF's first iteration, solutions trained whole."""
    return replace(get_method("EEF-no-mask"), iterations=1, M=config["M"])


def contenders(config: Mapping[str, Any]) -> list[Method]:
    """What runs with the better teacher: one iteration of the two contenders."""
    main = [m for m in declared_methods(config) if m.explores and m.name != "RFT"]
    return [get_method(CLONING), *(replace(m, iterations=1) for m in main)]


def preset_of(config: Mapping[str, Any]) -> Preset:
    """The sizes in `config`, which need not be those of a preset with a name."""
    sizes = {key: config[key] for key in ("counts", "iterations", "M", "k", "steps")}
    return Preset(config["preset"], seeds=len(config["seeds"]), **sizes)


def seed_folder(case: str, seed: int) -> str:
    """Where the files of a seed lie; `case` is empty or `BETTER_TEACHER`."""
    return f"{case}/seed-{seed}".lstrip("/")
