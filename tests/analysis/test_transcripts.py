"""Transcripts: what is shown, and that text from a record stays text."""

from __future__ import annotations

import pytest
from pages import Page, assert_inert

from eeflib.analysis.markup import clean
from eeflib.analysis.segments import Segment
from eeflib.analysis.transcripts import render_trajectory
from eeflib.errors import DataError
from eeflib.records import Step, Trajectory
from eeflib.states import StateOutcome

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><style>*{background:url(//x)}</style>",
    "'--><svg onload=alert(1)>",
    "</dd></details><h1>fake</h1>",
    "javascript:alert(1)",
]


def episode(text: str = "a kettle", env: str = "webshop") -> Trajectory:
    steps = (
        Step(f"Search [SEP] {text}", "search[kettle]", "teacher", "", f"I look for {text}."),
        Step("Page 1", "click[teapot]", "teacher", "", "", False, f"no button {text}"),
        Step("Item", "click[buy now]", "teacher", f"Action: {text}"),
    )
    return Trajectory(
        "e1", "u1", env, f"Buy {text}", "gpt", steps, f"Done {text}", 0.5, True, False
    )


def test_shows_every_step_with_thought_action_observation_and_verdict():
    page = Page(render_trajectory(episode()))
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
    page = Page(render_trajectory(episode(), segments=parts, states=states))
    assert page.text.count("▲ beneficial") == 2  # ribbon and section
    assert page.text.count("▼ harmful") == 2
    assert "lost 0/1 from s0, then won 1/1 from s1" in page.text
    assert "student won 1/1 from here" in page.text
    ribbon = [v for t, n, v in page.attributes if n == "aria-label"]
    assert ribbon == ["action 1 beneficial; actions 2 to 3 harmful"]
    widths = [v for t, n, v in page.attributes if n == "style" and "flex" in v]
    assert [w.split("flex:")[1] for w in widths] == ["1 1 0", "2 1 0"]


def test_labels_of_a_sample_are_grouped_into_runs():
    page = Page(render_trajectory(episode(), labels=["context", "student", "student"]))
    assert page.tags.count("section") == 2


def test_labels_of_another_trajectory_are_refused():
    with pytest.raises(DataError, match="do not cover the 3 actions of trajectory 'e1'"):
        render_trajectory(episode(), labels=["student"])
    with pytest.raises(DataError, match="do not cover"):
        render_trajectory(episode(), segments=[Segment(0, 2, "harmful"), Segment(1, 3, "unknown")])


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text):
    harmless = Page(render_trajectory(episode("x"), labels=["harmful"] * 3))
    page = Page(render_trajectory(episode(text), labels=["harmful"] * 3))
    assert page.tags == harmless.tags
    assert_inert(page)
    assert " ".join(text.split()) in page.text


def test_a_label_cannot_smuggle_style():
    labels = ["x;background:url(//evil)"] * 3
    assert_inert(Page(render_trajectory(episode(), labels=labels)))  # type: ignore[arg-type]


def test_terminal_colours_hidden_and_reordering_characters_are_made_visible():
    assert clean("\x1b[31mred\x1b[0m \x1b]0;title\x07plain") == "red plain"
    assert clean("safe\u202eexe.gpj") == "safe⟨U+202E⟩exe.gpj"
    assert clean("nul\x00 bell\x07") == "nul⟨U+0000⟩ bell⟨U+0007⟩"
    assert clean("half \ud83d pair").encode()
    assert clean("שלום 🫖 kettle\tend\n") == "שלום 🫖 kettle\tend\n"


def test_a_megabyte_is_cut_and_says_so():
    page = render_trajectory(episode("z" * 1_000_000))
    assert len(page) < 60_000
    assert "more characters]" in page
    assert clean("ab" * 4000, 200) == "ab" * 100 + " … [7,800 more characters]"
    assert clean("ab" * 4000, 10) == "ababababab …"


def test_works_for_other_environments_and_faulted_empty_episodes():
    page = Page(render_trajectory(episode(env="scienceworld")))
    assert "teacher · search[kettle]" in page.text
    empty = Trajectory("e", "u", "x", "go", "p", (), "", 0.0, False, False, error="dead <b>JVM</b>")
    shown = Page(render_trajectory(empty))
    assert "ended by a fault: dead <b>JVM</b>" in shown.text
    assert "b" not in shown.tags
