"""What others built around WebShop, for the comparison with recordings of it (`tests.parity`).

The history text and the session-less resets of the official environment, the scoring of ETO's
wrapper, AgentGym's reply parser and the classes of sizes (which no reward uses), each with its
quirks. Sources: princeton-nlp/WebShop commit
64fa2a5, Yifan-Song793/ETO commit a2fc5da, WooooDyy/AgentGym commit 3ef9235.
"""

from __future__ import annotations

import bisect
import random
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from eeflib.envs.webshop.env import WebShopEnv
from eeflib.records import Task

_SIZE_WORDS = """
    xx-large|3x-large|4x-large|5x-large|x-large|x-small|medium|large|small|queen|twin|full|king|
    one size|pack
"""
_SIZE_SHAPES = r"""
    (.*)neck(.*)sleeve
    (.*) women \| (.*) men
    (.*)w x(.*)l
    (.*)w by (.*)l
    (.*)w x(.*)h
    (.*)wide
    (.*)x-wide
    (.*)narrow
    (.*)petite
    (.*)inch
    (.*)plus
    (.*)mm
    women(.*)
    (.*)x(.*)
    (.*)ft
    (.*)feet
    (.*)meter
    (.*)yards
    (.*)\*(.*)
    (.*)\-(.*)
    (\d+)"$
    (\d+)f$
    (\d+)m$
    (\d+)cm$
    (\d+)g$
"""
_SIZES = tuple(
    re.compile(text.strip())
    for text in [*_SIZE_WORDS.split("|"), *_SIZE_SHAPES.strip().splitlines()]
)

_NO_ACTION = "Observation: Invalid format. The input must contains 'Action: '"


def size_pattern(value: str) -> str:
    """The official class of a size value: a pattern, `numeric_size` or `not_matched`."""
    hit = next((p.pattern for p in _SIZES if p.search(value)), None)
    if hit is not None:
        return hit
    return "numeric_size" if value.replace(".", "", 1).isdigit() else "not_matched"


def joined_history(
    observations: Sequence[str], actions: Sequence[str], keep_obs: int, keep_actions: int
) -> str:
    """The text that the official environment returns when asked to repeat its past.

    Args:
        observations: all so far, the current one last.
        actions: all so far.
        keep_obs, keep_actions: how many earlier observations and actions to put in front.
    """
    parts = [observations[-1]]
    for i in range(1, 1 + max(keep_obs, keep_actions)):
        if i <= keep_actions and i <= len(actions):
            parts.append(actions[-i])
        if i <= keep_obs and i < len(observations):
            parts.append(observations[-1 - i])
    return " [SEP] ".join(reversed(parts))


def parse_eto(reply: str) -> str | None:
    """The action ETO reads from a reply: all that follows the first `Action: `, or None."""
    _, found, action = reply.strip().partition("Action: ")
    return action if found else None


def parse_agentgym(reply: str) -> tuple[str, str]:
    """The (thought, action) AgentGym reads: the action follows the last `Action:`.

    Without one, a reply that holds `search[` or `click[` is the action as a whole, any other
    reply the thought.
    """
    thought, found, action = reply.rpartition("Action:")
    if not found and not ("search[" in reply or "click[" in reply):
        thought, action = reply, ""
    parts = thought.split("Thought:")
    return (parts[1].strip() if len(parts) > 1 else parts[0]), action.strip()


def sample_resets(goals: Sequence[Mapping[str, Any]], seed: int, n: int) -> list[tuple[str, int]]:
    """The (session id, goal index) of n official resets without a session after seeding.

    Goals are drawn by weight; the draw never gives the first goal except by an exact 0 (kept).
    """
    rng = random.Random(seed)
    total = [0, *np.cumsum([goal["weight"] for goal in goals]).tolist()]
    out = []
    for _ in range(n):
        session = "".join(rng.choices(string.ascii_lowercase, k=10))
        at = bisect.bisect(total, rng.uniform(0, total[-1]))
        out.append((session, min(at, len(total) - 2)))
    return out


@dataclass(frozen=True)
class EtoState:
    """Where an episode stands in ETO's wrapper."""

    steps: int = 0
    finished: bool = False
    success: bool = False
    """Only that something was bought: not that the reward is 1."""
    reward: float | None = None
    """0 from the first reply without an action on, until a purchase."""
    terminate_reason: Literal["success", "max_steps"] | None = None


class EtoEpisode:
    """One episode as ETO's wrapper counts it: a reply without an action is a step, too.

    Args:
        env: an environment over the task's catalogue.
        max_steps: ETO's limit (10 in its released configuration).
    """

    def __init__(self, env: WebShopEnv, task: Task, max_steps: int = 10) -> None:
        self.env = env
        self.max_steps = max_steps
        self.state = EtoState()
        self.first_message = env.reset(task).text

    def step(self, reply: str) -> str:
        """Answer with `reply`; gives the next user message and updates `state`."""
        action = parse_eto(reply)
        steps = self.state.steps + 1
        bought, reward, text = False, self.state.reward, _NO_ACTION
        if action is None:
            reward = 0
        else:
            result = self.env.step(action)
            text = f"Observation:\n{result.text}"
            bought = result.terminated
            reward = result.reward if bought else reward
        self.state = replace(self.state, steps=steps, reward=reward)
        if bought:
            self.state = EtoState(steps, True, True, reward, "success")
        elif steps >= self.max_steps:
            self.state = EtoState(steps, True, False, 0, "max_steps")
        return text
