"""What the notebooks lean on: views that are safe and complete, folders, the pretend provider."""

import gzip
import json
import re
import urllib.request
from pathlib import Path

import pytest

import eeflib as eef
from eeflib.analysis.collection import Collection
from eeflib.analysis.viewer import viewer_data
from eeflib.config import PRESETS
from eeflib.errors import DataError, PrerequisiteError
from eeflib.masking import Reason
from eeflib.notebook import (
    DemoEndpoint,
    hand_labelled,
    play,
    played,
    seeds,
    table,
    tokens,
    transcript,
    unread,
)
from eeflib.policies.base import Conversation, Message
from eeflib.policies.openai_compatible import ChatModel
from eeflib.records import Step, Trajectory
from tests import pagecode

ROOT = Path(__file__).parents[2]
NASTY = "<script>alert(1)</script>\u202e"
STEP = Step(NASTY, f"click[{NASTY}]", "teacher", thought=NASTY)
VIEWS = {
    "table": lambda: table([{NASTY: NASTY, "n": 1.5}], NASTY),
    "tokens": lambda: tokens([(NASTY, Reason.TRAINED_ACTION, True), ("a\n", Reason.SYSTEM, False)]),
    "transcript": lambda: transcript(
        Trajectory("t", "t", "webshop", NASTY, NASTY, (STEP,), NASTY, 0.0, True, False)
    ),
}


@pytest.mark.parametrize("name", VIEWS)
def test_untrusted_text_stays_text_in_every_view(name):
    view = VIEWS[name]()
    assert "<script" not in view.html
    assert "\u202e" not in view.html
    assert view.html == view._repr_html_()
    assert repr(view).strip(), "a text twin"


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


def test_runs_go_where_the_environment_says_and_a_run_shows_no_path(tmp_path, monkeypatch):
    monkeypatch.setenv("EEFLIB_RUNS", str(tmp_path / "kept"))
    run = eef.open_run("runs/shop", preset="tiny", seeds=seeds("tiny"))
    trajectories = eef.collect(run.world(), run=run)
    assert (tmp_path / "kept/shop/seed-20/trajectories.jsonl").exists()
    assert run.trajectories() == trajectories
    assert str(tmp_path) not in repr(run)
    assert "trajectories" in repr(run)


def test_a_run_may_stand_for_its_folder(tmp_path):
    run = eef.open_run(tmp_path / "shop", preset="tiny")
    eef.collect(run.world(), run=run)
    assert len(eef.frames.load(run).trajectories) == 24
    assert len(eef.analysis.Findings(run).trajectories) == 24
    assert eef.write_report(run) == tmp_path / "shop" / "report.html"


def test_a_collection_stops_between_groups_and_goes_on_from_there(tmp_path):
    run = eef.open_run(tmp_path / "shop", preset="tiny")
    counted = []

    def interrupt(step, done, total):
        counted.append((done, total))
        if done == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        eef.collect(run.world(), run=run, lockstep=8, progress=interrupt)
    assert counted == [(0, 24), (8, 24), (16, 24)]
    assert len(run.trajectories()) == 16
    whole = eef.collect(run.world(), run=run, lockstep=8)
    assert whole == run.trajectories() == eef.collect(run.world())


def test_notebooks_use_development_seeds_as_many_as_the_preset_has():
    assert seeds("tiny") == (20,)
    assert seeds("laptop") == (20, 21, 22, 23, 24, 25)
    for name, preset in PRESETS.items():
        assert len(seeds(name)) == len(preset.seeds)
        assert max(seeds(name)) < 1000


def test_reading_blind_shows_the_steps_and_not_the_diagnosis(tmp_path):
    run = eef.open_run(tmp_path / "shop", preset="tiny")
    eef.collect(run.world(), run=run)
    known = Collection.of(run)
    failed = [item for item in known if item.failure]
    blind = unread(failed[:3], known)
    said = json.loads(gzip.decompress(viewer_data(blind)))
    told = json.loads(gzip.decompress(viewer_data(Collection(failed[:3], run=known.run))))
    assert all(item["why"] and item["failure"] for item in told["items"])
    assert not any(item["why"] or item["failure"] for item in said["items"])
    assert not any(item.diagnosis.findings[0].text in said["texts"] for item in failed[:3])
    for step in failed[0].trajectory.steps:
        assert step.action in said["texts"]
    assert blind.run is known.run, "notes go to the same run"


def test_a_person_plays_and_the_episode_is_kept_apart_from_the_teachers(tmp_path):
    run = eef.open_run(tmp_path / "shop", preset="tiny")
    world = run.world()
    game = play(world, world.tasks[1].id, run=run)
    assert game.actions == ("search[<text>]",)
    game.act(f"search[{game.task.instruction}]")
    game.act("dance")
    game.act(next(a for a in game.actions if a.startswith("click[b0")))
    assert played(run) == [], "not over yet"
    game.act("click[buy now]")
    assert game.over
    (kept,) = played(run)
    assert kept == game.trajectory
    assert {s.actor for s in kept.steps} == {"human"}
    assert [s.valid for s in kept.steps] == [True, False, True, True]
    assert kept.terminated
    game.act("click[buy now]")
    assert len(played(run)) == 1, "over is over"
    teacher = eef.collect(world, run=run)
    assert run.trajectories() == teacher
    assert game.task.instruction in game._repr_mimebundle_()["text/html"]
    with pytest.raises(DataError, match="no task 'none'"):
        play(world, "none")


def test_the_shipped_failures_are_read_and_an_unknown_part_is_named():
    assert len(hand_labelled("writing")) == len(hand_labelled("held_out")) == 79
    with pytest.raises(PrerequisiteError, match=r"failures/half\.jsonl is missing"):
        hand_labelled("half")


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


def test_every_name_of_the_analysis_room_is_there_and_another_is_refused():
    assert all(hasattr(eef.analysis, name) for name in eef.analysis.__all__)
    with pytest.raises(AttributeError, match="Explore"):
        eef.analysis.Explore  # noqa: B018


@pytest.mark.slow
def test_the_snippet_of_the_readme_runs(tmp_path):
    text = (ROOT / "README.md").read_text("utf-8").split("## Use it as a library")[1]
    (program,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert "Rate(" in pagecode.program(program, tmp_path)
    assert (tmp_path / "runs/first/report.html").exists()
