"""The steps of a run: open, collect, explore, select, encode, train, evaluate.

These are the verbs of `import eeflib as eef`. Each works without `run=`, in memory, and with it:
then what it makes is put on file, and what is on file is not done again. The lock of the run folder
is held during a step only, so that two notebooks may stay open on one run.

    RUN/manifest.json                             the `Config`
    RUN/seed-S/tasks.jsonl, trajectories.jsonl    the tasks, and the teacher's rollouts of `train`
    RUN/seed-S/METHOD/iter-I/branches.jsonl       what the student did in iteration I
    RUN/seed-S/METHOD/iter-I/samples.jsonl        what was trained on, with a trained flag per step
    RUN/seed-S/METHOD/iter-I/model/               the student after iteration I (safetensors)
    RUN/seed-S/METHOD/evaluations.jsonl           an evaluation per test task and iteration

Iteration 0 is behaviour cloning (SFT), which all exploring methods start from. What a method's step
depends on (its settings, the student, the teacher's trajectories) is in `decides.json`: the same
step with other arguments goes into a folder of its own, METHOD~HASH, and never returns old records.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from eeflib.config import TrainConfig
from eeflib.errors import DataError, ProviderError
from eeflib.exploration import Exploration, plan_exploration
from eeflib.exploration import explore as explore_states
from eeflib.files import RunFolder
from eeflib.masking import EncodedSet, encode_samples
from eeflib.methods import Method, get_method
from eeflib.policies import server
from eeflib.policies.base import Policy
from eeflib.policies.student import Student
from eeflib.prompts import PromptFormat, get_format
from eeflib.records import Branch, Evaluation, Sample, Task, Trajectory, content_hash
from eeflib.rollout import Episode, run_episodes
from eeflib.run import Run, teachers_key
from eeflib.selection import Selection
from eeflib.selection import select as select_samples
from eeflib.stats import evaluations_from
from eeflib.training import train as train_model
from eeflib.world import World

CLONING = "SFT"
"""Name of the method that is iteration 0 of all others."""

Backend = Literal["peft", "unsloth"]

Progress = Callable[[str, int, int], None]
"""Called with (step, done, total), such as ("EEF iteration 2: explore", 128, 700)."""


def collect(
    world: World,
    teacher: Policy | None = None,
    *,
    run: Run | None = None,
    lockstep: int | None = None,
    limit: int | None = None,
    progress: bool | Progress = True,
) -> list[Trajectory]:
    """The teacher's rollouts of the world's training tasks, in the order of the tasks.

    A run may have several teachers: each call adds one. With a model over HTTP each episode is on
    file when it ends, and every reply in `ledger.jsonl` before it is used: whatever stops the
    collection, the same call goes on without paying twice, and its caps count what was spent.

    Args:
        teacher: None for the world's own.
        run: where they are put on file. Episodes that a provider cut short in an earlier call are
            moved to `failed_attempts.jsonl` and run again.
        lockstep: episodes that are played side by side and then put on file; None: the run's, or
            four times as many as the model is asked at once.
        limit: only the first so many tasks, to see what the rest will cost (`expected_usage`).

    Raises:
        ProviderError: the teacher's provider cannot go on (key, credit, cap); the same call
            goes on from there.
        DataError: the run holds another world's trajectories.
    """
    teacher = world.teacher if teacher is None else teacher
    tasks = world.split("train")
    # more episodes than requests in flight: some wait after a fault
    asked_at_once = 4 * getattr(teacher, "concurrency", 0)
    beside = lockstep or asked_at_once or _lockstep(run, teacher)
    with _opened(run, world) as folder:
        key, phase = teachers_key(folder, teacher.name)
        episodes = [Episode(task, key) for task in tasks[:limit]]
        if folder is not None:
            _set_failed_aside(folder, phase, teacher.name)
        kept = getattr(teacher, "keeping", lambda _: nullcontext())
        with (
            kept(None if folder is None else folder.file("ledger")),
            _keeping(folder, "trajectories", Trajectory, episodes, phase, progress) as keeping,
        ):
            out = run_episodes(
                episodes,
                teacher,
                world.make_env,
                get_format("react", world.env),
                actor="teacher",
                seed=world.seed,
                batch_size=beside,
                **keeping,
            )
        if folder is not None and len(out) == len(tasks) and folder.phase(phase) is None:
            solved = sum(t.solved for t in out)
            summary = {"solved": solved, "n": len(out), "teacher": teacher.name}
            folder.mark_done(phase, summary, files=("tasks", "trajectories"))
    return out


def explore(
    world: World,
    tries: Sequence[Trajectory],
    student: Student | Policy,
    *,
    method: str | Method = "EEF",
    iteration: int = 1,
    run: Run | None = None,
    share: Sequence[str] = (),
    progress: bool | Progress = True,
    **changes: Any,
) -> Exploration:
    """The student's rollouts from s0 and from the teacher's states, as `method` wants them.

    Args:
        tries: the teacher's trajectories, from `collect`.
        student: a `Student` is sampled at its temperature.
        iteration: enters the random streams, so that each iteration draws anew.
        share: methods of this run whose rollouts of this iteration are taken over where they are
            the very same episodes of the same student. They count as simulations all the same.
        changes: fields of `Method`, such as `M`, `attempts_state`, `failures_only`.

    Raises:
        DataError, PrerequisiteError: see `eeflib.exploration.explore`.
    """
    chosen = _method(method, run, changes)
    policy, fmt = _asked(student, world.env, greedy=False)
    tasks = world.split("train")[: chosen.explored]
    step = f"{chosen.name} iteration {iteration}: explore"
    wanted, steps = chosen.exploration(iteration), None
    if chosen.budget == "steps":
        if run is None:
            raise DataError(f"{chosen.name} spends the steps that EEF took: give run")
        steps = run.exploration("EEF", iteration).report.simulated_steps
        wanted["attempts_s0"] = steps // len(tasks) + 1  # enough, if each rollout takes one step
    plan = plan_exploration(tasks, tries, **wanted, iteration=iteration)
    episodes = [episode for group in plan for episode, _ in group]
    here, origin, finished = None, "", False
    with _opened(run, world):
        if run is not None:
            # what the rollouts depend on, apart from which of them there are
            basis = {
                "student": _identity(student),
                "prompt": fmt.hash,
                "trajectories": _teachers_hash(tries),
                "seed": world.seed,
            }
            decides = {**basis, "exploration": wanted}
            limits = {"explored": chosen.explored, "steps": steps}
            decides |= {name: limit for name, limit in limits.items() if limit is not None}
            here = run.folder.step_folder(f"{chosen.name}/iter-{iteration}", decides)
            origin = run.origin(here)
            finished = here.phase("explore") is not None
            if finished and steps is not None:  # what was played beyond them was not kept
                return run.exploration(origin.split("/")[0], iteration)
            if not finished:
                _take_over(run, share, here, basis, {e.id for e in episodes})
        with _keeping(here, "branches", Branch, episodes, step, progress) as keeping:
            found = explore_states(
                tasks,
                tries,
                policy,
                world.make_env,
                fmt,
                **wanted,
                steps=steps,
                seed=world.seed,
                iteration=iteration,
                batch_size=_lockstep(run, student),
                **keeping,
            )
        if here is not None and not finished:
            if steps is not None:
                here.rewrite("branches", found.branches)
            here.mark_done("explore", found.report.to_dict(), files=("branches",))
    return replace(found, origin=origin)


def select(
    tries: Sequence[Trajectory],
    found: Exploration | Sequence[Exploration] | Sequence[Branch] = (),
    method: str | Method = "EEF",
    *,
    iteration: int | None = None,
    run: Run | None = None,
    seed: int = 0,
    **changes: Any,
) -> Selection:
    """The training samples that `method` makes of the teacher's trajectories and the rollouts.

    Args:
        found: from `explore`; of all iterations so far for a method with several.
        iteration: whose rollouts are the evidence about states; None: the last.
        seed: of a random choice among solutions.
        changes: fields of `Method`, such as `rule`, `evidence`, `mask`.

    Raises:
        PrerequisiteError: there is nothing to train on; says why.
    """
    chosen = _method(method, run, changes)
    explored: list[Exploration | Branch] = (
        [found] if isinstance(found, Exploration) else list(found)
    )
    branches: list[Branch] = []
    for x in explored:
        branches += x.branches if isinstance(x, Exploration) else (x,)
    seed = run.seed if run is not None else seed
    last = max((b.iteration for b in branches), default=0) if iteration is None else iteration
    # samples need no more of a task than its id
    ids = dict.fromkeys([t.task_id for t in tries] + [b.task_id for b in branches])
    tasks = [Task(i, "", "") for i in ids]
    selection = select_samples(
        chosen, tasks, tries, branches, iteration=last, seed=seed, required=True
    )
    selection = replace(selection, origin=f"{chosen.name}/iter-{last}")
    if run is None:
        return selection
    with run.folder:
        origin = next((x.origin for x in reversed(explored) if isinstance(x, Exploration)), "")
        if origin.split("/")[0].split("~")[0] != chosen.name:
            wins = [[b.id, b.won] for b in branches]
            basis = {"trajectories": _teachers_hash(tries), "branches": content_hash(wins)}
            decides = {**basis, "method": asdict(chosen), "seed": seed}
            here = run.folder.step_folder(f"{chosen.name}/iter-{last}", decides)
            origin = run.origin(here)
        else:
            here = run.folder.sub(origin)
        if here.found("samples", Sample) != list(selection.samples):
            here.rewrite("samples", selection.samples)
    return replace(selection, origin=origin)


def encode(
    samples: Selection | Sequence[Sample],
    student: Student,
    *,
    max_length: int | None = None,
    allow_harmful: bool | None = None,
) -> EncodedSet:
    """Tokens, labels and a reason per token: a sample is asked exactly as `student` is played.

    Args:
        max_length: longer samples are dropped, and counted; None: what the student can read.
        allow_harmful: accept samples that train harmful actions; None: if the method does so.

    Raises:
        DataError: see `eeflib.masking.encode_sample`.
    """
    kept = samples.samples if isinstance(samples, Selection) else tuple(samples)
    if allow_harmful is None:
        allow_harmful = isinstance(samples, Selection) and samples.trains_harmful
    data = encode_samples(
        kept,
        student.format(kept[0].env if kept else ""),
        student.chat,
        max_length=max_length or student.max_length,
        allow_harmful=allow_harmful,
    )
    if isinstance(samples, Selection):
        notes = {
            "repository": samples.repository_size,
            "important_states": len(samples.important),
            "without_solution": len(samples.without_solution),
        }
        data = replace(data, origin=samples.origin, notes=notes)
    return data


def train(
    student: Student,
    data: EncodedSet,
    *,
    run: Run | None = None,
    output: str | Path | None = None,
    backend: Backend | None = None,
    report_to: str | None = None,
    progress: bool | Progress = True,
    **settings: Any,
) -> Student:
    """Tune `student` on `data`; the tuned student, with the losses in `result`.

    A finished training with the same settings, data and start is not repeated, a killed one goes
    on from its last checkpoint.

    Args:
        student: the base, or one that was tuned before, to go on from.
        run: the model goes to METHOD/iter-I/model of the method that `data` was selected for.
        output: a folder for the model; without `run` and `output` it lives as long as the student.
        backend: `peft` or `unsloth`; None: as the student is configured.
        report_to: a tracker for the losses, such as `trackio` or `wandb`.
        settings: fields of `TrainConfig`; `steps` is short for `max_steps`.

    Raises:
        DataError: nothing to train on, unknown settings, a loss that is not finite.
        PrerequisiteError: unsloth, bitsandbytes, a tracker or a GPU is asked for and missing.
    """
    config = student.with_training(**settings)
    keep, here = None, None
    if run is not None:
        here = run.folder.sub(data.origin or "tuned/iter-0")
        target = here.path / "model"
    elif output is not None:
        target = Path(output)
    else:
        keep = tempfile.TemporaryDirectory(prefix="eef-model-")
        target = Path(keep.name) / "model"
    server.release()  # a GPU's memory is for one of the two
    backend = backend or student.config.backend
    if backend == "unsloth" and student.folder is None:  # which loads it by itself
        student.unload()
        start: Any = student.name
    else:
        start = _in_precision(student, config)
    step = f"{data.origin.replace('/iter-', ' iteration ') or 'tuned'}: train"
    call = None if isinstance(progress, bool) else progress
    with here or nullcontext():
        before = None
        if here is not None:
            here.lock.acquire()
            before = here.phase("train")
        if call and not before:
            call(step, 0, 1)
        with here.timed("train") if here is not None else nullcontext():
            result = train_model(
                start,
                data,
                config,
                target,
                backend=backend,
                report_to=report_to,
                progress=progress is True,
            )
        if here is not None and not (before and result.reused):
            watched = ("samples",) if here.exists("samples") else ()
            here.mark_done("select", {**data.counts, **data.notes}, files=watched)
            here.mark_done(
                "train",
                {"steps": result.steps, "last_loss": result.losses[-1]},
                files=[f"model/{p.name}" for p in target.glob("*.safetensors")],
            )
    if call and not result.reused:
        call(step, 1, 1)
    student.changed(target)
    tuned = student.tuned(target, data.origin, keep)
    tuned.result = result
    return tuned


def _in_precision(student: Student, config: TrainConfig) -> tuple[Any, Any]:
    """(model, tokenizer), loaded anew if the training asks for other numbers than it is in."""
    model, tokenizer = student.loaded
    if config.method == "full":  # trained in float32 whatever it is in
        return model, tokenizer
    four = bool(getattr(model, "is_quantized", False))
    changes: dict[str, Any] = {}
    if config.load_in_4bit is not None and config.load_in_4bit != four:
        changes["load_in_4bit"] = config.load_in_4bit
    if config.dtype == "float32" and model.dtype.itemsize == 2:
        changes["dtype"] = "float32"
    if not changes:
        return model, tokenizer
    del model
    student.unload()
    other = Student.of(student.config.change(**changes))
    if student.folder is not None:
        other = other.tuned(student.folder, student.origin)
    return other.loaded


def evaluate(
    world: World,
    student: Student | Policy,
    *,
    split: str = "test",
    name: str | None = None,
    iteration: int | None = None,
    run: Run | None = None,
    progress: bool | Progress = True,
) -> list[Evaluation]:
    """How the student, played greedily, does on every task of `split`.

    Args:
        student: or any policy, such as the teacher.
        name: of the method in the records; None: what the student was tuned by, else its name.
        iteration: likewise.

    Raises:
        DataError: the world has no such tasks.
    """
    tasks = world.split(split)
    if not tasks:
        raise DataError(f"the world has no {split} tasks; give it some: {split}=24")
    origin = student.origin if isinstance(student, Student) else ""
    label = name or (origin.split("/")[0] if origin else student.name)
    i = iteration if iteration is not None else int(origin.rpartition("-")[2] or 0)
    policy, fmt = _asked(student, world.env, greedy=True)
    own = isinstance(student, Student)
    key = f"{label}.i{i}.test" if own else f"{label}.test"
    episodes = [Episode(task, key) for task in tasks]
    step = f"{label} iteration {i}: evaluate"
    here, noted = None, None
    with _opened(run, world) as folder:
        if folder is not None:
            decides = {"student": _identity(student), "split": split, "tasks": len(tasks)}
            here = folder.sub(f"{label}/iter-{i}")
            noted = here.phase("evaluate")
            if noted is None or noted["of"] != decides:
                here.rewrite("test_rollouts", ())  # of another student
                noted = {"of": decides}
                here.mark_done("evaluate", noted)
        with _keeping(here, "test_rollouts", Trajectory, episodes, step, progress) as keeping:
            rollouts = run_episodes(
                episodes,
                policy,
                world.make_env,
                fmt,
                actor="student" if own else "teacher",
                seed=world.seed,
                batch_size=_lockstep(run, student),
                **keeping,
            )
        out = evaluations_from(rollouts, tasks, label, world.seed, i)
        if folder is not None and here is not None:
            before = folder.sub(label).found("evaluations", Evaluation)
            if [o for o in before if o.iteration == i] != out:
                kept = [o for o in before if o.iteration != i]
                folder.sub(label).rewrite("evaluations", [*kept, *out])
            summary = {"solved": sum(o.solved for o in out), "n": len(out), "of": decides}
            if summary != noted:
                here.mark_done("evaluate", summary, files=("test_rollouts",))
    return out


def run_method(
    run: Run,
    method: str | Method,
    *,
    world: World | None = None,
    student: Student | None = None,
    share: Sequence[str] = (),
    progress: bool | Progress = True,
) -> list[Evaluation]:
    """Every iteration of `method` in `run`; the evaluations of all of them on the test tasks.

    Args:
        student: the base; None: as the run's settings say.
        share: see `explore`; for the first iteration, whose student is the same for all methods.

    Raises:
        DataError: an exploring method before cloning (SFT) was run.
        PrerequisiteError: no positives to train on, or the student cannot be loaded.
    """
    chosen = run.method(method) if isinstance(method, str) else method
    world = run.world() if world is None else world
    base = run.student() if student is None else student
    tries = collect(world, run=run, progress=progress)
    out: list[Evaluation] = []
    explored: list[Exploration] = []
    before = run.student(CLONING, base=base) if chosen.explores else base
    for i in range(1 if chosen.explores else 0, chosen.iterations + 1):
        if chosen.explores:
            explored.append(
                explore(
                    world,
                    tries,
                    before,
                    method=chosen,
                    iteration=i,
                    run=run,
                    share=share if i == 1 else (),
                    progress=progress,
                )
            )
        samples = select(tries, explored, chosen, iteration=i, run=run)
        start = before if chosen.start_from == "previous" and i > 0 else base
        tuned = train(start, encode(samples, base), run=run, progress=progress)
        out += evaluate(world, tuned, run=run, progress=progress)
        before = tuned
    return out


@contextmanager
def _opened(run: Run | None, world: World) -> Iterator[RunFolder | None]:
    """The folder of the run's seed, once `world` is known to be the run's; None in memory."""
    if run is None:
        yield None
        return
    with run.folder as folder:
        run.check(world)
        yield folder


@contextmanager
def _keeping(
    folder: RunFolder | None,
    name: str,
    kind: type[Any],
    episodes: Sequence[Episode],
    step: str,
    progress: bool | Progress,
) -> Iterator[dict[str, Any]]:
    """Arguments for a loop over episodes: what the file `name` holds, how to add to it, what to
    say. Without a folder nothing is kept. The time is noted if there is anything left to do."""
    done = {} if folder is None else {r.id: r for r in folder.found(name, kind)}
    count, total = len(done), len(episodes)
    if all(e.id in done for e in episodes):
        if progress is True:
            tqdm(
                total=total, initial=total, desc=f"{step}: {total} of {total} already done"
            ).close()
        yield {"done": done}
        return

    def report(chunk: Sequence[Any]) -> None:
        nonlocal count
        if folder is not None:
            folder.append(name, chunk)
        count += len(chunk)
        if not isinstance(progress, bool):
            progress(step, count, total)

    report(())
    with folder.timed(step.split(": ")[-1]) if folder is not None else nullcontext():
        yield {"done": done, "on_done": report, "progress": step if progress is True else None}


def _asked(student: Student | Policy, env: str, *, greedy: bool) -> tuple[Policy, PromptFormat]:
    if isinstance(student, Student):
        return student.policy(greedy=greedy), student.format(env)
    return student, get_format("react", env)


def _lockstep(run: Run | None, student: Student | Policy) -> int:
    config = run.config if run else student.config if isinstance(student, Student) else None
    return config.lockstep if config else 32


def _identity(student: Student | Policy) -> str:
    return student.identity if isinstance(student, Student) else f"policy {student.name}"


def _method(method: str | Method, run: Run | None, changes: Mapping[str, Any]) -> Method:
    if isinstance(method, str):
        method = get_method(method) if run is None else run.method(method)
    try:
        return replace(method, **changes)
    except TypeError as exc:
        raise DataError(f"{exc}; what can be changed are the fields of eeflib.Method") from None


def _teachers_hash(tries: Iterable[Trajectory]) -> str:
    return content_hash([[t.id, t.reward, t.actions] for t in tries])


def _set_failed_aside(folder: RunFolder, phase: str, teacher: str) -> None:
    """What the provider cut short is asked for again; what it has cost stays on record."""
    if folder.phase(phase) is not None:
        return
    rows = folder.found("trajectories", Trajectory)
    cut = ProviderError.__name__
    failed = [t for t in rows if t.error.startswith(cut) and t.policy == teacher]
    if failed:
        known = folder.found("failed_attempts", Trajectory)
        new = [t for t in failed if t not in known]  # a kill may come before the next rewrite
        folder.rewrite("failed_attempts", [*known, *new])
        folder.rewrite("trajectories", [t for t in rows if t not in failed])


def _take_over(
    run: Run, methods: Sequence[str], here: RunFolder, basis: Mapping[str, Any], wanted: set[str]
) -> None:
    """Put branches of `methods` into `here` that are `wanted` and were made on the same basis."""
    missing = wanted - {b.id for b in here.found("branches", Branch)}
    taken: dict[str, Branch] = {}
    for name in methods:
        folder = run.folder.sub(f"{name}/{here.path.name}")
        made = folder.decides if folder.phase("explore") is not None else None
        if made is not None and basis.items() <= made.items():
            taken |= {b.id: b for b in folder.found("branches", Branch) if b.id in missing}
    if taken:
        here.append("branches", taken.values())
