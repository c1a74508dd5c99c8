"""Analysis: frames of a large run, figures, taxonomy, comparison, viewer, report, foreign files.

    python benchmarks/analysis.py [--json] [--trajectories 10000] [--steps 15] [--keep FOLDER]

Run folders are made up by a seed, with pages as long as WebShop's: a large one for the frames and
the taxonomy (10,000 trajectories of 15 steps, 3,000 branches, evaluations and samples with it), one
of 2,000 trajectories for figures and the viewer, one of 500 for the report. A headless Chromium
opens the viewer and the report. Every figure about time or memory comes from a process of its own;
a wall-clock time is the best of `--repeats`, since what else the machine does only adds. The
taxonomy is held against the hand labels in `tests/data/failures`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LABELS = HERE.parent / "eeflib" / "data" / "failures"

GOALS: dict[str, tuple[float | None, str]] = {
    "frames_s": (4.0, "s"),
    "frames_cpu_s": (4.0, "s"),
    "frames_peak_mb": (500.0, "MB"),
    "figures_slowest_cpu_ms": (200.0, "ms"),
    "viewer_slowest_ms": (200.0, "ms"),
    "report_s": (5.0, "s"),
    "report_mb": (10.0, "MB"),
    "report_interactive_s": (2.0, "s"),
    "read_cpu_s_per_100mb": (5.0, "s"),
    "read_grown_mb": (64.0, "MB"),
    "labels_held_out_primary": (0.9, "share"),
    "labels_held_out_precision": (0.9, "share"),
    "labels_held_out_coverage": (0.9, "share"),
}
"""Name -> (goal, unit); a share is to be at least that, everything else at most."""

COLOURS = ("navy", "olive", "crimson", "sand", "teal")
THINGS = ("kettle", "desk lamp", "rain jacket", "notebook", "running shoe", "floor mat")
LEVELS = ("easy", "medium", "hard")


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({"schema": 1, **row}) + "\n")


def make_task(rng: random.Random, split: str, i: int) -> dict[str, Any]:
    thing, colour, price = rng.choice(THINGS), rng.choice(COLOURS), 10 * rng.randint(3, 12)
    text = (
        f"i need a {colour} {thing} that is easy to clean, and price lower than {price}.00 dollars"
    )
    goal = {
        "asin": f"B0{i:08d}",
        "name": f"Acme Easy Clean {thing.title()}",
        "query": thing,
        "product_category": "Home \u203a Things",
        "attributes": ["easy clean", "sturdy"],
        "goal_options": [colour],
        "price_upper": float(price),
    }
    return {
        "id": f"webshop-{split}-{i:05d}",
        "env": "webshop",
        "instruction": text,
        "goal": goal,
        "seed": 1,
        "settings": {"max_steps": 20},
        "split": split,
        "level": LEVELS[i % 3],
    }


def make_episode(
    rng: random.Random, task: dict[str, Any], name: str, actor: str, length: int, won: bool
) -> dict[str, Any]:
    """Search, pages, products, an option, a purchase: `length` pages of about 900 letters."""
    head = f"Instruction: [SEP] {task['instruction']} [SEP] Back to Search [SEP] "
    steps = []
    for t in range(length):
        item = f"B0{rng.randrange(10**8):08d}"
        if t == length - 1:
            action = "click[buy now]"
        elif t == 0:
            action = f"search[{' '.join(task['instruction'].split()[3:5])}]"
        elif t == length - 2:
            action = f"click[{task['goal']['goal_options'][0] if won else rng.choice(COLOURS)}]"
        else:
            action = rng.choice(["click[next >]", f"click[{item.lower()}]", "click[< prev]"])
        listing = " [SEP] ".join(
            f"B0{rng.randrange(10**8):08d} [SEP] Acme {rng.choice(THINGS).title()} with a long and "
            f"telling title [SEP] ${rng.randint(5, 120)}.0"
            for _ in range(9)
        )
        page = f"< Prev [SEP] color [SEP] {' [SEP] '.join(COLOURS)} [SEP] Acme Easy Clean "
        page += (
            f"{task['goal']['query'].title()} [SEP] Price: ${rng.randint(5, 90)}.0 [SEP] Buy Now"
        )
        shown = page if t >= length - 2 else f"Page {t} (Total results: 50) [SEP] {listing}"
        steps.append(
            {
                "observation": head + shown,
                "action": action,
                "actor": actor,
                "reply": f"Thought: Nothing fits here, look further.\nAction: {action}",
                "thought": "Nothing fits here, look further.",
                "valid": True,
                "reason": "",
                "reward": 0.0,
                "score": 0.0,
                "state_key": f"{rng.getrandbits(64):016x}",
                "usage": {"prompt_tokens": 900 + 40 * t, "completion_tokens": 12, "cost_usd": 2e-4},
            }
        )
    return {
        "id": name,
        "task_id": task["id"],
        "env": "webshop",
        "instruction": task["instruction"],
        "policy": actor,
        "steps": steps,
        "final_observation": "Thank you for shopping with us!",
        "reward": 1.0 if won else rng.choice([0.0, 0.25, 0.5, 0.75]),
        "terminated": True,
        "truncated": False,
    }


def make_run(folder: Path, trajectories: int, steps: int, explored: int, seed: int = 1) -> None:
    """A run of one seed: the teacher, RFT and EEF with branches, samples and test episodes."""
    rng = random.Random(seed)
    here = folder / "seed-1"
    train = [make_task(rng, "train", i) for i in range(trajectories)]
    test = [make_task(rng, "test", i) for i in range(trajectories, trajectories + 100)]
    write(here / "tasks.jsonl", [*train, *test])
    teacher = []
    for i, task in enumerate(train):
        name = f"{task['id']}#teacher.0"
        teacher.append(make_episode(rng, task, name, "teacher", steps, i % 3 == 0))
    write(here / "trajectories.jsonl", teacher)
    for method, chance in (("RFT", 0.4), ("EEF", 0.6)):
        branches, samples = [], []
        for task, expert in list(zip(train, teacher, strict=True))[:explored]:
            for k in range(6 if method == "EEF" else 1):
                won = rng.random() < chance * (0.3 if k > 3 else 1)
                rollout = make_episode(rng, task, f"{task['id']}#{method}{k}", "student", 3, won)
                name = f"{task['id']}#{method}.{k}"
                state = {"k": k, "t": k * (steps // 6), "attempt": 0, "iteration": 1}
                owner = {"teacher_id": expert["id"] if k else None}
                branches.append(
                    {"id": name, "task_id": task["id"], **state, **owner, "rollout": rollout}
                )
                if won:
                    moves = [*expert["steps"][: state["t"]], *rollout["steps"]]
                    trained = [x["actor"] == "student" for x in moves]
                    labels = ["student" if x else "context" for x in trained]
                    kind = {"kind": "recovery" if k else "s0", "start": state["t"], "source": name}
                    facts = {"task_id": task["id"], "env": "webshop", "instruction": "buy"}
                    sample = {"steps": moves, "trained": trained, "labels": labels}
                    samples.append({"id": f"sample-{name}", **facts, **kind, **sample})
        folder_of = here / method
        write(folder_of / "iter-1" / "branches.jsonl", branches)
        write(folder_of / "iter-1" / "samples.jsonl", samples)
        episodes = [
            make_episode(rng, t, f"{t['id']}#{method}.i1", "student", 5, rng.random() < chance)
            for t in test
        ]
        write(folder_of / "iter-1" / "test_rollouts.jsonl", episodes)
        outcomes = [
            {
                "method": method,
                "seed": 1,
                "iteration": 1,
                "task_id": t["id"],
                "task_hash": t["id"],
                "split": "test",
                "level": t["level"],
                "reward": e["reward"],
                "length": 5,
            }
            for t, e in zip(test, episodes, strict=True)
        ]
        write(folder_of / "evaluations.jsonl", outcomes)
    (folder / "manifest.json").write_text(json.dumps({"seeds": [1], "config": {}}), "utf-8")


def part(name: str, folder: Path, script: str = "analysis_parts") -> dict[str, Any]:
    """One measurement in a fresh process."""
    command = [sys.executable, str(HERE / "parts" / f"{script}.py"), name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"part {name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def best_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The least of each number; memory: the most."""
    out = dict(runs[0])
    for name, value in out.items():
        if isinstance(value, float):
            pick = max if name.endswith("_mb") else min
            out[name] = pick(run[name] for run in runs)
    return out


def labelled(name: str) -> dict[str, Any]:
    """Rules against hand labels: main kind alike, precision and recall of all, coverage."""
    from eeflib.analysis.taxonomy import Case, coverage, diagnose, failures
    from eeflib.records import Task, Trajectory

    rows = [json.loads(x) for x in (LABELS / f"{name}.jsonl").read_text("utf-8").splitlines()]
    cases = [
        Case(0, "", 0, Trajectory.from_dict(r["trajectory"]), Task.from_dict(r["task"]))
        for r in rows
    ]
    found = [diagnose(c.trajectory, c.task) for c in cases]
    pairs = [(set(d.kinds), set(r["labels"])) for d, r in zip(found, rows, strict=True) if d]
    right = sum(len(a & b) for a, b in pairs)
    covered = coverage(failures(cases))
    same = [d is not None and d.primary == r["labels"][0] for d, r in zip(found, rows, strict=True)]
    return {
        f"labels_{name}_n": len(rows),
        f"labels_{name}_primary": sum(same) / len(rows),
        f"labels_{name}_precision": right / sum(len(a) for a, _ in pairs),
        f"labels_{name}_recall": right / sum(len(b) for _, b in pairs),
        f"labels_{name}_coverage": (covered.cause + covered.end) / covered.n,
        f"labels_{name}_coverage_cause": covered.share,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--trajectories", type=int, default=10_000, help="of the large run")
    parser.add_argument("--steps", type=int, default=15, help="of each of them")
    parser.add_argument("--repeats", type=int, default=3, help="processes per measured time")
    parser.add_argument("--keep", type=Path, help="leave the run folders in this folder")
    options = parser.parse_args()
    load = os.getloadavg()[0]  # the clock is fair to an idle machine only
    with tempfile.TemporaryDirectory() as temporary:
        base = options.keep or Path(temporary)
        make_run(base / "large", options.trajectories, options.steps, 500)
        make_run(base / "2000", 2000, 10, 2000)
        make_run(base / "500", 500, 10, 500)
        again = range(options.repeats)
        out = best_of([part("frames", base / "large") for _ in again])
        out |= best_of([part("taxonomy", base / "large") for _ in again])
        out |= part("figures", base / "2000")
        out |= part("compare", base / "2000")
        out |= part("viewer", base / "2000", "analysis_views")
        out |= best_of([part("report", base / "500") for _ in again])
        out |= part("browser", base / "500", "analysis_views")
        out |= part("read", base / "2000")
    out |= labelled("writing") | labelled("held_out")
    out |= {"cores": os.cpu_count(), "load_before": load, "load_after": os.getloadavg()[0]}
    rows = {}
    for name, value in out.items():
        goal, unit = GOALS.get(name, (None, ""))
        holds = goal is None or (value >= goal if unit == "share" else value <= goal)
        rows[name] = {"value": value, "goal": goal, "unit": unit, "holds": holds}
        if not options.json:
            text = f"{value:14,.3f}" if isinstance(value, float) else f"{value!s:>14}"
            print(f"{name:36} {text} {unit:5} goal {goal} {'ok' if holds else 'MISSED'}")
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
