"""What the OpenEnv server costs: a step over loopback against one in process, and its sessions.

On a busy machine a round trip waits for its turn in four threads (8 ms at a load of ten on two
cores): `chrt -r 10` before the command gives it precedence.

`python benchmarks/openenv_server.py [--steps 400] [--sessions 128] [--json]`
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil
from openenv.core import GenericEnvClient

import eeflib as eef

SEARCH = "search[long lasting battery]"
GOAL_MS = 3.0
GOAL_MB = 200.0


def median_ms(step: Callable[[], Any], steps: int) -> float:
    """Of `steps` searches."""
    taken = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        taken.append(time.perf_counter() - start)
    return 1000 * statistics.median(taken)


def start_server() -> tuple[psutil.Process, str]:
    """A server of WebShop in a process of its own; waits until it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = f"from eeflib.interop.openenv import serve; serve('webshop', port={port})"
    process = psutil.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            with GenericEnvClient(address).sync() as client:
                client.reset()
            return process, address
        except (OSError, ConnectionError):
            time.sleep(0.2)
    raise SystemExit("the server did not start")


def measure(steps: int, sessions: int) -> dict[str, tuple[float, float, str]]:
    """Name -> value, goal, unit."""
    world = eef.webshop()
    shop = world.make_env()
    tasks = world.split("train")
    server, address = start_server()
    try:
        idle = server.memory_info().rss
        with GenericEnvClient(address).sync() as client:
            alone, served = [], []
            for i in range(steps // 10):  # side by side: what else the machine does meets both
                shop.reset(tasks[i % len(tasks)])
                client.reset(index=i % len(tasks))
                alone.append(median_ms(lambda: shop.step(SEARCH), 10))
                served.append(median_ms(lambda: client.step({"action": SEARCH}), 10))
        clients = [GenericEnvClient(address).sync() for _ in range(sessions)]
        for i, one in enumerate(clients):
            one.reset(index=i % len(tasks))
            one.step({"action": SEARCH})
        full = server.memory_info().rss
        for one in clients:
            one.close()
    finally:
        server.terminate()
        server.wait()
    added = statistics.median(b - a for a, b in zip(alone, served, strict=True))
    return {
        "openenv_added_ms_a_step": (added, GOAL_MS, "ms"),
        "openenv_sessions_mb": ((full - idle) / 1e6, GOAL_MB, "MB"),
        "openenv_idle_server_mb": (idle / 1e6, 400.0, "MB"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400, help="timed on each side")
    parser.add_argument("--sessions", type=int, default=128, help="open at once")
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    args = parser.parse_args()
    rows = {}
    for name, (value, goal, unit) in measure(args.steps, args.sessions).items():
        rows[name] = {"value": round(value, 2), "goal": goal, "unit": unit, "holds": value <= goal}
        print(f"{name}: {value:.2f} {unit} (goal at most {goal})")
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
