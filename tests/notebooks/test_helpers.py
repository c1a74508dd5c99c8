"""What the notebooks lean on: views that are safe and complete, folders, the pretend provider."""

import base64
import html
import json
import re
import urllib.request
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from eeflib.analysis.collection import Collection
from eeflib.analysis.views import explorer
from eeflib.errors import DataError, PrerequisiteError
from eeflib.masking import Reason
from eeflib.notebook import (
    DemoEndpoint,
    Html,
    dated_result,
    hand_labelled,
    losses,
    open_lab,
    rates,
    shares,
    table,
    tokens,
    transcript,
    unread,
)
from eeflib.policies.base import Conversation, Message
from eeflib.policies.openai_compatible import ChatModel
from eeflib.records import Step, Trajectory

ROOT = Path(__file__).parents[2]
NASTY = "<script>alert(1)</script>\u202e"
ROWS = [{"method": NASTY, "win_rate": 0.5, "interval": [0.2, 0.8]}]
STEP = Step(NASTY, f"click[{NASTY}]", "teacher", thought=NASTY)
VIEWS = {
    "table": lambda: table([{NASTY: NASTY, "n": 1.5}], NASTY),
    "rates": lambda: rates(ROWS, NASTY),
    "losses": lambda: losses({NASTY: [2.0, 1.0]}),
    "shares": lambda: shares(pd.DataFrame({"x": [0, 1], "y": [0.1, 0.9]}), "x", "y", NASTY, NASTY),
    "tokens": lambda: tokens([(NASTY, Reason.TRAINED_ACTION, True), ("a\n", Reason.SYSTEM, False)]),
    "transcript": lambda: transcript(
        Trajectory("t", "t", "webshop", NASTY, NASTY, (STEP,), NASTY, 0.0, True, False)
    ),
}


def pictures(view: Html) -> list[str]:
    found = re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", view.html)
    return [base64.b64decode(x).decode() for x in found]


@pytest.mark.parametrize("name", VIEWS)
def test_untrusted_text_stays_text_in_every_view(name):
    view = VIEWS[name]()
    for part in (view.html, *pictures(view)):
        assert "<script" not in part
        assert "\u202e" not in part
    assert view.html == view._repr_html_()
    assert repr(view).strip(), "a text twin"


@pytest.mark.parametrize("name", ["rates", "losses", "shares"])
def test_a_chart_is_one_wellformed_image_with_a_description(name):
    view = VIEWS[name]()
    (picture,) = pictures(view)
    root = ElementTree.fromstring(picture)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("aria-label")
    assert re.search(r'<img alt="[^"]+"', view.html)
    assert len(view.html) < 20_000


def test_the_loss_mask_view_marks_trained_tokens_only():
    view = tokens([("see", Reason.OBSERVATION, False), ("do", Reason.TRAINED_ACTION, True)])
    assert re.findall(r'<span style="([^"]*)" title="([^"]*)">', view.html) == [
        ("opacity:.72;", "observation"),
        (
            "background-color:rgba(0,138,100,.34);text-decoration:underline;font-weight:bold;",
            "trained action",
        ),
    ]
    assert view.text == "see\u27e8do\u27e9"


def test_runs_go_where_they_are_told_and_the_lab_shows_no_path(tmp_path, monkeypatch):
    monkeypatch.setenv("EEFLIB_RUNS", str(tmp_path / "kept"))
    lab = open_lab("tiny")
    trajectories = lab.collect()
    assert (tmp_path / "kept/webshop-tiny/seed-7/trajectories.jsonl").exists()
    assert lab.collect() == trajectories, "the second time from the file"
    assert str(tmp_path) not in lab._repr_html_()
    assert "trajectories" in lab._repr_html_()


def test_reading_blind_shows_the_steps_and_not_the_diagnosis(tmp_path, monkeypatch):
    monkeypatch.setenv("EEFLIB_RUNS", str(tmp_path))
    lab = open_lab("tiny")
    lab.collect()
    known = Collection.of(lab.path)
    failed = [item for item in known if item.failure]
    blind = unread(failed[:3], known)
    said = explorer.render(blind)
    told = explorer.render(Collection(failed[:3], run=known.run))
    assert 'class="why"' in told
    assert "\u2691" in told
    assert 'class="why"' not in said
    assert "\u2691" not in said
    assert not any(item.diagnosis.findings[0].text in said for item in failed[:3])
    for step in failed[0].trajectory.steps:
        assert html.escape(step.action) in said
    assert blind.run is known.run, "notes go to the same run"


def test_the_shipped_failures_are_read_and_an_unknown_part_is_named():
    assert len(hand_labelled("writing")) == len(hand_labelled("held_out")) == 79
    with pytest.raises(PrerequisiteError, match=r"failures/half\.jsonl is missing"):
        hand_labelled("half")


def test_the_shipped_result_is_the_newest_on_record():
    newest = sorted((ROOT / "benchmarks" / "results").glob("*-demo-8-seeds.json"))[-1]
    recorded = json.loads(newest.read_text("utf-8"))
    assert dated_result("demo-8-seeds") == {"date": newest.name[:10], **recorded}


def test_two_notebooks_may_be_open_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setenv("EEFLIB_RUNS", str(tmp_path))
    one, other = open_lab("tiny"), open_lab("tiny")
    assert len(one.collect()) == len(other.collect()) == 24


def test_other_sizes_are_another_run(tmp_path, monkeypatch):
    monkeypatch.setenv("EEFLIB_RUNS", str(tmp_path))
    open_lab("tiny").collect()
    with pytest.raises(DataError, match="counts"):
        open_lab("tiny", counts={"train": 30, "test": 10}).collect()


def test_an_unknown_preset_is_named():
    with pytest.raises(DataError, match="'huge'"):
        open_lab("huge")


def test_the_pretend_provider_shops_and_counts():
    seen = "WebShop [SEP] Instruction: [SEP] i need a red mug [SEP] Search"
    asked = Conversation((Message("user", f"Instruction: i need a red mug\n{seen}"),), "a")
    with DemoEndpoint() as server:
        model = ChatModel("pretend-1", base_url=server.url)
        (reply,) = model.act([asked], rng=[None])  # type: ignore[list-item]
        url = server.url
    assert reply.text.endswith("Action: search[red mug]")
    assert reply.usage.prompt_tokens == len(asked.messages[0].content) // 4
    assert server.requests == 1
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=2)
