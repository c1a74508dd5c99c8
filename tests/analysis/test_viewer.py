"""The viewer without a browser: its data, the static transcript, and what the kernel answers."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from pages import HOSTILE, Page, assert_inert
from sample_run import write_jsonl, write_run

from eeflib.analysis import frames, viewer
from eeflib.analysis.annotations import Annotations, Key
from eeflib.analysis.collection import Collection
from eeflib.analysis.markup import clean
from eeflib.analysis.segments import Segment
from eeflib.analysis.viewer import transcript_html, viewer_data
from eeflib.analysis.widget import Viewer, alarms
from eeflib.errors import DataError
from eeflib.masking import IGNORE, Dropped, Encoded, EncodedSet, Reason
from eeflib.records import Branch, Sample, Step, Trajectory
from eeflib.states import StateOutcome


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), seeds=(1, 2), tasks=16)


@pytest.fixture(scope="module")
def collection(run):
    return Collection.of(run)


def made(name: str, actions: str, task: str = "u") -> Trajectory:
    steps = tuple(Step(a, a, "teacher") for a in actions)
    return Trajectory(name, task, "toy", "go", "gpt", steps, "end", 0.0, True, False)


class Shown:
    """The data as the module reads it: texts in place of their numbers."""

    def __init__(self, packed: bytes) -> None:
        self.raw = json.loads(gzip.decompress(packed))

    def text(self, number: int) -> str:
        return self.raw["texts"][number]

    def __getitem__(self, name):
        return self.raw[name]


# -- the data --------------------------------------------------------------------------------------


def test_every_trajectory_is_there_with_all_its_texts(collection):
    shown = Shown(viewer_data(collection))
    for item, found in zip(collection, shown["items"], strict=True):
        t = item.trajectory
        assert shown.text(found["goal"]) == t.instruction
        assert [shown.text(s[0]) for s in found["steps"]] == [s.observation for s in t.steps]
        assert [shown.text(s[1]) for s in found["steps"]] == list(t.actions)
        assert [shown.text(s[4]) for s in found["steps"]] == [s.thought for s in t.steps]
        assert (found["outcome"], found["failure"]) == (item.outcome, item.failure)
        assert shown.text(found["last"]) == t.final_observation
    assert shown["notices"] == []


def test_students_episodes_bring_method_split_and_tags(tmp_path):
    run = write_run(tmp_path, seeds=(1,), tasks=4)
    task = json.loads((run / "seed-1/tasks.jsonl").read_text().splitlines()[-1])["id"]
    write_jsonl(
        run / "seed-1/EEF/iter-2/test_rollouts.jsonl",
        [replace(made("r", "ab"), task_id=task), replace(made("q", "ab"), task_id=task)],
    )
    everybody = Collection.of(run, who="all")
    key = Key(1, "EEF", 2, "r")
    shown = Shown(viewer_data(everybody, tags={key: ["gained"]}))
    at = everybody.position(key)
    found = shown["items"][at]
    assert (shown.text(found["method"]), found["iteration"]) == ("EEF", 2)
    assert shown.text(found["split"]) == "test"
    assert [shown.text(x) for x in found["tags"]] == ["gained"]
    # When space is short, students' episodes that no tag names go first; positions stay.
    small = viewer._MEASURES[1]
    cut = viewer.browsable(everybody, {key: ["gained"]}, *small)
    kept = [i for i, x in enumerate(cut["items"]) if x]
    assert kept == [i for i, x in enumerate(everybody) if x.key.method == "teacher"] + [at]
    assert "1 episodes of students are left out" in cut["notices"][0]


def test_the_budget_cuts_and_says_so(collection):
    whole = viewer_data(collection)
    small = Shown(viewer_data(collection, budget=1000))
    assert len(json.dumps(small.raw)) < len(gzip.decompress(whole)) / 2
    data = viewer.browsable(collection, {}, False, 400, False)
    assert data["tries"] == []
    assert any("cut after 400 characters" in x for x in data["notices"])
    assert any("rollouts are left out" in x for x in data["notices"])


def test_behind_a_state_are_its_rollouts_of_the_right_iteration(tmp_path):
    write_jsonl(tmp_path / "trajectories.jsonl", [made("e", "xyz")])
    branches = [
        Branch(f"{i}/{k}", "u", k, k, 0, "e" if k else None, made(f"r{i}{k}", f"q{i}"), iteration=i)
        for i in (1, 2)
        for k in (0, 1)
    ]
    write_jsonl(tmp_path / "branches.jsonl", branches)
    shown = Shown(viewer_data(Collection.of(tmp_path)))
    for k in ("0", "1"):
        (one,) = shown["tries"][0][k]
        assert [shown.text(s[1]) for s in one["steps"]] == ["q", "1"]
    assert shown["explored"]["iteration"] == 1


def test_notes_are_in_the_data_and_corrections_in_the_segments(tmp_path):
    run = write_run(tmp_path, seeds=(1,), tasks=12)
    item = next(x for x in Collection.of(run) if x.segments and x.outcome == "failed")
    said = Annotations(run, "ann")
    said.add_note(item.key, "look <here>", (1, 2))
    said.correct(item.key, "harmful", (0, item.trajectory.length))
    collection = Collection.of(run)
    shown = Shown(viewer_data(collection))
    found = shown["items"][collection.position(item.key)]
    assert {s[2] for s in found["segments"]} == {"harmful"}
    assert next((n[0], shown.text(n[1]), shown.text(n[4])) for n in found["notes"]) == (
        "note",
        "look <here>",
        "ann",
    )


# -- the static transcript -------------------------------------------------------------------------


def episode(text: str = "a kettle", env: str = "webshop") -> Trajectory:
    steps = (
        Step(f"Search [SEP] {text}", "search[kettle]", "teacher", "", f"I look for {text}."),
        Step("Page 1", "click[teapot]", "teacher", "", "", False, f"no button {text}"),
        Step("Item", "click[buy now]", "teacher", f"Action: {text}"),
    )
    return Trajectory(
        "e1", "u1", env, f"Buy {text}", "gpt", steps, f"Done {text}", 0.5, True, False
    )


def test_a_transcript_shows_every_step_and_the_verdict():
    page = Page(transcript_html(episode()))
    for piece in ("Buy a kettle", "search[kettle]", "I look for a kettle.", "Page 1", "Done"):
        assert piece in page.text
    assert page.tags.count("details") == 3 + 1
    assert "✗ invalid" in page.text
    assert "no button a kettle" in page.text
    assert "not solved: reward 0.50, needed 1.00" in page.text
    assert_inert(page)


def test_segments_carry_label_glyph_and_evidence():
    parts = [
        Segment(0, 1, "beneficial", "lost 0/1 from s0, then won 1/1 from s1"),
        Segment(1, 3, "harmful", "won 1/1 from s1, then the teacher failed"),
    ]
    states = [StateOutcome(0, 0, 1, 0), StateOutcome(1, 1, 1, 1)]
    text = Page(transcript_html(episode(), segments=parts, states=states)).text
    assert "▲ beneficial lost 0/1 from s0, then won 1/1 from s1" in text
    assert "▼ harmful" in text
    with pytest.raises(DataError, match="do not cover the 3 actions of trajectory 'e1'"):
        transcript_html(episode(), segments=parts[:1])


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text):
    parts = [Segment(0, 3, "x;background:url(//evil)", text)]  # type: ignore[arg-type]
    harmless = Page(transcript_html(episode("x"), segments=parts))
    page = Page(transcript_html(episode(text), segments=parts))
    assert page.tags == harmless.tags
    assert_inert(page)
    assert " ".join(text.split()) in page.text


def test_odd_characters_are_named_and_a_megabyte_is_cut():
    assert clean("\x1b[31mred\x1b[0m \x1b]0;title\x07plain") == "red plain"
    assert clean("safe\u202eexe.gpj") == "safe⟨U+202E⟩exe.gpj"
    assert clean("nul\x00 bell\x07") == "nul⟨U+0000⟩ bell⟨U+0007⟩"
    assert clean("half \ud83d pair").encode()
    assert clean("שלום 🫖 kettle\tend\n") == "שלום 🫖 kettle\tend\n"
    assert clean("ab" * 4000, 200) == "ab" * 100 + " … [7,800 more characters]"
    page = transcript_html(episode("z" * 1_000_000 + "\u202e"))
    assert len(page) < 60_000
    assert "more characters]" in page
    data = viewer_data(Collection.loose([episode("z" * 200_000 + "\u202e")]))
    assert len(gzip.decompress(data)) < 60_000


def test_other_environments_and_faulted_empty_episodes():
    assert "teacher · search[kettle]" in Page(transcript_html(episode(env="scienceworld"))).text
    empty = Trajectory("e", "u", "x", "go", "p", (), "", 0.0, False, False, error="dead <b>JVM</b>")
    assert "ended by a fault: dead <b>JVM</b>" in Page(transcript_html(empty)).text


# -- the kernel's side -----------------------------------------------------------------------------


def sent(view: Viewer, message: dict) -> dict:
    """What the kernel answers."""
    out = []
    view.send = lambda content, buffers=None: out.append((content, buffers))
    view._hear(view, {"request": 1, "view": "v", **message}, [])
    ((content, buffers),) = out
    return content | ({"data": Shown(buffers[0])} if buffers else {})


def annotate(view: Viewer, item: int, **said):
    usual = {"label": "", "note": "", "segment": "", "span": None, "author": "ann"}
    return sent(view, {"kind": "annotate", "item": item, **usual, **said})


def test_a_run_a_list_a_frame_and_one_trajectory_are_shown(run, collection):
    def goals(view):
        shown = sent(view, {"kind": "ready"})["data"]
        return [shown.text(x["goal"]) for x in shown["items"]]

    known = [x.trajectory.instruction for x in collection]
    assert goals(Viewer(run)) == known
    assert goals(Viewer(collection[3].trajectory)) == known[3:4]
    assert goals(Viewer([x.trajectory for x in collection[2:5]])) == known[2:5]
    table = frames.load(run).trajectories
    hard = table[table["level"] == "hard"].sort_values("reward")
    view = Viewer(hard, run=run)
    assert [x.key.id for x in view.collection] == list(hard["trajectory_id"])
    assert any(x.segments for x in view.collection), "with all that the run knows of them"
    with pytest.raises(DataError, match="Viewer\\(frame, run=run\\)"):
        Viewer(pd.DataFrame({"a": [1]}))
    with pytest.raises(DataError, match="holds int"):
        Viewer([1, 2])
    with pytest.raises(DataError, match="no run folder"):
        Viewer(str(run) + "-none")


def test_what_cannot_be_kept_is_said(tmp_path):
    run = write_run(tmp_path, seeds=(1,), tasks=4)
    view = Viewer(run, author="ann")
    assert "write a label or a note first" in annotate(view, 0)["error"]
    assert "which steps" in annotate(view, 0, segment="harmful")["error"]
    (run / "annotations").write_text("in the way")
    assert "cannot be written" in annotate(view, 0, note="precious")["error"]
    loose = Viewer(made("a", "xyz"))
    assert sent(loose, {"kind": "ready"})["live"] is False
    assert "pass run=" in annotate(loose, 0, note="x")["error"]


def test_addresses_lead_where_they_say(run, collection):
    view = Viewer(collection)
    item = collection[3]
    assert view.show(item.key, step=2).address == "#!t/3/2"
    assert view.item is item
    assert view.map(item.key.id, 1).address == "#!map/3/1"
    assert view.compare(3, 5).address == "#!t/3/compare/t3/t5"
    assert view.filter(outcome="failed", text="a b").address == "#!t?outcome=failed&text=a+b"
    with pytest.raises(DataError, match="no trajectory 'zzz' among these 32"):
        view.show("zzz")
    sent_data = sent(view, {"kind": "ready"})
    assert sent_data["address"] == view.address


def test_a_saved_notebook_keeps_a_small_inert_summary(run):
    view = Viewer(run).show(0)
    bundle = view._repr_mimebundle_()[0]
    assert "application/vnd.jupyter.widget-view+json" in bundle
    page = Page(bundle["text/html"])
    assert_inert(page)
    assert "32 trajectories" in page.text
    assert view.item.trajectory.instruction in page.text
    assert len(bundle["text/html"]) < 100_000
    state = json.dumps(view.get_state(), default=str)
    assert view.item.trajectory.instruction not in state, "no records in the widget's state"


# -- the loss mask ---------------------------------------------------------------------------------


def encoded(name: str, fates: str) -> Encoded:
    """A letter per token: t trained, e end of turn, h harmful, u unknown, o observation, m marker;
    H and O are trained all the same."""
    reasons = {
        **{"t": Reason.TRAINED_ACTION, "e": Reason.END_OF_ACTION, "m": Reason.TEMPLATE},
        **{"h": Reason.HARMFUL_ACTION, "H": Reason.HARMFUL_ACTION, "u": Reason.UNKNOWN_ACTION},
        **{"o": Reason.OBSERVATION, "O": Reason.OBSERVATION},
    }
    ids = np.array([ord(c) for c in fates], np.int32)
    on = np.array([c in "teHO" for c in fates])
    return Encoded(
        name,
        fates,
        ids,
        np.where(on, ids, IGNORE).astype(np.int32),
        np.array([reasons[c].value for c in fates], np.uint8),
        np.zeros(len(fates), np.int16),
        np.arange(1, len(fates) + 1, dtype=np.int32),
    )


def test_every_token_shows_its_fate_and_the_totals_add_up():
    sample = Sample("a", "u", "toy", "go", "recovery", (), (), ())
    view = Viewer(EncodedSet((encoded("a", "mmoohhtte"),)), samples=[sample])
    masks = sent(view, {"kind": "ready"})["data"]["masks"]
    (row,) = masks["all"]
    assert (row["kind"], row["length"], row["trained"], row["alarms"]) == ("recovery", 9, 3, [])
    assert sum(masks["counts"].values()) == 9
    assert sent(view, {"kind": "tokens", "sample": 0})["runs"] == [
        ["template", 0, 0, ["m", "m"]],
        ["observation", 0, 0, ["o", "o"]],
        ["harmful_action", 0, 0, ["h", "h"]],
        ["trained_action", 0, 1, ["t", "t"]],
        ["end_of_action", 0, 1, ["e"]],
    ]
    assert "3 of 9 tokens are trained (33 %)" in repr(view)


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
    assert alarms(encoded("fine", "oott")) == []
    assert alarm in alarms(encoded("bad", fates))[0]


def test_what_was_dropped_is_an_alarm():
    data = EncodedSet(
        (encoded("a", "oott"),), (Dropped("b", "too long", 900, "900 tokens, 512 allowed"),)
    )
    view = Viewer(data)
    rows = sent(view, {"kind": "ready"})["data"]["masks"]["all"]
    assert rows[1]["alarms"] == ["not trained on (too long): 900 tokens, 512 allowed"]
