"""Views without a browser: what is filtered, found, aligned, drilled into; text stays text."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from pages import Page, assert_inert
from sample_run import write_jsonl, write_run
from test_transcripts import HOSTILE

from eeflib.analysis.annotations import Annotations
from eeflib.analysis.collection import Collection
from eeflib.analysis.textsearch import Query
from eeflib.analysis.views import explorer, mask, recovery, sidebyside
from eeflib.analysis.views.explorer import ExplorerState, GridState, matching
from eeflib.analysis.views.mask import Masks, MaskState
from eeflib.analysis.views.recovery import RecoveryData, RecoveryState
from eeflib.analysis.views.sidebyside import CompareState, Episodes, align
from eeflib.errors import DataError
from eeflib.masking import IGNORE, Dropped, Encoded, EncodedSet, Reason
from eeflib.records import Branch, Sample, Step, Task, Trajectory


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return Collection.of(write_run(tmp_path_factory.mktemp("run"), seeds=(1, 2), tasks=20))


def rows(collection, **asked):
    matches = matching(collection, GridState(**asked))
    return [collection.items[i] for i in matches.positions]


def made(name: str, actions: str, observations: str = "", **facts) -> Trajectory:
    seen = observations or actions
    steps = tuple(Step(o, a, "teacher") for o, a in zip(seen, actions, strict=True))
    facts = {"reward": 0.0, "terminated": True, "truncated": False, **facts}
    return Trajectory(name, facts.pop("task", "u"), "toy", "go", "gpt", steps, "end", **facts)


# -- the grid --------------------------------------------------------------------------------------


def test_filters_keep_what_they_say(collection):
    failed = rows(collection, outcome="failed")
    assert 0 < len(failed) < len(collection)
    assert {x.outcome for x in failed} == {"failed"}
    kind = next(iter(collection.failures))
    assert len(rows(collection, failure=kind)) == collection.failures[kind]
    assert {x.level for x in rows(collection, level="hard")} == {"hard"}
    between = rows(collection, reward=(0.3, 0.6))
    assert {x.trajectory.reward for x in between} == {0.33, 0.5}
    longest = max(x.trajectory.length for x in collection)
    assert all(x.trajectory.length == longest for x in rows(collection, length=(longest, 99)))
    assert rows(collection, cost=(0, 1)) == [], "no cost is recorded: none can be said to fit"


def test_sorting_is_stable_and_turns_round(collection):
    state = GridState().by("reward")
    rewards = [collection.items[i].trajectory.reward for i in matching(collection, state).positions]
    assert rewards == sorted(rewards)
    state = state.by("reward")
    down = matching(collection, state).positions
    rewards = [collection.items[i].trajectory.reward for i in down]
    assert rewards == sorted(rewards, reverse=True)
    same = [i for i in down if collection.items[i].trajectory.reward == rewards[0]]
    assert same == sorted(same), "equal ones stay as recorded"
    assert state.by("reward").sort == ""
    html = explorer.render(collection, ExplorerState(grid=GridState().by("length")))
    assert 'aria-sort="ascending"' in html


def test_search_looks_where_it_is_told(collection):
    everywhere = rows(collection, query=Query("easy to CLEAN?"))
    assert {x.trajectory.id for x in everywhere} == {
        x.trajectory.id
        for x in collection
        if any("easy to clean?" in s.thought for s in x.trajectory.steps)
    }
    assert everywhere
    assert rows(collection, query=Query("easy to clean?", fields=("action", "task"))) == []
    opened = rows(collection, query=Query(r"click\[b0\d{8}\]$", True, ("action",)))
    assert opened
    assert len(opened) == len(rows(collection, query=Query("click[b0", fields=("action",))))
    assert rows(collection, query=Query(r"searchX|^search\[navy", True, ("action",)))


def test_an_expression_does_not_match_across_steps():
    found = Collection.loose([made("a", "xy"), made("b", "yx")])
    assert [x.key.id for x in rows(found, query=Query(r"x[^q]*y", True, ("action",)))] == []
    assert len(rows(found, query=Query(r"^y$", True, ("action",)))) == 2


def test_a_bad_expression_is_explained_and_filters_nothing(collection):
    matches = matching(collection, GridState(query=Query("(navy", True)))
    assert matches.problem.startswith("not a regular expression: missing )")
    assert len(matches.positions) == len(collection)
    page = Page(explorer.render(collection, ExplorerState(GridState(query=Query("(navy", True)))))
    assert "not a regular expression" in page.text


def test_an_expression_that_never_ends_is_stopped():
    slow = made("a", "x")
    slow = replace(slow, steps=(replace(slow.steps[0], observation="ab" * 3000 + "c"),))
    before = time.monotonic()
    matches = matching(
        Collection.loose([slow]), GridState(query=Query(r"^(a?b?)*?(a|b)*?\1{9}d", True))
    )
    assert time.monotonic() - before < 10
    assert "takes too long" in matches.problem
    assert matches.positions == (0,)


def test_what_matches_is_marked_in_the_transcript(collection):
    item = rows(collection, query=Query("olive"))[0]
    state = ExplorerState(GridState(query=Query("olive")), item.key)
    html = explorer.render(collection, state.unfold(item.key, range(item.trajectory.length)))
    assert "<mark>olive</mark>" in html
    assert "<mark>" not in explorer.render(collection, ExplorerState(selected=item.key))


# -- the transcript --------------------------------------------------------------------------------


def test_unfolded_steps_are_remembered_per_trajectory(collection):
    one, two = collection[0].key, collection[1].key
    state = ExplorerState(selected=one).toggle(one, 2).toggle(one, 0).toggle(one, 2)
    assert '<details class="step" open>' not in explorer.render(collection, state.select(two))
    html = explorer.render(collection, state.select(two).select(one))
    assert html.count('<details class="step" open>') == 1
    assert state.select(two).open == {one: frozenset({0})}


def test_moving_through_the_grid_turns_its_pages(collection):
    state = ExplorerState(GridState(outcome="failed", per_page=3))
    matches = matching(collection, state.grid)
    for _ in range(3):
        state = explorer.step_by(collection, state, matches, 1)
    assert collection.position(state.selected) == matches.positions[3]
    assert state.grid.page == 1
    state = explorer.step_by(collection, state, matches, -99)
    assert collection.position(state.selected) == matches.positions[0]


def test_jumping_finds_matches_invalid_actions_and_evidence(collection):
    item = next(x for x in collection if x.invalid and x.trajectory.length > 3)
    state = explorer.seek(item, ExplorerState(selected=item.key), "invalid")
    assert not item.trajectory.steps[state.here].valid
    assert state.here in state.open[item.key]
    failed = next(x for x in collection if x.diagnosis)
    state = explorer.seek(failed, ExplorerState(selected=failed.key), "evidence")
    assert state.here in {f.t for f in failed.diagnosis.findings}
    untouched = ExplorerState(selected=item.key)
    assert explorer.seek(item, untouched, "match") is untouched


def test_a_very_long_trajectory_is_shown_in_parts():
    steps = [Step(f"room {t}", f"go {t}", "teacher", valid=t != 4321) for t in range(5000)]
    item = Collection.loose([replace(made("a", "x"), steps=tuple(steps))])
    html = explorer.render(item, ExplorerState())
    assert len(html) < 100_000
    assert "4,960 steps after" in html
    state = explorer.seek(item[0], ExplorerState(), "invalid")
    page = Page(explorer.render(item, state))
    assert "go 4321" in page.text
    assert "4,320 steps before" in page.text


def test_why_it_failed_is_shown_where_it_shows(collection):
    failed = next(x for x in collection if x.diagnosis)
    page = Page(explorer.render(collection, ExplorerState(selected=failed.key)))
    first = failed.diagnosis.findings[0]
    assert f"rule: {first.rule}" in page.text
    assert "\u2691" in page.text


def test_notes_are_in_the_view_and_their_corrections_in_the_ribbon(tmp_path):
    run = write_run(tmp_path, seeds=(1,), tasks=12)
    collection = Collection.of(run)
    item = next(x for x in collection if x.segments and x.outcome == "failed")
    said = Annotations(run, "ann")
    said.add_note(item.key, "look <here>", (1, 2))
    said.correct(item.key, "harmful", (0, item.trajectory.length))
    page = Page(
        explorer.render(
            collection, ExplorerState(selected=item.key).toggle(item.key, 1), said.by_key()
        )
    )
    assert "look <here>" in page.text
    assert "\u270e 1" in page.text
    ribbons = [v for t, n, v in page.attributes if n == "aria-label" and "action" in v]
    assert any(v.count("harmful") == len(v.split(";")) for v in ribbons)
    assert [x.key for x in rows_of(collection, said, marked=True)] == [item.key]
    listed = Page(explorer.render_notes(said))
    assert "step 2" in listed.text
    assert "ann" in listed.text


def rows_of(collection, said, **asked):
    matches = matching(collection, GridState(**asked), said.by_key())
    return [collection.items[i] for i in matches.positions]


def test_items_are_found_by_key_id_task_and_place(collection):
    item = collection[3]
    for name in (3, item.key, item.key.id, item.trajectory.task_id):
        assert collection.find(name).trajectory.task_id == item.trajectory.task_id
    with pytest.raises(DataError, match="no trajectory 'zzz' among these 40"):
        collection.find("zzz")


# -- the recovery map ------------------------------------------------------------------------------


def test_behind_a_cell_are_the_rollouts_from_that_state(collection):
    data = RecoveryData(collection)
    first = data.page(RecoveryState())[0]
    cells = data.cells[first.key]
    deepest = max((c.k for c in cells.values() if c.wins), default=0)
    state = RecoveryState().pick(first.key, deepest)
    (branch,) = data.attempts(state)
    assert branch.won
    assert (branch.k, branch.teacher_id or first.key.id) == (deepest, first.key.id)
    page = Page(recovery.render(data, state))
    assert f"s{deepest}, after {cells[deepest].t} actions: won 1 of 1" in page.text
    assert "21 to 100 %" in page.text, "Wilson's interval of 1 of 1"
    assert "the student's own, which won" in page.text
    assert branch.rollout.steps[0].action in page.text
    lost = [
        max((c.k for c in data.cells[x.key].values() if c.wins), default=-1)
        for x in data.rows(state)
    ]
    assert lost == sorted(lost, reverse=True)


def test_a_state_that_could_not_be_restored_says_why(collection):
    data = RecoveryData(collection)
    key, k = next(
        (key, c.k)
        for key, row in data.cells.items()
        for c in row.values()
        if c.status == "unrestorable"
    )
    page = Page(recovery.render(data, RecoveryState().pick(key, k)))
    assert "could not be restored: at character 12" in page.text


def test_rollouts_of_another_iteration_are_not_mixed_in(tmp_path):
    teacher = made("e", "xyz", task="u")
    write_jsonl(tmp_path / "trajectories.jsonl", [teacher])
    branches = [
        Branch(
            f"{i}/{k}",
            "u",
            k,
            k,
            0,
            "e" if k else None,
            made(f"r{i}{k}", "q", task="u"),
            iteration=i,
        )
        for i in (1, 2)
        for k in (0, 1)
    ]
    write_jsonl(tmp_path / "branches.jsonl", branches)
    data = RecoveryData(Collection.of(tmp_path))
    (key,) = data.cells
    assert [b.id for b in data.attempts(RecoveryState().pick(key, 1))] == ["1/1"]
    assert [b.id for b in data.attempts(RecoveryState().pick(key, 0))] == ["1/0"]


# -- two side by side ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "pairs", "parting", "why"),
    [
        ("abc", "abc", "00= 11= 22=", None, ""),
        ("abc", "ABC", "00= 11= 22=", None, ""),
        ("ab", "abc", "00= 11= -2", 2, "end"),
        ("abxd", "abyd", "00= 11= 22 33=", 2, "action"),
        ("abz", "abcdz", "00= 11= 22 -3 -4", 2, "action"),
        ("axbcd", "aybczd", "00= 11 22= 33= -4 45=", 1, "action"),
        ("", "a", "-0", 0, "end"),
        ("", "", "", None, ""),
    ],
)
def test_alignment(a, b, pairs, parting, why):
    length = max(len(a), len(b))
    same = "." * length  # what is seen is the same, so that only actions part them
    found = align(made("a", a, same[: len(a)]), made("b", b, same[: len(b)]))
    shown = " ".join(
        f"{'-' if p.a is None else p.a}{'-' if p.b is None else p.b}{'=' if p.same else ''}"
        for p in found.pairs
    )
    assert (shown, found.parting, found.why) == (pairs, parting, why)


def test_a_world_that_answers_differently_is_told_from_a_different_action():
    found = align(made("a", "xyz", "123"), made("b", "xyz", "1_3"))
    assert (found.parting, found.why) == (1, "observation")


def test_five_thousand_steps_are_aligned_quickly():
    rng = np.random.default_rng(1)
    a = "".join(rng.choice(list("abcdefgh"), 5000))
    found = align(made("a", a), made("b", a[:2500] + "z" + a[2501:]))
    assert found.parting == 2500
    assert found.shared == 4999


def test_a_teachers_failure_is_put_beside_the_rollout_that_won(collection):
    data = RecoveryData(collection)
    item = data.page(RecoveryState())[0]
    episodes = Episodes(collection)
    task = (item.key.seed, item.trajectory.task_id)
    found = episodes.of(task)
    assert found[0].trajectory.id == item.key.id
    assert found[1].trajectory.solved
    assert found[1].trajectory.steps[: found[1].start] == item.trajectory.steps[: found[1].start]
    page = Page(sidebyside.render(episodes, CompareState(task)))
    assert "then they part" in page.text
    swapped = Page(sidebyside.render(episodes, CompareState(task).swapped()))
    assert swapped.text.index(found[1].name) < swapped.text.index(found[0].name)


def test_one_episode_alone_says_so():
    alone = Collection.loose([made("a", "xyz")])
    assert "one episode only" in Page(sidebyside.render(Episodes(alone))).text
    assert "No trajectory is recorded" in Page(sidebyside.render(Episodes(Collection([])))).text


# -- the loss mask ---------------------------------------------------------------------------------


class Letters:
    """A tokenizer of one letter a token: fast enough to have offsets."""

    is_fast = True

    def __call__(self, text, **_):
        return {
            "input_ids": [ord(c) for c in text],
            "offset_mapping": [(i, i + 1) for i in range(len(text))],
        }


def encoded(name: str, fates: str, text: str = "") -> Encoded:
    """A letter per token: t trained, e end of turn, h harmful, u unknown, o observation, m marker;
    H and O are trained all the same."""
    text = text or fates
    reasons = {
        "t": Reason.TRAINED_ACTION,
        "e": Reason.END_OF_ACTION,
        "h": Reason.HARMFUL_ACTION,
        "H": Reason.HARMFUL_ACTION,
        "u": Reason.UNKNOWN_ACTION,
        "o": Reason.OBSERVATION,
        "O": Reason.OBSERVATION,
        "m": Reason.TEMPLATE,
    }
    ids = np.array([ord(c) for c in text], np.int32)
    on = np.array([c in "teHO" for c in fates])
    return Encoded(
        name,
        text,
        ids,
        np.where(on, ids, IGNORE).astype(np.int32),
        np.array([reasons[c].value for c in fates], np.uint8),
        np.zeros(len(fates), np.int16),
    )


def test_every_token_shows_its_fate_and_the_totals_add_up():
    masks = Masks([], EncodedSet((encoded("a", "mmoohhtte"),)), Letters())
    html = mask.render(masks)
    page = Page(html)
    hints = {v for t, n, v in page.attributes if t == "span" and n == "title"}
    assert "harmful, masked of step 1: led from a won to a lost state; no loss" in hints
    assert "trained of step 1: an action that carries loss; carries loss" in hints
    assert page.tags.count("i") == 9
    assert "all 9, with loss 3" in page.text
    assert "No alarm" in page.text


@pytest.mark.parametrize(
    ("fates", "alarm"),
    [
        ("oooo", "0 trained tokens"),
        ("o" * 300 + "t", "only 1 of 301 tokens are trained"),
        ("ooHHt", "2 tokens of harmful actions are trained"),
        ("oOtt", "1 tokens are trained that are no trained action's"),
    ],
)
def test_alarms(fates, alarm):
    masks = Masks([], [encoded("fine", "oott"), encoded("bad", fates)], Letters())
    page = Page(mask.render(masks, MaskState(alarmed=True)))
    assert alarm in page.text
    assert "1 of 2 samples have an alarm" in page.text
    assert alarm not in Page(mask.render(masks, MaskState(sample="fine"))).text


def test_what_was_dropped_is_an_alarm_and_a_wrong_tokenizer_is_said():
    kept = encoded("a", "oott")
    sample = Sample("b", "u", "toy", "go", "recovery", (), (), ())
    data = EncodedSet((kept,), (Dropped("b", "too long", 900, "900 tokens, 512 allowed"),))
    page = Page(mask.render(Masks([sample], data, Letters()), MaskState(kind="recovery")))
    assert "not trained on (too long): 900 tokens, 512 allowed" in page.text

    class Other(Letters):
        def __call__(self, text, **_):
            return super().__call__(text.upper())

    assert "another tokenizer" in Page(mask.render(Masks([], [kept], Other()))).text


def test_a_long_sequence_is_shown_in_parts():
    masks = Masks([], [encoded("a", "o" * 5000 + "t")], Letters())
    assert "tokens 1 to 1,500 of 5,001" in Page(mask.render(masks)).text
    assert "tokens 4,501 to 5,001" in Page(mask.render(masks, MaskState(first=4500))).text


# -- whatever a record holds -----------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_in_any_view_stays_text(tmp_path, text):
    page = Page(everything(tmp_path / "bad", text))
    assert_inert(page)
    assert page.tags == Page(everything(tmp_path / "plain", "plain")).tags
    assert " ".join(text.split()) in page.text


def test_odd_characters_and_megabytes_stay_readable(tmp_path):
    html = everything(
        tmp_path,
        "\x1b[31mred \u202e\u0645\u0631\u062d\u0628\u0627 \U0001fad6 \x00" + "w" * 1_000_000,
    )
    assert len(html) < 1_000_000, "of some 60 million"
    for hidden in ("\x1b", "\u202e", "\x00"):
        assert hidden not in html
    assert "\U0001fad6" in html
    assert "\u27e8U+202E\u27e9" in html
    assert "more characters]" in html


def everything(root, text: str) -> str:
    """All views of a run with `text` wherever text can be, everything unfolded."""

    def episode(name: str, n: int, reward: float) -> Trajectory:
        steps = tuple(
            Step(text, f"click[{text}]", "teacher", text, text, i != 1, text) for i in range(n)
        )
        return Trajectory(name, text, text, text, text, steps, text, reward, True, False)

    write_jsonl(root / "tasks.jsonl", [Task(text, text, text, extra={"level": text})])
    write_jsonl(root / "trajectories.jsonl", [episode(text, 3, 0.2)])
    write_jsonl(
        root / "branches.jsonl",
        [
            Branch("a", text, 0, 0, 0, None, episode("a", 2, 0.0), iteration=1),
            Branch("b", text, 1, 1, 0, text, episode("b", 2, 1.0), iteration=1),
            Branch("c", text, 2, 2, 0, text, None, text, iteration=1),
        ],
    )
    collection = Collection.of(root)
    item = collection[0]
    said = Annotations(root, text[:60])
    said.add_label(item.key, text[:200])
    said.add_note(item.key, text[:2000], (0, 1))
    state = ExplorerState(GridState(query=Query(text[:30]))).unfold(item.key, range(4))
    data = RecoveryData(collection)
    masks = Masks([], [encoded(text[:50], "ott", text[:3])], Letters())
    return "".join(
        [
            explorer.render(collection, state, said.by_key()),
            explorer.render(collection, replace(state, raw=True), said.by_key()),
            *(
                recovery.render(data, RecoveryState(open=frozenset(range(9))).pick(item.key, k))
                for k in range(3)
            ),
            sidebyside.render(Episodes(collection), CompareState(all_open=True)),
            mask.render(masks),
            explorer.render_notes(said),
            explorer.render_notes(said, item),
        ]
    )


def test_empty_and_unfinished_runs_say_what_is_missing(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    empty = Collection.of(tmp_path)
    assert "No trajectory is recorded yet" in Page(explorer.render(empty)).text
    assert "no map" in Page(recovery.render(RecoveryData(empty))).text
    assert "There are no training samples" in Page(mask.render(Masks([], [], Letters()))).text
    write_jsonl(tmp_path / "trajectories.jsonl", [made("only", "ab")])
    with open(tmp_path / "trajectories.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"schema": 99, "id": "new", "steps": "?"}) + "\n")
        file.write('{"id": "half')
    one = Collection.of(tmp_path)
    assert len(one) == 1
    page = Page(explorer.render(one))
    assert "not solved: reward 0.00" in page.text
    assert "segments" not in page.text
    assert one.run is not None
    assert len(one.run.problems) == 2
