"""The checks about episodes: the contract of reset and step, the end, state keys, two at once.

Owns what METHOD and `eeflib.rollout` take for granted of every step. Knows nothing about how an
environment works inside, nor about reports.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from numbers import Real

from eeflib.envs.base import Observation, StepResult, TextEnv
from eeflib.envs.conformance_play import (
    Broken,
    Caught,
    Seen,
    Walk,
    difference,
    play,
    require,
    wander,
)
from eeflib.envs.conformance_subject import NotLooked, Subject
from eeflib.errors import EefError
from eeflib.records import Task

__all__ = [
    "check_result",
    "contract",
    "ending",
    "reset_anywhere",
    "same_again",
    "state_keys",
    "two_environments",
]

_MANY_STEPS = 200


def contract(subject: Subject) -> str:
    """Types and ranges of all that reset and step give; a step before reset is told."""
    subject.close()
    env = subject.env()
    require(isinstance(env, TextEnv), "it lacks a method or the name of eeflib.envs.base.TextEnv")
    with Caught() as caught:
        env.step("look")
    require(
        isinstance(caught.error, EefError),
        f"step before reset must raise EnvironmentFault('... call reset(task) first'), not "
        f"{caught or 'answer'}",
    )
    for task in subject.tasks:
        require(env.name == task.env, f"name is {env.name!r}, task.env {task.env!r}")
        first = env.reset(task)
        require(isinstance(first, Observation), f"reset gave a {type(first).__name__}")
        require(isinstance(first.text, str), f"the first text is a {type(first.text).__name__}")
    count = 0
    for walk in subject.recorded:
        first = env.reset(walk.task)
        keyed = bool(first.info.get("state_key"))
        for t, action in enumerate(walk.actions):
            check_result(env.step(action), keyed, f"{walk.task.id}, step {t}, {action!r:.60}")
            count += 1
    return f"{count} steps"


def check_result(result: StepResult, keyed: bool, where: str) -> None:
    """Types and ranges of one StepResult; `keyed`: whether its states have keys."""
    require(isinstance(result, StepResult), f"{where}: step gave a {type(result).__name__}")
    require(isinstance(result.text, str), f"{where}: the text is a {type(result.text).__name__}")
    _unit(result.reward, f"{where}: reward")
    for name in ("terminated", "truncated"):
        value = getattr(result, name)
        require(isinstance(value, bool), f"{where}: {name} is {value!r}, not a bool")
    info = result.info
    require(isinstance(info.get("valid"), bool), f"{where}: info['valid'] must be a bool")
    if "score" in info:
        _unit(info["score"], f"{where}: info['score']")
    key = info.get("state_key", "")
    require(isinstance(key, str), f"{where}: info['state_key'] is not a text")
    require(bool(key) == keyed, f"{where}: info['state_key'] comes in some states only")


def _unit(value: object, what: str) -> None:
    fine = isinstance(value, Real) and not isinstance(value, bool)
    require(fine and 0.0 <= float(value) <= 1.0, f"{what} is {value!r}, not in [0, 1]")  # type: ignore[arg-type]


def ending(subject: Subject) -> str:
    """It is won if the reward says so, and it stays over: no error, no life, no more reward."""
    ended = 0
    for number, task in enumerate(subject.tasks):
        env, last = subject.env(), None
        for state in _to_the_end(subject, task, number):
            last = state
        if last is None or not last.over:
            continue
        ended += 1
        solved = last.reward >= task.threshold - 1e-9
        require(
            last.won in (None, solved),
            f"{task.id}: ends with reward {last.reward} (solved from {task.threshold} on) and "
            f"info['won'] = {last.won!r}",
        )
        for action in ("look", *(env.valid_actions() or [])[:1], ""):
            with Caught() as caught:
                result = env.step(action)
            require(not caught.error, f"{task.id}: step({action!r}) after the end raised {caught}")
            after = Seen.of(result)
            require(after.over, f"{task.id}: step({action!r}) after the end revives the episode")
            require(after.valid is False, f"{task.id}: after the end {action!r} counts as valid")
            require(after.reward <= last.reward, f"{task.id}: reward {after.reward} after the end")
    if not ended:
        raise NotLooked(
            "no episode came to an end; pass endings={task.id: [actions that end it]}, or tasks "
            "whose settings['max_steps'] the environment obeys"
        )
    return f"{ended} ended episodes"


def _to_the_end(subject: Subject, task: Task, number: int) -> Iterator[Seen]:
    env = subject.env()
    if task.id in subject.endings:
        yield from play(env, task, subject.endings[task.id])
        return
    short = replace(task, settings={**task.settings, "max_steps": 3})
    rng = subject.rng(f"end {number}")
    yield from wander(env, short, _MANY_STEPS, rng, subject.propose).seen


def reset_anywhere(subject: Subject) -> str:
    """A reset in the middle of an episode is as good as one in a new environment."""
    recorded = subject.recorded[0]
    subject.close()
    env, count = subject.env(), 0
    again = play(env, recorded.task, recorded.actions)
    same_again(again, recorded, "in a new environment")
    for walk in subject.recorded:
        for t in range(0, len(walk.actions) + 1, 3):
            for _ in play(env, walk.task, walk.actions[:t]):
                pass
            same_again(play(env, walk.task, walk.actions[:3]), walk, f"after a reset at step {t}")
            count += 1
    return f"{count} resets"


def same_again(again: Iterator[Seen], walk: Walk, when: str) -> None:
    for t, (a, b) in enumerate(zip(walk.seen, again, strict=False)):
        differs = difference(a, b)
        require(not differs, f"{walk.task.id}, s_{t}, {when}: {differs}")


def two_environments(subject: Subject) -> str:
    """Two environments, stepped in turn, do not disturb each other and see the same."""
    a, b = subject.env(0), subject.env(1)
    if a is b and getattr(a, "max_parallel", None) == 1:
        raise NotLooked("make_env gives one environment again and again (max_parallel = 1)")
    if a is b:
        raise Broken("make_env gives the same environment twice; build a new one each time")
    count = 0
    walks = subject.recorded
    for walk, other in zip(walks, [*walks[1:], walks[0]], strict=True):
        for pair in ((walk, walk), (walk, other)):
            one = play(a, pair[0].task, pair[0].actions, look=True)
            two = play(b, pair[1].task, pair[1].actions, look=True)
            for t in range(max(len(pair[0].seen), len(pair[1].seen))):
                for who, recorded, seen in ((1, pair[0], one), (2, pair[1], two)):
                    state = next(seen, None)
                    if state is not None:
                        differs = difference(recorded.seen[t], state)
                        where = f"{recorded.task.id}, s_{t}, environment {who} of two"
                        require(not differs, f"{where}: {differs}")
                        count += 1
    return f"{count} states"


def state_keys(subject: Subject) -> str:
    """Equal for equal states, different for states in which different actions are valid."""
    if not subject.recorded[0].seen[0].state_key:
        return "there are none"
    env, other, equal, told_apart = subject.env(0), subject.env(1), 0, 0
    for walk in subject.recorded:
        for t, (a, b) in enumerate(
            zip(walk.seen, play(other, walk.task, walk.actions), strict=True)
        ):
            where = f"{walk.task.id}, s_{t}"
            require(a.state_key == b.state_key, f"{where}: another environment gives another key")
            equal += 1
        known: dict[str, tuple[int, Seen]] = {}
        for t, state in enumerate(walk.seen[: walk.states]):
            before, same = known.setdefault(state.state_key, (t, state))
            differs = same.actions != state.actions
            require(not differs, f"{walk.task.id}: s_{before} and s_{t} share a key, and differ")
        told_apart += len(known)
        for _ in play(env, walk.task, walk.actions[: min(2, walk.states - 1)]):
            pass
        idle = [Seen.of(env.step("no such action, for certain"), env.valid_actions()) for _ in "ab"]
        if not idle[1].over and idle[1].valid is False:
            one, two = (replace(s, state_key="") for s in idle)
            counted = one == two and idle[0].state_key != idle[1].state_key
            why = "the key changes though nothing did (does it count steps?)"
            require(not counted, f"{walk.task.id}: {why}")
    require(told_apart > len(subject.recorded), "all states of a walk have the same key")
    return f"{equal} equal, {told_apart} told apart"
