"""The records that flow through a run: Task, Step, Trajectory, Branch, Sample, Usage.

Owns their fields and what follows from them. Knows nothing about files or models; the JSON form is
`eeflib.schema`'s.

Records are frozen. What can be derived is a property, never a field: `solved`, `length`,
`content_hash`. Readers are tolerant: unknown keys end up in `extra` and are written back, missing
optional keys take their default, a wrong type raises `DataError` with the path of the field.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from eeflib.errors import DataError
from eeflib.schema import SCHEMA_VERSION, TIMING, Record, canonical_json, content_hash

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

Actor = Literal["teacher", "student", "human"]
"""Who chose an action."""

Label = Literal["beneficial", "harmful", "unknown", "student", "context"]
"""What exploration says about an action: see `eeflib.selection`."""


@dataclass(frozen=True)
class Usage(Record):
    """What producing a reply cost."""

    prompt_tokens: int = 0
    """Tokens read by the model (0 for scripted policies)."""
    completion_tokens: int = 0
    """Tokens written by the model."""
    cost_usd: float | None = None
    """Dollars, where the price is known."""
    seconds: float = field(default=0.0, metadata=TIMING)
    """Wall-clock seconds of the request; not part of reproducible files."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Keys of other versions; a sum of usages has none."""

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


@dataclass(frozen=True)
class Branch(Record):
    """One student rollout from one state: s0, or expert state k of a teacher trajectory."""

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

    def __post_init__(self) -> None:
        # A flag that slips by one step would train a harmful action.
        if not len(self.steps) == len(self.trained) == len(self.labels):
            raise DataError(
                f"sample {self.id!r} has {len(self.steps)} steps, {len(self.trained)} trained "
                f"flags and {len(self.labels)} labels: there must be one of each per step"
            )
