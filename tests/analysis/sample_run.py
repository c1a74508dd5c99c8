"""A made-up run folder of plausible shape, seeded: what the analysis is tested and looked at with.

No student is behind it: outcomes are drawn from fixed probabilities. Run it to look at a report:
`python tests/analysis/sample_run.py FOLDER`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from eeflib.records import Branch, Evaluation, Record, Sample, Step, Task, Trajectory
from eeflib.stats import evaluations_from

LEVELS = ("easy", "medium", "hard")
PRODUCTS = ("kettle", "desk lamp", "rain jacket", "notebook", "running shoe", "floor mat")
COLOURS = ("navy", "olive", "crimson", "sand")
WIN = {  # method -> test win rate per iteration at easy, medium, hard
    "SFT": [(0.78, 0.42, 0.07)],
    "RFT": [(0.78, 0.42, 0.07), (0.86, 0.5, 0.12), (0.88, 0.55, 0.16)],
    "RFTx6": [(0.78, 0.42, 0.07), (0.88, 0.55, 0.18), (0.9, 0.6, 0.25)],
    "EEF": [(0.78, 0.42, 0.07), (0.88, 0.58, 0.32), (0.92, 0.66, 0.46)],
    "EEF-no-mask": [(0.78, 0.42, 0.07), (0.88, 0.56, 0.3), (0.9, 0.66, 0.45)],
}
M = 4


def write_jsonl(path: Path, records: Iterable[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(r.to_dict()) + "\n" for r in records)
    path.write_text(text, encoding="utf-8")


def make_task(rng: np.random.Generator, seed: int, split: str, i: int) -> Task:
    level = LEVELS[int(rng.integers(3))]
    product, colour = PRODUCTS[int(rng.integers(6))], COLOURS[int(rng.integers(4))]
    price = 10 * int(rng.integers(2, 12))
    text = f"I need a {colour} {product} that is easy to clean, price lower than {price}.00 dollars"
    goal = {"asin": f"B0{seed:02d}{i:06d}", "option": colour, "split": split}
    return Task(
        f"webshop-{split}-{i:04d}",
        "webshop",
        text,
        goal,
        seed=seed,
        settings={"max_steps": 14},
        split=split,
        extra={"level": level},
    )


def result_page(task: Task, page: int) -> str:
    items = " [SEP] ".join(
        f"B0{task.seed:02d}{page}{j:05d} [SEP] Homeware {p} with a long title [SEP] $2{j}.5"
        for j, p in enumerate(PRODUCTS)
    )
    return (
        f"Instruction: [SEP] {task.instruction} [SEP] Back to Search [SEP] Page {page} "
        f"(Total results: 50) [SEP] Next > [SEP] {items}"
    )


def make_steps(rng: np.random.Generator, task: Task, actor: str, solved: bool) -> list[Step]:
    """A shopping episode; failures wander: a wrong item, back, an option, a wrong purchase."""
    start = f"WebShop [SEP] Instruction: [SEP] {task.instruction} [SEP] Search"
    item = f"Instruction: [SEP] {task.instruction} [SEP] Back to Search [SEP] < Prev [SEP] color"
    item += f" [SEP] {' [SEP] '.join(COLOURS)} [SEP] Description [SEP] Features [SEP] Buy Now"
    colour = task.goal["option"]
    pages = {"easy": 1, "medium": 1, "hard": 2}[task.extra["level"]]
    plan = [(start, f"search[{colour} {task.instruction.split()[4]}]", "Search for what is asked.")]
    for page in range(1, pages + (1 if not solved or pages > 1 else 0)):
        plan.append((result_page(task, page), "click[next >]", "Nothing fits here, look further."))
    if not solved:
        wrong = f"click[b0{task.seed:02d}2{int(rng.integers(6)):05d}]"
        plan.append((result_page(task, 2), wrong, "This one looks right."))
        plan.append((item, "click[features]", "Is it easy to clean?"))
        plan.append((item, "click[< prev]", "No word about cleaning. Back."))
    plan.append((result_page(task, pages), f"click[b0{task.seed:02d}100003]", "This fits."))
    choice = colour if solved else COLOURS[int(rng.integers(4))]
    plan.append((item, f"click[{choice}]", "Choose the colour."))
    plan.append((item, "click[buy now]", "Everything is chosen."))
    steps = []
    for observation, action, thought in plan:
        valid = not (actor == "teacher" and not solved and rng.random() < 0.06)
        if not valid:
            action = "click[add to cart]"
        steps.append(
            Step(
                observation,
                action,
                actor,
                f"Thought: {thought}\nAction: {action}",
                thought,
                valid,
                "" if valid else "no such button on this page",
            )
        )
    return steps


def make_trajectory(
    rng: np.random.Generator, task: Task, actor: str, name: str, solved: bool, start: int = 0
) -> Trajectory:
    steps = tuple(make_steps(rng, task, actor, solved)[start:])
    reward = 1.0 if solved else float(rng.choice([0.0, 0.33, 0.5, 0.67]))
    final = f"Thank you for shopping with us! [SEP] Your score (min 0.0, max 1.0) [SEP] {reward}"
    return Trajectory(
        name, task.id, "webshop", task.instruction, actor, steps, final, reward, True, False
    )


def explore(
    rng: np.random.Generator, tasks: Sequence[Task], teacher: Sequence[Trajectory], deep: bool
) -> list[Branch]:
    branches = []
    by_task = {t.task_id: t for t in teacher}
    for task in tasks:
        chance = WIN["SFT"][0][LEVELS.index(task.extra["level"])]
        own = make_trajectory(rng, task, "student", f"{task.id}#s0", bool(rng.random() < chance))
        branches.append(Branch(f"{task.id}/s0/0", task.id, 0, 0, 0, None, own, iteration=1))
        expert = by_task[task.id]
        if not deep or expert.solved:
            continue
        step = max(1, expert.length // (M + 1))
        for k in range(1, M + 1):
            at = chance * (1.6 if k in (1, 2) else 0.5)
            if rng.random() < 0.02:
                rollout, why = None, "at character 12: recorded 'Page 1', got 'Page 2'"
            else:
                won = bool(rng.random() < at)
                rollout, why = make_trajectory(rng, task, "student", f"{task.id}#k{k}", won), ""
            name = f"{expert.id}/k{k}/0"
            branches.append(
                Branch(name, task.id, k, k * step, 0, expert.id, rollout, why, iteration=1)
            )
    return branches


def make_samples(branches: Sequence[Branch], teacher: Sequence[Trajectory]) -> list[Sample]:
    experts = {t.id: t for t in teacher}
    out = []
    for b in branches:
        if not b.won or b.rollout is None:
            continue
        prefix = experts[b.teacher_id].steps[: b.t] if b.teacher_id else ()
        steps = (*prefix, *b.rollout.steps)
        labels = ("context",) * len(prefix) + ("student",) * len(b.rollout.steps)
        out.append(
            Sample(
                f"sample-{b.id}",
                b.task_id,
                "webshop",
                b.rollout.instruction,
                "recovery" if b.k else "s0",
                steps,
                tuple(x == "student" for x in labels),
                labels,
                start=b.t,
                source=b.id,
            )
        )
    return out


def write_run(
    path: str | Path,
    *,
    seeds: Sequence[int] = (11, 12, 13),
    tasks: int = 60,
    seed: int = 7,
    episodes: bool = False,
) -> Path:
    """Write a whole run with `tasks` training and 3 * `tasks` test tasks a seed; return `path`.

    Args:
        episodes: keep the students' test episodes too, not only their results.
    """
    root = Path(path)
    everything: list[Evaluation] = []
    for s in seeds:
        rng = np.random.default_rng([seed, s])
        train = [make_task(rng, s, "train", i) for i in range(tasks)]
        test = [make_task(rng, s, "test", i + tasks) for i in range(3 * tasks)]
        teacher = [
            make_trajectory(
                rng,
                t,
                "teacher",
                f"{t.id}#teacher",
                bool(rng.random() < (0.75, 0.3, 0.03)[LEVELS.index(t.extra["level"])]),
            )
            for t in train
        ]
        here = root / f"seed-{s}"
        write_jsonl(here / "tasks.jsonl", [*train, *test])
        write_jsonl(here / "trajectories.jsonl", teacher)
        for method, rates in WIN.items():
            folder = here / method
            outcomes = []
            for i, chances in enumerate(rates):
                results = [
                    make_trajectory(
                        rng,
                        t,
                        "student",
                        f"{t.id}#{i}",
                        bool(rng.random() < chances[LEVELS.index(t.extra["level"])]),
                    )
                    for t in test
                ]
                outcomes += evaluations_from(results, test, method, s, i)
                if episodes:
                    write_jsonl(folder / f"iter-{i}" / "test_rollouts.jsonl", results)
                if i:
                    branches = explore(rng, train, teacher, method.startswith("EEF"))
                    write_jsonl(folder / f"iter-{i}" / "branches.jsonl", branches)
                    samples = make_samples(branches, teacher)
                    write_jsonl(folder / f"iter-{i}" / "samples.jsonl", samples)
            write_jsonl(folder / "evaluations.jsonl", outcomes)
            everything += outcomes
    summary = {
        "methods": [
            {"method": m, "simulations": 120 * len(r) * (i + 1), "seconds": 31.5 * len(r)}
            for i, (m, r) in enumerate(WIN.items())
        ],
        "seeds": list(seeds),
        "env": "webshop",
    }
    manifest = {
        "format": "eeflib-run",
        "created": "2026-11-22T12:00:00+00:00",
        "config": {"env": "webshop", "student": "tiny", "preset": "tiny", "M": M, "iterations": 2},
        "config_hash": "0123456789abcdef",
        "seeds": list(seeds),
        "versions": {"eeflib": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6"},
        "python": "3.11.7",
        "platform": "Linux",
        "cpus": 2,
        "git": {"commit": "0" * 40, "changed": False},
    }
    (root / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (root / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return root


def write_hostile(root: Path, text: str) -> None:
    """A small run with `text` in every field that a page or a figure could show."""

    def episode(name: str, reward: float, n: int) -> Trajectory:
        steps = tuple(
            Step(text, f"click[{text}]", "teacher", text, text, i != 1, text) for i in range(n)
        )
        return Trajectory(name, text, text, text, text, steps, text, reward, True, False)

    here, about = root / "seed-1", {"level": text, "task_type": text}
    task = Task(text, text, text, {"a": text}, split="test", extra=about)
    write_jsonl(here / "tasks.jsonl", [task])
    write_jsonl(here / "trajectories.jsonl", [episode(text, 0.2, 6)])
    branches = [
        Branch("b0", text, 0, 0, 0, None, episode("r", 0.0, 1), iteration=1),
        Branch(text, text, 1, 2, 0, text, episode("r", 1.0, 1), iteration=1),
        Branch("b2", text, 2, 4, 0, text, episode("r", 0.0, 1), iteration=1),
        Branch("b3", text, 3, 5, 0, text, None, text, iteration=1),
    ]
    write_jsonl(here / "m" / "iter-1" / "branches.jsonl", branches)
    for folder, method, reward, error in (("m", text, 1.0, ""), ("RFT", "RFT", 0.0, text)):
        known = (text, task.content_hash, "test", text, reward)
        outcomes = [Evaluation(method, 1, i, *known, error=error) for i in (0, 1)]
        write_jsonl(here / folder / "evaluations.jsonl", outcomes)
        rollout = episode(f"{text}{folder}", reward, 2)
        write_jsonl(here / folder / "iter-1" / "test_rollouts.jsonl", [rollout])
    manifest = {"config": {text: text, "student": text}, "versions": {text: text}, "command": text}
    (root / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    summary = {"methods": [{"method": text, text: 5, "simulations": 7}], "env": text}
    (root / "summary.json").write_text(json.dumps(summary), "utf-8")


if __name__ == "__main__":
    write_run(sys.argv[1])
