"""Evaluation statistics against hand-computed values and SciPy's own tests."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from eeflib import stats
from eeflib.errors import DataError
from eeflib.records import Evaluation, Step, Task, Trajectory
from eeflib.stats import (
    evaluations_from,
    gained_lost,
    last_iteration,
    mean_reward,
    paired_difference,
    per_seed,
    win_rate,
)


def outcomes(method: str, wins: str, seed: int = 0, iteration: int = 0) -> list[Evaluation]:
    """One outcome per character of `wins`: 1 solved, 0 failed with reward 0.5."""
    return [
        Evaluation(
            method,
            seed,
            iteration,
            f"t{i}",
            f"hash-{seed}-{i}",
            "test",
            "hard" if i % 2 else "easy",
            1.0 if c == "1" else 0.5,
        )
        for i, c in enumerate(wins)
    ]


@pytest.mark.parametrize(
    ("wins", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),  # z^2 / (n + z^2) = 3.8415 / 13.8415
        (10, 10, 0.7225, 1.0),
        (1, 1, 0.2065, 1.0),  # 1 / (1 + 3.8415)
        (5, 10, 0.2366, 0.7634),
        (36, 100, 0.2727, 0.4576),
    ],
)
def test_wilson_matches_values_worked_out_by_hand(wins, n, low, high):
    assert stats.wilson(wins, n) == pytest.approx((low, high), abs=5e-5)
    proportion = scipy_stats.binomtest(wins, n).proportion_ci(method="wilson")
    assert stats.wilson(wins, n) == pytest.approx((proportion.low, proportion.high), abs=1e-12)


def test_wilson_of_nothing_says_nothing_and_impossible_counts_are_refused():
    assert stats.wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(DataError, match="3 wins out of 2"):
        stats.wilson(3, 2)


def test_solved_needs_the_threshold_and_no_error():
    row = outcomes("EEF", "1")[0]
    assert row.solved
    data = row.to_dict()
    assert not Evaluation.from_dict({**data, "error": "provider gave up"}).solved
    assert not Evaluation.from_dict({**data, "reward": 0.999}).solved
    assert Evaluation.from_dict({**data, "reward": 0.7, "threshold": 0.7}).solved


def test_win_rate_counts_errors_as_failures():
    rows = outcomes("EEF", "1110")
    broken = Evaluation.from_dict({**rows[0].to_dict(), "task_hash": "other", "error": "dead JVM"})
    rate = win_rate([*rows, broken])
    assert (rate.wins, rate.n, rate.rate) == (3, 5, 0.6)
    empty = win_rate([])
    assert (empty.wins, empty.n) == (0, 0)
    assert math.isnan(empty.rate)


def test_seeds_have_their_own_rates_and_weigh_the_same():
    rows = [*outcomes("EEF", "1110", 1), *outcomes("EEF", "1100", 2), *outcomes("EEF", "1000", 3)]
    assert [r.rate for r in per_seed(rows).values()] == [0.75, 0.5, 0.25]
    unequal = win_rate([*outcomes("EEF", "1" * 20, 0), *outcomes("EEF", "10", 1)])
    assert (unequal.rate, unequal.wins, unequal.n, unequal.seeds) == (0.75, 21, 22, 2)
    assert 0 <= unequal.low < 0.75 < unequal.high <= 1
    assert mean_reward([*outcomes("EEF", "1111", 0), *outcomes("EEF", "10", 1)]) == 0.875
    assert math.isnan(mean_reward([]))


def test_several_seeds_are_compared_by_flipping_all_their_signs():
    rng = np.random.default_rng(3)
    a, b = [], []
    for seed in range(6):
        a += outcomes("EEF", "".join(rng.choice(["0", "1"], 40, p=[0.35, 0.65])), seed)
        b += outcomes("RFT", "".join(rng.choice(["0", "1"], 40, p=[0.5, 0.5])), seed)
    got = paired_difference(a, b)
    rates_a = [win_rate(x for x in a if x.seed == s).rate for s in range(6)]
    rates_b = [win_rate(x for x in b if x.seed == s).rate for s in range(6)]
    apart = np.subtract(rates_a, rates_b)
    signs = np.array(list(itertools.product([1, -1], repeat=6)))
    extreme = np.abs(signs @ apart) >= abs(apart.sum()) - 1e-12
    assert (got.a, got.b, got.n, got.basis, got.tasks) == ("EEF", "RFT", 6, "seeds", 240)
    assert got.mean == pytest.approx(np.mean(rates_a) - np.mean(rates_b))
    assert got.p == pytest.approx(extreme.mean())
    assert -1 <= got.low < got.mean < got.high <= 1
    assert paired_difference(a, b) == got  # seeded
    assert got.better == sum(x > y for x, y in zip(rates_a, rates_b, strict=True))


def test_one_seed_is_compared_task_by_task():
    a = outcomes("EEF", "1" * 12 + "0" * 2 + "1" * 6 + "0" * 5)
    b = outcomes("RFT", "0" * 12 + "1" * 2 + "1" * 6 + "0" * 5)
    got = paired_difference(a, b)
    assert (got.basis, got.n) == ("tasks", 1)
    assert (got.gained, got.lost) == (12, 2)
    assert got.mean == pytest.approx(0.4)
    assert got.p == pytest.approx(scipy_stats.binomtest(2, 14).pvalue)
    assert 0 < got.low < 0.4 < got.high < 1


def test_no_difference_at_all_is_p_1():
    rows = [*outcomes("EEF", "101", 0), *outcomes("EEF", "110", 1)]
    same = [Evaluation.from_dict({**o.to_dict(), "method": "RFT"}) for o in rows]
    got = paired_difference(rows, same)
    assert (got.mean, got.p, got.better) == (0.0, 1.0, 0)
    assert got.low < 0 < got.high  # six tasks hide what the seventh may show
    assert paired_difference(rows[:3], same[:3]).p == 1.0


def test_no_interval_is_empty_beside_gained_and_lost_tasks():
    for seeds in (1, 2, 3, 8):
        a = [o for s in range(seeds) for o in outcomes("EEF", "10" + "0" * 148, s)]
        b = [o for s in range(seeds) for o in outcomes("RFT", "01" + "0" * 148, s)]
        got = paired_difference(a, b)
        assert (got.mean, got.gained, got.lost) == (0, seeds, seeds)
        assert got.low < -0.001 < 0.001 < got.high


def test_two_seeds_that_agree_are_not_certain_and_seeds_that_disagree_stay_within_reason():
    a = [o for s in (0, 1) for o in outcomes("EEF", "1" * 15 + "0" * 5, s)]
    b = [o for s in (0, 1) for o in outcomes("RFT", "1" * 5 + "0" * 15, s)]
    got = paired_difference(a, b)
    assert got.p == 0.5  # the least that two seeds can give
    assert got.low < 0.4 < got.high
    apart = [[1] * 30 + [0] * 20, [1] * 5 + [0] * 45, [1] * 50]
    gap = stats.paired(apart, yes_no=True)
    assert -1 <= gap.low < gap.mean < gap.high <= 1
    assert gap.p == 0.25
    none = win_rate([o for s in range(3) for o in outcomes("EEF", "0" * 10, s)])
    assert (none.low, none.high) == pytest.approx(stats.wilson(0, 30))


def test_what_numbers_rest_on_is_said():
    assert stats.sample(3, 450) == "3 seeds x 150 tasks"
    assert stats.sample(3, 448) == "3 seeds, 448 tasks"
    assert stats.sample(1, 24) == "24 tasks of one seed"
    assert stats.caution(1).startswith("one seed")
    assert stats.caution(3) == "3 seeds: a preview; their p cannot be below 0.25"
    assert stats.caution(6) == ""


@pytest.mark.parametrize("spread", [0.0, 0.2])
@pytest.mark.parametrize("seeds", [6, 8])
def test_in_simulated_studies_intervals_cover_the_truth_near_their_level(seeds, spread):
    rng, truth, studies = np.random.default_rng(seeds), 0.1, 150
    covered = false_alarms = 0
    for _ in range(studies):
        gains = 0.1 + np.clip(rng.normal(truth, spread, seeds), -0.1, 0.7)
        groups = [rng.choice([1.0, 0.0, -1.0], 60, p=[g, 0.9 - g, 0.1]) for g in gains]
        gap = stats.paired(groups, yes_no=True)
        covered += gap.low <= truth <= gap.high
        nothing = [group * rng.choice([1, -1]) for group in groups]
        false_alarms += stats.paired(nothing, yes_no=True).p < 0.05
    assert covered >= 0.92 * studies
    assert false_alarms <= 0.08 * studies


def test_the_same_ids_with_other_content_are_not_the_same_tasks():
    a = outcomes("EEF", "110")
    b = [Evaluation.from_dict({**o.to_dict(), "method": "RFT"}) for o in a]
    b[1] = Evaluation.from_dict({**b[1].to_dict(), "task_hash": "regenerated"})
    for compare in (paired_difference, gained_lost):
        with pytest.raises(DataError, match=r"same tasks.*task_hash"):
            compare(a, b)


def test_several_iterations_at_once_are_refused_with_the_remedy():
    both = [*outcomes("EEF", "110"), *outcomes("EEF", "111", iteration=1)]
    with pytest.raises(DataError, match=r"iterations \[0, 1\].*last_iteration"):
        paired_difference(both, outcomes("RFT", "110"))
    assert [o.iteration for o in last_iteration(both)] == [1, 1, 1]


def test_two_methods_in_one_list_are_refused():
    mixed = [*outcomes("EEF", "110"), *outcomes("SFT", "110", seed=1)]
    with pytest.raises(DataError, match=r"\['EEF', 'SFT'\]"):
        paired_difference(mixed, outcomes("RFT", "110"))


def test_seeds_only_one_method_finished_are_named_and_left_out():
    a = [*outcomes("EEF", "110", 0), *outcomes("EEF", "110", 1)]
    got = paired_difference(a, outcomes("RFT", "100", 0))
    assert (got.seeds, got.unpaired) == ((0,), (1,))
    with pytest.raises(DataError, match="no seed in common"):
        paired_difference(outcomes("EEF", "1", 0), outcomes("RFT", "1", 1))


def test_gained_lost_never_partition_the_tasks():
    got = gained_lost(outcomes("SFT", "0011", 7), outcomes("EEF", "0101", 7))
    assert [k.task_id for k in got.gained] == ["t1"]
    assert [k.task_id for k in got.lost] == ["t2"]
    assert [k.task_id for k in got.both] == ["t3"]
    assert [k.task_id for k in got.never] == ["t0"]
    assert got.gained[0].level == "hard"


def test_last_iteration_is_taken_per_method_and_seed():
    rows = [
        *outcomes("EEF", "1", 0, 0),
        *outcomes("EEF", "1", 0, 3),
        *outcomes("EEF", "1", 1, 2),
        *outcomes("SFT", "1", 0, 0),
    ]
    kept = [(o.method, o.seed, o.iteration) for o in last_iteration(rows)]
    assert kept == [("EEF", 0, 3), ("EEF", 1, 2), ("SFT", 0, 0)]


def test_evaluations_from_trajectories():
    task = Task("u1", "webshop", "buy", split="test", threshold=0.8, extra={"level": "hard"})
    steps = (
        Step("a", "search[x]", "student"),
        Step("b", "fly", "student", valid=False, reason="no such action"),
    )
    trajectory = Trajectory("r1", "u1", "webshop", "buy", "tiny", steps, "end", 0.8, True, False)
    (row,) = evaluations_from([trajectory], [task], "EEF", 5, 2)
    assert (row.length, row.invalid, row.level, row.split) == (2, 1, "hard", "test")
    assert row.task_hash == task.content_hash
    assert row.solved
    with pytest.raises(DataError, match=r"'r1' belongs to task 'u1'"):
        evaluations_from([trajectory], [], "EEF", 5, 2)
