"""eeflib: tune a small LLM agent by exploring from the states of a teacher's failures.

    import eeflib as eef

Everything a notebook needs is here: verbs (`open_run`, `collect`, `explore`, `select`, `encode`,
`train`, `evaluate`), what they work with (`webshop`, `Student`, `Config`, `Run`), records, and the
namespaces `analysis`, `exercises`, `figures`, `frames`, `interop`, `notebook` and `errors`. Names
are loaded when they are first used: importing the package costs neither torch nor pandas.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eeflib import analysis, errors, exercises, interop, notebook
    from eeflib.analysis import figures, frames
    from eeflib.analysis.compare import compare_runs
    from eeflib.analysis.report import write_report
    from eeflib.analysis.widget import Viewer
    from eeflib.config import Config
    from eeflib.demo import run_demo
    from eeflib.envs.base import TextEnv
    from eeflib.errors import EefError
    from eeflib.interop.read import read_trajectories
    from eeflib.methods import METHODS, Method
    from eeflib.notebook import play
    from eeflib.pipeline import collect, encode, evaluate, explore, run_method, select, train
    from eeflib.policies.base import Policy
    from eeflib.policies.hardware import hardware
    from eeflib.policies.openai_compatible import ChatModel
    from eeflib.policies.student import Student
    from eeflib.records import Branch, Evaluation, Sample, Step, Task, Trajectory
    from eeflib.run import Run, example_run, open_run
    from eeflib.stats import paired_difference, win_rate
    from eeflib.world import World, scienceworld, textworld, webshop

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Branch",
    "ChatModel",
    "Config",
    "EefError",
    "Evaluation",
    "Method",
    "Policy",
    "Run",
    "Sample",
    "Step",
    "Student",
    "Task",
    "TextEnv",
    "Trajectory",
    "Viewer",
    "World",
    "__version__",
    "analysis",
    "collect",
    "compare_runs",
    "encode",
    "errors",
    "evaluate",
    "example_run",
    "exercises",
    "explore",
    "figures",
    "frames",
    "hardware",
    "interop",
    "notebook",
    "open_run",
    "paired_difference",
    "play",
    "read_trajectories",
    "run_demo",
    "run_method",
    "scienceworld",
    "select",
    "textworld",
    "train",
    "webshop",
    "win_rate",
    "write_report",
]

_MODULES = {
    "analysis": "analysis",
    "errors": "errors",
    "exercises": "exercises",
    "figures": "analysis.figures",
    "frames": "analysis.frames",
    "interop": "interop",
    "notebook": "notebook",
}

_HOMES = {
    "analysis.compare": ("compare_runs",),
    "analysis.report": ("write_report",),
    "analysis.widget": ("Viewer",),
    "config": ("Config",),
    "demo": ("run_demo",),
    "envs.base": ("TextEnv",),
    "errors": ("EefError",),
    "interop.read": ("read_trajectories",),
    "methods": ("METHODS", "Method"),
    "pipeline": ("collect", "encode", "evaluate", "explore", "run_method", "select", "train"),
    "policies.base": ("Policy",),
    "policies.hardware": ("hardware",),
    "policies.openai_compatible": ("ChatModel",),
    "policies.student": ("Student",),
    "records": ("Branch", "Evaluation", "Sample", "Step", "Task", "Trajectory"),
    "notebook": ("play",),
    "run": ("Run", "example_run", "open_run"),
    "stats": ("paired_difference", "win_rate"),
    "world": ("World", "scienceworld", "textworld", "webshop"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value: Any = importlib.import_module(f"eeflib.{_MODULES[name]}")
    elif name in _HOME:
        value = getattr(importlib.import_module(f"eeflib.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"eeflib has no {name!r}; see eeflib.__all__")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
