"""How fast a teacher over HTTP is collected, against the least time that its latency allows.

    python benchmarks/teacher.py [--episodes 256] [--faults 0.3] [--json]

A server in a process of its own answers after half a second. Ideal: all steps of all episodes,
`concurrency` at a time, each after exactly that time, and no fault. The last line with --json:
name -> value, goal, unit, holds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import socketserver
import tempfile
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import eeflib as eef

LATENCY, STEPS, AT_ONCE = 0.5, 8, 32


def serve(port: Any, faults: float) -> None:
    draw, turn = random.Random(0), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with turn:
                kind = draw.choice((429, 500, 502, 503)) if draw.random() < faults else 200
            time.sleep(LATENCY)
            size = sum(len(m["content"]) for m in body["messages"]) // 4
            message = {"role": "assistant", "content": "Thought: on\nAction: search[shirt]"}
            good = {
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": size, "completion_tokens": 9},
            }
            data = json.dumps(good if kind == 200 else {"error": {"message": "no"}}).encode()
            self.send_response(kind)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    socketserver.TCPServer.request_queue_size = 2 * AT_ONCE
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.value = server.server_port
    server.serve_forever()


def collect(episodes: int, faults: float) -> tuple[float, float, int]:
    """Seconds, seconds of this process's CPU, and replies."""
    port = multiprocessing.Value("i", 0)
    server = multiprocessing.Process(target=serve, args=(port, faults), daemon=True)
    server.start()
    while not port.value:
        time.sleep(0.01)
    with tempfile.TemporaryDirectory() as folder:
        run = eef.open_run(folder, preset="tiny", train=episodes, seeds=(7,))
        world = run.world()
        tasks = tuple(replace(t, settings={**t.settings, "max_steps": STEPS}) for t in world.tasks)
        url = f"http://127.0.0.1:{port.value}/v1"
        model = eef.ChatModel("m", base_url=url, concurrency=AT_ONCE)
        world = replace(world, tasks=tasks)
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        tries = eef.collect(world, model, progress=False)
        took = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_SELF)
    server.terminate()
    assert not any(t.error for t in tries), next(t.error for t in tries if t.error)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return took, cpu, sum(t.length for t in tries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=256)
    parser.add_argument("--faults", type=float, default=0.3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = {}
    for name, faults, goal in (
        ("no faults", 0.0, 1.3),
        (f"faults {args.faults}", args.faults, 1.5),
    ):
        took, cpu, replies = collect(args.episodes, faults)
        ideal = LATENCY * replies / AT_ONCE
        rows[f"time over ideal, {name}"] = (took / ideal, goal, "times")
        rows[f"client CPU a reply, {name}"] = (1000 * cpu / replies, 3.0, "ms")
        print(f"{name}: {replies} replies in {took:.1f} s (ideal {ideal:.1f}), {cpu:.1f} s of CPU")
    told = {
        name: {"value": round(value, 3), "goal": goal, "unit": unit, "holds": value <= goal}
        for name, (value, goal, unit) in rows.items()
    }
    for name, row in told.items():
        print(f"{name:40} {row['value']:8} {row['unit']:6} goal {row['goal']}")
    if args.json:
        print(json.dumps(told))


if __name__ == "__main__":
    main()
