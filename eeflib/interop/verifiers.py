"""WebShop as a taskset of Prime Intellect's verifiers.

Name `WebShopTaskset` and `WebShopEnv` in a module at the top level, where verifiers looks: see
docs/verifiers.md. Models, rollouts and traces are verifiers'.

One process serves the tools to all rollouts and keeps nothing of them: a rollout is the calls in
its `ShopState`, and each call plays all of them again (0.1 ms a step). So none sees another's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from eeflib import world as worlds
from eeflib.errors import ActionError, DataError
from eeflib.interop import require
from eeflib.interop.trl import Episode, tool_method
from eeflib.interop.verbs import VERBS
from eeflib.prompts import task_text
from eeflib.world import World

require("verifiers", "0.4")

import verifiers.v1 as vf  # noqa: E402
from pydantic import Field  # noqa: E402

__all__ = ["WebShopEnv", "WebShopTaskset"]


class ShopConfig(vf.SharedToolsetConfig):
    """Which shop, and how many tasks of each split: arguments of `eeflib.webshop`."""

    seed: int = 7
    train: int = 120
    test: int = 150
    mix: str = "default"

    def world(self) -> World:
        return worlds.webshop(self.seed, self.train, self.test, mix=self.mix)


class ShopState(vf.State):
    """A rollout: what verifiers hands to each call of a tool, and takes back."""

    task_id: str = ""
    calls: list[tuple[str, dict[str, str]]] = Field(default_factory=list)
    """Template of the action, see `verbs`, and its arguments."""
    reward: float = 0.0
    over: bool = False


class _Replay(Episode):
    def __init__(self, world: World) -> None:
        self._world, self._tasks = world, {task.id: task for task in world.tasks}
        super().__init__()

    def play(self, state: ShopState) -> str:
        """Start the task and play all calls; gives what the last one shows."""
        text = self.reset(task_id=state.task_id)
        for template, arguments in state.calls:
            try:
                text = self._act(template, arguments)
            except ActionError as exc:  # for the model to read: the call has cost a step
                text = f"Error: {exc}"
        state.reward, state.over = self.get_reward(), self._left <= 0
        return text


class WebShopTools(vf.Toolset[ShopConfig, ShopState]):
    TOOL_PREFIX = None  # the model's tools are `search` and `click`, as everywhere in eeflib
    search = vf.tool(tool_method("search", *VERBS["webshop"]["search"]))
    click = vf.tool(tool_method("click", *VERBS["webshop"]["click"]))

    async def setup(self) -> None:
        self._episode = _Replay(self.config.world())

    def _act(self, template: str, arguments: dict[str, Any]) -> str:
        self.state.calls.append((template, arguments))
        return self._episode.play(self.state)


class WebShopTask(vf.Task[vf.TaskData, ShopState]):
    """A task; its goal, which decides the reward, is in no field of it."""

    async def setup(self, trace: vf.Trace, runtime: vf.Runtime) -> None:
        trace.state.task_id = self.data.id

    @vf.stop
    def episode_over(self, trace: vf.Trace) -> bool:
        """After a purchase, or at the task's limit of steps, the model is not asked again."""
        return trace.state.over

    @vf.reward
    async def shop_reward(self, trace: vf.Trace) -> float:
        """R, the shop's own, in [0, 1]; 0 without a purchase."""
        return trace.state.reward


class WebShopConfig(vf.TasksetConfig):
    split: str = "train"
    shop: ShopConfig = ShopConfig()


class WebShopTaskset(vf.Taskset[WebShopTask, WebShopConfig]):
    """The tasks of a split, in the shop's order."""

    @classmethod
    def toolsets(cls, config: WebShopConfig) -> list[vf.Toolset]:
        return [WebShopTools(config.shop)]

    def load(self) -> Iterator[WebShopTask]:
        """Raises DataError where the split has no tasks."""
        world = self.config.shop.world()
        tasks, episode = world.split(self.config.split), _Replay(world)
        if not tasks:
            raise DataError(f"this world has no tasks in split {self.config.split!r}")
        for task in tasks:
            first = episode.reset(task_id=task.id)
            data = vf.TaskData(
                id=task.id,
                system_prompt=task_text("webshop"),
                prompt=f"Instruction: {task.instruction}\n\n{first}",
            )
            yield WebShopTask(data, self.config.task)


class WebShopEnvConfig(vf.EnvConfig):
    # by default verifiers gives the model a shell, in a sandbox in the cloud: the shop needs none
    agent: vf.AgentConfig = vf.AgentConfig(harness={"id": "null"}, runtime={"type": "subprocess"})


class WebShopEnv(vf.Env[WebShopEnvConfig]):
    """One agent, which has the shop's tools and nothing else."""

    async def run(self, task: WebShopTask, agents: vf.Agents) -> None:
        await agents.agent.run(task)


if __name__ == "__main__":  # verifiers starts the server of the tools so
    WebShopTools.run()
