"""The formats of trajectory files: which keys tell each, and its rows in one common shape.

Import `FORMATS` and `visits` from here. The common shape is a dict with `messages` (role, content,
whatever else), and where known `reward`, `model`, `error` and the like under any of their usual
names, see `eeflib.interop.read`, which makes trajectories of it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from eeflib.interop.sources import Row, Rows, short_json

_ANY_FAULT = re.compile(r"exceeding maximum input length", re.IGNORECASE)
"""What ETO notes for any exception of its harness."""
_SUB_PAGE = re.compile(r"Description|Features|Reviews|Attributes")
_QUOTED = re.compile(r"""'([^']*)'|"([^"]*)\"""")


def _as_is(row: Row) -> Iterator[Row]:
    yield row


def _eto_rollout(row: Row) -> Iterator[Row]:
    """`success` means "done" here, and is no reward."""
    meta = row["meta"]
    reason = str(meta.get("terminate_reason") or "")
    limit = reason == "max_steps"
    yield {
        **row,
        "reward": meta.get("reward"),
        "error": meta.get("error") or (reason if _ANY_FAULT.search(reason) else ""),
        "terminated": bool(meta.get("finished")) and not limit,
        "truncated": limit,
        "example": True,
    }


def _verifiers(row: Row) -> Iterator[Row]:
    """An episode of verifiers v1, or one trace: every path from a root to a leaf."""
    for trace in row.get("traces", [row]):
        nodes = trace["nodes"]
        parents = {node.get("parent") for node in nodes}
        task = trace.get("task") or row.get("task") or {}
        config = (trace.get("agent") or {}).get("config") or {}
        models = [call["model"] for call in trace.get("calls") or () if call.get("model")]
        scores = [r for r in (trace.get("rewards") or {}).values() if r is not None]
        failed = not trace.get("ok", True)
        about = {
            **{k: v for k, v in trace.items() if k not in ("nodes", "ok")},
            "env": (row.get("env") or {}).get("id"),
            "task_id": task.get("key") or task.get("hash"),
            "model": models[0] if models else config.get("model"),
            "reward": sum(r["score"] * r.get("weight", 1) for r in scores) if scores else None,
            "error": (trace.get("errors") or row.get("errors") or "not ok") if failed else "",
            "terminated": bool(trace.get("is_completed")),
            "truncated": "max" in str(trace.get("stop_condition")),
            "percent": False,
        }
        leaves = [i for i in range(len(nodes)) if i not in parents]
        for number, leaf in enumerate(leaves):
            name = f"{trace.get('id')}-branch{number}" if len(leaves) > 1 else trace.get("id")
            yield {**about, "id": name, "messages": _path(nodes, leaf)}


def _path(nodes: Sequence[Row], leaf: int) -> list[Row]:
    """The messages from a root to a leaf; a parent that is no earlier node ends it."""
    out, at = [], leaf
    while True:
        node = nodes[at]
        out.append({**node["message"], "sampled": node.get("sampled") or None})
        parent = node.get("parent")
        if not isinstance(parent, int) or not 0 <= parent < at:
            return out[::-1]
        at = parent


def _completion(row: Row) -> Iterator[Row]:
    """verifiers v0: what was asked and what was answered."""
    turns: list[Row] = []
    for role in ("prompt", "completion"):
        said = row[role]
        told = "user" if role == "prompt" else "assistant"
        turns += [{"role": told, "content": said}] if isinstance(said, str) else said
    rest = {k: v for k, v in row.items() if k not in ("prompt", "completion")}
    yield {**rest, "messages": turns, "percent": False}


def _inspect(row: Row) -> Iterator[Row]:
    """A sample of an Inspect log; of several scores the first counts."""
    scores = list((row.get("scores") or {}).values())
    value = scores[0].get("value") if scores else None
    letters = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
    again = row.get("epoch") or 1
    yield {
        **row,
        "id": f"{row['id']}-epoch{again}" if again > 1 else str(row["id"]),
        "task_id": str(row["id"]),
        "env": row["eval"].get("task"),
        "model": row["eval"].get("model"),
        "reward": letters.get(value, value) if isinstance(value, str) else value,
        "truncated": bool(row.get("limit")),
        "percent": False,
    }


def _atif(row: Row) -> Iterator[Row]:
    """Harbor's trajectories: the results stand in the step that asked for them."""
    turns: list[Row] = []
    for step in row["steps"]:
        rest = {k: v for k, v in step.items() if k not in ("source", "message", "observation")}
        turns.append({**rest, "role": step["source"], "content": step["message"]})
        results = (step.get("observation") or {}).get("results") or ()
        turns += [{"role": "user", **result} for result in results]
    yield {
        **{k: v for k, v in row.items() if k not in ("steps", "subagent_trajectories")},
        "messages": turns,
        "id": row.get("trajectory_id") or row.get("session_id"),
        "model": row["agent"].get("model_name"),
        "info": {
            **((row.get("final_metrics") or {}).get("extra") or {}),
            **(row.get("extra") or {}),
        },
        "percent": False,
    }
    for inner in row.get("subagent_trajectories") or ():
        yield from _atif(inner)


def _hub_rows(row: Row) -> Iterator[Row]:
    """A page of rows as the hub's server gives them."""
    for held in row.get("rows") or [row]:
        yield {"again": held["row"]}


# -- a person's visit to the shop, from a log of pages ---------------------------------------------


def visits(rows: Rows) -> Rows:
    """`rows`, in which consecutive pages of a log, up to its end, are one: `{"visit": pages}`."""
    pages: list[Row] = []
    start = ""
    end: Row = {}
    for place, row in itertools.chain(rows, [("", end)]):
        is_page = {"page", "goal", "url"} <= row.keys()
        ended = pages and (pages[-1]["page"] == "done" or pages[-1]["goal"] != row.get("goal"))
        if ended or (pages and not is_page):
            yield start, {"visit": pages}
            pages = []
        if is_page:
            start = start if pages else place
            pages.append(row)
        elif place:
            yield place, row


def _visit(row: Row) -> Iterator[Row]:
    """Actions are inferred from which page followed which, and each says so."""
    pages: list[Row] = row["visit"]
    turns: list[Row] = []
    goal = pages[0]["goal"]
    wanted = str(goal.get("instruction_text", ""))
    for page, after in itertools.pairwise(pages):
        kept = {k: page[k] for k in ("page", "url", "content") if k in page}
        for action in _between(page, after):
            turns.append({"role": "user", "content": _shown(page, wanted), "log": kept})
            turns.append({"role": "assistant", "content": action, "inferred": True})
    last = pages[-1]
    turns.append({"role": "user", "content": _shown(last, wanted)})
    yield {
        **{k: v for k, v in last.items() if k != "page"},
        "messages": turns,
        "instruction": wanted,
        "goal": goal,
        "reward": last.get("reward"),
        "actions": "inferred",
        "actor": "human",
        "model": "human",
        "terminated": last["page"] == "done",
        "percent": False,
    }


def _between(page: Row, after: Row) -> Iterator[str]:
    """The actions that lead from one page to the next."""
    here, there = page["page"], after["page"]
    now, then = page.get("content") or {}, after.get("content") or {}
    if there == "index":
        yield "click[Back to Search]"
    elif there == "search_results":
        words = _words(then.get("keywords"))
        if here == "index" or words != _words(now.get("keywords")):
            if here != "index":
                yield "click[Back to Search]"
            yield f"search[{words}]"
        else:
            further = int(then.get("page") or 1) > int(now.get("page") or 1)
            yield "click[Next >]" if here == there and further else "click[< Prev]"
    elif there == "item_sub_page":
        named = _SUB_PAGE.search(f"{after.get('url')} {then}")
        yield f"click[{named[0] if named else 'Description'}]"
    elif here == "item_sub_page":
        yield "click[< Prev]"
    if there in ("item_page", "done"):
        if here == "search_results":
            yield f"click[{then.get('asin')}]"
        chosen = {} if here == "search_results" else now.get("options") or {}
        for option, value in (then.get("options") or {}).items():
            if chosen.get(option) != value:
                yield f"click[{value}]"
    if there == "done":
        yield "click[Buy Now]"


def _words(keywords: Any) -> str:
    """Keywords as a list, or as the text of one."""
    if isinstance(keywords, str):
        return " ".join(a or b for a, b in _QUOTED.findall(keywords)) or keywords
    return " ".join(map(str, keywords or ()))


def _shown(page: Row, wanted: str) -> str:
    """What is known of a page: the log does not hold its text."""
    parts = [f"{name}: {short_json(value)}" for name, value in (page.get("content") or {}).items()]
    return " [SEP] ".join(["Instruction:", wanted, f"page {page['page']}", *parts])


class Format(NamedTuple):
    name: str
    keys: str
    """That a row has, all of them."""
    read: Callable[[Row], Iterator[Row]]
    """A row -> rows in the common shape, or `{"again": row}` for one of another format."""


OWN = "eeflib"
FORMATS = (
    Format(OWN, "task_id steps policy terminated", _as_is),
    Format("atif", "schema_version steps agent", _atif),
    Format("verifiers v1", "traces", _verifiers),
    Format("verifiers v1", "nodes rewards", _verifiers),
    Format("verifiers v0", "prompt completion", _completion),
    Format("inspect", "messages eval scores", _inspect),
    Format("webshop pages", "visit", _visit),
    Format("hub rows", "rows", _hub_rows),
    Format("hub rows", "row row_idx", _hub_rows),
    Format("eto roll-out", "meta conversations", _eto_rollout),
    Format("agenttraj", "item_id conversations", _as_is),
    Format("eef paper", "info conversations", _as_is),
    Format("eef paper", "info conversation", _as_is),
    Format("eto sft or sharegpt", "conversations", _as_is),
    Format("openai messages", "messages", _as_is),
    Format("messages", "conversation", _as_is),
    Format("messages", "trajectory", _as_is),
    Format("messages", "history", _as_is),
)
"""Formats that are known, tried in this order."""
