"""Widgets without a browser: what a person presses changes the state, and the state what is shown.

The kernel's side only; tests/browser drives them in JupyterLab.
"""

from __future__ import annotations

import ipywidgets as ipw
import numpy as np
import pytest
from pages import Page, assert_inert
from sample_run import write_run
from test_views import Letters, encoded

from eeflib.analysis.annotations import Annotations
from eeflib.analysis.collection import Collection
from eeflib.analysis.widgets import Annotator, Compare, Explorer, LossMask, RecoveryMap
from eeflib.masking import EncodedSet
from eeflib.records import Sample, Step, Trajectory


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path, seeds=(1, 2), tasks=16)


def all_of(widget, kind):
    """Every widget of a kind inside, as far as it is shown."""
    found = [widget] if isinstance(widget, kind) else []
    for child in getattr(widget, "children", ()):
        if "eef-gone" not in child._dom_classes:
            found += all_of(child, kind)
    return found


def shown(widget) -> Page:
    return Page("".join(x.value for x in all_of(widget, ipw.HTML)))


def button(widget, name) -> ipw.Button:
    (found,) = [x for x in all_of(widget, ipw.Button) if name in (x.description, x.tooltip)]
    return found


def control(widget, kind, **facts):
    (found,) = [
        x for x in all_of(widget, kind) if all(getattr(x, k) == v for k, v in facts.items())
    ]
    return found


# -- the explorer ----------------------------------------------------------------------------------


def test_controls_set_the_state_and_the_state_the_controls(run):
    widget = Explorer(run)
    outcome = next(d for d in all_of(widget, ipw.Dropdown) if ("any outcome", "") in d.options)
    outcome.value = "failed"
    assert widget.state.grid.outcome == "failed"
    failed = sum(x.outcome == "failed" for x in widget.collection)
    assert f"{failed} of 32 trajectories: failed" in shown(widget).text
    search = control(widget, ipw.Text, placeholder="search, then Enter")
    search.value = "(navy"
    control(widget, ipw.Checkbox, description="regex").value = True
    assert "not a regular expression: missing )" in shown(widget).text
    search.value = "navy|olive"
    assert widget.state.grid.query.regex
    assert "not a regular" not in shown(widget).text
    button(widget, "reset").click()
    assert (search.value, outcome.value, widget.state.grid.outcome) == ("", "", "")
    widget.state = type(widget.state)(type(widget.state.grid)(outcome="solved"))
    assert outcome.value == "solved"


def test_rows_and_heads_can_be_pressed(run):
    widget = Explorer(run)
    button(widget, "open trajectory 3").click()
    assert widget.item is widget.collection[2]
    assert widget.item.trajectory.instruction in shown(widget).text
    button(widget, "sort by reward").click()
    button(widget, "sort by reward").click()
    assert (widget.state.grid.sort, widget.state.grid.descending) == ("reward", True)
    button(widget, "next page").click()
    assert widget.state.grid.page == 1
    pressed = [
        x.description for x in all_of(widget, ipw.Button) if "open trajectory" in x.description
    ]
    assert len(pressed) == 12


def test_steps_unfold_and_stay_unfolded(run):
    widget = Explorer(run)
    item = widget.item
    button(widget, "step 2").click()
    said = item.trajectory.steps[1].observation.split("[SEP]")[1].strip()
    opened = shown(widget).attributes.count(("div", "class", "step is-open"))
    assert opened == 2, "step 2, and what was seen last"
    assert said in shown(widget).text
    button(widget, "next \u203a").click()
    assert widget.item is not item
    assert shown(widget).attributes.count(("div", "class", "step is-open")) == 1
    button(widget, "\u2039 previous").click()
    assert widget.item is item
    assert shown(widget).attributes.count(("div", "class", "step is-open")) == 2
    button(widget, "unfold all").click()
    assert len(widget.state.open[item.key]) == item.trajectory.length
    control(widget, ipw.ToggleButton, description="raw").value = True
    assert "pre" in shown(widget).tags
    button(widget, "fold all").click()
    assert item.key not in widget.state.open


def test_the_number_field_goes_through_what_is_filtered(run):
    widget = Explorer(run)
    widget.state = type(widget.state)(type(widget.state.grid)(outcome="failed"))
    field = control(widget, ipw.BoundedIntText, description="no.")
    failed = [x for x in widget.collection if x.outcome == "failed"]
    assert field.max == len(failed)
    field.value = 4
    assert widget.item is failed[3]


def test_a_note_is_kept_and_another_kernel_sees_it(run):
    widget = Explorer(run, author="ann")
    button(widget, "step 2").click()
    control(widget, ipw.Combobox).value = "misread the goal"
    control(widget, ipw.Textarea).value = "clicks <b>first</b>"
    segment = next(d for d in all_of(widget, ipw.Dropdown) if "harmful" in dict(d.options).values())
    segment.value = "harmful"
    button(widget, "Save").click()
    text = shown(widget).text
    assert "Saved the label, the note, the segment." in text
    assert "clicks <b>first</b> step 2" in text
    said = Annotations(run).of(widget.item.key)
    assert [(a.kind, a.author, a.start, a.stop) for a in said] == [
        (kind, "ann", 1, 2) for kind in ("label", "note", "segment")
    ]
    other = Explorer(run, author="bea")
    assert "clicks <b>first</b>" in shown(other).text
    back = [x for x in all_of(other, ipw.Button) if x.tooltip == "take back"]
    back[1].click()
    assert "clicks <b>first</b>" not in shown(other).text
    button(widget, "next \u203a").click()
    button(widget, "\u2039 previous").click()
    assert "clicks <b>first</b>" not in shown(widget).text, (
        "what others do is seen at the next view"
    )


def test_a_note_that_cannot_be_kept_stays_in_the_form(run):
    widget = Explorer(run, author="ann")
    button(widget, "Save").click()
    assert "Write a label or a note first" in shown(widget).text
    (run / "annotations").write_text("in the way")
    control(widget, ipw.Textarea).value = "precious"
    button(widget, "Save").click()
    assert "Not saved" in shown(widget).text
    assert control(widget, ipw.Textarea).value == "precious"


def test_without_a_run_folder_there_is_nothing_to_annotate():
    steps = (Step("start", "search[lamp]", "teacher"),)
    loose = Trajectory("e", "u", "webshop", "buy", "gpt", steps, "end", 0.3, True, False)
    widget = Explorer(Collection.loose([loose]))
    assert "search[lamp]" in shown(widget).text
    assert not [x for x in all_of(widget, ipw.Button) if x.description == "Save"]


def test_empty_and_huge(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    assert "No trajectory is recorded yet" in shown(Explorer(tmp_path)).text
    steps = tuple(Step(f"room {t}", f"go {t}", "teacher") for t in range(5000))
    long = Trajectory("e", "u", "toy", "go", "gpt", steps, "end", 0.0, False, True)
    widget = Explorer(Collection.loose([long]))
    assert len(all_of(widget, ipw.Widget)) < 300
    button(widget, "next steps").click()
    assert "go 40" in shown(widget).text
    assert "40 steps before" in shown(widget).text


# -- the others ------------------------------------------------------------------------------------


def test_a_cell_leads_to_its_rollouts(run):
    widget = RecoveryMap(run)
    cells = [x for x in all_of(widget, ipw.Button) if "eef-cell" in x._dom_classes]
    won = next(x for x in cells if "won" in x._dom_classes)
    assert "95 % interval 21 to 100 %" in won.tooltip
    won.click()
    assert "at" in won._dom_classes
    picked, cell = widget.data.picked(widget.state)
    text = shown(widget).text
    after = "1 action" if cell.t == 1 else f"{cell.t} actions"
    assert f"s{cell.k}, after {after}: won 1 of 1" in text
    assert "the student's own, which won" in text
    (branch,) = widget.data.attempts(widget.state)
    assert branch.rollout.steps[-1].action in text
    assert picked.trajectory.instruction in text
    lost = next(x for x in cells if "lost" in x._dom_classes)
    lost.click()
    assert "at" not in won._dom_classes
    assert "which did not win" in shown(widget).text


def test_two_episodes_are_picked_and_swapped(run):
    widget = Compare(run)
    task, left, right = all_of(widget, ipw.Dropdown)
    at = next(i for i, t in enumerate(widget.episodes.tasks) if len(widget.episodes.of(t)) > 2)
    task.value = at
    assert len(left.options) > 2
    right.value = 2
    assert widget.state.b == 2
    button(widget, "swap left and right").click()
    assert (left.value, right.value) == (2, 0)
    assert "Task" in shown(widget).text


def test_the_loss_mask_goes_through_samples():
    samples = [Sample(name, "u", "toy", "go", "s0", (), (), ()) for name in ("a", "b")]
    data = EncodedSet((encoded("a", "oott"), encoded("b", "oooo")))
    widget = LossMask(samples, data, Letters())
    assert "all 4, with loss 2" in shown(widget).text
    button(widget, "next sample").click()
    assert widget.state.sample == "b"
    assert "0 trained tokens" in shown(widget).text
    control(widget, ipw.Checkbox).value = True
    assert [v for _, v in all_of(widget, ipw.Dropdown)[1].options] == ["b"]
    assert int(np.sum([len(e.input_ids) for e in data])) == 8


def test_a_saved_notebook_keeps_the_static_twin(run):
    collection = Collection.of(run)
    data = EncodedSet((encoded("a", "oott"),))
    said = Annotations(run, "ann")
    said.add_label(collection[0].key, "odd")
    widgets = [
        Explorer(collection),
        RecoveryMap(collection),
        Compare(collection),
        LossMask([], data, Letters()),
        Annotator(said, collection[0]),
    ]
    for widget in widgets:
        bundle = widget._repr_mimebundle_()
        assert "application/vnd.jupyter.widget-view+json" in bundle
        assert bundle["text/html"] == widget.twin()
        assert len(bundle["text/html"]) < 200_000
        assert_inert(Page(bundle["text/html"]))
        assert Page(bundle["text/html"]).text
