"""Frames, joins, states and the tables behind the figures."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from sample_run import write_jsonl

from eeflib.analysis import frames, segments, tables
from eeflib.analysis.run import Run
from eeflib.analysis.taxonomy import action_kind
from eeflib.records import Branch, Evaluation, Sample, Step, Task, Trajectory, Usage
from eeflib.states import StateOutcome, state_outcomes
from eeflib.stats import wilson, win_rate


def steps(n: int, actor: str = "teacher", action: str = "click[next >]") -> tuple[Step, ...]:
    return tuple(Step(f"page {i}", action, actor) for i in range(n))


def trajectory(name: str, task: str, reward: float, n: int = 8, error: str = "") -> Trajectory:
    done = (steps(n), "end", reward, True, False)
    return Trajectory(name, task, "webshop", "buy a lamp", "gpt", *done, error=error)


def branch(task: str, k: int, t: int, won: bool | None, teacher: str | None, n: int = 0) -> Branch:
    """won=None: not restorable."""
    rollout = None if won is None else trajectory("r", task, float(won), 2)
    why = "" if rollout else "at character 3"
    return Branch(f"{teacher or task}-{k}-{n}", task, k, t, n, teacher, rollout, why, iteration=1)


@pytest.fixture
def run(tmp_path):
    """The worked example of the method page: outcomes fail, win, fail, win from s0, s2, s4, s6."""
    here = tmp_path / "seed-5"
    tasks = [
        Task("u1", "webshop", "buy a lamp", {"x": 1}, split="train", extra={"level": "hard"}),
        Task("u2", "webshop", "buy a mat", {"x": 2}, split="train", extra={"level": "easy"}),
    ]
    write_jsonl(here / "tasks.jsonl", tasks)
    write_jsonl(
        here / "trajectories.jsonl", [trajectory("e1", "u1", 0.5), trajectory("e2", "u2", 1.0, 3)]
    )
    branches = [
        branch("u1", 0, 0, False, None),
        branch("u2", 0, 0, True, None),
        branch("u1", 1, 2, True, "e1"),
        branch("u1", 2, 4, False, "e1"),
        branch("u1", 3, 6, True, "e1"),
        branch("u1", 4, 7, None, "e1"),
    ]
    write_jsonl(here / "EEF" / "iter-1" / "branches.jsonl", branches)
    sample = Sample(
        "s1",
        "u1",
        "webshop",
        "buy a lamp",
        "recovery",
        (*steps(4), *steps(2, action="search[lamp]"), *steps(1, "student", "click[buy now]")),
        (False,) * 4 + (True,) * 3,
        ("context",) * 4 + ("beneficial",) * 2 + ("student",),
        start=4,
        source="e1-3-0",
    )
    write_jsonl(here / "EEF" / "iter-1" / "samples.jsonl", [sample])
    return Run(tmp_path)


def test_every_frame_has_its_documented_columns_also_when_empty(tmp_path, run):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "manifest.json").write_text("{}")
    for source in (run, Run(tmp_path / "empty")):
        loaded = frames.load(source)
        made = {name: getattr(loaded, name) for name in frames.COLUMNS}
        for name, frame in made.items():
            assert {c: str(d) for c, d in frame.dtypes.items()} == {
                c: d for c, (d, _) in frames.COLUMNS[name].items()
            }


def test_frames_join_by_id(run):
    joined = frames.load(run).steps.merge(
        frames.load(run).trajectories,
        on=["seed", "trajectory_id", "task_id"],
        validate="many_to_one",
    )
    joined = joined.merge(frames.load(run).tasks, on=["seed", "task_id"], suffixes=("", "_task"))
    assert len(joined) == 8 + 3
    assert joined.groupby("trajectory_id")["instruction"].first().to_dict() == {
        "e1": "buy a lamp",
        "e2": "buy a mat",
    }
    assert (joined["level"] == joined["level_task"]).all()
    branches = frames.load(run).branches.merge(frames.load(run).tasks, on=["seed", "task_id"])
    assert len(branches) == 6


def test_states_count_rollouts_and_share_s0_between_trajectories(run):
    table = frames.load(run).states
    e1 = table[table["trajectory_id"] == "e1"]
    assert list(zip(e1["k"], e1["t"], e1["n"], e1["wins"], e1["status"], strict=True)) == [
        (0, 0, 1, 0, "tried"),
        (1, 2, 1, 1, "tried"),
        (2, 4, 1, 0, "tried"),
        (3, 6, 1, 1, "tried"),
        (4, 7, 0, 0, "unrestorable"),
    ]
    assert e1["p"].isna().to_list() == [False] * 4 + [True]
    first = e1.iloc[1]
    assert (first["low"], first["high"]) == wilson(1, 1)
    assert (first["seed"], first["method"], first["iteration"]) == (5, "EEF", 1)
    e2 = table[table["trajectory_id"] == "e2"]
    assert e2[["k", "wins", "teacher_solved"]].to_numpy().tolist() == [[0, 1, True]]
    assert tables.reachable(table).to_numpy().tolist() == [["hard", 1, 0, 1, 0]]


def test_several_attempts_faults_and_gaps(tmp_path):
    write_jsonl(tmp_path / "seed-1" / "trajectories.jsonl", [trajectory("e1", "u1", 0.0)])
    faulty = Branch("f", "u1", 3, 6, 0, "e1", trajectory("r", "u1", 1.0, 2, "dead JVM"))
    rows = [branch("u1", 1, 2, won, "e1", n) for n, won in enumerate([True, False, True])]
    write_jsonl(tmp_path / "seed-1" / "EEF" / "iter-2" / "branches.jsonl", [*rows, faulty])
    run = Run(tmp_path)
    table = frames.load(run).states
    got = list(zip(table["k"], table["n"], table["wins"], table["status"], strict=True))
    assert got == [
        (0, 0, 0, "untried"),
        (1, 3, 2, "tried"),
        (2, 0, 0, "untried"),
        (3, 0, 0, "faulted"),
    ]
    assert table["p"].iloc[1] == pytest.approx(2 / 3)
    recovery = tables.recovery_map(table)
    assert recovery.loc[0, ["s0", "s1", "s2", "s3"]].to_list() == [
        "untried",
        "2/3",
        "untried",
        "faulted",
    ]


def test_the_worked_example_gets_the_method_pages_labels(run):
    table = frames.load(run).states
    outcomes = segments.states_by_trajectory(table)[5, "e1"]
    expert = run.trajectories[5][0]
    got = segments.segments(expert, outcomes)
    assert [(s.start, s.stop, s.label) for s in got][:3] == [
        (0, 2, "beneficial"),
        (2, 4, "harmful"),
        (4, 6, "beneficial"),
    ]
    assert got[0].evidence == "lost 0/1 from s0, then won 1/1 from s1"
    assert got[1].evidence == "won 1/1 from s1, then lost 0/1 from s2"
    assert (got[-1].stop, got[-1].evidence) == (8, "won 1/1 from s3, then the teacher failed")


def test_a_beneficial_stretch_names_the_state_that_was_won():
    expert = trajectory("e1", "u1", 0.0, 6)
    outcomes = [StateOutcome(0, 0, 1, 0), StateOutcome(1, 2, 1, 0), StateOutcome(2, 4, 1, 1)]
    first = segments.segments(expert, outcomes)[0]
    assert (first.stop, first.label) == (2, "beneficial")
    assert first.evidence == "lost 0/1 from s0, then won 1/1 from s2"


def test_samples_frame_counts_only_trained_actions(run):
    row = frames.load(run).samples.iloc[0]
    assert (row["length"], row["trained"], row["trained_teacher"]) == (7, 3, 2)
    assert row["trained_kinds"] == "search|search|buy"
    actions = tables.training_actions(
        frames.load(run).steps, frames.load(run).trajectories, frames.load(run).samples
    )
    shares = tables.action_shares(actions).set_index(["source", "kind"])["share"]
    assert shares["EEF", "search"] == pytest.approx(2 / 3)
    assert shares["EEF", "next page"] == 0
    assert shares["teacher failures", "next page"] == 1


def test_states_are_counted_as_selection_counts_them(tmp_path):
    """Two teachers go the same way for four actions; a third sees something else from s_1 on."""
    here = tmp_path / "seed-1"
    first = trajectory("e1", "u1", 0.0)
    second = dataclasses.replace(first, id="e2", steps=(*first.steps[:4], *steps(3, action="b")))
    page = dataclasses.replace(first.steps[1], observation="another page")
    third = dataclasses.replace(first, id="e3", steps=(first.steps[0], page, *first.steps[2:]))
    teachers = [first, second, third]
    faulty = Branch("f", "u1", 2, 4, 0, "e2", trajectory("r", "u1", 1.0, 2, "dead JVM"))
    rows = [
        *(branch("u1", 0, 0, won, None, n) for n, won in enumerate([True, False])),
        branch("u1", 1, 2, True, "e1"),
        branch("u1", 1, 2, False, "e2"),
        branch("u1", 1, 2, False, "e3"),
        branch("u1", 2, 4, None, "e1"),
        branch("u1", 3, 6, True, "e1"),
        branch("u1", 3, 5, False, "e2"),
        branch("u1", 2, 3, False, "e3"),
        faulty,
    ]
    write_jsonl(here / "trajectories.jsonl", teachers)
    write_jsonl(here / "EEF" / "iter-1" / "branches.jsonl", rows)
    known = frames.load(tmp_path)
    table = known.states[known.states["t"] >= 0].sort_values("t")
    for name, expected in state_outcomes(teachers, rows).items():
        own = table[table["trajectory_id"] == name]
        got = list(zip(*(own[c] for c in ("k", "t", "n", "wins")), strict=True))
        assert got == [(o.k, o.t, o.n, o.wins) for o in expected]
        assert segments.states_by_trajectory(own)[1, name] == list(expected)
    e1, e2 = (table[table["trajectory_id"] == name] for name in ("e1", "e2"))
    assert list(zip(e1["k"], e1["t"], e1["n"], e1["wins"], strict=True)) == [
        (0, 0, 2, 1),
        (1, 2, 2, 1),
        (2, 4, 0, 0),
        (3, 6, 1, 1),
    ]
    assert list(e2["status"]) == ["tried", "tried", "faulted", "tried"]
    passed = known.steps.merge(table[["trajectory_id", "t", "state"]], on=["trajectory_id", "t"])
    assert (passed["state_x"] == passed["state_y"]).all()
    curve = tables.recovery_curve(known.states)
    assert curve[["k", "states", "n", "wins"]].to_numpy().tolist() == [
        [0, 1, 2, 1],
        [1, 2, 3, 1],
        [2, 1, 1, 0],
        [3, 2, 2, 1],
    ]


def test_a_state_explored_from_another_trajectory_only_is_shown_without_a_number(tmp_path):
    here = tmp_path / "seed-1"
    teachers = [trajectory("e1", "u1", 0.0), trajectory("e2", "u1", 0.0)]
    rows = [branch("u1", 0, 0, False, None), branch("u1", 1, 2, True, "e1")]
    write_jsonl(here / "trajectories.jsonl", teachers)
    write_jsonl(here / "EEF" / "iter-1" / "branches.jsonl", rows)
    known = frames.load(tmp_path)
    e2 = known.states[known.states["trajectory_id"] == "e2"]
    assert e2[["k", "t", "n", "wins"]].to_numpy().tolist() == [[-1, 2, 1, 1], [0, 0, 1, 0]]
    first = segments.segments(teachers[1], segments.states_by_trajectory(e2)[1, "e2"])[0]
    assert first.label == "beneficial"
    assert first.evidence == "lost 0/1 from s0, then won 1/1 from the state after 2 actions"
    assert list(tables.recovery_map(known.states).columns)[-2:] == ["s0", "s1"]


def test_win_rates_use_test_tasks_and_weigh_seeds_the_same():
    def outcome(seed: int, split: str, reward: float, i: int) -> Evaluation:
        return Evaluation("EEF", seed, 1, f"t{i}", f"h{seed}{i}", split, "", reward)

    rows = [outcome(s, "test", float(i < w), i) for s, w in ((0, 3), (1, 1)) for i in range(4)]
    rows.append(outcome(0, "train", 1.0, 9))
    got = tables.win_rates(frames.evaluations(rows)).iloc[0]
    expected = win_rate([o for o in rows if o.split == "test"])
    assert (got["wins"], got["n"], got["seeds"], got["rate"]) == (4, 8, 2, 0.5)
    assert (got["low"], got["high"]) == (expected.low, expected.high)


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        ("search[red lamp]", "search"),
        ("click[Next >]", "next page"),
        ("click[< Prev]", "previous"),
        ("click[back to search]", "back to search"),
        ("click[Features]", "sub page"),
        ("click[b09xyz1234]", "item"),
        ("click[extra large]", "option"),
        ("click[buy now]", "buy"),
        ("look around", "invalid"),
    ],
)
def test_webshop_actions_have_kinds(action, kind):
    assert action_kind(action) == kind


def test_other_environments_use_the_verb():
    assert action_kind("Pour water into cup", "scienceworld") == "pour"
    assert action_kind("", "scienceworld") == "other"
    assert action_kind("pour", "scienceworld", valid=False) == "invalid"


def test_frames_and_records_agree_on_what_can_be_read(tmp_path):
    """The frames' quick reader takes and refuses the same lines as the records' own."""
    good = trajectory("e1", "u1", 0.5).to_dict()
    odd = {
        "a string for a number": {**good, "reward": "much"},
        "a step without observation": {**good, "steps": [{"action": "x", "actor": "teacher"}]},
        "an unknown actor": {**good, "steps": [{**good["steps"][0], "actor": "robot"}]},
        "no instruction": {k: v for k, v in good.items() if k != "instruction"},
        "no final observation": {k: v for k, v in good.items() if k != "final_observation"},
        "half a surrogate pair": {**good, "instruction": "\ud83e"},
        "newer, with more keys": {**good, "schema": 7, "mood": {"deep": [1]}},
        "whole numbers": {**good, "reward": 1},
        "a list": [good],
        "not a number": {**good, "reward": float("nan")},
        "more than there is": {**good, "reward": 7.5},
        "an action flag written 1": {**good, "steps": [{**good["steps"][0], "valid": 1}]},
        "too large": {**good, "seed": 2**63},
    }
    for number, record in enumerate(odd.values()):
        if isinstance(record, dict):
            record["id"] = f"e{number}"
    path = tmp_path / "seed-1" / "trajectories.jsonl"
    path.parent.mkdir()
    lines = [json.dumps(v) for v in odd.values()]
    path.write_text("\n".join([*lines, "", "{", lines[7], json.dumps(good)[:200]]), "utf-8")
    as_frame, as_records = Run(tmp_path), Run(tmp_path)
    frame = frames.load(as_frame).trajectories
    assert len(frame) == len(as_records.trajectories[1]) == 3
    assert as_frame.problems == as_records.problems
    assert [p.split(": ")[0].split(":")[1] for p in as_frame.problems[:-2]] == [
        "1", "2", "3", "4", "5", "9", "10", "11", "12", "13", "15", "17"
    ]  # fmt: skip
    assert as_frame.problems[0].startswith("seed-1/trajectories.jsonl:1: skipped")
    assert "1 records occur twice" in as_frame.problems[-2]
    assert "1 records of a newer version of eeflib" in as_frame.problems[-1]
    assert len(frames.load(Run(tmp_path)).steps) == 24


def test_test_episodes_of_students_are_frames_too(run, tmp_path):
    folder = tmp_path / "seed-5" / "EEF" / "iter-2"
    write_jsonl(folder / "test_rollouts.jsonl", [trajectory("u1#test", "u1", 1.0, 3)])
    outcome = Evaluation("EEF", 5, 2, "u1", "h", "test", "hard", 1.0)
    write_jsonl(folder.parent / "evaluations.jsonl", [outcome])
    loaded = frames.load(tmp_path)
    for frame, rows in (
        (loaded.trajectories, [["e1", "teacher", 0, "hard"], ["e2", "teacher", 0, "easy"]]),
        (loaded.rollouts, [["u1#test", "EEF", 2, "hard"]]),
    ):
        names = ["trajectory_id", "method", "iteration", "level"]
        assert frame[names].to_numpy().tolist() == rows
    assert loaded.rollout_steps["method"].to_list() == ["EEF"] * 3


def test_branches_carry_what_their_rollouts_cost(tmp_path):
    used = Step("p", "a", "student", usage=Usage(100, 7, 0.25))
    rollout = Trajectory("r", "u", "webshop", "i", "s", (used, used), "end", 1.0, True, False)
    rows = [Branch("b", "u", 0, 0, 0, None, rollout), Branch("c", "u", 1, 2, 0, "e", None, "gone")]
    write_jsonl(tmp_path / "EEF" / "iter-1" / "branches.jsonl", rows)
    table = frames.load(Run(tmp_path)).branches
    assert table["prompt_tokens"].to_list() == [200, 0]
    assert table["completion_tokens"].to_list() == [14, 0]
    assert table["cost_usd"].iloc[0] == 0.5
    assert math.isnan(table["cost_usd"].iloc[1])
    assert table["method"].to_list() == ["EEF", "EEF"]


def test_a_run_without_subfolders_is_read_too(run, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "manifest.json").write_text('{"seeds": [42]}')
    for name in ("tasks", "trajectories"):
        (tmp_path / "seed-5" / f"{name}.jsonl").rename(flat / f"{name}.jsonl")
    source = tmp_path / "seed-5" / "EEF" / "iter-1" / "branches.jsonl"
    source.rename(flat / "branches.jsonl")
    table = frames.load(Run(flat)).states
    assert set(table["seed"]) == {42}
    assert set(table["iteration"]) == {1}
    assert len(table) == 6
