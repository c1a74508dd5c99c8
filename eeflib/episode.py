"""One episode: what to run, and its state while it runs.

Owns the step limit, the incremental conversation, what a bad reply does, and the record of it all.
Knows nothing about batches, pools, EEF or files.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Self

from eeflib.envs.base import REWARD_FACTS, StepResult, TextEnv
from eeflib.errors import EefError, EnvironmentFault, ProviderError, RestoreMismatch
from eeflib.policies.base import Conversation, Message, Reply
from eeflib.prompts import PromptFormat, parse_reply
from eeflib.records import Actor, Step, Task, Trajectory
from eeflib.seeding import episode_rng

__all__ = ["DEFAULT_MAX_STEPS", "Episode", "RunningEpisode", "step_limit"]

DEFAULT_MAX_STEPS = 100
"""Step limit of a task whose `settings` name none."""

_LOG = logging.getLogger(__name__)
_NOT_UNDERSTOOD = "the environment does not know this action here"


def step_limit(task: Task) -> int:
    """`task.settings["max_steps"]`: the most actions an episode may have, its prefix included."""
    return int(task.settings.get("max_steps", DEFAULT_MAX_STEPS))


@dataclass(frozen=True)
class Episode:
    """One rollout to run: a task from s0, or from the state after `prefix`."""

    task: Task
    key: str
    """What tells this rollout from others of the task, e.g. `teacher` or `i1.s0`."""
    attempt: int = 0
    prefix: tuple[Step, ...] = ()
    """Recorded steps to restore; the prompt holds them as history."""
    expected: str | None = None
    """Recorded text of the state after `prefix`, which restoring must reproduce."""
    state_key: str = ""
    """Recorded fingerprint of that state, for `Step.state_key` of the first own step."""

    @property
    def id(self) -> str:
        """`{task.id}#{key}.{attempt}`: id of the trajectory, and key of the conversation."""
        return f"{self.task.id}#{self.key}.{self.attempt}"


class RunningEpisode:
    """An episode under way: `start`, then `conversation` and `advance` until `over`.

    `start`, `look_around` and `advance` raise what the environment raises, and RestoreMismatch; the
    caller hands that to `fail`. `trajectory` is the record so far, at any time.
    """

    def __init__(
        self,
        episode: Episode,
        policy: str,
        fmt: PromptFormat,
        actor: Actor,
        seed: int,
        max_steps: int | None,
    ) -> None:
        self.episode, self.policy, self.fmt = episode, policy, fmt
        self.actor, self.seed = actor, seed
        self.rng = episode_rng(seed, episode.id)
        limit = step_limit(episode.task) if max_steps is None else max_steps
        self.left = limit - len(episode.prefix)
        last = episode.prefix[-1] if episode.prefix else None
        self.reward = last.reward if last else 0.0
        self.score = last.score if last else None
        self.observation = episode.expected or ""
        self.state_key = episode.state_key
        self.admissible: tuple[str, ...] | None = None
        self.messages: list[Message] = []
        self.steps: list[Step] = []
        self.terminated = self.truncated = False
        self.error = ""
        self.extra: dict[str, str] = {}
        self.env: TextEnv

    @property
    def over(self) -> bool:
        return self.terminated or self.truncated or bool(self.error)

    def fail(self, exc: EefError) -> Self:
        """The episode ends here, on record as failed by `exc`."""
        self.error = f"{type(exc).__name__}: {exc}"
        if not isinstance(exc, RestoreMismatch):  # those are counted by whoever restores
            _LOG.warning("episode %s ended: %s", self.episode.id, self.error)
        return self

    def start(self, env: TextEnv) -> None:
        """Reset or restore `env`, which is this episode's from now on."""
        e, self.env = self.episode, env
        if e.prefix:
            # A step without an action never reached the environment: nothing to replay.
            replay = [s for s in e.prefix if s.action]
            restored = self.env.restore(e.task, replay, e.expected)
            if not restored.ok:
                at = "" if restored.first_mismatch is None else f"s_{restored.first_mismatch}: "
                raise RestoreMismatch(f"{at}{restored.detail or 'the state differs'}")
            self.observation = restored.text
        else:
            seen = self.env.reset(e.task)
            if e.expected is not None and seen.text != e.expected:
                raise RestoreMismatch("s_0: the first observation differs from the recorded one")
            self.observation = seen.text
            self.state_key = str(seen.info.get("state_key", "")) or e.state_key
        self.messages = list(self.fmt.messages(e.task.instruction, e.prefix, self.observation))
        self.truncated = self.left <= 0

    def look_around(self) -> None:
        """Ask for the admissible actions, for policies that want them."""
        actions = self.env.valid_actions()
        self.admissible = None if actions is None else tuple(actions)

    def conversation(self) -> Conversation:
        """What the policy is asked now: grown turn by turn, equal to `fmt.conversation(...)`."""
        task = self.episode.task
        return Conversation(
            tuple(self.messages),
            self.episode.id,
            self.admissible,
            self.observation,
            task.instruction,
            task.id,
        )

    def advance(self, reply: Reply) -> None:
        """Take the policy's reply: parse it, act, record the step."""
        if reply.error:
            if reply.usage is not None:  # what was paid stays on record
                self._record(reply, "", "", False, "provider error")
            self.fail(ProviderError(reply.error))
            return
        parsed = parse_reply(reply.text, self.fmt.thoughts)
        if parsed.valid:
            try:
                result = self.env.step(parsed.action)
            except EnvironmentFault:
                self._record(reply, parsed.thought, parsed.action, False, "environment fault")
                raise
        else:
            same = {"score": self.score, "valid": False, "state_key": self.state_key}
            result = StepResult(self.observation, self.reward, False, False, same)
        info = result.info
        # what an environment says its reward is made of, and rests on, is kept for the analysis
        self.extra.update({key: info[key] for key in REWARD_FACTS if key in info})
        valid = bool(info.get("valid", True))
        reason = "" if valid else parsed.reason or str(info.get("reason", "")) or _NOT_UNDERSTOOD
        self.reward, self.score = result.reward, info.get("score")
        step = self._record(reply, parsed.thought, parsed.action, valid, reason)
        self.observation = result.text
        self.state_key = str(info.get("state_key", ""))
        self.left -= 1
        self.terminated = result.terminated
        self.truncated = not result.terminated and (
            result.truncated or self.left <= 0 or reply.stop
        )
        if not self.over:
            shown = self.fmt.observation(result.text, self.episode.task.instruction)
            self.messages += [Message("assistant", self.fmt.reply(step)), Message("user", shown)]

    def _record(self, reply: Reply, thought: str, action: str, valid: bool, reason: str) -> Step:
        step = Step(
            self.observation,
            action,
            self.actor,
            reply="" if reply.text == action else reply.text,
            thought=thought,
            valid=valid,
            reason=reason,
            reward=self.reward,
            score=self.score,
            state_key=self.state_key,
            usage=reply.usage,
        )
        self.steps.append(step)
        return step

    def trajectory(self) -> Trajectory:
        task = self.episode.task
        return Trajectory(
            id=self.episode.id,
            task_id=task.id,
            env=task.env,
            instruction=task.instruction,
            policy=self.policy,
            steps=tuple(self.steps),
            final_observation=self.observation,
            reward=self.reward,
            terminated=self.terminated,
            truncated=self.truncated,
            threshold=task.threshold,
            seed=self.seed,
            prompt_hash=self.fmt.hash,
            error=self.error,
            extra=dict(self.extra),
        )
