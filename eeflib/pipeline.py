"""One method on one world with one seed: collect, then explore, select, train, evaluate in turn.

Owns the order of the steps and what each leaves in the run folder. Knows nothing about how a step
works, which methods there are, or which environment it is.

    SEED/tasks.jsonl, trajectories.jsonl      the tasks, and the teacher's rollouts of `train`
    SEED/METHOD/iter-I/branches.jsonl         what the student did in iteration I
    SEED/METHOD/iter-I/samples.jsonl          what was trained on, with a trained flag per step
    SEED/METHOD/iter-I/model/                 the student after iteration I (safetensors)
    SEED/METHOD/evaluations.jsonl             an outcome per test task and iteration

Every step is passed over if its files are complete, and a killed one goes on where it was; the
result is that of an uninterrupted run. Iteration 0 is behaviour cloning (SFT), which all
exploring methods start from.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eeflib.errors import DataError, ProviderError
from eeflib.explore import explore, plan_exploration
from eeflib.masking import EncodedSet, encode_samples
from eeflib.methods import Method
from eeflib.policies.base import Policy
from eeflib.prompts import PromptFormat, get_format
from eeflib.recipe import Recipe, Student
from eeflib.records import Branch, Evaluation, Sample, Task, Trajectory
from eeflib.rollout import EnvPool, Episode, run_episodes
from eeflib.stats import evaluations_from
from eeflib.store import RunFolder
from eeflib.world import World

__all__ = ["CLONING", "Pipeline", "Progress"]

log = logging.getLogger(__name__)

CLONING = "SFT"
"""Name of the method that is iteration 0 of all others."""

Progress = Callable[[str, int, int], None]
"""Called with (step, done, total), e.g. ("EEF iteration 2: explore", 128, 700)."""


class Pipeline:
    """All methods of one seed share its tasks, its teacher's trajectories and its cloned student.

    Args:
        world: tasks, environments, teacher.
        folder: the seed's folder in the run.
        seed: of every random choice made here.
        progress: told about every finished chunk of work.
    """

    def __init__(
        self,
        world: World,
        recipe: Recipe,
        folder: RunFolder,
        seed: int,
        *,
        progress: Progress | None = None,
    ) -> None:
        self.world, self.recipe, self.folder, self.seed = world, recipe, folder, seed
        self._progress = progress or (lambda step, done, total: None)
        self.fmt: PromptFormat = get_format(recipe.prompt, world.env)
        self.student = Student(recipe)

    def collect(self) -> list[Trajectory]:
        """The teacher's rollouts of the training tasks.

        Episodes that the provider cut short in an earlier, interrupted call are moved to
        `failed_attempts.jsonl` and run again.

        Raises:
            ProviderError: the teacher's provider cannot go on (key, credit, cost cap); the same
                call goes on from there.
        """
        if not self.folder.exists("tasks"):
            self.folder.append("tasks", self.world.tasks)
        self._check_tasks()
        if self.folder.phase_done("collect"):
            return list(self.folder.read("trajectories", Trajectory))
        tasks = self.world.split("train")
        self._set_failed_aside()
        done = _by_id(self.folder, "trajectories", Trajectory)
        with self._timed("collect"):
            out = run_episodes(
                [Episode(task, "teacher") for task in tasks],
                self.world.teacher,
                self.world.make_env,
                get_format("react", self.world.env),
                actor="teacher",
                seed=self.seed,
                batch_size=self.recipe.batch_size,
                done=done,
                on_done=self._writer(self.folder, "trajectories", "collect", len(tasks), len(done)),
            )
        self.folder.mark_done("collect", {"solved": sum(t.solved for t in out), "n": len(out)})
        return out

    def run(
        self, method: Method, *, share: Sequence[tuple[Method, RunFolder]] = ()
    ) -> list[Evaluation]:
        """Every iteration of `method`; the outcomes of all of them on the test tasks.

        Args:
            share: other methods of this seed and their folders, whose branches of the first
                iteration serve as this method's where they are the very same episodes (the
                student of iteration 0 is the same for all). They still count as simulations.

        Raises:
            PrerequisiteError: no positives to train on, or the student cannot be loaded.
        """
        folder = self.folder.sub(method.name)
        trajectories = self.collect()
        if method.explores:
            start = self.folder.sub(f"{CLONING}/iter-0").path / "model"
            if not start.exists():
                raise DataError(f"{start} is missing: run {CLONING} with this seed first")
        branches: list[Branch] = []
        for i in range(1 if method.explores else 0, method.iterations + 1):
            here = folder.sub(f"iter-{i}")
            before = folder if i > 1 else self.folder.sub(CLONING)
            model = before.sub(f"iter-{i - 1}").path / "model"
            if method.explores:
                known = self._known(share) if i == 1 else {}
                branches += self._explore(method, i, here, trajectories, model, known)
            data = self._select(method, i, here, trajectories, branches)
            goes_on = method.start_from == "previous" and i > 0
            self._train(method, i, here, data, model if goes_on else None)
            self._evaluate(method, i, folder, here)
        return list(folder.read("evaluations", Evaluation))

    def simulations(self, method: Method) -> int:
        """Student rollouts that `method` runs over all its iterations (trainings excluded)."""
        plan = plan_exploration(self.world.split("train"), self.collect(), **method.exploration)
        return method.iterations * sum(len(group) for group in plan)

    def seconds(self, method: Method) -> float:
        """Wall-clock seconds spent on `method` so far; what a killed process did not finish of its
        step is not in it."""
        rows = []
        for i in range(method.iterations + 1):
            sub = self.folder.sub(f"{method.name}/iter-{i}")
            if sub.exists("timings"):
                rows += list(sub.read("timings"))
        return sum(float(row["seconds"]) for row in rows if "name" in row)

    def policy(self, model: Path, *, greedy: bool) -> Policy:
        """The student saved in `model`, as a policy."""
        return self.student.policy(model, greedy=greedy)

    def _known(self, share: Sequence[tuple[Method, RunFolder]]) -> dict[str, Branch]:
        known: dict[str, Branch] = {}
        for other, folder in share:
            if folder.sub("iter-1").phase_done("explore"):
                known |= _by_id(folder.sub("iter-1"), "branches", Branch)
                log.info("sharing %d branches of %s", len(known), other.name)
        return known

    def _explore(
        self,
        method: Method,
        i: int,
        here: RunFolder,
        trajectories: Sequence[Trajectory],
        model: Path,
        known: dict[str, Branch],
    ) -> list[Branch]:
        done = _by_id(here, "branches", Branch)
        if here.phase_done("explore"):
            return list(done.values())
        tasks = self.world.split("train")
        plan = plan_exploration(tasks, trajectories, **method.exploration, iteration=i)
        mine = {p.episode.id for group in plan for p in group}
        taken = [b for key, b in known.items() if key in mine and key not in done]
        if taken:
            here.append("branches", taken)
            done |= {b.id: b for b in taken}
        step = f"{method.name} iteration {i}: explore"
        with self._timed("explore", here), EnvPool(self.world.make_env) as pool:
            result = explore(
                tasks,
                trajectories,
                self.policy(model, greedy=False),
                pool,
                self.fmt,
                **method.exploration,
                seed=self.seed,
                iteration=i,
                batch_size=self.recipe.batch_size,
                done=done,
                on_done=self._writer(here, "branches", step, len(mine), len(done)),
            )
        here.mark_done("explore", result.report.to_dict())
        return list(result.branches)

    def _select(
        self,
        method: Method,
        i: int,
        here: RunFolder,
        trajectories: Sequence[Trajectory],
        branches: Sequence[Branch],
    ) -> EncodedSet:
        chosen = method.samples(
            self.world.split("train"), trajectories, branches, iteration=i, seed=self.seed
        )
        if not here.phase_done("select"):
            here.rewrite("samples", chosen.samples)
        samples = list(here.read("samples", Sample))
        data = encode_samples(
            samples,
            self.fmt,
            self.student.base[1],
            max_length=self.student.max_length,
            allow_harmful=method.trains_harmful,
        )
        here.mark_done(
            "select",
            {
                **data.counts,
                "repository": chosen.repository_size,
                "important_states": len(chosen.important),
                "without_solution": len(chosen.without_solution),
            },
        )
        return data

    def _train(
        self, method: Method, i: int, here: RunFolder, data: EncodedSet, before: Path | None
    ) -> None:
        """Train the base on `data`, or the student in `before` further."""
        from eeflib.train import train

        if here.phase_done("train"):
            return
        step = f"{method.name} iteration {i}: train"
        self._progress(step, 0, 1)
        with self._timed("train", here):
            result = train(
                self.student.base if before is None else self.student.tuned(before),
                data,
                self.recipe.train,
                here.path / "model",
                backend=self.recipe.backend,
                progress=False,
            )
        here.mark_done("train", {"steps": result.steps, "last_loss": result.losses[-1]})
        self._progress(step, 1, 1)

    def _evaluate(self, method: Method, i: int, folder: RunFolder, here: RunFolder) -> None:
        if here.phase_done("evaluate"):
            return
        tasks = self.world.split("test")
        step = f"{method.name} iteration {i}: evaluate"
        done = _by_id(here, "test_rollouts", Trajectory)
        with self._timed("evaluate", here), EnvPool(self.world.make_env) as pool:
            rollouts = run_episodes(
                [Episode(task, f"{method.name}.i{i}.test") for task in tasks],
                self.policy(here.path / "model", greedy=True),
                pool,
                self.fmt,
                actor="student",
                seed=self.seed,
                batch_size=self.recipe.batch_size,
                done=done,
                on_done=self._writer(here, "test_rollouts", step, len(tasks), len(done)),
            )
        outcomes = evaluations_from(rollouts, tasks, method.name, self.seed, i)
        earlier = []
        if folder.exists("evaluations"):
            earlier = [o for o in folder.read("evaluations", Evaluation) if o.iteration != i]
        folder.rewrite("evaluations", [*earlier, *outcomes])
        here.mark_done("evaluate", {"solved": sum(o.solved for o in outcomes), "n": len(outcomes)})

    def _writer(
        self, folder: RunFolder, name: str, step: str, total: int, before: int
    ) -> Callable[[Sequence[Any]], None]:
        count = before

        def write(chunk: Sequence[Any]) -> None:
            nonlocal count
            folder.append(name, chunk)
            count += len(chunk)
            self._progress(step, count, total)

        self._progress(step, before, total)
        return write

    def _set_failed_aside(self) -> None:
        """What the provider cut short is asked for again; what it has cost stays on record."""
        if not self.folder.exists("trajectories"):
            return
        rows = list(self.folder.read("trajectories", Trajectory))
        failed = [t for t in rows if t.error.startswith(ProviderError.__name__)]
        if failed:
            known = []
            if self.folder.exists("failed_attempts"):
                known = list(self.folder.read("failed_attempts", Trajectory))
            new = [t for t in failed if t not in known]  # a kill may come before the next rewrite
            self.folder.rewrite("failed_attempts", [*known, *new])
            self.folder.rewrite("trajectories", [t for t in rows if t not in failed])

    def _check_tasks(self) -> None:
        recorded = [t.content_hash for t in self.folder.read("tasks", Task)]
        if recorded != [t.content_hash for t in self.world.tasks]:
            raise DataError(
                f"{self.folder.file('tasks')} holds other tasks than this configuration makes: "
                "the folder is of another run or version; use a new --run DIR or --fresh"
            )

    @contextmanager
    def _timed(self, name: str, folder: RunFolder | None = None) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            (folder or self.folder).timing(name, time.perf_counter() - started)


def _by_id(folder: RunFolder, name: str, kind: Any) -> dict[str, Any]:
    if not folder.exists(name):
        return {}
    return {record.id: record for record in folder.read(name, kind)}
