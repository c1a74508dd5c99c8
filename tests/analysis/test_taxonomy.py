"""The failure taxonomy: against hand labels, and rule by rule."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from labelled import labelled

from eeflib.analysis import frames, rules, taxonomy
from eeflib.analysis.taxonomy import KINDS, Case, diagnose
from eeflib.records import Step, Task, Trajectory

PARTS = ("writing", "held_out")
PARITY = Path(__file__).parents[1] / "data" / "webshop_parity"


@pytest.mark.parametrize("part", PARTS)
def test_rules_agree_with_a_reader(part):
    rows = labelled(part)
    found = [diagnose(r.case.trajectory, r.case.task) for r in rows]
    hits = sum(d.primary == r.labels[0] for d, r in zip(found, rows, strict=True))
    assert hits / len(rows) >= 0.93
    predicted = Counter(k for d in found for k in d.kinds)
    right = Counter(k for d, r in zip(found, rows, strict=True) for k in d.kinds if k in r.labels)
    given = Counter(k for r in rows for k in r.labels)
    assert sum(right.values()) / sum(predicted.values()) >= 0.95  # precision
    assert sum(right.values()) / sum(given.values()) >= 0.95  # recall
    for kind in ("wrong_product", "missed_attribute", "over_price", "wrong_focus", "stopped_early"):
        assert right[kind] == predicted[kind], kind


def test_every_labelled_failure_gets_a_kind_with_evidence_that_is_there():
    for row in (r for part in PARTS for r in labelled(part)):
        trajectory = row.case.trajectory
        for finding in diagnose(trajectory, row.case.task).findings:
            assert 0 <= finding.t <= trajectory.length
            assert finding.text
            assert finding.rule
            assert finding.kind in KINDS
    table = taxonomy.failures(r.case for part in PARTS for r in labelled(part))
    got = taxonomy.coverage(table)
    assert got.n == 158
    assert got.cause + got.end == got.n  # nothing is unclear
    assert got.share > 0.6
    assert got.interval[0] < got.share < got.interval[1]
    assert (table.groupby("trajectory_id")["primary"].sum() == 1).all()


GOAL = {
    "asin": "B000000001",
    "name": "Acme Soft Cotton Shirt",
    "query": "shirts",
    "product_category": "Clothing",
    "attributes": ["soft", "cotton"],
    "goal_options": ["navy", "large"],
    "price_upper": 50.0,
}
SHIRT = "Acme Soft Cotton Shirt"


def shop(
    reward: float,
    *clicks: str,
    title: str = SHIRT,
    price: str = "$20.0",
    goal: dict | None = None,
    end: str = "",
    options: str = "color [SEP] navy [SEP] red [SEP] size [SEP] small [SEP] large",
    thumb: str = "click[b000000002]",
) -> Case:
    """A purchase: search, open, the clicks, buy."""
    page = (
        f"Instruction: [SEP] a shirt [SEP] Back to Search [SEP] < Prev [SEP] {options} [SEP] "
        f"{title} [SEP] Price: {price} [SEP] Rating: N.A. [SEP] Description [SEP] Buy Now"
    )
    actions = ["search[shirt]", thumb, *clicks, "click[buy now]"]
    seen = ["WebShop [SEP] Search", "Page 1 (Total results: 9)", *[page] * (len(clicks) + 1)]
    steps = tuple(Step(o, a, "teacher") for o, a in zip(seen, actions, strict=True))
    trajectory = Trajectory(
        "e", "u", "webshop", "a shirt, and price lower than 50.00 dollars", "p", steps, end,
        reward, True, False,
    )  # fmt: skip
    task = Task("u", "webshop", "a shirt", GOAL if goal is None else goal)
    return Case(0, "teacher", 0, trajectory, task)


def kinds(case: Case) -> tuple[str, ...]:
    return diagnose(case.trajectory, case.task).kinds


BOTH = ("click[navy]", "click[large]")


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (shop(0.8, *BOTH), ("missed_attribute",)),
        (shop(0.8, "click[navy]"), ("missing_option",)),
        (shop(0.8, "click[red]", "click[large]"), ("wrong_option",)),
        (shop(0.6, "click[small]"), ("wrong_option", "missing_option")),
        (shop(0.8, *BOTH, price="$70.0"), ("over_price",)),
        (shop(0.8, *BOTH, price="$1,070.50"), ("over_price",)),
        (shop(0.5, *BOTH), ("wrong_product",)),  # 0.5 * 5/5
        (shop(0.3, *BOTH), ("wrong_product", "missed_attribute")),  # 0.5 * 3/5
        (shop(0.0, *BOTH), ("wrong_product", "missed_attribute")),  # type 0
        (shop(0.8, *BOTH, title="Zeta Wool Scarf"), ("wrong_product", "missed_attribute")),
        (shop(0.8, "click[navy]", thumb="click[b000000001]"), ("missing_option",)),
        (shop(0.4, goal={}), ("bad_purchase",)),
        (shop(0.4, goal={}, price="$60.0"), ("over_price",)),  # the instruction names the limit
    ],
)
def test_a_purchase_is_taken_apart_by_the_rewards_arithmetic(case, expected):
    assert kinds(case) == expected


def test_evidence_names_the_step_and_what_was_wanted():
    found = diagnose(*shop(0.8, "click[red]", "click[large]")[3:]).findings[0]
    assert (found.t, found.text, found.rule) == (2, "red, wanted: navy", "other value")
    found = diagnose(*shop(0.8, *BOTH, title="Acme Soft Shirt")[3:]).findings[0]
    assert "1 of 2 attributes; not seen: cotton" in found.text
    found = diagnose(*shop(0.8, *BOTH, price="$70.0")[3:]).findings[0]
    assert found.text == "70 dollars, 50 allowed"


def test_options_may_be_pairs_and_pages_may_have_marked_buttons():
    goal = {**GOAL, "goal_options": {"color": "navy blue", "size": "large"}}
    page = "[button] navy [button_] [clicked button] red [clicked button_] size"
    assert kinds(shop(0.8, *BOTH, goal=goal)) == ("missed_attribute",)  # navy is navy blue enough
    assert kinds(shop(0.8, "click[red]", "click[large]", options=page)) == ("wrong_option",)


def test_what_the_last_page_says_was_chosen_counts():
    """A click that another one replaced is no choice."""
    end = '[SEP] options [SEP] {"color": "red", "size": "large"} [SEP] attrs [SEP] None'
    case = shop(0.8, "click[navy]", "click[red]", "click[large]", end=end)
    assert kinds(case) == ("wrong_option",)


def test_a_price_range_on_a_published_page_is_decided_by_the_reward():
    assert kinds(shop(0.8, *BOTH, price="$20.0 to $90.0")) == ("missed_attribute",)
    assert kinds(shop(0.0, *BOTH[:0], price="$20.0 to $90.0"))[-1] == "over_price"
    assert "over_price" in kinds(shop(0.8, *BOTH, price="$60.0 to $90.0"))


def test_parts_of_the_reward_on_record_decide_where_the_reward_alone_is_open():
    case = shop(0.6, *BOTH, price="$20.0 to $90.0")
    assert kinds(case) == ("missed_attribute",)
    parts = {"r_type": 1.0, "r_att": 0.5, "r_option": 1.0, "r_price": False}
    trajectory = replace(case.trajectory, extra={"reward_info": parts})
    assert diagnose(trajectory, case.task).kinds == ("missed_attribute", "over_price")
    for broken in ("none", {}, {"r_type": "1", "r_att": None}, {"r_type": 1.0}):
        trajectory = replace(case.trajectory, extra={"reward_info": broken})
        assert diagnose(trajectory, case.task).kinds == ("missed_attribute",)


def test_purchases_in_the_official_environment_are_read_as_it_scored_them():
    """Recordings of the official code: its reward parts against what the rules work out."""

    def load(name: str):
        return json.loads(gzip.decompress((PARITY / f"{name}.json.gz").read_bytes()))

    goals = load("goals")
    pools = {"human": goals["human"], "synthetic": goals["synthetic_first_400"]}
    right, seen, claimed = Counter(), 0, Counter()
    for mode in ("obs_text", "obs_rich"):
        for e in load("rollouts")["episodes"]:
            if e["goal_idx"] >= len(pools[e["goal_set"]]):
                continue
            case, parts = official(e, pools[e["goal_set"]][e["goal_idx"]], mode)
            if parts is None:
                continue
            truth = {
                "wrong_product": parts["r_type"] < 1,
                "missed_attribute": parts["r_att"] < 1,
                "option": parts.get("r_option", 1) < 1,
                "over_price": parts["r_price"] is False,
            }
            found = {"option" if "option" in k else k for k in kinds(case)}
            seen += 1
            right.update(k for k, v in truth.items() if (k in found) == v)
            claimed.update(k for k, v in truth.items() if k in found and not v)
    assert seen > 100
    assert right["option"] == right["over_price"] == seen
    assert right["missed_attribute"] >= seen - 1
    assert claimed["wrong_product"] == 0
    assert right["wrong_product"] >= 0.95 * seen  # with a reward of 0 the parts cannot be known


def official(episode: dict, goal: dict, mode: str) -> tuple[Case | None, dict | None]:
    """The episode up to its first purchase that was not perfect, and the parts of its reward."""
    steps, page = [], episode["reset"][mode]
    for s in episode["steps"]:
        reward = s.get("reward") or 0.0
        steps.append(Step(page, s["action"], "teacher", valid="error" not in s, reward=reward))
        page = s[mode]
        if s.get("reward_info"):
            if reward >= 1:
                break
            text = goal["instruction_text"]
            end = (tuple(steps), page, reward, True, False)
            trajectory = Trajectory("e", "u", "webshop", text, "p", *end)
            return Case(0, "", 0, trajectory, Task("u", "webshop", text, goal)), s["reward_info"]
    return None, None


def episode(
    env: str,
    moves: list[tuple[str, str] | tuple[str, str, bool]],
    *,
    reward: float = 0.0,
    ended: bool = False,
    limit: int | None = 10,
    scores: list[float] | None = None,
    error: str = "",
) -> Case:
    steps = tuple(
        Step(
            m[0],
            m[1],
            "teacher",
            valid=m[2] if len(m) > 2 else True,
            score=scores[t] if scores else None,
        )
        for t, m in enumerate(moves)
    )
    task = Task("u", env, "do it", settings={} if limit is None else {"max_steps": limit})
    trajectory = Trajectory(
        "e", "u", env, "do it", "p", steps, "end", reward, ended, not ended, error=error
    )
    return Case(0, "teacher", 0, trajectory, task)


LOOK = ("a room", "look around")
MENU = ("Ambiguous request: Please enter the number for the action: 0: a 1: b", "go on")
NEW = [(f"room {i}", f"go {i}") for i in range(10)]


@pytest.mark.parametrize(
    ("case", "first", "others"),
    [
        (episode("scienceworld", [*NEW[:2], ("r", "focus on cat")], ended=True), "wrong_focus", ()),
        (episode("scienceworld", [MENU] * 3 + NEW[:7], reward=0.4), "menu_mishap", ()),
        (episode("scienceworld", [MENU, *NEW[:9]], reward=0.4), "ran_out_of_steps", "menu_mishap"),
        (episode("scienceworld", [LOOK] * 10, reward=0.2), "loop", "ran_out_of_steps"),
        (episode("textworld", NEW), "no_progress", "ran_out_of_steps"),
        (episode("textworld", NEW, scores=[0.5] * 10), "ran_out_of_steps", ()),
        (episode("textworld", NEW[:4], reward=0.5), "stopped_early", ()),
        (episode("textworld", NEW[:4]), "stopped_early", "no_progress"),
        (episode("textworld", NEW[:4], reward=0.5, ended=True), "wrong_end", ()),
        (episode("textworld", NEW, limit=None, reward=0.5), "ran_out_of_steps", ()),
        (episode("imported", [("s", "x", False)] * 2 + NEW[:2]), "stopped_early", ()),
        (episode("imported", [("s", f"x{i}", False) for i in range(4)]), "invalid_actions", ()),
        (episode("imported", NEW[:2], error="ProviderError: no"), "fault", "stopped_early"),
        (episode("imported", []), "stopped_early", ()),
        (episode("webshop", [("p", "search[a]")] * 10), "loop", "never_bought"),
        (episode("webshop", [(f"p{i}", "click[next >]") for i in range(10)]), "wandered", ()),
        (episode("webshop", NEW[:3]), "stopped_early", "never_bought"),
    ],
)
def test_rules_for_any_environment(case, first, others):
    got = kinds(case)
    assert got[0] == first
    if others:
        assert others in got


def house(*moves: tuple[str, str], thought: str = "", end: str = "fin", **more) -> Trajectory:
    """An imported episode in an environment that is not known: whatever ours would note is not."""
    steps = tuple(Step(seen, does, "teacher", thought=thought) for seen, does in moves)
    facts = {"reward": 0.0, "terminated": False, "truncated": False, **more}
    return Trajectory(
        "e", "u", "house", "do it", "m", steps, end, **facts, extra={"format": "openai messages"}
    )


NO = "Nothing happens."
HALL = "You are in the middle of a room. Around you, you see a drawer 1, a drawer 2 and a shelf."


@pytest.mark.parametrize(
    ("trajectory", "kind", "t", "said"),
    [
        (house(*NEW[:3], *[("in", "go x")] * 6), "loop", 3, "6 times running: go x"),
        (
            house(*[("a", "use lamp"), (NO, "use lamp 2"), (NO, "light lamp")], end=NO),
            "invalid_actions", 0, "3 of 3 actions not understood or without effect, first: use lamp"
            " (\u201cNothing happens.\u201d)",
        ),
        (
            house(*[(HALL, f"clean mug {i}") for i in range(4)], end=HALL),
            "invalid_actions", 0, "(nothing changed)",
        ),
        (house(*NEW[:4], ("r", "finish[it is 7]")), "said_done", 4, "\u201cfinish[it is 7]\u201d"),
        (house(("r", "finish[I give up]")), "stopped_early", 0, "I give up"),
        (house(*NEW, truncated=True), "ran_out_of_steps", 10, "10 actions"),
        (house(*NEW[:4], terminated=True), "wrong_end", 4, "reward 0.00 of 1"),
        (house(*NEW[:4]), "no_cause_found", 3, "something new: go 3"),
        (
            house(("r", "go to drawer 3"), thought="Drawer 1 is empty. I will go to drawer 2."),
            "contradiction", 0, "\u201cI will go to drawer 2\u201d, does go to drawer 3",
        ),
        (
            house(("r", "click[b000000002]"), thought="Now I'll take B000000001"),
            "contradiction", 0, "does click[b000000002]",
        ),
        (
            house(*[(f"{HALL} In room {i % 5}.", f"walk {i}") for i in range(14)],
                  end=f"{HALL} In room 1."),
            "stalled", 3, "nothing new after step 4 of 14, walk 3: \u201cYou are in the middle",
        ),
    ],
)  # fmt: skip
def test_failures_in_an_unknown_environment_say_what_the_texts_show(trajectory, kind, t, said):
    found = next(f for f in diagnose(trajectory).findings if f.kind == kind)
    assert diagnose(trajectory).primary == kind
    assert said in found.text
    assert found.t == t


@pytest.mark.parametrize(
    ("does", "thought"),
    [
        ("go to drawer 2", "I looked in drawer 1. I will go to the next drawer after drawer 1."),
        ("go to drawer 3", "I will check drawer 1 to 5."),
        ("take mug 1", "I will take mug 1 and put it in drawer 2."),
        ("go to drawer 3", "Drawer 1 and 2 are empty, so I will try 3."),
        ("open drawer 2", "I should not open drawer 1."),
        ("click[large]", "I will click[Buy Now] once click[large] is chosen."),
        ("go to shelf 4", "I will go to drawer 2."),
    ],
)
def test_a_thought_that_names_more_than_one_thing_is_not_contradicted(does, thought):
    assert kinds(Case(0, "", 0, house(("r", does), thought=thought))) == ("no_cause_found",)


def test_where_no_end_is_on_record_other_episodes_tell_how_it_ended():
    lengths = [("house", n, True, False) for n in (8, 9, 9, 10, 12)]
    lengths += [("house", 20, False, False)] * 4 + [("house", 3, False, False)]
    known = rules.usual(lengths)["house"]
    assert known == rules.Usual(limit=20, ended=4, solved=9)
    early, cut, between = (house(*NEW[:3]), house(*NEW, *NEW[::-1]), house(*NEW[:6]))
    found = diagnose(early, None, known).findings[0]
    assert (found.kind, found.text) == (
        "stopped_early", "ends after 3 actions, solved ones take 9 (median), last: go 2"
    )  # fmt: skip
    assert "ran_out_of_steps" in diagnose(cut, None, known).kinds
    assert diagnose(between, None, known).kinds == ("no_cause_found",)
    assert rules.usual(lengths[:5] + lengths[-3:])["house"].limit == 0  # too few to tell


def test_what_ours_recorded_is_found_in_the_texts_alone_and_never_in_a_solved_episode():
    """The labelled failures as if imported: invalid actions by the answers only."""
    told = Counter()
    for row in (r for part in PARTS for r in labelled(part)):
        t = row.case.trajectory
        steps = tuple(replace(s, valid=True, reason="", score=None, reward=0.0) for s in t.steps)
        extra = {"format": "x"}
        blind = replace(t, env="x", steps=steps, extra=extra, terminated=False, truncated=False)
        found, wanted = (("invalid_actions" in k) for k in (diagnose(blind).kinds, row.labels))
        told[t.env, found, wanted] += 1
        assert diagnose(replace(blind, reward=1.0)) is None
    assert not any(found and not wanted for _, found, wanted in told)
    assert told["scienceworld", True, True] >= 17
    assert told["scienceworld", False, True] <= 1


def test_turning_pages_and_waiting_are_no_loops():
    pages = [(f"page {i}", "click[next >]") for i in range(9)]
    assert "loop" not in kinds(episode("imported", pages))
    waits = [("You decide to wait for 1 iterations.", "wait1")] * 10
    assert "loop" not in kinds(episode("scienceworld", waits))
    # the same round of two, entered from elsewhere
    walk = [("start", "go a"), ("at a", "go b")] + [("at b", "go a"), ("at a", "go b")] * 3
    assert kinds(episode("imported", walk))[0] == "loop"


def test_very_long_episodes_and_texts_come_to_an_end():
    moves = [(f"{i} " + "x" * 200, f"click[{i % 3000}]") for i in range(5000)]
    huge = " [SEP] options [SEP] {" * 50_000
    for case in (
        episode("imported", moves, limit=None),
        episode("webshop", moves, limit=None),
        shop(0.5, *BOTH, end=huge),
        shop(0.5, f"click[{'red ' * 100_000}]", title="y " * 300_000),
        episode("scienceworld", [("Ambiguous request: 1" + "0" * 1_000_000, "go on")] * 5),
    ):
        assert diagnose(case.trajectory, case.task).findings


def test_failures_join_the_other_frames_and_are_counted(tmp_path):
    cases = [r.case for r in labelled("held_out")]
    for name, records in (
        ("tasks", {c.task.id: c.task for c in cases}.values()),
        ("trajectories", [c.trajectory for c in cases]),
    ):
        lines = "".join(json.dumps(r.to_dict()) + "\n" for r in records)
        (tmp_path / f"{name}.jsonl").write_text(lines, "utf-8")
    loaded = frames.load(tmp_path)
    table = loaded.failures
    assert len(table[table["primary"]]) == (~loaded.trajectories["solved"]).sum() == len(cases)
    joined = table.merge(loaded.trajectories, on=["seed", "trajectory_id"], validate="m:1")
    assert len(joined) == len(table)
    counted = taxonomy.counts(table, by="env")
    assert counted["n"].sum() == len(cases)
    assert (counted["any"] >= counted["n"]).all()
    assert counted.groupby("group")["share"].sum().to_list() == pytest.approx([1, 1, 1])


def test_no_failures_are_an_empty_table():
    table = taxonomy.failures([])
    assert list(table.columns) == list(frames.COLUMNS["failures"])
    assert taxonomy.counts(table).empty
    assert taxonomy.coverage(table).n == 0
