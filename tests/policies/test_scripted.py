"""The scripted teacher: it slips and mends, tires, and fails what is long after useful steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from eeflib.envs.webshop.shop import OPTION_VALUES
from eeflib.envs.webshop.skills import SKILLS, skills_shown
from eeflib.policies.base import Conversation
from eeflib.policies.scripted import FLAWLESS, ScriptedShopper, Skill
from eeflib.prompts import get_format
from eeflib.records import Step, Task, Trajectory
from eeflib.rollout import Episode, run_episodes
from eeflib.world import World, webshop

SEED = 21


@cache
def world() -> World:
    return webshop(SEED, train=160, test=40)


def shopper(**skill: float) -> ScriptedShopper:
    return ScriptedShopper(Skill(**skill), options=OPTION_VALUES)


def play(
    tasks: Sequence[Task], policy: ScriptedShopper, batch_size: int = 64, seed: int = SEED
) -> list[Trajectory]:
    return run_episodes(
        [Episode(t, "teacher") for t in tasks],
        policy,
        world().make_env,
        get_format("react", "webshop"),
        actor="teacher",
        seed=seed,
        batch_size=batch_size,
    )


@dataclass
class Played:
    won: list[Trajectory]
    lost: list[Trajectory]

    @property
    def share(self) -> float:
        return len(self.won) / (len(self.won) + len(self.lost))


@cache
def default_teacher() -> dict[str, Played]:
    """How the teacher that a run gets by default does on each level."""
    tasks = world().tasks
    teacher = world().teacher
    assert isinstance(teacher, ScriptedShopper)
    out: dict[str, Played] = {}
    for task, t in zip(tasks, play(tasks, teacher), strict=True):
        assert not t.error
        level = out.setdefault(task.extra["level"], Played([], []))
        (level.won if t.solved else level.lost).append(t)
    return out


def test_it_solves_more_short_tasks_than_long_ones():
    levels = default_teacher()
    assert levels["easy"].share > 0.2
    for level in ("page2", "page3", "back", "twins"):
        assert levels[level].share < levels["easy"].share / 2, level
    overall = sum(len(x.won) for x in levels.values()) / len(world().tasks)
    assert 0.1 < overall < 0.4


def test_its_failures_hold_every_skill_and_its_successes_hardly_any():
    won = [t for x in default_teacher().values() for t in x.won]
    lost = [t for x in default_teacher().values() for t in x.lost]
    for skill in SKILLS:
        failed = sum(skill in skills_shown(t.steps) for t in lost)
        assert failed >= 3, skill
        succeeded = sum(skill in skills_shown(t.steps) for t in won)
        if skill in ("paging", "leaving"):  # what exploring from failures is for
            assert succeeded < failed / 4, skill
    # and part of those who paged had the right page open: what a student can go on from
    paged = [t for t in lost if "click[Next >]" in t.actions]
    goal = {t.id: t.goal["asin"] for t in world().tasks}
    seen = [t for t in paged if any(goal[t.task_id] in s.observation for s in t.steps)]
    assert len(seen) > 0.3 * len(paged)


def test_without_late_errors_it_mends_its_slips():
    tasks = world().split("train")[:60]
    careful = play(tasks, shopper(floor=0.0, ceiling=0.0))
    assert sum(t.solved for t in careful) >= 0.85 * len(careful)
    slips = [t for t in careful if t.solved and {"leaving", "rechoosing"} & skills_shown(t.steps)]
    assert len(slips) >= 10
    assert all(t.solved for t in play(tasks, ScriptedShopper(FLAWLESS, options=OPTION_VALUES)))


def test_a_habit_makes_its_mistakes_alike():
    tasks = [t for t in world().tasks if t.extra["level"] == "easy"][:12]
    always = {"wrong_listing": 1.0, "short_search": 0.0, "floor": 0.0, "ceiling": 0.0}

    def first_opened(seed: int, habit: float) -> list[str]:
        played = play(tasks, shopper(**always, habit=habit), seed=seed)
        return [next(a for a in t.actions if a.startswith("click[B0")) for t in played]

    assert first_opened(1, 1.0) == first_opened(2, 1.0)
    assert first_opened(1, 0.0) != first_opened(2, 0.0)


def test_skills_are_counted_by_what_was_done():
    def shown(*actions: str) -> set[str]:
        return set(skills_shown(Step("", a, "teacher") for a in actions))

    first, second = "click[B0AAAAAAA1]", "click[B0AAAAAAA2]"
    assert shown("search[a sofa]", first, "click[Buy Now]") == set()
    assert shown("search[a sofa]", "click[Next >]", first, "click[Buy Now]") == {"paging"}
    assert shown("search[a]", first, "click[< Prev]", second) == {"leaving"}
    assert shown("search[a]", first, "click[< Prev]", first) == set()
    assert shown("search[a]", first, "click[navy]", "click[beige]") == {"rechoosing"}
    assert shown("search[a]", first, "click[navy]", "click[navy]") == set()
    assert shown("search[a]", first, "click[navy]", second, "click[beige]") == {"leaving"}
    assert shown("search[a]", first, "click[Features]", "click[< Prev]") == set()
    read = ("search[a]", first, "click[Features]", "click[< Prev]", "click[Buy Now]")
    assert shown(*read) == {"sub page"}
    assert shown("search[a]", "click[Back to Search]", "search[b]", first) == {"new search"}
    assert set(skills_shown([Step("", "click[Next >]", "teacher", valid=False)])) == set()


def test_it_errs_in_more_than_one_way():
    lost = [t for x in default_teacher().values() for t in x.lost]
    goal = {t.id: t.goal for t in world().tasks}

    def bought(t: Trajectory) -> str:
        return next((a[6:-1] for a in reversed(t.actions) if a.startswith("click[B0")), "")

    wrong_item = [t for t in lost if bought(t) and bought(t) != goal[t.task_id]["asin"]]
    right_item = [t for t in lost if bought(t) == goal[t.task_id]["asin"]]
    assert len(wrong_item) >= 10
    assert len(right_item) >= 5  # an option forgotten or wrong
    assert any("click[Description]" in t.actions for t in lost)


def test_its_replies_are_thought_and_action_and_every_action_is_understood():
    for levels in default_teacher().values():
        for t in (*levels.won, *levels.lost):
            assert all(s.valid for s in t.steps), t.id
            assert all(s.thought and s.action for s in t.steps)


def results(shop: ScriptedShopper, key: str, words: int, n: int = 400) -> int:
    """How often it takes the listing that does not fit, with an instruction of `words` words."""
    wrong = 0
    for i in range(n):
        wish = "i need slippers, soft sole and wide fit" + ", please" * words
        page = (
            f"Instruction: [SEP] {wish} [SEP] Back to Search [SEP] Page 1 (Total results: 2) [SEP] "
            "Next > [SEP] B0AAAAAAA1 [SEP] Norvale Soft Sole Wide Fit Slippers [SEP] $20.0 [SEP] "
            "B0AAAAAAA2 [SEP] Norvale Soft Sole Fleece Inner Slippers [SEP] $20.0"
        )
        c = Conversation((), f"{key}{i}", None, page, wish)
        (reply,) = shop.act([c], rng=[np.random.default_rng(i)])
        wrong += "B0AAAAAAA2" in reply.text
        assert "B0AAAAAAA" in reply.text
    return wrong


def test_words_read_decide_how_often_the_wrong_listing_is_taken():
    shop = shopper(floor=0.05, ceiling=0.9, middle=100, width=10, wrong_listing=0.0)
    short, long = results(shop, "short", 0), results(shop, "long", 150)
    assert short < 0.12 * 400
    assert long > 0.85 * 400


@pytest.mark.parametrize("batch_size", [1, 7])
def test_who_shares_the_batch_changes_nothing(batch_size):
    tasks = world().tasks[:40]
    assert play(tasks, shopper(), 64) == play(tasks, shopper(), batch_size)
    assert play(tasks[20:], shopper(), 64) == play(tasks, shopper(), 64)[20:]


def test_another_seed_makes_other_mistakes():
    tasks = world().tasks[:40]
    a, b = play(tasks, shopper()), play(tasks, shopper(), seed=SEED + 1)
    assert sum(x.actions != y.actions for x, y in zip(a, b, strict=True)) > 10


def test_an_episode_that_is_over_is_forgotten():
    shop = shopper()
    first = play(world().tasks[:10], shop)
    assert shop._memory == {}
    assert play(world().tasks[:10], shop) == first  # nothing was carried over
    shop.forget(["never seen"])


def test_it_acts_on_any_page():
    shop = shopper()
    pages = (
        "", "Search", "Thank you for shopping with us! [SEP] Your code: [SEP] None",
        "Instruction: [SEP] x [SEP] Back to Search [SEP] Page 1 (Total results: 0) [SEP] Next >",
        "Back to Search [SEP] < Prev [SEP] Bullet one [SEP] Bullet two",
        "Back to Search [SEP] < Prev [SEP] Title [SEP] Price: $5 [SEP] Buy Now",
    )  # fmt: skip
    for i, page in enumerate(pages):
        c = Conversation((), f"p{i}", None, page, "find me <b>\u00e9tag\u00e8re</b> in [red]")
        (reply,) = shop.act([c], rng=[np.random.default_rng(0)])
        assert "\nAction: " in reply.text
        assert reply.text.rstrip().endswith("]")
