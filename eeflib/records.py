"""The records that flow through a run: Task, Step, Trajectory, Branch, Sample, Usage.

Owns their fields, their schema version and their JSON form. Knows nothing about files or models.

Records are frozen. What can be derived is a property, never a field: `solved`, `length`,
`content_hash`. Readers are tolerant: unknown keys end up in `extra` and are written back, missing
optional keys take their default, a wrong type raises `DataError` with the path of the field.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import msgspec

from eeflib.errors import DataError

__all__ = [
    "SCHEMA_VERSION",
    "Actor",
    "Branch",
    "Label",
    "Record",
    "Sample",
    "Step",
    "Task",
    "Trajectory",
    "Usage",
    "canonical_json",
    "content_hash",
]

SCHEMA_VERSION = 1

Actor = Literal["teacher", "student", "human"]
"""Who chose an action."""

Label = Literal["beneficial", "harmful", "unknown", "student", "context"]
"""What exploration says about an action: see `eeflib.selection`."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no blanks: equal values give equal text."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def content_hash(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        out = {
            f.name: _plain(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.name != "extra"
        }
        out.update(getattr(value, "extra", None) or {})
        return out
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _collect_extra(cls: type, data: Any) -> Any:
    """Move keys that `cls` has no field for into its `extra` field, one level deep."""
    if not isinstance(data, Mapping):
        return data
    names = {f.name for f in dataclasses.fields(cls)}
    out = {k: v for k, v in data.items() if k in names}
    rest = {k: v for k, v in data.items() if k not in names and k != "schema"}
    if "extra" in names and rest:
        out["extra"] = {**(out.get("extra") or {}), **rest}
    return out


class Record:
    """Mixin: the JSON round trip of every record. `from_dict(to_dict(x)) == x`."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; `schema` holds the version that wrote it."""
        return {"schema": SCHEMA_VERSION, **_plain(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote, also by an older or newer version.

        Raises:
            DataError: a required field is missing or has the wrong type; names the field.
        """
        try:
            return msgspec.convert(cls._prepare(data), cls, strict=True)
        except (msgspec.ValidationError, TypeError, ValueError) as exc:
            raise DataError(f"not a {cls.__name__} record: {exc}") from None

    @classmethod
    def _prepare(cls, data: Any) -> Any:
        return _collect_extra(cls, data)


@dataclass(frozen=True)
class Usage(Record):
    """What producing a reply cost."""

    prompt_tokens: int = 0
    """Tokens read by the model (0 for scripted policies)."""
    completion_tokens: int = 0
    """Tokens written by the model."""
    cost_usd: float | None = None
    """Dollars, where the price is known."""
    seconds: float = 0.0
    """Wall-clock seconds of the request; not part of reproducible files."""

    def __add__(self, other: Usage) -> Usage:
        known = [c for c in (self.cost_usd, other.cost_usd) if c is not None]
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            sum(known) if known else None,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True)
class Task(Record):
    """One instruction in one environment: everything `reset` needs, as data."""

    id: str
    """Readable and unique within a run, e.g. `webshop-train-0017`."""
    env: str
    """Name of the environment that can reset to it: `webshop`, `scienceworld`, ..."""
    instruction: str
    """What the agent is told."""
    goal: dict[str, Any] = field(default_factory=dict)
    """What success means, for the environment only; never shown to a policy."""
    seed: int = 0
    """Seed of the environment's own randomness for this task."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Environment settings: catalogue, variation, simplifications, step limit (`max_steps`)."""
    split: str = ""
    """`train`, `validation`, `test` or empty."""
    threshold: float = 1.0
    """Reward from which on the task counts as solved."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Keys of other versions, and notes such as the difficulty level (`level`, `skills`)."""

    @property
    def content_hash(self) -> str:
        """Hash of what makes the task the same task: env, instruction, goal, settings, seed."""
        return content_hash([self.env, self.instruction, self.goal, self.settings, self.seed])


@dataclass(frozen=True)
class Step(Record):
    """One decision: what was seen, what was answered, what it gave."""

    observation: str
    """Text the policy acted on (before the action)."""
    action: str
    """The action handed to the environment, parsed from `reply`; empty if there was none."""
    actor: Actor
    """Who chose it."""
    reply: str = ""
    """The raw reply; empty when it equals `action`."""
    thought: str = ""
    """The reasoning part of the reply."""
    valid: bool = True
    """Whether reply and action were understood by parser and environment."""
    reason: str = ""
    """Why not, if not valid."""
    reward: float = 0.0
    """Reward of this step, in [0, 1]."""
    score: float | None = None
    """The environment's own running score in [0, 1], where it has one (ScienceWorld)."""
    state_key: str = ""
    """The environment's fingerprint of the state before the action, where it has one."""
    usage: Usage | None = None
    """Cost of the reply."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Keys of other versions; admissible actions where recorded."""

    @property
    def text(self) -> str:
        """The assistant turn as the policy wrote it."""
        return self.reply or self.action


@dataclass(frozen=True)
class Trajectory(Record):
    """A whole or partial rollout of one task: tau = (s0, a0, s1, ..., s_T) with reward R."""

    id: str
    task_id: str
    env: str
    instruction: str
    policy: str
    """Name of the policy that acted (of the last one, for teacher prefix + student suffix)."""
    steps: tuple[Step, ...]
    """T steps; `steps[t].observation` is the text of s_t."""
    final_observation: str
    """Text of s_T. WebShop's done page shows the reward: never put it into a prompt."""
    reward: float
    """R in [0, 1]."""
    terminated: bool
    """The environment ended the episode."""
    truncated: bool
    """A step or budget limit ended it."""
    threshold: float = 1.0
    """The task's `threshold`."""
    seed: int = 0
    """Seed of the rollout's random choices."""
    prompt_hash: str = ""
    """Hash of the prompt format in use, see `eeflib.prompts`."""
    error: str = ""
    """A fault that ended the rollout (provider, environment); empty if none."""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def solved(self) -> bool:
        """R reached the threshold; "done" is not "solved"."""
        return not self.error and self.reward >= self.threshold - 1e-9

    @property
    def length(self) -> int:
        """T, the number of actions."""
        return len(self.steps)

    @property
    def actions(self) -> tuple[str, ...]:
        return tuple(s.action for s in self.steps)

    @property
    def usage(self) -> Usage:
        total = Usage()
        for step in self.steps:
            if step.usage is not None:
                total = total + step.usage
        return total

    def observation(self, t: int) -> str:
        """Text of s_t, 0 <= t <= T."""
        return self.final_observation if t == len(self.steps) else self.steps[t].observation

    @classmethod
    def _prepare(cls, data: Any) -> Any:
        data = _collect_extra(cls, data)
        if isinstance(data, dict) and isinstance(data.get("steps"), (list, tuple)):
            data["steps"] = [Step._prepare(s) for s in data["steps"]]
        return data


@dataclass(frozen=True)
class Branch(Record):
    """One student rollout from one state: from s0, or from expert state k of a teacher trajectory."""

    id: str
    task_id: str
    k: int
    """0 for s0; otherwise the expert state's number, 1..M."""
    t: int
    """Teacher actions before the state: the student starts at s_t of the teacher's trajectory."""
    attempt: int
    """Rollout number at this state, from 0."""
    teacher_id: str | None = None
    """The teacher trajectory the state belongs to; None for exploration from s0."""
    rollout: Trajectory | None = None
    """The student's own steps from the state on; None if the state could not be restored."""
    restore_mismatch: str = ""
    """Why the state could not be restored; empty if it was verified."""
    iteration: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def restored(self) -> bool:
        return self.rollout is not None

    @property
    def won(self) -> bool:
        return self.rollout is not None and self.rollout.solved

    @classmethod
    def _prepare(cls, data: Any) -> Any:
        data = _collect_extra(cls, data)
        if isinstance(data, dict) and data.get("rollout") is not None:
            data["rollout"] = Trajectory._prepare(data["rollout"])
        return data


@dataclass(frozen=True)
class Sample(Record):
    """One training sequence: a whole episode with a flag per step saying whether it is trained."""

    id: str
    task_id: str
    env: str
    instruction: str
    kind: str
    """`positive` (a whole solved trajectory), `s0` (initial-state solution), `recovery`, `all`."""
    steps: tuple[Step, ...]
    trained: tuple[bool, ...]
    """Per step: does its action carry loss?"""
    labels: tuple[Label, ...]
    """Per step: the evidence about its action."""
    start: int = 0
    """Index of the important state: everything before it is context."""
    source: str = ""
    """Id of the branch or trajectory this solution came from."""
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def _prepare(cls, data: Any) -> Any:
        data = _collect_extra(cls, data)
        if isinstance(data, dict) and isinstance(data.get("steps"), (list, tuple)):
            data["steps"] = [Step._prepare(s) for s in data["steps"]]
        return data
