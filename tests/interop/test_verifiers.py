"""The verifiers adapter: the real library against a real HTTP server on the loopback interface."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import verifiers as vf
from broken_envs import TASKS, Good
from loopback import Answer, ChatServer, Request, fails
from loopback import says as says_less

from eeflib.envs.base import StepResult
from eeflib.envs.webshop import Catalogue, WebShopEnv
from eeflib.envs.webshop.generator import generate_store
from eeflib.envs.webshop.tasks import make_tasks
from eeflib.errors import DataError, EnvironmentFault
from eeflib.interop.verifiers import to_verifiers
from eeflib.policies.openai_compatible import OpenAICompatiblePolicy
from eeflib.prompts import get_format
from eeflib.records import Task, Trajectory
from eeflib.rollout import Episode, run_episodes


@pytest.fixture(autouse=True)
def handlers_stay() -> Iterator[None]:
    """verifiers takes over the signals; other tests want them as they were."""
    kept = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def says(text: str) -> Answer:
    """verifiers wants a completion whole."""
    answer = says_less(text)
    answer.body |= {"id": "1", "created": 0, "model": "m"}
    answer.body["usage"]["total_tokens"] = 15
    return answer


def model(request: Request) -> Answer:
    """Reads the conversation as a model would: takes the key, then opens whatever is there."""
    said = [m["content"] for m in request.body["messages"] if m["role"] == "assistant"]
    if not any("Action: take" in text for text in said):
        action = "take" if "hook" in request.last else "right"
    else:
        action = "right" if "Action: open" in said[-1] else "open"
    return says(f"Thought: {len(said)} done\nAction: {action}")


def evaluate(env: Any, server: ChatServer, **options: Any) -> list[dict[str, Any]]:
    config = vf.ClientConfig(api_base_url=server.url, api_key_var="NO_SUCH_KEY", max_retries=0)
    outputs = asyncio.run(
        env.evaluate(config, "m", state_columns=["eef_trajectory"], on_progress=[], **options)
    )
    return sorted(outputs["outputs"], key=lambda row: row["example_id"])


def records(rows: list[dict[str, Any]]) -> list[Trajectory]:
    return [Trajectory.from_dict(row["eef_trajectory"]) for row in rows]


def test_the_rubric_gives_our_reward_and_the_rollouts_are_ours() -> None:
    done: list[Trajectory] = []
    with ChatServer(model) as server:
        env = to_verifiers(Good, TASKS, on_done=done.append)
        assert isinstance(env, vf.MultiTurnEnv)
        rows = evaluate(env, server)
        policy = OpenAICompatiblePolicy("m", base_url=server.url, api_key="x")
        ours = run_episodes(
            [Episode(task, "ours") for task in TASKS],
            policy,
            Good,
            get_format("react", "corridor"),
            actor="student",
            seed=0,
        )
    assert [row["reward"] for row in rows] == [1.0] * len(TASKS)
    assert [row["metrics"]["solved"] for row in rows] == [1.0] * len(TASKS)
    bare = [[replace(s, usage=None) for s in t.steps] for t in ours]
    assert [list(t.steps) for t in records(rows)] == bare
    assert {t.task_id for t in done} == {t.id for t in TASKS}
    assert all(t.solved for t in done)
    invalid = sum(not s.valid for t in ours for s in t.steps)
    assert invalid > 0
    for row, trajectory in zip(rows, ours, strict=True):
        share = sum(s.valid for s in trajectory.steps) / trajectory.length
        assert row["metrics"]["valid_actions"] == pytest.approx(share)


def test_the_model_is_asked_what_our_own_policies_are_asked() -> None:
    with ChatServer(model) as server:
        rows = evaluate(to_verifiers(Good, TASKS[:1]), server)
    trajectory = records(rows)[0]
    fmt = get_format("react", "corridor")
    for t, request in enumerate(server.requests):
        asked = fmt.messages(TASKS[0].instruction, trajectory.steps[:t], trajectory.observation(t))
        sent = [(m["role"], m["content"]) for m in request.body["messages"]]
        assert sent == [(m.role, m.content) for m in asked]
    assert len(server.requests) == trajectory.length


def test_a_model_that_never_acts_runs_into_the_step_limit() -> None:
    tasks = [replace(t, settings={"max_steps": 4}) for t in TASKS]
    with ChatServer(lambda _: says("I would rather not.")) as server:
        rows = evaluate(to_verifiers(Good, tasks), server)
    assert [row["reward"] for row in rows] == [0.0] * 3
    assert [row["metrics"]["valid_actions"] for row in rows] == [0.0] * 3
    assert len(server.requests) == 4 * 3
    assert all(t.truncated and t.length == 4 and not t.error for t in records(rows))


def test_no_more_environments_than_allowed_are_made_and_all_are_closed() -> None:
    made: list[Good] = []
    closed: list[Good] = []

    class Counted(Good):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

        def close(self) -> None:
            closed.append(self)

    with ChatServer(model) as server:
        env = to_verifiers(Counted, TASKS, max_parallel=2)
        rows = evaluate(env, server, rollouts_per_example=3)
        again = evaluate(env, server)  # another event loop
    assert [row["reward"] for row in rows + again] == [1.0] * 12
    assert len(made) == 2
    ids = [t.id for t in records(rows + again)]
    assert len(set(ids)) == 12, "every rollout has its own id"
    asyncio.run(env._teardown())
    assert closed == made


def flaky(faults: int) -> Callable[[], Good]:
    """Environments of which the first `faults` break in their second step."""
    lock, left = threading.Lock(), [faults]

    class Flaky(Good):
        def __init__(self) -> None:
            super().__init__()
            with lock:
                self.breaks = left[0] > 0
                left[0] -= 1

        def step(self, action: str) -> StepResult:
            if self.breaks and self.steps:
                raise EnvironmentFault("the simulator died; reset() starts a new one")
            return super().step(action)

    return Flaky


def test_a_broken_environment_costs_its_own_rollout_only() -> None:
    done: list[Trajectory] = []
    with ChatServer(model) as server:
        env = to_verifiers(flaky(1), TASKS, max_parallel=1, on_done=done.append)
        rows = evaluate(env, server)
    failed = [row for row in rows if row.get("error")]
    assert len(failed) == 1
    assert failed[0]["reward"] == 0.0
    assert "the simulator died" in str(failed[0]["error"])
    assert sum(row["reward"] for row in rows) == 2.0
    assert sorted(bool(t.error) for t in done) == [False, False, True]
    assert next(t.error for t in done if t.error).startswith("EnvironmentFault")


def test_asked_to_verifiers_runs_such_a_rollout_again() -> None:
    done: list[Trajectory] = []
    with ChatServer(model) as server:
        env = to_verifiers(flaky(1), TASKS, max_parallel=1, on_done=done.append)
        rows = evaluate(env, server, max_retries=1)
    assert [row["reward"] for row in rows] == [1.0] * len(TASKS)
    assert sum(bool(t.error) for t in done) == 1, "what failed is on record all the same"


def test_a_failing_provider_is_on_record_and_frees_the_environment() -> None:
    done: list[Trajectory] = []

    def respond(request: Request) -> Answer:
        return fails(400, "no such model") if "in room 2" in str(request.body) else model(request)

    with ChatServer(respond) as server:
        env = to_verifiers(Good, TASKS, max_parallel=1, on_done=done.append)
        rows = evaluate(env, server)
    assert sorted(row["reward"] for row in rows) == [0.0, 1.0, 1.0]
    failed = [t for t in done if t.error]
    assert [t.task_id for t in failed] == ["corridor-4"]
    assert failed[0].error.startswith("ProviderError")
    assert "no such model" in failed[0].error


def test_a_task_that_cannot_be_held_fails_alone() -> None:
    bad = replace(TASKS[0], id="odd", goal={})
    with ChatServer(model) as server:
        rows = evaluate(to_verifiers(Good, [bad, TASKS[1]]), server)
    assert [row["reward"] for row in rows] == [0.0, 1.0]
    assert "DataError" in records(rows)[0].error


def test_the_webshops_done_page_never_enters_the_conversation() -> None:
    store = generate_store(5, families=4)
    catalogue = Catalogue.from_rows(store.rows, store.attributes, seed=5)
    tasks = make_tasks(store, catalogue, 5, {"train": 3})

    def buyer(request: Request) -> Answer:
        step = sum(m["role"] == "assistant" for m in request.body["messages"])
        shown = [w for w in request.last.split(" [SEP] ") if w.startswith("B") and len(w) == 10]
        word = request.last.split("Instruction: ")[1].split(",")[0] if step == 0 else ""
        action = [f"search[{word}]", f"click[{(shown or [''])[0]}]", "click[buy now]"][step]
        return says(f"Thought: .\nAction: {action}")

    with ChatServer(buyer) as server:
        env = to_verifiers(lambda: WebShopEnv(catalogue), tasks, eval_tasks=tasks[:2])
        rows = evaluate(env, server)
        assert len(env.get_dataset()) == 3
    assert len(rows) == 2
    for row, trajectory in zip(rows, records(rows), strict=True):
        assert trajectory.terminated
        assert row["reward"] == trajectory.reward > 0
        assert "Your score" in trajectory.final_observation
        assert "Your score" not in str(row["completion"])
        assert [m["role"] for m in row["completion"]][-1] == "assistant"


def test_misuse_is_a_data_error() -> None:
    with pytest.raises(DataError, match="one task or more"):
        to_verifiers(Good, [])
    other = Task("t", "webshop", "buy")
    with pytest.raises(DataError, match="of one environment"):
        to_verifiers(Good, [TASKS[0], other])
    with pytest.raises(DataError, match="max_steps"):
        to_verifiers(Good, TASKS, max_turns=3)
