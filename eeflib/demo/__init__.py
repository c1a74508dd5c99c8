"""The whole story in one call: a teacher that fails, RFT that stalls, EEF that gets further.

Owns `run_demo`. Every step is that of the notebooks: this package only puts them together, in
parallel.

    RUN/seed-S/...                       see `eeflib.pipeline`
    RUN/better-teacher/seed-S/...        the same with a teacher that tires later
    RUN/summary.json, RUN/report.html
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eeflib.demo.bar import Bar
from eeflib.demo.plan import config_of
from eeflib.demo.summarise import DemoResult, summarise
from eeflib.demo.work import jobs_of
from eeflib.run import open_folder
from eeflib.workers import run_jobs

__all__ = ["DemoResult", "config_of", "run_demo", "summarise"]


def run_demo(
    config: Mapping[str, Any],
    run_dir: Path | str,
    *,
    fresh: bool = False,
    processes: int | None = None,
    progress: bool = True,
) -> DemoResult:
    """Run or continue the demo that `config` (from `config_of`) describes.

    Args:
        run_dir: the run folder; a killed demo called again with it goes on where it was.
        processes: worker processes; None: one per CPU core, at most one per job that can run.
        progress: show a progress bar.

    Raises:
        EefError: see `eeflib.pipeline.Pipeline.run` and `eeflib.run.open_folder`. The first one
            ends the demo, for a table over some of the seeds or methods would mislead: a seed whose
            teacher solves nothing has nothing to clone. What is on file stays.
    """
    seeds: list[int] = list(config["seeds"])
    _check_student(config["student"])
    n = processes or min(os.cpu_count() or 1, 2 * len(seeds))
    if config["env"] != "webshop":
        n = min(n, len(seeds) + 1)
    # the tiny student is too small for two threads to help, and two on a busy core collapse
    threads = 1 if config["student"] == "tiny" else None
    with open_folder(run_dir, config, seeds=seeds, fresh=fresh) as run:
        jobs = jobs_of(dict(config), str(run.path))
        with Bar(jobs, config, progress) as bar:
            run_jobs(jobs, run.path, processes=n, threads=threads, on_event=bar.on_event)
        summary = summarise(run, config)
        run.write_atomic("summary.json", summary)
    return summary


def _check_student(name: str) -> None:
    """A wrong name must not leave a run folder behind that then stands for another student."""
    from eeflib.policies.loading import NAMES, load_student

    if name not in NAMES:
        load_student(name)
