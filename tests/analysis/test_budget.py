"""The budget planner: known best strategies, exact cuts, odd records, and docs/budget.md."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sample_run import write_jsonl

from eeflib.analysis import figures, frames
from eeflib.analysis.budget import COLUMNS, STRATEGIES, plan_budget, plan_run
from eeflib.errors import DataError
from eeflib.records import UNRATED, Branch, Step, Trajectory
from tests import pagecode

PAGE = Path(__file__).parents[2] / "docs" / "budget.md"
T = 12
"""Actions of each of the teacher's trajectories; its states are s0 and after 2, 4, 6, 8, 10."""
Won = Callable[[str, int, int], bool]


def episode(name: str, task: str, length: int, reward: float, error: str = "") -> Trajectory:
    steps = tuple(Step("o", "a", "teacher") for _ in range(length))
    return Trajectory(name, task, "webshop", "x", "p", steps, "", reward, True, False, error=error)


def branch(task: str, t: int, attempt: int, won: bool, **other: Any) -> Branch:
    """A rollout of 2 actions from the state after t actions."""
    name, teacher = f"{task}.{t}.{attempt}", f"{task}#teacher" if t else None
    rollout = episode(name, task, 2, float(won))
    return replace(Branch(name, task, t // 2, t, attempt, teacher, rollout, iteration=1), **other)


def record(won: Won, tasks: str = "abcd", attempts: int = 1) -> list[Branch]:
    """Every state of every task, each `attempts` times."""
    states = [(u, t) for u in tasks for t in range(0, T, 2)]
    return [branch(u, t, i, won(u, t, i)) for u, t in states for i in range(attempts)]


def taught(tasks: str = "abcd", solved: str = "") -> list[Trajectory]:
    return [episode(f"{u}#teacher", u, T, float(u in solved)) for u in tasks]


@pytest.fixture
def plan(tmp_path) -> Callable[..., pd.DataFrame]:
    """`plan_run` of hand-made records, as they come from a run folder."""

    def planned(branches, trajectories, budgets, *, seeds=(1,), **options) -> pd.DataFrame:
        for seed in seeds:
            here = tmp_path / f"seed-{seed}"
            write_jsonl(here / "trajectories.jsonl", trajectories)
            write_jsonl(here / "EEF" / "iter-1" / "branches.jsonl", branches)
        return plan_run(tmp_path, budgets, **options)

    return planned


def at(table: pd.DataFrame, strategy: str) -> pd.Series:
    """The row of a strategy in a frame with one budget and one seed."""
    return table.set_index("strategy").loc[strategy]


def test_where_only_late_states_win_s0_finds_none_and_stopping_saves_steps(plan):
    """Each of four tasks is won from its last two states, never from s0: 6 states, 2 steps each."""
    table = plan(record(lambda u, t, i: t >= 8), taught(), [1000])
    found = table.set_index("strategy")
    assert found["newly_solved"].to_dict() == dict.fromkeys(STRATEGIES, 4) | {"s0": 0, "s0-stop": 0}
    steps = found["steps"].to_dict()
    assert steps["s0"] == 4 * 2
    assert steps["all"] == 4 * 6 * 2
    assert steps["bisection"] == 4 * 5 * 2, "6, then 2, 0, 4 before it, then 10"
    assert steps["equal"] == 4 * 2 * 2, "s0, then the state farthest from it"
    assert steps["entropy"] < steps["all"]
    assert found.loc["equal", "per_1000"] == 1000 * 4 / 16
    assert found.loc["equal", "replayed"] == 4 * 10
    assert (found["sd"] == 0).all()
    assert (found["tasks"] == 4).all()


def test_where_the_middle_state_wins_bisection_is_first(plan):
    table = plan(record(lambda u, t, i: t == 6), taught(), [1000])
    steps = table.set_index("strategy")["steps"].to_dict()
    assert steps["bisection"] == 4 * 2
    assert steps["bisection"] < min(steps["equal"], steps["entropy"], steps["all"])


def test_entropy_stays_at_the_depth_that_wins_now_and_then(plan):
    """One depth wins every third task, the others none: after a few tries it is tried most."""
    tasks = "abcdefghijklmnopqrstuvwxyz"
    rows = record(lambda u, t, i: t == 8 and tasks.index(u) % 3 == 0, tasks)
    table = plan(rows, taught(tasks), [104], strategies=["entropy", "all"])
    assert at(table, "entropy")["newly_solved"] > 1.5 * at(table, "all")["newly_solved"] > 0


def test_the_cut_is_at_the_rollout_that_reaches_the_budget(plan):
    """Rollouts of 2 steps in one known order: task by task, s0 to s5."""
    won = record(lambda u, t, i: t == 4, "a")
    table = plan(won, taught("a"), [5, 6, 1, 4, 4, 99], strategies=["all"])
    assert table["budget"].tolist() == [1, 4, 5, 6, 99]
    assert table["steps"].tolist() == [2, 4, 6, 6, 12], "the last one is whole; then none is left"
    assert table["newly_solved"].tolist() == [0, 0, 1, 1, 1]
    assert table["replayed"].tolist() == [0, 2, 6, 6, 30]


def test_a_solved_task_is_left_where_the_strategy_says_so(plan):
    table = plan(record(lambda u, t, i: True, attempts=3), taught(), [1000])
    steps = table.set_index("strategy")["steps"].to_dict()
    assert steps == {
        "s0": 4 * 3 * 2, "all": 4 * 6 * 3 * 2,
        **dict.fromkeys(("s0-stop", "equal", "bisection", "entropy"), 4 * 2),
    }  # fmt: skip


def test_faults_and_states_that_were_not_restored_cost_and_win_nothing(plan):
    whole = record(lambda u, t, i: t == 4)
    fault = episode("f", "a", 50, 1.0, error="ProviderError: gone")
    odd = [
        branch("a", 6, 7, True, rollout=fault),
        branch("b", 6, 7, True, rollout=None, restore_mismatch="another page"),
    ]
    options = {"budgets": [9, 1000], "seed": 3}
    assert plan([*odd, *whole], taught(), **options).equals(plan(whole, taught(), **options))
    assert plan(odd, taught(), [9]).empty


def test_only_tasks_that_the_teacher_is_known_to_have_failed_are_counted(plan):
    """a is failed; b is solved by the second of two teachers; c's reward is unknown; d has none."""
    second = episode("b#second", "b", T, 1.0)
    unrated = replace(taught("c")[0], extra={UNRATED: True})
    table = plan(record(lambda u, t, i: True), [*taught("ab"), second, unrated], [1000])
    assert (table["tasks"] == 1).all()
    assert (table["newly_solved"] == 1).all()


def test_two_trajectories_of_a_task_are_bisected_each(plan):
    """a is won only from the middle of its second trajectory; s0 belongs to the first."""
    other = [branch("a", t, 0, t == 6, id=f"x{t}", teacher_id="a#two") for t in range(2, T, 2)]
    teachers = [*taught("a"), episode("a#two", "a", T, 0.0)]
    table = plan([*record(lambda u, t, i: False, "a"), *other], teachers, [1000])
    assert at(table, "bisection")["steps"] == 2 * 2, "the middle of the one, then of the other"
    assert at(table, "s0")["steps"] == 2
    assert at(table, "all")["steps"] == 11 * 2


def test_the_same_seed_gives_the_same_frame_whatever_the_order_on_file(plan):
    rows = record(lambda u, t, i: (ord(u) * 7 + t + i) % 5 == 0, attempts=2)
    first = plan(rows, taught(), [6, 20], seed=5)
    assert first.equals(plan(rows[::-1], taught()[::-1], [20, 6], seed=5))
    assert not first.equals(plan(rows, taught(), [6, 20], seed=6))
    assert (first["sd"] > 0).any(), "orders of the tasks differ"


def test_each_seed_has_its_rows_and_each_rollout_counts_once(plan, tmp_path):
    """RFTx6's first rollout from s0 is EEF's; its others are added, later iterations are not."""
    rows = record(lambda u, t, i: t >= 8)
    more = [branch(u, 0, i, u == "a" and i == 2) for u in "abcd" for i in range(3)]
    for seed in (1, 2):
        here = tmp_path / f"seed-{seed}"
        write_jsonl(here / "RFTx6" / "iter-1" / "branches.jsonl", more)
        later = [branch(u, 0, 0, True, id=f"later {u}", iteration=2) for u in "abcd"]
        write_jsonl(here / "RFTx6" / "iter-2" / "branches.jsonl", later)
        write_jsonl(here / "EEF~abc" / "iter-1" / "branches.jsonl", later)
    table = plan(rows, taught(), [1000], seeds=(1, 2))
    assert table["seed"].tolist() == [1] * len(STRATEGIES) + [2] * len(STRATEGIES)
    starts = table[table["strategy"] == "s0"]
    assert starts["steps"].tolist() == [4 * 3 * 2] * 2
    assert starts["newly_solved"].tolist() == [1, 1]


def test_nothing_gives_an_empty_frame_and_a_figure_that_says_so(plan, tmp_path):
    empty = plan([], [], [100])
    assert list(empty) == list(COLUMNS)
    assert empty.empty
    assert plan(record(lambda u, t, i: True), taught(solved="abcd"), [100]).empty
    assert plan(record(lambda u, t, i: True), taught(), []).empty
    assert plan(record(lambda u, t, i: True), taught(), [9], strategies=[]).empty
    assert "teacher failed" in figures.budget_plans(empty).layout.meta["nothing"]
    only_deep = [b for b in record(lambda u, t, i: True) if b.t]
    assert at(plan(only_deep, taught(), [9]), "s0")[["steps", "newly_solved"]].tolist() == [0, 0]


@pytest.mark.parametrize("budgets", [[0], [-5], [100, 2.5], ["100"], [float("nan")]])
def test_a_budget_is_a_whole_number_above_0(plan, budgets):
    with pytest.raises(DataError, match="whole numbers above 0"):
        plan(record(lambda u, t, i: True), taught(), budgets)


def test_unknown_strategies_and_orders_are_refused(plan):
    with pytest.raises(DataError, match=r"'best'; choose from s0, .*bisection, entropy"):
        plan([], [], [100], strategies=["s0", "best"])
    with pytest.raises(DataError, match="above 0, not 0"):
        plan([], [], [100], orders=0)


def test_the_figure_draws_a_line_for_each_strategy_and_marks_for_seeds(plan):
    rows = record(lambda u, t, i: t >= 8)
    one = plan(rows, taught(), [4, 8, 500], strategies=["s0", "equal"])
    figure = figures.budget_plans(one)
    assert [line.name for line in figure.data] == ["s0", "equal"]
    assert len({(x.line.dash, x.marker.symbol, x.line.color) for x in figure.data}) == 2
    assert list(figure.data[1].x) == [4, 8, 16], "what was spent, not what was allowed"
    assert list(figure.data[1].y) == [0, 0, 4]
    assert "4.0 of 4 tasks newly solved" in figure.data[1].hovertext[2]
    assert "seed 1" in figure.data[1].hovertext[2]
    assert "One seed" in figure.layout.meta["note"]
    both = figures.budget_plans(plan(rows, taught(), [4, 8], strategies=["s0"], seeds=(1, 2)))
    line, marks = both.data
    assert "mean of 2 seeds" in line.hovertext[0]
    assert (len(marks.x), marks.mode) == (4, "markers")


def test_frames_will_do_for_a_part_of_a_run(plan, tmp_path):
    whole = plan(record(lambda u, t, i: t >= 8), taught(), [1000])
    run = frames.load(tmp_path)
    assert plan_budget(run.branches, run.trajectories, [1000]).equals(whole)
    part = plan_budget(run.branches.query("task_id == 'a'"), run.trajectories, [1000])
    assert (part["tasks"] == 1).all()


def test_the_page_prints_the_table_that_it_shows(tmp_path, monkeypatch):
    text = PAGE.read_text("utf-8")
    block = r"^```python\n(.*?)^```\n\n```\n(.*?)^```$"
    ((code, shown),) = re.findall(block, text, re.M | re.S)
    monkeypatch.delenv("EEFLIB_RUNS", raising=False)
    printed = pagecode.program(code, tmp_path)
    assert [line.rstrip() for line in printed.splitlines()] == shown.splitlines()
