"""The records that flow through a run, their JSON form, and names for random streams.

Import `Task`, `Step`, `Trajectory`, `Branch`, `Sample`, `Evaluation` and `Usage` from here. Records
are frozen. What follows from a field is a property: `solved`, `length`, `content_hash`. Readers are
tolerant: unknown keys end up in `extra` and are written back, missing optional keys take their
default, a wrong type raises `DataError` with the path of the field. Files are `eeflib.run`'s.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import GenericAlias
from typing import Annotated, Any, Literal, Self, get_args, get_type_hints

import msgspec
import numpy as np

from eeflib.errors import DataError

SCHEMA_VERSION = 1

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""What arrays and data frames can hold; a reader refuses larger ones."""

Finite = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
"""Not infinite, which `1e999` in a file would be."""

Reward = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
"""R in [0, 1]."""

SPLITS = ("train", "validation", "test")

UNRATED = "unrated"
"""Key of `Trajectory.extra`: the reward is not known, and `reward` is 0 for want of one."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def canonical_json(value: Any, *, is_plain: bool = False) -> str:
    """JSON with sorted keys and no blanks: equal values give equal text, encodable as UTF-8.

    Args:
        is_plain: `value` comes from `plain` or `to_dict`, so that it need not be checked again.

    Raises:
        DataError: a value that JSON cannot hold (an object, a set, NaN); names its path.
    """
    value = value if is_plain else plain(value)
    text = json.dumps(
        value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    if text.isascii():
        return text
    # A half of a surrogate pair cannot be UTF-8; inside a JSON string its escape means the same.
    return _LONE_SURROGATE.sub(lambda m: f"\\u{ord(m.group()):04x}", text)


def content_hash(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def plain(value: Any, *, timing: bool = True, path: str = "$") -> Any:
    """`value` as dicts, lists, strings and numbers.

    Numpy scalars and arrays become Python numbers and lists, tuples lists, dict keys strings, and
    a whole number in a float field a float, so that a record and its copy read from a file are
    written in the same form. Keys of a record's `extra` stand beside its fields, unless a field has
    that name.

    Args:
        timing: False leaves out `Usage.seconds`, which no two runs have in common.
        path: where `value` is, for the error message.

    Raises:
        DataError: a value that JSON cannot hold; names its path.
    """
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, (int, float)):
        if found := fault(value):
            raise DataError(f"{path}{found}: leave it out, use None, or write it as text")
        return float(value) if isinstance(value, float) else value
    if isinstance(value, Mapping):
        return {str(k): plain(v, timing=timing, path=f"{path}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v, timing=timing, path=f"{path}[{i}]") for i, v in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain_fields(value, timing, path)
    if hasattr(value, "tolist"):  # numpy, without importing it
        return plain(value.tolist(), timing=timing, path=path)
    raise DataError(
        f"{path} is a {type(value).__name__}, which JSON cannot hold: "
        "use strings, numbers, lists and dicts"
    )


def _plain_fields(value: Any, timing: bool, path: str) -> dict[str, Any]:
    known = _fields(type(value))  # type: ignore[arg-type]  # classes are hashable
    out = {}
    for name, is_float in known.items():
        if name != "extra" and (timing or name != "seconds"):
            item = getattr(value, name)
            if type(item) is not str:
                item = plain(item, timing=timing, path=f"{path}.{name}")
            # bool is not converted: from_dict reports it as an error
            out[name] = float(item) if is_float and type(item) is int else item
    extra = plain(getattr(value, "extra", {}), timing=timing, path=f"{path}.extra")
    clashing = {k: v for k, v in extra.items() if k == "schema" or k in known}
    out.update((k, v) for k, v in extra.items() if k not in clashing)
    return {**out, "extra": clashing} if clashing else out


NOT_KEPT = "(not kept)"
"""Stands for a secret where settings are written down."""

_SECRET_WORDS = frozenset(
    {"key", "keys", "token", "secret", "secrets", "password", "passwords", "passwd", "pwd"}
    | {"passphrase", "authorization", "auth", "credential", "credentials", "bearer", "cookie"}
    | {"apikey", "apikeys"}
)
_NO_SECRET = re.compile(
    r"(?:^|_)(?:bos|eos|pad|unk|mask|sep|cls|stop|end|per|new|next|first|last|state|sort)"
    r"_(?:token|key)s?(?:_|$)"
)
_PLURAL_TOKENS = re.compile(r"(?:^|_)(?:api|access|auth|refresh|secret)_tokens(?:_|$)")
_USER_IN_URL = re.compile(r"(?<=://)[^/?#\s]+(?=@)")
_PARAMETER = re.compile(r"([?&;#])([^=&;#\s]+)=([^&;#\s]*)")


def without_secrets(value: Any) -> Any:
    """A copy of a JSON value, safe to show: secrets are replaced by `(not kept)`.

    A secret is the value of a key with a word such as token, key, password, authorization or
    credentials in its name (`api_key`, `hfToken`; not `max_tokens` nor `tokenizer`), at any depth;
    and in the text of a URL the user part and parameters of such names. True, False and None are
    no secrets.
    """
    if isinstance(value, Mapping):
        return {
            without_secrets(k): NOT_KEPT if _is_secret(k, v) else without_secrets(v)
            for k, v in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [without_secrets(v) for v in value]
    if isinstance(value, str) and "://" in value:
        shown = _USER_IN_URL.sub(NOT_KEPT, value)
        return _PARAMETER.sub(
            lambda m: f"{m[1]}{m[2]}={NOT_KEPT if _is_secret(m[2], m[3]) else m[3]}", shown
        )
    return value


def _is_secret(name: str, value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return False
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    snake = "_".join(words).lower()
    if _NO_SECRET.search(snake):
        return False
    return not _SECRET_WORDS.isdisjoint(snake.split("_")) or bool(_PLURAL_TOKENS.search(snake))


@cache
def _fields(cls: type) -> dict[str, bool]:
    """The fields of a dataclass -> whether it holds a float."""
    return {name: float in (hint, *get_args(hint)) for name, hint in get_type_hints(cls).items()}


def _sort_keys(cls: type, data: Any) -> Any:
    """Move keys that `cls` has no field for into `extra`, at every level of nested records.

    Raises:
        DataError: a field that takes any JSON holds what no record can, see `fault`.
    """
    if not isinstance(data, Mapping):
        return data  # msgspec reports it, with its path
    known, free, nested = _layout(cls)
    if not data.keys() <= known:
        rest = {k: v for k, v in data.items() if k not in known}
        data = {k: v for k, v in data.items() if k in known}
        if isinstance(extra := data.get("extra", {}), Mapping):
            data["extra"] = {**rest, **extra}
    for name in free:
        if name in data and (found := fault(data[name])):
            where = "" if name == "extra" else f".{name}"
            raise DataError(f"not a {cls.__name__} record: ${where}{found}")
    for name, kind in nested:
        value = data.get(name)
        if isinstance(value, (list, tuple)):
            data = {**data, name: [_sort_keys(kind, v) for v in value]}
        elif value is not None and (inner := _sort_keys(kind, value)) is not value:
            data = {**data, name: inner}
    return data


@cache
def _layout(cls: type) -> tuple[frozenset[str], tuple[str, ...], tuple[tuple[str, type], ...]]:
    """Names of all fields; of those that take any JSON; of those that hold records, and which."""
    names = _fields(cls)
    nested = tuple((name, kind) for name, kind in _NESTED.items() if name in names)
    return frozenset(names), tuple(name for name in names if name in _FREE), nested


def fault(value: Any, depth: int = 100) -> str:
    """Where in a JSON value is something that later code cannot hold, and what; empty if nowhere.

    That is a number that is not finite, an integer over 64 bits, or more than `depth` levels.
    Checked before anything recurses over the value or puts it into an array.
    """
    if isinstance(value, (dict, list)):
        if not depth:
            return " is nested more than 100 levels deep"
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            if not isinstance(item, str) and (found := fault(item, depth - 1)):
                return f".{key}{found}" if isinstance(value, dict) else f"[{key}]{found}"
    elif isinstance(value, float) and not math.isfinite(value):
        return " is not a finite number"
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        return " is an integer of more than 64 bits"
    return ""


class Record:
    """Mixin: the JSON round trip of every record.

    `from_dict(to_dict(x)) == x`, as long as what x keeps in dicts (`goal`, `extra`) is JSON: lists,
    not tuples, and string keys.
    """

    def to_dict(self, *, timing: bool = True) -> dict[str, Any]:
        """A JSON-ready dict; `schema` holds the version that wrote it.

        Args and errors: as `plain`.
        """
        return {"schema": SCHEMA_VERSION, **plain(self, timing=timing)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote, also by an older or newer version.

        Unknown keys are kept in `extra` and written back; missing optional keys take their default.

        Raises:
            DataError: a required field is missing or has the wrong type; names the field.
        """
        if not isinstance(data, Mapping):
            raise DataError(f"not a {cls.__name__} record: a {type(data).__name__}, not an object")
        if type(data.get("schema", 1)) is not int:
            raise DataError(f"not a {cls.__name__} record: Expected `int` - at `$.schema`")
        prepared = _sort_keys(cls, {k: v for k, v in data.items() if k != "schema"})
        try:
            return msgspec.convert(prepared, cls, strict=True)
        except msgspec.ValidationError as exc:
            raise DataError(f"not a {cls.__name__} record: {exc}") from None

    @classmethod
    def from_line(cls, line: bytes) -> tuple[Self, int] | None:
        """(`from_dict` of a JSON line, its schema), in half the time; None if it needs a look.

        That is where keys are unknown, dicts hold what no record can, or anything is wrong.
        """
        names, whole = _decoders(cls)  # type: ignore[arg-type]
        try:
            schema, record = names.decode(line).schema, whole.decode(line)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        played = getattr(record, "rollout", None) or record
        steps = getattr(played, "steps", ())
        extras = [step.extra for step in steps if step.extra]
        extras += [step.usage.extra for step in steps if step.usage and step.usage.extra]
        for owner in (record, played):
            extras += [getattr(owner, name, None) for name in _FREE]
        return None if any(map(fault, extras)) else (record, schema)


@cache
def _decoders(cls: type) -> tuple[Any, Any]:
    """JSON decoders: one for the names of all fields, which refuses others, and the record's."""

    def shape(kind: type, *more: Any) -> Any:
        held: dict[str, Any] = {name: shape(inner) for name, inner in _layout(kind)[2]}
        if "steps" in held:
            held["steps"] = GenericAlias(list, (held["steps"],))
        names = [(n, held[n] | None if n in held else msgspec.Raw, None) for n in _fields(kind)]
        return msgspec.defstruct(kind.__name__, [*names, *more], forbid_unknown_fields=True)

    shaped = shape(cls, ("schema", int, 1))
    return msgspec.json.Decoder(shaped), msgspec.json.Decoder(cls)


def solved(reward: float, threshold: float, error: str = "") -> bool:
    """Whether R reached the threshold and no fault ended the episode; "done" is not "solved"."""
    return not error and reward >= threshold - 1e-9  # rewards are sums of floats


Actor = Literal["teacher", "student", "human"]
"""Who chose an action."""

Label = Literal["beneficial", "harmful", "unknown", "student", "context"]
"""The label that exploration gives an action: see `eeflib.states`."""


@dataclass(frozen=True)
class Usage(Record):
    """What producing a reply cost."""

    prompt_tokens: Int64 = 0
    """Tokens read by the model (0 for scripted policies)."""
    completion_tokens: Int64 = 0
    """Tokens written by the model."""
    cost_usd: Finite | None = None
    """Dollars, where the price is known."""
    seconds: float = 0.0
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
    """The text of the task, as the agent reads it."""
    goal: dict[str, Any] = field(default_factory=dict)
    """What success means, for the environment only; never shown to a policy."""
    seed: Int64 = 0
    """Seed of the environment's own randomness for this task."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Environment settings: catalogue, variation, simplifications, step limit (`max_steps`)."""
    split: str = ""
    """`train`, `validation`, `test` or empty."""
    threshold: Finite = 1.0
    """Reward from which on the task counts as solved."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Keys of other versions, and notes such as the difficulty level (`level`, `skills`)."""

    @property
    def content_hash(self) -> str:
        """Hash of what makes the task the same task: env, instruction, goal, settings, seed."""
        return content_hash([self.env, self.instruction, self.goal, self.settings, self.seed])


@dataclass(frozen=True)
class Step(Record):
    """One decision: the observation, the reply, the result."""

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
    reward: Reward = 0.0
    """Reward of this step, in [0, 1]."""
    score: Finite | None = None
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
    reward: Reward
    """R in [0, 1]."""
    terminated: bool
    """The environment ended the episode."""
    truncated: bool
    """A step or budget limit ended it."""
    threshold: Finite = 1.0
    """The task's `threshold`."""
    seed: Int64 = 0
    """Seed of the rollout's random choices."""
    prompt_hash: str = ""
    """Hash of the prompt format in use, see `eeflib.prompts`."""
    error: str = ""
    """A fault that ended the rollout (provider, environment); empty if none."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Keys of other versions; of an imported one its `format`, its `source`, what else it held."""

    @property
    def solved(self) -> bool:
        """See `solved`; no if nobody knows."""
        return self.rated and solved(self.reward, self.threshold, self.error)

    @property
    def rated(self) -> bool:
        """Whether R is known; not so of some imported episodes, which are no failures either."""
        return not self.extra.get(UNRATED)

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
    k: Int64
    """0 for s0; otherwise the expert state's number, 1..M."""
    t: Int64
    """Teacher actions before the state: the student starts at s_t of the teacher's trajectory."""
    attempt: Int64
    """Rollout number at this state, from 0."""
    teacher_id: str | None = None
    """The teacher trajectory the state belongs to; None for exploration from s0."""
    rollout: Trajectory | None = None
    """The student's own steps from the state on; None if the state could not be restored."""
    restore_mismatch: str = ""
    """Why the state could not be restored; empty if it was verified."""
    iteration: Int64 = 0
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
    """`positive` (a whole solved trajectory), `s0` (initial-state solution), `recovery` (of a
    recovery state), `expert` (of another expert state), `all`; `chosen` and after it `rejected`,
    the better and the worse way on from one state."""
    steps: tuple[Step, ...]
    trained: tuple[bool, ...]
    """Per step: does its action carry loss?"""
    labels: tuple[Label, ...]
    """Per step: the evidence about its action."""
    start: Int64 = 0
    """Index of the important state: everything before it is context."""
    source: str = ""
    """Id of the branch or trajectory this solution came from."""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def hint(self) -> str | None:
        """What is said after the instruction (`eeflib.prompts.HINTS`); None: nothing of its own."""
        return self.extra.get("hint")

    def __post_init__(self) -> None:
        # A flag that slips by one step would train a harmful action.
        if not len(self.steps) == len(self.trained) == len(self.labels):
            raise DataError(
                f"sample {self.id!r} has {len(self.steps)} steps, {len(self.trained)} trained "
                f"flags and {len(self.labels)} labels: there must be one of each per step"
            )


@dataclass(frozen=True)
class Evaluation(Record):
    """How one method did on one task: one line of `evaluations.jsonl`."""

    method: str
    """Name of the method, e.g. `EEF`."""
    seed: Int64
    """Seed of the run the student was trained in."""
    iteration: Int64
    """Fine-tuning iteration of the student, 0 = behaviour cloning."""
    task_id: str
    task_hash: str
    """`Task.content_hash`: what makes two methods comparable."""
    split: str
    """`train`, `validation` or `test`."""
    level: str
    """Difficulty level of the task; empty if it has none."""
    reward: Reward
    """R in [0, 1]."""
    threshold: Finite = 1.0
    """Reward from which on the task is solved."""
    length: Int64 = 0
    """Number of actions."""
    invalid: Int64 = 0
    """Number of actions that parser or environment did not understand."""
    error: str = ""
    """A fault that ended the rollout; such an evaluation counts as not solved."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Keys of other versions."""

    @property
    def solved(self) -> bool:
        """See `solved`."""
        return solved(self.reward, self.threshold, self.error)


_FREE = ("goal", "settings", "extra")
"""Fields of any record that take any JSON object."""

_NESTED: dict[str, type[Record]] = {"usage": Usage, "steps": Step, "rollout": Trajectory}
"""Fields of any record that hold records."""


def split_order(names: Iterable[str]) -> list[str]:
    """Names of splits in the order they are drawn: train, validation, test, others by name."""
    known = {name: at for at, name in enumerate(SPLITS)}
    return sorted(names, key=lambda name: (known.get(name, len(known)), name))


def episode_rng(seed: int, *parts: str | int) -> np.random.Generator:
    """A generator for (seed, *parts): the same on every machine, unrelated for other parts.

    The number 1 and the text "1" are different parts, and ("ab", "c") differs from ("a", "bc").
    """
    digest = hashlib.sha256(canonical_json([seed, *parts]).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype="<u4").tolist())
