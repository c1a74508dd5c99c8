"""The checks about restoring: exact where the prefix is right, told where it is wrong.

Owns what METHOD asks of a restored state: observation by observation the recorded one, and what
follows from it the same. Knows nothing about how an environment restores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from eeflib.envs.base import Restored, TextEnv
from eeflib.envs.conformance_play import Caught, Seen, Walk, difference, require
from eeflib.envs.conformance_subject import Subject
from eeflib.records import Step, Task

__all__ = ["mismatch", "restore"]


def restore(subject: Subject, refused: float = 0.0) -> str:
    """At every depth of the walks: the recorded state, its actions, and what follows from it.

    With the recorded state keys and without them: an environment may take a short cut by the keys.

    Args:
        refused: share of states that the environment may refuse (`ok` false, with `detail`).
    """
    env, count, refusals, reasons = subject.env(1), 0, 0, ""
    for walk in subject.recorded:
        keyed = walk.steps
        bare = tuple(replace(s, state_key="") for s in keyed)
        for t in range(walk.states):
            for steps in (keyed, bare) if t else (keyed,):
                where = f"{walk.task.id}, s_{t}"
                restored = env.restore(walk.task, steps[:t], walk.seen[t].text)
                require(isinstance(restored, Restored), f"{where}: restore must give a Restored")
                count += 1
                if not restored.ok:
                    refusals += 1
                    reasons = reasons or f"{where}: {restored.detail or 'no detail given'}"
                    continue
                require(restored.text == walk.seen[t].text, f"{where}: ok, but with another text")
                _same_actions(env, walk.seen[t], where)
                _goes_on(env, walk, t, where)
    require(refusals <= refused * count, f"{refusals} of {count} states refused; {reasons}")
    return f"{count - refusals} of {count} states" + (f"; {reasons}" if refusals else "")


def _same_actions(env: TextEnv, recorded: Seen, where: str) -> None:
    here = env.valid_actions()
    now = replace(recorded, actions=None if here is None else tuple(here))
    differs = difference(recorded, now)
    require(not differs, f"{where}: restored, but {differs}")


def _goes_on(env: TextEnv, walk: Walk, t: int, where: str) -> None:
    """Play the rest: all of it from the depths 0, 4, 8, ..., elsewhere one action."""
    end = None if t % 4 == 0 else t + 1
    for i, action in list(enumerate(walk.actions))[t:end]:
        differs = difference(walk.seen[i + 1], Seen.of(env.step(action)))
        require(not differs, f"{where}: going on from it, s_{i + 1} is another: {differs}")


def mismatch(subject: Subject) -> str:
    """A prefix that is not what happened: `ok` false and the place, never an exception."""
    env, count = subject.env(), 0
    for walk in subject.recorded:
        if walk.states < 2:
            continue
        for t, lies in _lies(walk):
            for steps in (lies, tuple(replace(s, state_key="") for s in lies)):
                where = f"{walk.task.id}, {len(steps)} steps, s_{t} changed"
                _told(env, walk.task, steps, None, where, t)
                count += 1
        steps, end = walk.steps[: walk.states - 1], walk.seen[walk.states - 1].text
        where = f"{walk.task.id}, another text expected"
        _told(env, walk.task, steps, end + " ", where, len(steps))
        count += 1 + _odd(env, walk, steps)
    require(count > 0, "no walk has two states: raise depth")
    walk = subject.recorded[0]
    for t, state in enumerate(walk.seen[: walk.states]):
        restored = env.restore(walk.task, walk.steps[:t], state.text)
        require(restored.ok or t > 0, f"after wrong prefixes s_{t} is refused: {restored.detail}")
    return f"{count} wrong prefixes"


def _lies(walk: Walk) -> list[tuple[int, tuple[Step, ...]]]:
    """The prefix of a walk's last state with one observation changed: first, middle, last."""
    steps, found = walk.steps[: walk.states - 1], []
    for t in sorted({0, len(steps) // 2, len(steps) - 1}):
        changed = replace(steps[t], observation=steps[t].observation + " and a lie")
        found.append((t, (*steps[:t], changed, *steps[t + 1 :])))
    return found


def _told(
    env: TextEnv, task: Task, steps: Sequence[Step], expected: str | None, where: str, at: int
) -> None:
    with Caught() as caught:
        restored = env.restore(task, steps, expected)
    require(not caught.error, f"{where}: restore raised {caught}; it must give Restored(False)")
    require(not restored.ok, f"{where}: restore says ok: it does not compare with the record")
    require(
        restored.first_mismatch == at,
        f"{where}: first_mismatch is {restored.first_mismatch}, not {at}",
    )


def _odd(env: TextEnv, walk: Walk, steps: Sequence[Step]) -> int:
    """Prefixes no environment can have recorded: any answer but an exception, and not `ok`."""
    task: Task = walk.task
    over = walk.seen[-1].over
    endless = [*walk.steps, Step(walk.seen[-1].text, "look", "teacher")]
    hostile = [replace(s, action="\udcff" * 99, observation=s.observation + "\x00") for s in steps]
    cases = [("hostile actions", hostile)] + ([("steps after the end", endless)] if over else [])
    for what, odd in cases:
        with Caught() as caught:
            restored = env.restore(task, odd)
        require(not caught.error, f"{task.id}, {what}: restore raised {caught}")
        require(not restored.ok, f"{task.id}, {what}: restore says ok")
    return len(cases)
