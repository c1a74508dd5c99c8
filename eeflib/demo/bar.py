"""One progress bar over all jobs of a demo.

Owns how much of the whole a job's progress is worth. Knows nothing about what jobs do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tqdm.auto import tqdm

from eeflib.methods import Method
from eeflib.workers import Event, Job

__all__ = ["Bar"]


class Bar:
    """One bar over all jobs; each job counts by how long such jobs take."""

    def __init__(self, jobs: Sequence[Job], config: Mapping[str, Any], on: bool) -> None:
        self._weight = {j.name: self._cost(j, config) for j in jobs}
        self._expected = {j.name: self._stages(j) for j in jobs}
        self._share: dict[str, float] = {}
        self._steps: dict[str, int] = {}
        total = sum(self._weight.values())
        self._bar = tqdm(
            total=round(total, 1),
            disable=not on,
            bar_format="{l_bar}{bar}| {elapsed}<{remaining} {postfix}",
            desc="demo",
            smoothing=0.0,  # steps differ too much in length for a recent rate to mean anything
        )

    @staticmethod
    def _stages(job: Job) -> int:
        """Steps: explore, train, evaluate in each iteration; before: collect, train, evaluate."""
        method = _method(job)
        return 3 * max(1, method.iterations) if method else 3

    @staticmethod
    def _cost(job: Job, config: Mapping[str, Any]) -> float:
        method = _method(job)
        if method is None:
            return 1.0
        per = 1.0 + 0.35 * (config["M"] if method.explores_states else method.attempts)
        return per * method.iterations

    def on_event(self, event: Event) -> None:
        job, step, done, total = event
        self._bar.set_postfix_str(f"{job.split('/')[-2]} {step} {done}/{total}", refresh=False)
        self._steps.setdefault(f"{job}|{step}", len([k for k in self._steps if k.startswith(job)]))
        number = self._steps[f"{job}|{step}"]
        expected = max(self._expected[job], number + 1)
        share = min(1.0, (number + done / max(1, total)) / expected)
        before = self._share.get(job, 0.0)
        if share > before:
            self._share[job] = share
            so_far = sum(v * self._weight[k] for k, v in self._share.items())
            self._bar.update(min(so_far, self._bar.total) - self._bar.n)
        else:
            self._bar.refresh()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            self._bar.update(self._bar.total - self._bar.n)
        self._bar.close()


def _method(job: Job) -> Method | None:
    return next((a for a in job.args if isinstance(a, Method)), None)
