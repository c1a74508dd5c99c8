"""Anyone's trajectories as eeflib's: ETO, AgentTraj, OpenAI messages, page logs and others.

Import `read_trajectories` to hold them in a list, `stream_trajectories` where they are too many.
What tells a format and how its rows come into a common shape is `eeflib.interop.formats`'s, how
files are opened `eeflib.interop.sources`'s, how a run is made of them `eeflib.interop.imported`'s.
Of a row in the common shape `_FIELDS` names what is looked for; everything else stays in `extra`.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from eeflib.errors import DataError, PrerequisiteError
from eeflib.interop.formats import FORMATS, OWN, visits
from eeflib.interop.sources import ImportReport, Row, Rows, files_of, rows_of, short_json
from eeflib.prompts import parse_reply, split_reasoning
from eeflib.records import UNRATED, Actor, Step, Trajectory, Usage, content_hash

Reader = Callable[[Row], Row | None]
"""A row of a file -> a row in the common shape, such as `{"messages": [{"role": "user", "content":
...}, ...], "reward": 0.5, "model": "gpt-4"}`; None for a row that is no episode."""

_WINDOW = 256
"""Episodes looked at before it is settled whether a reward of 1 is 1 or 1 %."""

_FIELDS = {
    "messages": ("messages", "conversations", "conversation", "trajectory", "history", "turns"),
    "id": ("id", "item_id", "trajectory_id", "session_id", "uid", "example_id"),
    "task_id": ("task_id",),
    "env": ("env", "environment", "env_name"),
    "instruction": ("instruction", "question", "query", "task_description"),
    "model": ("model", "model_name", "llm_name", "llm", "policy", "agent", "engine", "generator"),
    "reward": ("reward", "final_reward", "score", "success", "won"),
    "error": ("error", "exception"),
    "terminated": ("terminated", "finished", "done"),
    "truncated": ("truncated",),
    "threshold": ("threshold",),
}
"""What is looked for -> its names, the first that is there counts; also in `_INNER`."""
_INNER = ("info", "meta", "metadata")
_TYPES: dict[str, tuple[type, ...]] = {
    "messages": (list, str), "terminated": (bool,), "truncated": (bool,), "threshold": (int, float),
    "reward": (bool, int, float, str), "error": (str, dict, list),
}  # fmt: skip
"""Types that a field may have; text or a whole number, where nothing is said."""

_ROLES = {
    name: role
    for role, names in (
        ("system", "system developer"),
        ("user", "user human environment env observation tool function ipython"),
        ("agent", "assistant gpt agent ai model bot chatgpt function_call"),
    )
    for name in names.split()
}
_TRAINED = ("loss", "train", "trainable", "loss_mask", "weight")
"""Names under which trainers keep a flag for each message."""
_READY = re.compile(
    r"\W*(?:ok(?:ay)?|sure|understood|got it|yes|alright|i understand)\b", re.IGNORECASE
)
_TURN = re.compile(r"now,? it'?s your turn[^\n]*\n", re.IGNORECASE)
_SEEN = re.compile(r"\s*Observation\s*:[ \t]*\n?", re.IGNORECASE)
_WANTED = (
    re.compile(r"Instruction:\s*(?:\[SEP\]\s*)?(.+?)\s*(?:\[SEP\]|\[button\]|\n|$)"),
    re.compile(r"(Your task is to\b:?[^\n]+)", re.IGNORECASE),
)
_ARGUMENTS = re.compile(r"(\w+)\s*[\[(]\s*(\{.*\})\s*[\])]\.?", re.DOTALL)
_OWN_NAMES = ("search", "click", "think", "finish")
_SHOP = re.compile(r"(?:search|click)\[.*\]", re.IGNORECASE | re.DOTALL)
_ENVS = {"sciworld": "scienceworld", "science_world": "scienceworld"}
_KNOWN_ENVS = re.compile(
    r"webshop|science_?world|sciworld|alfworld|textworld|babyai", re.IGNORECASE
)


class Imported(list[Trajectory]):
    """Trajectories in the order of the files; `report` says what was read, skipped and assumed."""

    def __init__(self, found: Iterable[Trajectory], report: ImportReport) -> None:
        super().__init__(found)
        self.report = report


def read_trajectories(
    path: str | Path | Sequence[str | Path], *, reader: Reader | None = None
) -> Imported:
    """Every episode of a file, a folder (with what is in it) or several of these.

    An episode that a fault of its harness ended has `error` set. A reward that is not known is no
    reward of 0: `rated` is False, and the analysis counts it nowhere. The model is `policy`; the
    format, the place in the file, and every field that is not understood are in `extra`.

    Args:
        reader: for a format of one's own, see `Reader`.

    Raises:
        DataError: there is no such file, or nothing in it is an episode; names the keys seen.
        PrerequisiteError: nothing could be read without a package that is not installed.
    """
    report = ImportReport()
    return Imported(stream_trajectories(path, report, reader=reader), report)


def stream_trajectories(
    path: str | Path | Sequence[str | Path], report: ImportReport, *, reader: Reader | None = None
) -> Iterator[Trajectory]:
    """As `read_trajectories`, one by one, in memory that does not grow with the files.

    Args:
        report: is filled while reading.
    """
    paths = [path] if isinstance(path, (str, Path)) else path
    missing: list[PrerequisiteError] = []

    def drafts() -> Iterator[_Draft]:
        for one in paths:
            for file, name in files_of(Path(one), report):
                source = _Source(file, name, report)
                try:
                    rows = rows_of(file, name, report)
                    yield from _drafts(visits(rows) if reader is None else rows, source, reader)
                except PrerequisiteError as exc:
                    missing.append(exc)
                    report.skip("takes a package that is not installed", name, str(exc))

    read = report.read
    every, names = drafts(), _Names(report)
    percent: dict[tuple[str, ...], bool] = {}
    while window := list(itertools.islice(every, _WINDOW)):
        for d in window:
            if d.raw is not None and d.raw > 1:
                percent[d.group] = True
        for d in window:
            trajectory = names.unique(d.trajectory, d.place)
            if d.raw == 1 and percent.get(d.group):
                extra = {**trajectory.extra, "raw_reward": 1.0}
                trajectory = replace(trajectory, reward=0.01, extra=extra)
            report.read += 1
            report.formats[str(trajectory.extra["format"])] += 1
            report.faults += bool(trajectory.error)
            report.unrated += not trajectory.rated
            yield trajectory
    if report.read == read and missing:
        raise missing[0]
    if report.read == read:
        raise DataError(_nothing(report, paths))


def _nothing(report: ImportReport, paths: Sequence[str | Path]) -> str:
    named = ", ".join(Path(p).name for p in paths)
    if report.unknown:
        keys, place = next(iter(report.unknown.items()))
        return (
            f"{place}: no reader knows a row with the keys {keys}. Write one:\n"
            "    def reader(row):\n"
            '        turns = [{"role": t["speaker"], "content": t["text"]} for t in row["turns"]]\n'
            '        return {"messages": turns, "reward": row["points"], "model": row["by"]}\n'
            f'    eef.read_trajectories("{named}", reader=reader)\n'
            "(roles are system, user and assistant; None for a row that is no episode)"
        )
    why = "; ".join(f"{reason}: {n.first}" for reason, n in report.skipped.items())
    return f"{named}: no episode in it: {why or 'no file to read'}"


@dataclass
class _Source:
    """A file while it is read."""

    file: Path
    name: str
    report: ImportReport
    at: int = 0


class _Draft(NamedTuple):
    trajectory: Trajectory
    raw: float | None
    """The reward as it stands in the file, where that may be per cent."""
    group: tuple[str, ...]
    """Whose rewards are on one scale."""
    place: str


@dataclass
class _Names:
    """Ids given so far: an id stands for one episode, a task's for one instruction."""

    report: ImportReport
    given: dict[str, int] = field(default_factory=dict)
    tasks: dict[str, str] = field(default_factory=dict)

    def unique(self, t: Trajectory, place: str) -> Trajectory:
        """`t`, with ids of its own."""
        about = content_hash([t.env, t.instruction])
        task = t.task_id or f"{t.env}-{about[:8]}"
        if self.tasks.setdefault(task, about) != about:
            self.report.note("the id of another task: its own was given a suffix", place)
            task = f"{task}-{about[:8]}"
            self.tasks[task] = about
        name = t.id
        while name in self.given:
            self.given[t.id] += 1
            name = f"{t.id}#{self.given[t.id]}"
        if name != t.id:
            self.report.note("an id that occurs twice: kept apart as ID#2", place)
        self.given[name] = 1
        return t if (task, name) == (t.task_id, t.id) else replace(t, id=name, task_id=task)


def _drafts(rows: Rows, source: _Source, reader: Reader | None) -> Iterator[_Draft]:
    """The episodes of a file's rows; what is none goes to the report."""
    skip = source.report.skip
    for place, row in rows:
        source.at += 1
        try:
            if reader is not None:
                if (shaped := reader(row)) is None:
                    skip("no episode, says the reader", place)
                else:
                    yield _episode(shaped, "own reader", place, source)
                continue
            form = next((f for f in FORMATS if all(k in row for k in f.keys.split())), None)
            if form is None:
                keys = ", ".join(sorted(row)[:12]) or "(none)"
                if not source.report.unknown:
                    source.report.unknown[keys] = place
                skip(f"no reader knows these keys: {keys:.120}", place)
            elif form.name == OWN:
                found = Trajectory.from_dict(row)
                extra = {"format": OWN, "source": place, **found.extra}
                yield _Draft(replace(found, extra=extra), None, (), place)
            else:
                for shaped in form.read(row):
                    if "again" in shaped:
                        yield from _drafts(iter([(place, shaped["again"])]), source, None)
                    else:
                        yield _episode(shaped, form.name, place, source)
        except _NoEpisode as exc:
            skip(str(exc), place)
        except (DataError, LookupError, TypeError, AttributeError, ValueError) as exc:
            skip("not built as its format is", place, f"{type(exc).__name__}: {exc}"[:200])


class _NoEpisode(Exception):
    """A row that is no episode; the message says why."""


# -- the common shape -----------------------------------------------------------------------------


def _look(holders: Sequence[Row], name: str) -> tuple[Any, str]:
    """(value, key in the first holder that has it, else empty) of the first name that is there."""
    wanted = _TYPES.get(name, (str, int))
    for holder in holders:
        for key in _FIELDS[name]:
            if key not in holder:
                continue
            value, at = holder[key], key if holder is holders[0] else ""
            if isinstance(value, wanted):
                return value, at
            if name == "reward" and value is None:
                return None, at
    return None, ""


def _episode(row: Row, form: str, place: str, source: _Source) -> _Draft:
    """A row in the common shape as a trajectory."""
    holders = [row, *(row[k] for k in _INNER if isinstance(row.get(k), dict))]
    found = {name: _look(holders, name) for name in _FIELDS}
    value = {name: what for name, (what, _) in found.items()}
    used = {key for _, key in found.values()} | {"example", "percent", "actor"}
    extra = {k: v for k, v in row.items() if k not in used and v is not None}
    turns = _turns(value["messages"])
    flags = [t.extra[k] for t in turns if t.extra for k in _TRAINED if k in t.extra]
    if any(flag is not None for flag in flags):
        extra["trained_flags"] = flags
    error = _fault(value["error"])
    turns, told = _without_preamble(turns, bool(row.get("example")), source.report, place)
    if told:
        extra["system"] = told
    if extra.get("actions") == "inferred":
        source.report.note("actions inferred from a log of pages", place)
    steps, last = _steps(turns, row.get("actor", "teacher"))
    if not steps and not error:
        raise _NoEpisode("no reply of an agent in it")
    first = steps[0].observation if steps else last
    env = _env(value, steps, first, source)
    reward, raw = _reward(value["reward"], row.get("percent", True), extra)
    bought = any(step.action.lower() == "click[buy now]" for step in steps[-2:])
    name = source.file.name.split(".")[0]
    if form != "eto roll-out" and place != source.name:  # else the file is the episode
        name += f"-{source.at - 1}"
    trajectory = Trajectory(
        id=name if value["id"] is None else str(value["id"]),
        task_id=str(next((value[k] for k in ("task_id", "id") if value[k] is not None), "")),
        env=env,
        instruction=_instruction(value["instruction"], first),
        policy=_model(value["model"], source.file),
        steps=steps,
        final_observation=last,
        reward=reward,
        terminated=bool(value["terminated"]) if value["terminated"] is not None else bought,
        truncated=bool(value["truncated"]),
        threshold=float(value["threshold"] or 1.0),
        error=error,
        extra={"format": form, "source": place, **extra},
    )
    group = (str(source.file.parent), form, env)
    return _Draft(trajectory, raw, group, place)


def _fault(error: Any) -> str:
    """What a fault says, as text; of several the last."""
    if isinstance(error, list):
        error = error[-1] if error else ""
    if isinstance(error, dict):
        said = [str(error[k]) for k in ("type", "message") if error.get(k)]
        error = ": ".join(said) or (short_json(error) if error else "")
    return str(error or "")[:2000]


@dataclass(slots=True)
class _Message:
    role: str
    text: str
    extra: Row


def _turns(messages: Any) -> list[_Message]:
    if messages is None:
        raise _NoEpisode("no conversation in it (null)")
    out = []
    for message in json.loads(messages) if isinstance(messages, str) else messages:
        if isinstance(message, str):
            raise _NoEpisode("messages that are plain texts: who says what is not known")
        who = "role" if message.get("role") else "from"
        what = "value" if message.get("content") is None else "content"
        role = _ROLES.get(str(message.get(who)).lower())
        if role is None:
            raise _NoEpisode(f"a role that is not known: {message.get(who)!r}")
        rest = {k: v for k, v in message.items() if k not in (who, what)}
        out.append(_Message(role, _text(message.get(what)), rest))
    return out


def _text(content: Any) -> str:
    """The text of a message: content may be null, a text, or a list of parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, dict):
        content = [content]
    parts = [
        p if isinstance(p, str) else p.get("text") or p.get("content") or
        ("" if p.get("type") == "reasoning" else f"[{p.get('type', 'part')}]")
        for p in content
    ]  # fmt: skip
    return "\n".join(_text(p) for p in parts if p)


def _without_preamble(
    turns: list[_Message], example: bool, report: ImportReport, place: str
) -> tuple[list[_Message], str]:
    """(turns from the task on, what an agent is told before): by content, never by position.

    The task begins at the turn that says so; else, where an example may stand before it, at the
    last turn that is no observation among observations, or that first has the last instruction;
    else after the first turn, if all that is answered to it is "OK".
    """
    system = [turn.text for turn in turns if turn.role == "system"]
    turns = [turn for turn in turns if turn.role != "system"]
    start = 0
    if len(turns) > 2 and [t.role for t in turns[:2]] == ["user", "agent"]:
        answer = turns[1].text
        if _READY.match(answer) and len(answer) < 200 and "action" not in answer.lower():
            system.append(turns[0].text)
            start = 2
    users = [i for i, t in enumerate(turns) if t.role == "user" and i >= start]
    said = [i for i in users if "your turn" in turns[i].text and _TURN.search(turns[i].text)]
    if said:
        begin = said[-1]
        before, task = _TURN.split(turns[begin].text, maxsplit=1)
        system.append(before)
        turns[begin] = replace(turns[begin], text=task)
    elif example:
        seen = [bool(_SEEN.match(turns[i].text)) for i in users]
        fresh = [i for i, is_seen in zip(users, seen, strict=True) if not is_seen]
        wanted = [(i, _found(turns[i].text)) for i in users]
        named = [(i, text) for i, text in wanted if text]
        begin = next((i for i, text in named if text == named[-1][1]), start)
        begin = max(begin, fresh[-1]) if any(seen) and fresh else begin
    else:
        begin = start
    if begin > start:
        report.note("a worked example before the task: left out", place)
    return turns[begin:], "\n\n".join(part for part in map(str.strip, system) if part)


def _found(text: str) -> str:
    """The instruction that a text states; empty if it states none."""
    for pattern in _WANTED:
        if match := pattern.search(text):
            return match[1].strip()
    return ""


def _instruction(given: Any, first: str) -> str:
    text = str(given) if given is not None else first
    return _found(text) or text.strip()


def _steps(turns: Sequence[_Message], actor: Actor) -> tuple[tuple[Step, ...], str]:
    """(a step for each of the agent's turns, the last observation)."""
    replies = [t.text for t in turns if t.role == "agent"]
    labelled = any("action" in text.lower() and parse_reply(text).valid for text in replies[:8])
    steps: list[Step] = []
    shown: list[str] = []
    about: Row = {}
    for turn in turns:
        if turn.role == "user":
            shown.append(_SEEN.sub("", turn.text, count=1) if _SEEN.match(turn.text) else turn.text)
            if turn.extra:
                kept = turn.extra.items()
                about |= {k: v for k, v in kept if v is not None and k not in _TRAINED}
            continue
        step = _step("\n".join(shown), turn, labelled, actor)
        if about:
            step.extra["observed"] = about
        steps.append(step)
        shown, about = [], {}
    return tuple(steps), "\n".join(shown)


def _step(seen: str, turn: _Message, labelled: bool, actor: Actor) -> Step:
    if not turn.extra:
        thought, action, valid, reason = parse_reply(turn.text, thoughts=labelled)
        return Step(seen, _plain_action(action), actor, turn.text, thought, valid, reason)
    extra = {k: v for k, v in turn.extra.items() if v is not None}
    calls = extra.get("tool_calls") or [extra[k] for k in ("function_call",) if k in extra]
    musing = extra.get("reasoning_content") or extra.get("reasoning") or ""
    musing = musing if isinstance(musing, str) else ""
    for name in _TRAINED:
        if name in extra:
            extra["trained"] = bool(extra[name])
    usage = None
    if isinstance(counted := extra.get("metrics"), dict):  # of ATIF
        types = {"prompt_tokens": int, "completion_tokens": int, "cost_usd": float}
        usage = Usage(**{k: counted[k] for k, t in types.items() if type(counted.get(k)) is t})
    if calls and isinstance(calls, list):
        action = "; ".join(_call(call) for call in calls)
        thought = split_reasoning(turn.text)[1].strip() or musing
        return Step(seen, action, actor, turn.text, thought, usage=usage, extra=extra)
    thought, action, valid, reason = parse_reply(turn.text, thoughts=labelled)
    plain, said = _plain_action(action), thought or musing
    return Step(seen, plain, actor, turn.text, said, valid, reason, usage=usage, extra=extra)


def _call(call: Any) -> str:
    """A tool call as an action, of OpenAI, verifiers, Inspect or ATIF."""
    inner = call.get("function") if isinstance(call.get("function"), dict) else call
    name = inner.get("name") or inner.get("function_name") or inner.get("function")
    arguments = inner.get("arguments") or {}
    return _plain_action(f"{name}({short_json(arguments)})")


def _plain_action(action: str) -> str:
    """`search[{"product": "x"}]` -> `search[x]`; a call with other arguments stays one."""
    match = _ARGUMENTS.fullmatch(action) if "{" in action else None
    if match is None:
        return action
    try:
        arguments = json.loads(match[2])
    except ValueError:
        return action
    name = match[1].lower() if match[1].lower() in _OWN_NAMES else match[1]
    values = list(arguments.values())
    one = len(values) == 1 and isinstance(values[0], (str, int, float))
    bracket = "[" in action[: match.start(2)] or name in _OWN_NAMES
    return f"{name}[{values[0]}]" if one and bracket else action


def _env(value: Row, steps: Sequence[Step], first: str, source: _Source) -> str:
    """The environment: as said, as an id or a path begins, or as actions and texts show it."""
    given = value["env"] if isinstance(value["env"], str) else ""
    item = str(value["id"] or "")
    begin = re.fullmatch(r"([A-Za-z][A-Za-z_]*?)[_-]\d+", item)
    named = _KNOWN_ENVS.search(given or item or "")
    if named is None and not given:
        named = _KNOWN_ENVS.search("/".join(source.file.parts[-3:]))
    if any(_SHOP.fullmatch(s.action) for s in steps[:4]) or "Instruction: [SEP]" in first:
        return "webshop"
    if named:
        return _ENVS.get(named[0].lower(), named[0].lower())
    return given or (begin[1].lower() if begin else "unknown")


def _model(value: Any, file: Path) -> str:
    if isinstance(value, str) and value:
        return value
    parts = file.parts
    if "outputs" in parts[:-2]:  # where ETO writes: outputs/MODEL/TASK/ID.json
        return parts[parts.index("outputs") + 1]
    return "unknown model"


def _reward(value: Any, percent: bool, extra: Row) -> tuple[float, float | None]:
    """(R in [0, 1], the file's number if it may be per cent); notes in `extra` what it changed."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    if value is None or value != value or (percent and value > 100):
        extra[UNRATED] = True
        return 0.0, None
    raw = float(value)
    reward = raw / 100 if percent and raw > 1 else min(1.0, max(0.0, raw))
    if reward != raw:
        extra["raw_reward"] = raw
    return max(0.0, reward), raw if percent and not isinstance(value, bool) else None
