"""WebShop as a taskset of verifiers: real rollouts against a model at a loopback address.

verifiers needs an environment of its own (docs/verifiers.md); where it is missing, only the error
is tested.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import eeflib as eef
from eeflib.errors import PrerequisiteError
from eeflib.rollout import step_limit
from tests.loopback import Answer, ChatServer, Request

PAGE = (Path(__file__).parents[2] / "docs" / "verifiers.md").read_text("utf-8")
BLOCKS = dict(re.findall(r"^```python (\w+)\n(.*?)^```$", PAGE, re.M | re.S))
SHOP = {"seed": 7, "train": 4, "test": 3, "mix": "easy"}


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (None, "verifiers is not installed; .*'verifiers>=0.4,<1'.* environment of its own"),
        ("0.3.1", "verifiers 0.3.1 is installed, 0.4 or newer and below 1 is needed"),
    ],
)
def test_without_a_verifiers_that_has_tasksets_the_error_names_the_version(
    monkeypatch, found, told
):
    def version(package: str) -> str:
        if found is None:
            raise importlib.metadata.PackageNotFoundError(package)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.delitem(sys.modules, "eeflib.interop.verifiers", raising=False)
    with pytest.raises(PrerequisiteError, match=told):
        importlib.import_module("eeflib.interop.verifiers")


@pytest.fixture(scope="module")
def vf(tmp_path_factory):
    """verifiers, and the page's module where it finds it."""
    pytest.importorskip("verifiers", reason="verifiers 0.4 needs an environment of its own")
    if shutil.which("uv") is None:
        pytest.skip("verifiers starts its agents by uv, which is not on the PATH")
    folder = tmp_path_factory.mktemp("modules")
    (folder / "eef_shop.py").write_text(BLOCKS["module"])
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module("verifiers.v1")


@pytest.fixture(scope="module")
def tries() -> dict[str, eef.Trajectory]:
    """The scripted teacher's purchase in every task, by instruction."""
    world = eef.webshop(**SHOP)
    tasks = tuple(replace(task, split="train") for task in world.tasks)
    found = eef.collect(replace(world, tasks=tasks))
    assert any(trajectory.reward > 0 for trajectory in found)
    return {trajectory.instruction: trajectory for trajectory in found}


def streamed(message: dict, finish: str) -> Answer:
    choices = [{"index": 0, "delta": {"role": "assistant", **message}, "finish_reason": finish}]
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return Answer(f"data: {json.dumps({**chunk, 'choices': choices})}\n\ndata: [DONE]\n\n")


def shopper(tries):
    """Buys as the teacher did; the model `leaver` stops after a step, `lost` clicks on nothing."""

    def respond(request: Request) -> Answer:
        model, messages = request.body["model"], request.body["messages"]
        (expert,) = [t for told, t in tries.items() if told in messages[1]["content"]]
        turn = sum(message["role"] == "assistant" for message in messages)
        if model == "leaver" and turn == 1:
            return streamed({"content": "I buy nothing."}, "stop")
        action = "click[Nowhere]" if model == "lost" else expert.steps[turn].action
        verb, text = re.fullmatch(r"(\w+)\[(.*)\]", action).groups()
        arguments = json.dumps({"search": {"keywords": text}, "click": {"value": text}}[verb])
        function = {"name": verb, "arguments": arguments}
        call = {"index": 0, "id": f"call_{turn}", "type": "function", "function": function}
        return streamed({"tool_calls": [call]}, "tool_calls")

    return respond


def played(vf, url: str, models: list[str]):
    """Rollouts of the first training task, all at once: the task and a trace for each model."""
    config = vf.resolve_env_config({"taskset": {"id": "eef-shop", "shop": SHOP}})
    client = vf.EvalClientConfig(base_url=url, api_key_var="NO_KEY")

    async def main():
        env = vf.load_environment(config)
        (task,) = env.taskset.take(1)
        async with env.serving():
            episodes = await asyncio.gather(
                *(env.run_episode(task, vf.ModelContext(model, client)) for model in models)
            )
        assert [episode.errors for episode in episodes] == [[]] * len(models)
        return task, [episode.traces[0] for episode in episodes]

    return asyncio.run(main())


def test_rollouts_of_a_task_play_the_shop_and_share_nothing(vf, tries):
    with ChatServer(shopper(tries)) as server:
        task, traces = played(vf, server.url, ["buyer", "leaver", "buyer", "lost"])
    told = next(t for t in eef.webshop(**SHOP).split("train"))
    assert task.data.id == told.id
    expected = tries[told.instruction]
    for trace in (traces[0], traces[2]):
        assert (trace.reward, trace.stop_condition) == (expected.reward, "episode_over")
        pages = [message.content for message in trace.tool_messages]
        assert pages == [step.observation for step in expected.steps[1:]]
    assert (traces[1].reward, traces[1].num_turns) == (0, 2)
    assert (traces[3].reward, traces[3].num_turns) == (0, step_limit(told))
    assert traces[3].stop_condition == "episode_over"
    assert all(message.content.startswith("Error: ") for message in traces[3].tool_messages)
    offered = {tool["function"]["name"] for tool in server.requests[0].body["tools"]}
    assert offered == {"search", "click"}
    assert told.goal["asin"] not in task.data.model_dump_json()


def test_the_pages_program_prints_the_shops_rewards(vf, tries, capsys):
    with ChatServer(shopper(tries)) as server:
        exec(BLOCKS["rollouts"].replace("http://127.0.0.1:8000/v1", server.url), {})
    tasks = eef.webshop(**SHOP).split("test")[:2]
    expected = [f"{task.id} {tries[task.instruction].reward}" for task in tasks]
    assert capsys.readouterr().out.splitlines() == expected


def test_a_split_without_tasks_is_an_error(vf):
    config = {"taskset": {"id": "eef-shop", "split": "validation", "shop": SHOP}}
    env = vf.load_environment(vf.resolve_env_config(config))
    with pytest.raises(eef.errors.DataError, match="no tasks in split 'validation'"):
        list(env.taskset)
