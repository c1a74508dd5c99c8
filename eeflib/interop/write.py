"""A run's samples in the dialects of other trainers and viewers, with their trained flags.

Import `export` from here; `DIALECTS` says what there is. A dialect is one small function: it gets
the samples as chats, in the prompt format that the student is asked in, and gives rows or a whole
file. docs/export.md says how each is trained with.
"""

from __future__ import annotations

import io
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from eeflib.errors import DataError, PrerequisiteError
from eeflib.files import encodable, write_atomic
from eeflib.masking import Dropped, Unusable, trained_steps
from eeflib.pipeline import encode
from eeflib.policies.student import Student
from eeflib.records import Sample, Trajectory, content_hash
from eeflib.run import Run, open_run

log = logging.getLogger(__name__)

Row = dict[str, Any]


class Turn(NamedTuple):
    """A message as the student reads it."""

    role: str
    text: str
    trained: bool
    """Only replies are."""
    step: int
    """-1 for the system text."""


@dataclass(frozen=True)
class Shown:
    """A sample as a chat."""

    sample: Sample
    turns: tuple[Turn, ...]
    played: Trajectory | None
    """The rollout that the solution ends with, where the run has it on file."""

    @property
    def system(self) -> str:
        return self.turns[0].text if self.turns[0].role == "system" else ""

    @property
    def talk(self) -> tuple[Turn, ...]:
        """Without the system text."""
        return self.turns[1:] if self.system else self.turns

    @property
    def facts(self) -> Row:
        """Where the sample comes from; reward and policy are None where that is not on file."""
        s, played = self.sample, self.played
        return {
            "sample_id": s.id,
            **{k: getattr(s, k) for k in ("task_id", "env", "kind", "start", "source")},
            **{k: s.extra.get(k) for k in ("handover", "teacher_id", "iteration")},
            "labels": list(s.labels),
            **{k: getattr(played, k, None) for k in ("reward", "policy")},
        }


@dataclass
class Job:
    """One export."""

    samples: list[Sample]
    shown: list[Shown]
    """Those that can be trained on."""
    dropped: list[Dropped]
    """The others; a dialect may add some, and gives no row for them."""
    student: Student
    allow_harmful: bool
    name: str
    """METHOD/iter-I."""
    suffix: str
    """Of the file: `.jsonl`, `.parquet`, `.eval`, `.json`."""


class Exported(NamedTuple):
    """What `export` wrote."""

    path: Path
    samples: int
    replies: int
    trained: int
    """Of the replies, those that carry loss."""
    dropped: tuple[Dropped, ...]
    """Samples that cannot be trained on, and why."""

    def __str__(self) -> str:
        counts = f"{self.samples} samples, {self.trained} of {self.replies} replies trained"
        return f"{counts}\n{self.path}"

    def to_dict(self) -> dict[str, Any]:
        """What a script reads: the counts, and the file."""
        counts = {name: getattr(self, name) for name in ("samples", "replies", "trained")}
        return {**counts, "dropped": len(self.dropped), "file": str(self.path)}


def export(
    run: Run | str | Path,
    to: str,
    out: str | Path | None = None,
    *,
    method: str = "EEF",
    iteration: int | None = None,
    student: str | None = None,
    allow_harmful: bool | None = None,
) -> Exported:
    """Write the samples that `method` trains on in the dialect `to`, one of `DIALECTS`.

    What the dialect has no place for is told in one warning; the run's samples.jsonl keeps it.

    Args:
        out: a file, replaced as a whole; None: one in RUN/seed-S/export. Rows become a Parquet
            table where its name ends in `.parquet`.
        iteration: None: the last one that has samples.
        student: who is asked: prompt format, and for trl the tokenizer; None: the run's.
        allow_harmful: let harmful and unknown actions be trained; None: if the method does so.

    Raises:
        DataError: an unknown dialect or method, no samples, a file that cannot be written.
        PrerequisiteError: a package that writes the dialect is missing; names it.
    """
    if to not in DIALECTS:
        raise DataError(f"unknown format {to!r}; choose one of {', '.join(DIALECTS)}")
    dialect = DIALECTS[to]
    run = run if isinstance(run, Run) else open_run(run)
    declared = run.method(method)
    method = method if "~" in method else declared.name
    name, samples = _found(run, method, iteration, int(declared.explores))
    if any(sample.kind == "rejected" for sample in samples):
        raise DataError(
            f"{name} holds pairs, a chosen and a rejected way each, and {to} would imitate both: "
            "train on them with `eef train`, or export another method"
        )
    default = run.folder.path / "export" / f"{name.replace('/', '-')}-{to}{dialect.suffix}"
    path = Path(out) if out is not None else default
    own = student in (None, run.config.student)
    asked = run.student() if own else Student(str(student), env=run.config.env)
    harmful = declared.trains_harmful if allow_harmful is None else allow_harmful
    job = Job(samples, [], [], asked, harmful, name, path.suffix)
    played = _played(run, method)
    for sample in samples:
        try:
            job.shown.append(_shown(sample, job, played.get(sample.source)))
        except Unusable as exc:
            job.dropped.append(exc.dropped)
    made = dialect.write(job) if job.shown else []
    if not made:
        raise DataError(f"{path} is not written, no sample can be trained: {job.dropped[0].detail}")
    write_atomic(path, made if isinstance(made, bytes) else _table(made, path.suffix))
    why = Counter(d.reason for d in job.dropped)
    notes = [f"{n} of {len(samples)} samples are not trained: {w}" for w, n in why.items()]
    notes += [dialect.lost] if dialect.lost else []
    if notes:
        log.warning("%s: %s", path, "; ".join(notes))
    gone = {d.sample_id for d in job.dropped}
    kept = [s for s in job.shown if s.sample.id not in gone]
    replies = sum(len(s.sample.steps) for s in kept)
    trained = sum(turn.trained for s in kept for turn in s.turns)
    return Exported(path, len(kept), replies, trained, tuple(job.dropped))


def _found(run: Run, method: str, iteration: int | None, first: int) -> tuple[str, list[Sample]]:
    """METHOD/iter-I, and its samples; `first` is the method's first iteration."""
    here = run.folder.path
    files = {p.parent.relative_to(here).as_posix() for p in here.glob("*/iter-*/samples.jsonl")}
    mine = {int(name.rpartition("-")[2]) for name in files if name.split("/")[0] == method}
    last = max(mine, default=first) if iteration is None else iteration
    samples = run.samples(method, last)
    if not samples:
        there = f"; there are those of {', '.join(sorted(files))}" if files else ""
        raise DataError(
            f"{here} has no samples of {method} iteration {last}{there}: select them first, with "
            f"`eef train {run.path} --method {method} --iteration {last}`"
        )
    return f"{method}/iter-{last}", samples


def _played(run: Run, method: str) -> dict[str, Trajectory]:
    """By the id that a sample names as its source."""
    out = {t.id: t for t in run.trajectories()}
    for file in run.folder.path.glob(f"{method}/iter-*/branches.jsonl"):
        branches = run.branches(method, int(file.parent.name.rpartition("-")[2]))
        out |= {b.id: b.rollout for b in branches if b.rollout is not None}
    return out


def _shown(sample: Sample, job: Job, played: Trajectory | None) -> Shown:
    fmt = job.student.format(sample.env)
    on = trained_steps(sample, fmt, allow_harmful=job.allow_harmful)
    carries = {fmt.reply_index(t) for t in on}
    first = fmt.reply_index(0) - 1
    turns = (
        Turn(m.role, encodable(m.content), i in carries, (i - first) // 2)
        for i, m in enumerate(fmt.messages(sample.instruction, sample.steps, hint=sample.hint))
    )
    return Shown(sample, tuple(turns), played)


def _table(rows: list[Row], suffix: str) -> str | bytes:
    if suffix != ".parquet":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as exc:
        raise PrerequisiteError(
            f"a .parquet file needs pyarrow ({exc}): pip install pyarrow"
        ) from exc
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue()


def _rows(row: Callable[[Shown], Row]) -> Writer:
    return lambda job: [row(s) for s in job.shown]


def _jsonl(job: Job) -> list[Row]:
    return [sample.to_dict(timing=False) for sample in job.samples]


def _trl(job: Job) -> list[Row]:
    """The tokens and labels that eeflib trains on; too long for the student is known here only."""
    data = encode([s.sample for s in job.shown], job.student, allow_harmful=job.allow_harmful)
    job.dropped += data.dropped
    return data.to_dataset().to_list() if len(data) else []


def _flag(key: str, kind: type[bool] | type[int]) -> Writer:
    """`key` on every message: data sets want the same columns throughout."""

    def row(s: Shown) -> Row:
        said = [{"role": t.role, "content": t.text, key: kind(t.trained)} for t in s.turns]
        return {"messages": said, "sample_id": s.sample.id}

    return _rows(row)


def _openai(s: Shown) -> Row:
    """Nothing but what the service knows: it may refuse other keys."""
    said: list[Row] = [{"role": t.role, "content": t.text} for t in s.turns]
    for message, turn in zip(said, s.turns, strict=True):
        if turn.role == "assistant":
            message["weight"] = int(turn.trained)
    return {"messages": said}


_SPEAKER = {"user": "human", "assistant": "gpt"}


def _agentgym(s: Shown) -> Row:
    """As there, a system text is a first turn, with an untrained answer."""
    rules = [Turn("user", s.system, False, -1), Turn("assistant", "OK", False, -1)]
    said = [
        {
            "from": _SPEAKER[t.role],
            "loss": t.trained if t.role == "assistant" else None,
            "value": t.text,
        }
        for t in (*(rules if s.system else ()), *s.talk)
    ]
    return {"conversations": said, "item_id": s.sample.task_id, "reward": s.facts["reward"]}


def _llamafactory(s: Shown) -> Row:
    return {
        "system": s.system,
        "conversations": [{"from": _SPEAKER[t.role], "value": t.text} for t in s.talk],
        "loss_mask": [int(t.trained) for t in s.talk],
        "sample_id": s.sample.id,
    }


def _llamafactory_v1(s: Shown) -> Row:
    said = [
        {
            "role": t.role,
            "content": [{"type": "text", "value": t.text}],
            "loss_weight": float(t.trained),
        }
        for t in s.turns
    ]
    return {"messages": said, "sample_id": s.sample.id}


def _trackio(s: Shown) -> Row:
    """The arguments of a `trackio.Trace`."""
    said = [{"role": t.role, "content": t.text, "trained": t.trained} for t in s.turns]
    return {"messages": said, "metadata": s.facts}


def _inspect(job: Job) -> bytes:
    """An Inspect log: an `EvalSample` a sample."""
    try:
        from inspect_ai import log as logs
        from inspect_ai.scorer import Score
    except ImportError as exc:
        raise PrerequisiteError(
            f"an Inspect log needs inspect_ai ({exc}): pip install 'eeflib[inspect]'"
        ) from exc
    now = datetime.now(UTC)
    samples = []
    for s in job.shown:
        given, messages, events, output = _inspect_episode(s, now)
        reward = s.facts["reward"]
        samples.append(
            logs.EvalSample(
                id=s.sample.id,
                epoch=1,
                input=messages[:given],
                target="",
                messages=messages,
                output=output,
                scores=None if reward is None else {"reward": Score(value=reward)},
                metadata=s.facts,
                events=events,
            )
        )
    rewards = [s.scores["reward"].as_float() for s in samples if s.scores]
    mean = {"mean": logs.EvalMetric(name="mean", value=sum(rewards) / max(1, len(rewards)))}
    identity = content_hash([job.name, [s.sample.id for s in job.shown]])
    made = logs.EvalLog(
        status="success",
        eval=logs.EvalSpec(
            **dict.fromkeys(("eval_id", "run_id", "task_id"), identity),
            created=now.isoformat(timespec="seconds"),
            task=job.name,
            model=f"eeflib/{Path(job.student.name).name}",
            dataset=logs.EvalDataset(name=job.name, samples=len(samples)),
            config=logs.EvalConfig(),
        ),
        results=logs.EvalResults(
            total_samples=len(samples),
            completed_samples=len(samples),
            scores=[logs.EvalScore(name="reward", scorer="reward", metrics=mean)],
        ),
        samples=samples,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"log{job.suffix if job.suffix == '.json' else '.eval'}"
        logs.write_eval_log(made, file)
        return file.read_bytes()


def _inspect_episode(s: Shown, now: datetime) -> tuple[int, list[Any], list[Any], Any]:
    """(messages that are given, all messages, events, the last output) of a sample.

    Given is what the rollout did not do itself: the teacher's steps up to the handover. There the
    events hold an anchor, and the rollout is a span that branches from it.
    """
    from inspect_ai import event as ev
    from inspect_ai import model as im

    sample = s.sample
    kinds = (im.ChatMessageSystem, im.ChatMessageUser, im.ChatMessageAssistant)
    by_role = {kind.model_fields["role"].default: kind for kind in kinds}
    messages: list[Any] = []
    for i, t in enumerate(s.turns):
        facts: Row = {"step": t.step}
        if t.role == "assistant":
            actor, label = sample.steps[t.step].actor, sample.labels[t.step]
            facts |= {"trained": t.trained, "label": label, "actor": actor}
        made = by_role[t.role](content=t.text, id=f"{sample.id}/{i}", metadata=facts)
        messages.append(made)
    handover = sample.extra.get("handover")
    if not isinstance(handover, int) or not 0 < handover < len(sample.steps):
        handover = 0  # the student's from s0, or all the teacher's
    given = next(i for i, t in enumerate(s.turns) if t.step == handover) + 1
    span = f"{sample.id}/branch"
    where: Row = {"timestamp": now, "working_start": 0.0}
    events: list[Any] = []
    if handover:
        anchor = f"{sample.extra.get('teacher_id')}@{handover}"
        events.append(ev.AnchorEvent(anchor_id=anchor, **where))
        events.append(ev.SpanBeginEvent(id=span, name=sample.source, type="branch", **where))
        where["span_id"] = span
        events.append(ev.BranchEvent(from_anchor=anchor, **where))
    output = None
    for i in range(given, len(messages), 2):
        policy = s.facts["policy"] or sample.steps[s.turns[i].step].actor
        choice = im.ChatCompletionChoice(message=messages[i], stop_reason="stop")
        output = im.ModelOutput(model=policy, choices=[choice])
        events.append(
            ev.ModelEvent(
                model=policy,
                input=messages[:i],
                tools=[],
                tool_choice="none",
                config=im.GenerateConfig(),
                output=output,
                **where,
            )
        )
    if handover:
        events.append(ev.SpanEndEvent(id=span, **where))
    return given, messages, events, output


Writer = Callable[[Job], list[Row] | bytes]


class Dialect(NamedTuple):
    write: Writer
    """-> rows, or the bytes of a whole file."""
    lost: str
    """What it has no place for."""
    suffix: str = ".jsonl"


_IDS = "sampled token ids are in samples.jsonl only"
_LABELS = f"labels of actions, their states and {_IDS}"
_UNMERGED = _LABELS + "; today's {} trains every reply, unless its pull request {} is applied"

DIALECTS: dict[str, Dialect] = {
    "jsonl": Dialect(_jsonl, ""),
    "trl": Dialect(_trl, ""),
    "openai": Dialect(_rows(_openai), f"{_LABELS}; where `weight` is unknown all replies train"),
    "axolotl": Dialect(_flag("train", bool), _LABELS),
    "tinker": Dialect(_flag("trainable", bool), _LABELS),
    "slime": Dialect(_flag("step_loss_mask", int), _LABELS),
    "verl": Dialect(_flag("loss_mask", int), _UNMERGED.format("verl", 5472), ".parquet"),
    "llamafactory": Dialect(_rows(_llamafactory), _UNMERGED.format("LLaMA-Factory", 9630)),
    "llamafactory-v1": Dialect(_rows(_llamafactory_v1), _LABELS),
    "agentgym": Dialect(_rows(_agentgym), f"{_LABELS}; a system text is a first turn there"),
    "inspect": Dialect(_inspect, _IDS, ".eval"),
    "trackio": Dialect(_rows(_trackio), _IDS),
}
"""Format -> how it is written, what it cannot say, and what its files are called."""
