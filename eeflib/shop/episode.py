"""One task played by a person, and its record.

Owns the steps of the episode and how it ended. Knows nothing about pages, visits or files. The
record is a `Trajectory` as models leave one: the observations are what an agent would have read,
the actor and the policy are `human`, and a step's usage holds the seconds taken to decide.
"""

from __future__ import annotations

import time
from typing import Any, Final, Literal

from eeflib.envs.base import REWARD_FACTS, StepResult
from eeflib.envs.webshop import WebShopEnv
from eeflib.records import Step, Task, Trajectory, Usage

__all__ = ["HUMAN", "End", "HumanEpisode"]

HUMAN: Final = "human"
"""Name of the policy in the records."""

End = Literal["bought", "out of steps", "given up", "abandoned"]
"""How an episode ended; in the record as `extra["ended"]`."""


class HumanEpisode:
    """An episode under way: `act` until `over`, or `stop`.

    Args:
        env: this episode's own from now on.
        task: what to buy.
        player: says in the record who played; no name.
        attempt: 0 for the player's first try at the task.

    Raises:
        DataError: `env` cannot hold the task.
    """

    def __init__(self, env: WebShopEnv, task: Task, player: str, attempt: int = 0) -> None:
        self.env, self.task, self.player, self.attempt = env, task, player, attempt
        self.limit = int(task.settings.get("max_steps", env.max_steps))
        self.observation = env.reset(task).text
        self.actions: tuple[str, ...] = tuple(env.valid_actions())
        self.steps: list[Step] = []
        self.result: StepResult | None = None
        """Of the last action."""
        self.ended: End | None = None
        self._since = time.monotonic()

    @property
    def over(self) -> bool:
        return self.ended is not None

    @property
    def reward(self) -> float:
        """R, in [0, 1]; 0 unless something was bought."""
        return self.result.reward if self.result is not None else 0.0

    def act(self, action: str) -> StepResult:
        """Hand `action` to the environment and record the step."""
        key, now = self.env.state_key, time.monotonic()
        result = self.result = self.env.step(action)
        self.steps.append(
            Step(
                self.observation,
                action,
                HUMAN,
                valid=bool(result.info["valid"]),
                reason=str(result.info.get("reason", "")),
                reward=result.reward,
                score=result.info["score"],
                state_key=key,
                usage=Usage(seconds=round(now - self._since, 3)),
            )
        )
        self._since = now
        self.observation = result.text
        self.actions = tuple(self.env.valid_actions())
        if result.terminated:
            self.ended = "bought"
        elif result.truncated:
            self.ended = "out of steps"
        return result

    def stop(self, how: End) -> None:
        """End it before the shop does; without effect on an episode that is over."""
        self.ended = self.ended or how

    def trajectory(self) -> Trajectory:
        """The record; an episode that has not ended counts as abandoned."""
        task, bought = self.task, self.ended == "bought"
        return Trajectory(
            id=f"{task.id}#{HUMAN}-{self.player}.{self.attempt}",
            task_id=task.id,
            env=task.env,
            instruction=task.instruction,
            policy=HUMAN,
            steps=tuple(self.steps),
            final_observation=self.observation,
            reward=self.reward,
            terminated=bought,
            truncated=not bought,
            threshold=task.threshold,
            extra={
                "ended": self.ended or "abandoned",
                "player": self.player,
                **self._reward_facts(),
            },
        )

    def _reward_facts(self) -> dict[str, Any]:
        """The parts of a purchase's reward, and where it took its nouns from."""
        info = self.result.info if self.result is not None else {}
        return {key: info[key] for key in REWARD_FACTS if key in info}
