"""The OpenEnv server over loopback, with openenv's own client."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("openenv")

import uvicorn
from openenv.core import GenericEnvClient
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import eeflib as eef
from eeflib.errors import DataError, PrerequisiteError
from eeflib.interop import openenv as ours

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world() -> eef.World:
    return eef.webshop(train=4, test=3)


@pytest.fixture(scope="module")
def tries(world):
    return eef.collect(world)


@contextmanager
def served(world, **limits):
    """The address of a server in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
        most = limits.get("max_bytes", 4_000_000)
        app = ours.make_app(world, **limits)
        config = uvicorn.Config(app, ws_max_size=most, log_level="warning")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def address(world):
    with served(world, sessions=3) as url:
        yield url


@pytest.fixture
def client(address):
    with GenericEnvClient(address).sync() as client:
        yield client


def ask(url: str, body: dict | None = None):
    """Status and JSON of a GET, or of a POST of `body`."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def rows(steps):
    return [{"observation": step.observation, "action": step.action} for step in steps]


def at(world, task_id: str) -> dict:
    names = [task.id for task in world.split("train")]
    return {"split": "train", "index": names.index(task_id)}


def test_an_episode_is_the_shops(world, tries, client):
    for trajectory in tries:
        result = client.reset(**at(world, trajectory.task_id))
        assert result.metadata["instruction"] == trajectory.instruction
        for step in trajectory.steps:
            assert (result.observation["text"], result.done) == (step.observation, False)
            result = client.step({"action": step.action})
        assert result.observation["text"] == trajectory.final_observation
        assert (result.done, result.reward) == (True, trajectory.reward)
        assert client.state()["step_count"] == len(trajectory.steps)
        with pytest.raises(RuntimeError, match="the episode is over: call reset"):
            client.step({"action": "click[Buy Now]"})


def test_the_tasks_are_listed_without_their_goals(world, address):
    url = f"{address}/webshop"
    assert ask(f"{address}/list_environments") == (200, ["webshop"])
    assert ask(f"{url}/splits")[1] == [{"name": n, "type": n} for n in ("train", "test")]
    assert ask(f"{url}/num_tasks", {"split": "test"})[1] == {"num_tasks": 3}
    listed = ask(f"{url}/tasks", {"split": "test"})[1]["tasks"]
    expected = [(i, t.id, t.instruction) for i, t in enumerate(world.split("test"))]
    assert [(row["index"], row["id"], row["instruction"]) for row in listed] == expected
    assert set(listed[0]) == {"index", "id", "instruction"}
    assert ask(f"{url}/task", {"split": "test", "index": 1})[1]["task"] == listed[1]
    assert ask(f"{url}/task_range", {"split": "test", "start": 1})[1]["tasks"] == listed[1:]
    assert ask(f"{url}/task", {"split": "test", "index": 3})[0] == 400
    status, told = ask(f"{url}/num_tasks", {"split": "valid"})
    assert (status, told) == (400, {"detail": "no split 'valid' here; there is train, test"})


def test_a_restored_state_goes_on_as_the_episode_did(world, tries, client):
    trajectory = max(tries, key=lambda t: len(t.steps))
    k = len(trajectory.steps) - 1
    result = client.reset(
        **at(world, trajectory.task_id),
        prefix=rows(trajectory.steps[:k]),
        expected=trajectory.steps[k].observation,
    )
    assert (result.done, result.metadata["restored"]) == (False, True)
    assert result.observation["text"] == trajectory.steps[k].observation
    state = client.state()
    assert (state["restored"], state["skipped"], state["replayed_steps"]) == (1, 0, k)
    assert state["step_count"] == k
    result = client.step({"action": trajectory.steps[k].action})
    assert (result.done, result.reward) == (True, trajectory.reward)


def test_the_first_mismatch_is_told_and_counted_and_nothing_can_be_played(world, tries, client):
    trajectory = tries[0]
    prefix = rows(trajectory.steps[:3])
    prefix[1]["observation"] = prefix[1]["observation"].replace("Page 1", "Page 7")
    result = client.reset(**at(world, trajectory.task_id), prefix=prefix)
    assert result.done
    assert result.metadata["restored"] is False
    assert result.metadata["first_mismatch"] == 1
    assert "Page 7" in result.metadata["detail"]
    with pytest.raises(RuntimeError, match="no episode is running: call reset"):
        client.step({"action": "click[Buy Now]"})
    good = rows(trajectory.steps[:2])
    result = client.reset(**at(world, trajectory.task_id), prefix=good, expected="elsewhere")
    assert result.metadata["first_mismatch"] == 2
    client.reset(**at(world, trajectory.task_id), prefix=good)
    state = client.state()
    assert (state["restored"], state["skipped"]) == (1, 2)


def test_the_step_limit_counts_the_prefix(tries, world):
    tasks = tuple(replace(t, settings={**t.settings, "max_steps": 3}) for t in world.tasks)
    session = ours.TextEnvironment(replace(world, tasks=tasks))
    trajectory = next(t for t in tries if len(t.steps) > 3)
    session.reset(**at(world, trajectory.task_id), prefix=rows(trajectory.steps[:2]))
    last = session.step(ours.TextAction(action=trajectory.steps[2].action))
    assert (last.done, last.metadata["truncated"]) == (True, True)


def test_bad_requests_are_told_what_is_wrong(client):
    for arguments, told in (
        ({"split": "valid"}, "no split 'valid' here; there is train, test"),
        ({"split": "train", "index": 4}, "tasks 0 to 3, not 4"),
        ({"index": "x" * 1000}, "tasks 0 to 3"),
        ({"task": "webshop-1"}, "unknown reset argument 'task'.*eeflib 0"),
        ({"prefix": [{"observation": "a"}]}, r"prefix\[0\] has to hold the texts"),
        ({"prefix": {"a": 1}}, "prefix is a list"),
    ):
        with pytest.raises(RuntimeError, match=told) as error:
            client.reset(**arguments)
        assert len(str(error.value)) < 400
    client.reset(seed=5)
    for action, told in (
        ({"message": "hi"}, r"a step is .*'message'.*eeflib 0"),
        ({"action": "a", "tool": "b"}, "a step is"),
        ({"action": 5}, "a step is"),
        ({"action": "x" * 1_000_000}, "at most 10000 characters"),
    ):
        with pytest.raises(RuntimeError, match=told) as error:
            client.step(action)
        assert len(str(error.value)) < 400
    assert client.step({"action": "search[lamp]"}).metadata["valid"]


def test_a_request_of_10_mb_ends_its_own_connection_only(address, client):
    client.reset()
    with GenericEnvClient(address).sync() as other:
        other.reset()
        with pytest.raises(Exception, match=r"1009|too big"):
            other.step({"action": "x" * 10_000_000})
    status, told = ask(f"{address}/reset", {"prefix": "x" * 10_000_000})
    assert (status, told) == (413, {"detail": "a request has at most 4000000 bytes"})
    assert client.step({"action": "search[lamp]"}).metadata["valid"]


def test_sessions_are_limited_and_a_closed_one_makes_room(address):
    clients = [GenericEnvClient(address).sync() for _ in range(4)]
    for one in clients[:3]:
        one.reset()
    with pytest.raises(RuntimeError, match=r"3/3|CAPACITY_REACHED"):
        clients[3].reset()
    clients[0].close()
    for _ in range(100):  # the server hears of it a moment later
        late = GenericEnvClient(address).sync()  # it ended the connection of the one refused
        clients.append(late)
        try:
            late.reset()
            break
        except (RuntimeError, ConnectionClosed):
            time.sleep(0.1)
    assert late.step({"action": "search[lamp]"}).metadata["valid"]
    for one in clients[1:]:
        one.close()


def test_a_session_belongs_to_one_client(address):
    create = {"jsonrpc": "2.0", "id": 1, "method": "openenv/session/create", "params": {}}
    session = ask(f"{address}/mcp", create)[1]["result"]["session_id"]
    url = f"{address.replace('http', 'ws')}/ws?session_id="
    with connect(url + session) as first:
        first.send('{"type": "reset"}')
        assert json.loads(first.recv())["type"] == "observation"
        with connect(url + session) as second:
            assert "already has an attached" in json.loads(second.recv())["data"]["message"]
        first.send('{"type": "step", "data": {"action": "search[lamp]"}}')
        assert json.loads(first.recv())["data"]["metadata"]["valid"]
    with connect(url + "unknown") as none:
        assert "Unknown session_id" in json.loads(none.recv())["data"]["message"]
    close = {**create, "method": "openenv/session/close", "params": {"session_id": session}}
    assert ask(f"{address}/mcp", close)[0] == 200


def test_the_pages_program_restores_a_state(address, capsys):
    page = (ROOT / "docs" / "environments.md").read_text("utf-8")
    (program,) = re.findall(r"^```python openenv\n(.*?)^```$", page, re.M | re.S)
    exec(program.replace("http://127.0.0.1:8000", address), {})
    assert capsys.readouterr().out == "True 1\n"


@pytest.mark.slow
def test_an_idle_session_is_freed(world):
    with served(world, sessions=1, idle_s=0.5) as url:
        idle = GenericEnvClient(url).sync()
        idle.reset()
        with GenericEnvClient(url).sync() as other:
            for _ in range(80):  # openenv looks every five seconds
                try:
                    other.reset()
                    break
                except RuntimeError:
                    time.sleep(0.1)
            assert other.step({"action": "search[lamp]"}).metadata["valid"]
        with pytest.raises(RuntimeError, match="idle for too long"):
            idle.step({"action": "search[lamp]"})
        idle.close()


def test_serve_refuses_what_it_cannot_do(address):
    with pytest.raises(DataError, match="use webshop, scienceworld or textworld"):
        ours.serve("alfworld")
    with pytest.raises(DataError, match=r"unknown setting of webshop.*products"):
        ours.serve(port=0, products=5)
    port = int(address.rsplit(":", 1)[1])
    with pytest.raises(PrerequisiteError, match=f"cannot serve at 127.0.0.1:{port}"):
        ours.serve(port=port)
    with pytest.raises(PrerequisiteError, match=r"cannot serve at .*:70000"):
        ours.serve(port=70000)


def test_the_command_serves_until_it_is_interrupted():
    command = [Path(sys.executable).with_name("eef"), "serve", "--port", "0", "--test", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        told = (re.search(r" at (http://127\.0\.0\.1:\d+)", x) for x in process.stderr)
        url = next(found[1] for found in told if found)
        with GenericEnvClient(url).sync() as shop:
            assert "Search" in shop.reset(split="test", index=1).observation["text"]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) in (0, 130)
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()


def test_a_missing_openenv_is_named_with_its_extra():
    code = (
        "import importlib.metadata as m, sys\n"
        "def version(name): raise m.PackageNotFoundError(name)\n"
        "m.version = version\n"
        "from eeflib.errors import PrerequisiteError\n"
        "try:\n"
        "    import eeflib.interop.openenv\n"
        "except PrerequisiteError as exc:\n"
        "    sys.exit(str(exc))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'eeflib[openenv]'" in done.stderr
