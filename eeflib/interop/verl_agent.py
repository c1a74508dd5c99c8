"""WebShop in verl-agent's calling convention: no Ray, one shop for all, and a split without leaks.

Import `build_webshop_envs` from here instead of verl-agent's (agent_system/environments/
env_package/webshop/envs.py of langfengQ/verl-agent, commit d0b9724); its environment manager and
`webshop_projection` work with the result as they do with the original. Nothing of verl-agent is
imported. As there: a batch of `env_num` tasks, each played by `group_n` neighbours; the observation
is the text of the page; `won` and a reward of 10 for a purchase worth 1.0, else 0; an action that
is none, of any length, changes nothing. Different:

| there | here |
|---|---|
| a shuffled goal list per seed; positions 0-499 test | tasks of the split `train` or `test` |
| a shop and a process for each rollout | one catalogue in this process |
| after the purchase a random goal is begun | ended stays ended: `done`, reward 0 |
| no limit of steps but the trainer's | also the task's own `max_steps`, if that is sooner |
| price limits drawn anew for each worker | a task is the same for all |
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from eeflib.envs.webshop.goals import content_split, task_from_goal
from eeflib.envs.webshop.official import load_official
from eeflib.envs.webshop.splits import embedded
from eeflib.envs.webshop.tasks import EmbeddedShop
from eeflib.errors import DataError

WON = 10.0
"""Reward of a purchase worth 1.0; any other step is worth 0."""

Batch = tuple[list[str], list[float], list[bool], list[dict[str, Any]]]


class WebShopEnvs:
    """`env_num` tasks at once, `group_n` rollouts of each side by side; see the module."""

    def __init__(
        self,
        shop: Any,
        seed: int,
        env_num: int,
        group_n: int,
        is_train: bool,
        **options: Any,
    ) -> None:
        split = "train" if is_train else "test"
        self.tasks = [task for task in shop.tasks if task.split == split]
        if not is_train and group_n != 1:
            raise DataError(f"group_n is {group_n}: validation plays each task once, as there")
        if not 0 < env_num <= len(self.tasks) or group_n < 1:
            raise DataError(
                f"env_num = {env_num}, group_n = {group_n}: the {split} split has "
                f"{len(self.tasks)} tasks; both are at least 1, env_num at most that"
            )
        self.env_num, self.group_n, self.is_train = env_num, group_n, is_train
        self.num_processes = env_num * group_n
        self.envs = [shop.make_env(**options) for _ in range(self.num_processes)]
        self._rng = np.random.RandomState(seed)
        self._done = [False] * self.num_processes

    def reset(self) -> tuple[list[str], list[dict[str, Any]]]:
        """Begin `env_num` other tasks, drawn without replacement: observations and infos."""
        drawn = self._rng.choice(len(self.tasks), size=self.env_num, replace=False)
        self._done = [False] * self.num_processes
        texts = [
            env.reset(self.tasks[i]).text
            for env, i in zip(self.envs, np.repeat(drawn, self.group_n), strict=True)
        ]
        return texts, [self._info(i, won=False) for i in range(self.num_processes)]

    def step(self, actions: Sequence[str]) -> Batch:
        """One action for each rollout, in order: observations, rewards, dones, infos.

        `info` has `available_actions` (`has_search_bar`, `clickables`), `won`, and `task_score`,
        the shop's own reward in [0, 1]. The page after a purchase shows its reward, as there.

        Raises:
            DataError: another number of actions.
            EnvironmentFault: `reset` was never called.
        """
        if len(actions) != self.num_processes:
            raise DataError(f"expected {self.num_processes} actions, got {len(actions)}")
        texts, rewards, infos = list[str](), list[float](), list[dict[str, Any]]()
        for i, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            text, score, won = env.text, 0.0, False
            if not self._done[i]:
                result = env.step(action)
                text, score = result.text, result.reward
                won = result.terminated and score == 1.0
                self._done[i] = result.terminated or result.truncated
            texts.append(text)
            rewards.append(WON if won else 0.0)
            infos.append({**self._info(i, won=won), "task_score": score})
        return texts, rewards, list(self._done), infos

    def close(self) -> None:
        for env in self.envs:
            env.close()

    def _info(self, i: int, won: bool) -> dict[str, Any]:
        env = self.envs[i]
        actions = {
            "has_search_bar": env.state.page == "index",
            "clickables": env.clickables(),
        }
        return {"available_actions": actions, "won": won}


def build_webshop_envs(
    seed: int,
    env_num: int,
    group_n: int,
    resources_per_worker: Any = None,
    is_train: bool = True,
    env_kwargs: dict[str, Any] | None = None,
    *,
    shop: Any = None,
) -> WebShopEnvs:
    """The environments of a training run, or with `is_train=False` of its validation.

    Args:
        seed: draws the tasks of each `reset`; it decides neither the split nor the store.
        env_num: tasks at once.
        group_n: rollouts of each task; 1 in validation.
        resources_per_worker: for Ray; not used.
        env_kwargs: as verl-agent passes them. `file_path`: official products, whose folder holds
            the other official files too; without it the embedded store of seed 0, 250 training and
            150 test tasks. `human_goals`, `num_products`: of the official data. `observation_mode`.
            `attr_path` follows from the folder.
        shop: instead of those, what has `tasks` and `make_env`: `embedded_shop(...)`,
            `eef.webshop(...)`.

    Raises:
        DataError: unknown `env_kwargs`, too many tasks at once, damaged official files.
        PrerequisiteError: an official file is missing.
    """
    given = {"observation_mode": "text", **(env_kwargs or {})}
    mode = given.pop("observation_mode")
    known = ("file_path", "attr_path", "human_goals", "num_products")
    if strange := set(given).difference(known):
        raise DataError(f"env_kwargs has {min(strange)!r}; known are observation_mode, {known}")
    file = str(given.get("file_path") or "")
    options = {"observation_mode": mode, "strict": shop is None and bool(file)}
    if shop is None:
        shop = _shop(file, bool(given.get("human_goals")), given.get("num_products"))
    return WebShopEnvs(shop, seed, env_num, group_n, is_train, **options)


@lru_cache(maxsize=1)
def _shop(file: str, human: bool, limit: int | None) -> EmbeddedShop:
    """Kept, as training and validation ask for the same one."""
    if not file:
        return embedded(0)
    path = Path(file)
    size: Any = "small" if "1000" in path.stem else "full"
    found = load_official(path.parent, size=size, human=human, limit=limit)
    tasks = [
        task_from_goal(found.goals[i], found.catalogue, split=split, id=f"webshop-{split}-{i:05d}")
        for split, positions in content_split(found.goals).items()
        for i in positions
    ]
    return EmbeddedShop(found.catalogue, tuple(tasks))
