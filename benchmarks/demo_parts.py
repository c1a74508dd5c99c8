"""Speed of what the demo is made of: the tiny student on WebShop.

    python benchmarks/demo_parts.py [--json] [--episodes 96]

Rates are per second of CPU time with one thread, so that a busy machine does not count. A rollout
token counts once, when it enters a conversation, however often it is encoded. The whole command is
measured by `demo_speed.py`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from eeflib.config import TrainConfig
from eeflib.masking import encode_samples
from eeflib.methods import get_method
from eeflib.policies.huggingface import HuggingFacePolicy
from eeflib.policies.loading import load_student
from eeflib.policies.scripted import ScriptedShopper, Skill
from eeflib.prompts import get_format
from eeflib.records import Trajectory
from eeflib.rollout import Episode, run_episodes
from eeflib.selection import select
from eeflib.training import train
from eeflib.world import World, webshop

SEED = 61
GOALS = {
    "webshop_steps_per_second": (2_000, "steps/s"),
    "rollout_tokens_per_second": (8_000, "tokens/s"),
    "rollout_episodes_per_second": (10, "episodes/s"),
    "training_tokens_per_second": (8_000, "tokens/s"),
}


def shopping(world: World) -> list[Trajectory]:
    """Trajectories of a shopper without mistakes: what the student is trained on here."""
    teacher = world.teacher
    assert isinstance(teacher, ScriptedShopper)
    shopper = ScriptedShopper(
        Skill(floor=0, ceiling=0),
        option_words=teacher.option_words,
        option_names=teacher.option_names,
    )
    return run_episodes(
        [Episode(t, "teacher") for t in world.tasks],
        shopper,
        world.make_env,
        get_format("react", "webshop"),
        actor="teacher",
        seed=SEED,
    )


def environment_speed(world: World, played: list[Trajectory]) -> dict[str, float]:
    env, steps = world.make_env(), 0
    started = time.process_time()
    for _ in range(3):
        for task, trajectory in zip(world.tasks, played, strict=True):
            env.reset(task)
            for action in trajectory.actions:
                env.step(action)
            steps += trajectory.length
    return {"webshop_steps_per_second": steps / (time.process_time() - started)}


def rollout_speed(world: World, model: object, tokenizer: object) -> dict[str, float]:
    policy = HuggingFacePolicy(model, tokenizer, name="tiny", mode="admissible")

    def play(episodes: int, key: str) -> tuple[int, float]:
        started = time.process_time()
        played = run_episodes(
            [Episode(t, key) for t in world.tasks[:episodes]],
            policy,
            world.make_env,
            get_format("act", "webshop"),
            actor="student",
            seed=SEED,
            batch_size=128,
        )
        seconds = time.process_time() - started
        last = [t.steps[-1].usage for t in played]
        return sum(u.prompt_tokens + u.completion_tokens for u in last if u), seconds

    play(2, "warm")
    tokens, seconds = play(len(world.tasks), "timed")
    return {
        "rollout_tokens_per_second": tokens / seconds,
        "rollout_episodes_per_second": len(world.tasks) / seconds,
    }


def training_speed(
    world: World, played: list[Trajectory], model: object, tokenizer: object, folder: Path
) -> dict[str, float]:
    samples = select(get_method("SFT"), world.split("train"), played).samples
    data = encode_samples(samples, get_format("act", "webshop"), tokenizer)
    config = TrainConfig(
        method="full", learning_rate=2e-3, max_steps=12, batch_size=16, dtype="float32",
        device="cpu",
    )  # fmt: skip
    started = time.process_time()
    result = train((model, tokenizer), data, config, folder / "model", progress=False)
    return {"training_tokens_per_second": result.tokens / (time.process_time() - started)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="last line of stdout is one object")
    parser.add_argument("--episodes", type=int, default=96)
    options = parser.parse_args()
    torch.set_num_threads(1)
    world = webshop(SEED, train=options.episodes, test=0)
    model, tokenizer = load_student("tiny", device="cpu")
    played = shopping(world)
    with tempfile.TemporaryDirectory() as name:
        values = {
            **environment_speed(world, played),
            **rollout_speed(world, model, tokenizer),
            **training_speed(world, played, model, tokenizer, Path(name)),
        }
    rows = {}
    for key, value in values.items():
        goal, unit = GOALS[key]
        rows[key] = {"value": round(value, 1), "goal": goal, "unit": unit, "holds": value >= goal}
    if options.json:
        print(json.dumps(rows))
        return
    for key, row in rows.items():
        mark = "ok" if row["holds"] else "MISSED"
        print(f"{key:28} {row['value']:12,.1f} {row['unit']:11} goal {row['goal']:,} {mark}")


if __name__ == "__main__":
    main()
