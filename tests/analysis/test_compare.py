"""Two runs against each other: pairing, tests, what is said when something is missing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pages import Page, assert_own_scripts_only
from sample_run import write_jsonl

from eeflib.analysis import figures
from eeflib.analysis.compare import compare_runs
from eeflib.analysis.report import write_comparison
from eeflib.errors import DataError
from eeflib.records import Evaluation, Step, Task, Trajectory
from eeflib.stats import last_iteration, mcnemar, paired_difference, unpaired

ACTIONS = {"1": ("search[x]", "click[buy now]"), "0": ("search[x]", "click[next >]", "click[red]")}


def task(i: int, seed: int = 0, tag: str = "") -> Task:
    goal = {"i": i, "tag": tag}
    return Task(f"u{i}", "webshop", f"buy {i}", goal, seed=seed, split="test", extra={"level": "l"})


def episode(t: Task, won: bool, name: str) -> Trajectory:
    steps = tuple(Step("page", a, "student") for a in ACTIONS["1" if won else "0"])
    end = ("end", float(won), won, not won)
    return Trajectory(f"{t.id}#{name}", t.id, "webshop", t.instruction, "p", steps, *end)


def write(root, method: str, wins: dict[int, str], *, tag: str = "", episodes: bool = True) -> None:
    """A method's test episodes; `wins`: seed -> a 0 or 1 per task."""
    for seed, won in wins.items():
        here = root / f"seed-{seed}"
        tasks = [task(i, seed, tag) for i in range(len(won))]
        write_jsonl(here / "tasks.jsonl", tasks)
        outcomes, rollouts = [], []
        for t, w in zip(tasks, won, strict=True):
            e = episode(t, w == "1", method)
            facts = (t.id, t.content_hash, "test", "l", e.reward, 1.0, e.length)
            outcomes += [Evaluation(method, seed, i, *facts) for i in (1, 2)]
            rollouts.append(e)
        write_jsonl(here / method / "evaluations.jsonl", outcomes)
        if episodes:
            write_jsonl(here / method / "iter-2" / "test_rollouts.jsonl", rollouts)


def test_two_runs_are_paired_by_the_content_of_their_tasks(tmp_path):
    write(tmp_path / "a", "RFT", {1: "110010"})
    write(tmp_path / "b", "EEF", {1: "111101"})
    c = compare_runs(tmp_path / "a", tmp_path / "b")
    assert c.names == ("a: RFT", "b: EEF")
    assert c.paired
    assert c.tasks.set_index("task_id")["change"].to_dict() == {
        "u0": "both", "u1": "both", "u2": "gained", "u3": "gained", "u4": "lost", "u5": "gained"
    }  # fmt: skip
    gained = c.changed("gained").iloc[0]
    assert (gained["a_id"], gained["b_id"]) == ("u2#RFT", "u2#EEF")
    assert (gained["a_kind"], gained["b_kind"]) == ("wandered", "")
    solved = c.measures.set_index("measure").loc["solved"]
    assert solved["difference"] == pytest.approx(2 / 6)
    assert (solved["p"], solved["test"]) == (mcnemar(3, 1), "McNemar over tasks")
    length = c.measures.set_index("measure").loc["length"]
    assert (length["a"], length["b"]) == (2.5, pytest.approx(13 / 6))
    mix = c.actions.set_index("kind")
    assert mix.loc["next page", "a"] == pytest.approx(3 / 6 / 3)
    assert mix.loc["next page", "b"] == pytest.approx(1 / 6 / 3)
    errors = c.errors.set_index("kind")
    assert errors.loc["never_bought", "difference"] == pytest.approx(-2 / 6)
    assert "3 tasks gained, 1 lost, 2 solved by both, 0 by neither." in str(c)


def test_several_seeds_are_tested_over_seeds_as_the_paired_test_does(tmp_path):
    rng = np.random.default_rng(1)
    draw = {m: {s: "".join(rng.choice(["0", "1"], 20, p=[1 - p, p])) for s in range(4)}
            for m, p in (("RFT", 0.4), ("EEF", 0.7))}  # fmt: skip
    for method, wins in draw.items():
        write(tmp_path, method, wins)
    c = compare_runs(tmp_path, tmp_path, method_a="RFT", method_b="EEF")
    assert c.names == ("RFT", "EEF")
    solved = c.measures.set_index("measure").loc["solved"]
    from eeflib.analysis.run import Run

    outcomes = last_iteration(Run(tmp_path).outcomes)
    by = {m: [o for o in outcomes if o.method == m] for m in draw}
    expected = paired_difference(by["EEF"], by["RFT"])
    got = [solved[x] for x in ("difference", "low", "high", "p")]
    assert got == pytest.approx([expected.mean, expected.low, expected.high, expected.p])
    assert solved["test"] == "sign flips over seeds"
    assert solved["n"] == "4 seeds x 20 tasks"


def test_runs_whose_seeds_differ_but_tasks_do_not_are_paired_too(tmp_path):
    for name, seed, won in (("a", 0, "1100"), ("b", 7, "1010")):
        write(tmp_path / name, "EEF", {seed: won})
        for file in (tmp_path / name).rglob("tasks.jsonl"):
            write_jsonl(file, [task(i, 0) for i in range(4)])
        for file in (tmp_path / name).rglob("evaluations.jsonl"):
            rows = [
                Evaluation("EEF", seed, 2, f"u{i}", task(i, 0).content_hash, "test", "l", float(w))
                for i, w in enumerate(won)
            ]
            write_jsonl(file, rows)
    c = compare_runs(tmp_path / "a", tmp_path / "b")
    assert c.tasks["change"].to_list() == ["both", "lost", "gained", "never"]


def test_runs_with_no_task_in_common_are_compared_by_their_means_and_that_is_said(tmp_path):
    write(tmp_path / "a", "EEF", {1: "1" * 10 + "0" * 30})
    write(tmp_path / "b", "EEF", {1: "1" * 30 + "0" * 10}, tag="other")
    c = compare_runs(tmp_path / "a", tmp_path / "b")
    assert not c.paired
    assert c.tasks.empty
    assert "no task in common" in str(c)
    solved = c.measures.set_index("measure").loc["solved"]
    assert (solved["difference"], solved["test"]) == (0.5, "permutation of tasks")
    assert solved["p"] < 0.01
    assert 0.2 < solved["low"] < 0.5 < solved["high"] < 0.8
    assert "not paired" in figures.action_mix(c).layout.meta["note"]
    page = Page(write_comparison(c, tmp_path / "page.html").read_text("utf-8"))
    assert "no task in common" in page.text
    assert page.row("share of tasks solved")[3] == "0.500"
    assert "no task in common" in figures.gained_lost(c).layout.meta["nothing"]
    assert len(page.figures()) >= 2, "means over different tasks are drawn"


def test_results_without_episodes_compare_results_only(tmp_path):
    write(tmp_path / "a", "EEF", {1: "1100"}, episodes=False)
    write(tmp_path / "b", "EEF", {1: "1110"})
    c = compare_runs(tmp_path / "a", tmp_path / "b")
    assert len(c.changed("gained")) == 1
    assert c.actions.empty
    assert c.errors.empty
    assert "a: EEF" in c.notes[0] or "EEF" in c.notes[0]
    assert "only results are on record" in str(c)
    assert "only results are on record" in figures.action_mix(c).layout.meta["nothing"]


def test_tasks_that_only_one_side_has_are_counted_and_left_out(tmp_path):
    write(tmp_path / "a", "EEF", {1: "11001"})
    write(tmp_path / "b", "EEF", {1: "111"})
    c = compare_runs(tmp_path / "a", tmp_path / "b")
    assert len(c.tasks) == 3
    assert "3 tasks are compared; 2 only a: EEF has and 0 only b: EEF has are left out." in c.notes


def test_two_teachers_are_compared_on_their_own_trajectories(tmp_path):
    for name, won in (("weak", "0010"), ("strong", "0111")):
        tasks = [task(i) for i in range(4)]
        write_jsonl(tmp_path / name / "seed-1" / "tasks.jsonl", tasks)
        rows = [episode(t, w == "1", name) for t, w in zip(tasks, won, strict=True)]
        again = episode(tasks[0], True, "second")  # another attempt at the same task
        write_jsonl(tmp_path / name / "seed-1" / "trajectories.jsonl", [*rows, again])
    c = compare_runs(tmp_path / "weak", tmp_path / "strong")
    assert c.names == ("weak: teacher", "strong: teacher")
    assert c.tasks["change"].to_list() == ["never", "gained", "both", "gained"]
    assert "1 further attempts at the same tasks are left out" in str(c)


def test_what_is_not_there_is_a_clear_error(tmp_path):
    write(tmp_path, "EEF", {1: "10"})
    with pytest.raises(DataError, match="holds nothing of 'NAT'; it has: EEF"):
        compare_runs(tmp_path, tmp_path, method_a="NAT")
    with pytest.raises(DataError, match="no run folder"):
        compare_runs(tmp_path / "nowhere", tmp_path)


def test_unpaired_means_over_several_seeds_are_permuted_by_seed():
    rng = np.random.default_rng(0)
    a = rng.normal(size=60)
    assert unpaired([a[:30]], [a[:30]]).p > 0.95
    seeds = [a[i : i + 10] for i in range(0, 60, 10)]
    apart = unpaired(seeds[:3], [x + 9 for x in seeds[3:]])
    assert apart.test == "permutation of seeds"
    assert apart.p == pytest.approx(2 / 20)  # 20 ways to choose three of six seeds


def test_the_command_compares_two_runs_in_words_as_a_page_and_as_json(tmp_path, eef):
    write(tmp_path / "<b>old", "RFT", {1: "110010"})
    write(tmp_path / "new", "EEF", {1: "111101"})
    code, out, err = eef("compare", "<b>old", "new", "--out", "changed.html")
    assert (code, err) == (0, "")
    assert "3 tasks gained, 1 lost, 2 solved by both, 0 by neither." in out
    page = Page((tmp_path / "changed.html").read_text())
    assert_own_scripts_only(page, runs=1)
    assert "b" not in page.tags
    assert "new: EEF against <b>old: RFT" in page.text
    assert len(page.figures()) >= 3
    for head in ("In words", "3 tasks gained", "u5"):
        assert head in page.text
    (row,) = (r for r in page.rows if r[1:2] == ["u4"])
    assert row == ["lost", "u4", "buy 4", "1.00", "0.00", "Wandered"]
    assert page.row("share of tasks solved")[3] == "0.333"
    code, out, err = eef("compare", "new", "--method-a", "EEF", "--method-b", "EEF", "--json")
    assert code == 0
    found = json.loads(out)
    assert [t["change"] for t in found["tasks"]] == ["both"] * 4 + ["never", "both"]
    assert found["measures"][0]["difference"] == 0
    code, out, err = eef("compare", "new", "none")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "none" in err
