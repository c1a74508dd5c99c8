"""Failure kinds by a language model, and how far two labellings agree.

Import `label_failures` and `agreement`. The model is any policy that answers conversations, such as
`ChatModel` with its retries and cost cap. Its answers are cached on disk.

    policy = ChatModel("gpt-...", max_cost_usd=1.0)
    asked = label_failures(cases, policy, cache=run.path / "failure_labels.jsonl")
    print(agreement(frames.load(run).failures, asked))

The task's goal is shown to the model: this is analysis, not acting.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from eeflib.analysis.annotations import append
from eeflib.analysis.markup import clean
from eeflib.analysis.taxonomy import KINDS, Case
from eeflib.files import ReadReport, read_objects
from eeflib.records import Task, Trajectory, canonical_json, content_hash
from eeflib.stats import wilson

LABEL_COLUMNS = {
    "seed": "int64",
    "trajectory_id": "str",
    "task_id": "str",
    "method": "str",
    "iteration": "int64",
    "kind": "str",  # empty: no usable answer
    "reason": "str",  # in the model's words
    "error": "str",  # why there is no usable answer
}
"""Columns of `label_failures`; seed, method, iteration and trajectory_id join the rules' table."""

EPISODE = list(LABEL_COLUMNS)[:5]
"""The columns that name an episode."""

_SHOPPING = {"wrong_product", "missed_attribute", "wrong_option", "missing_option", "over_price"}
_SHOPPING |= {"never_bought", "bad_purchase", "wandered"}
_LAB = {"wrong_focus", "menu_mishap"}
_ELSEWHERE = {"webshop": _LAB | {"no_progress", "ran_out_of_steps", "wrong_end"}}
_ELSEWHERE |= {"scienceworld": _SHOPPING}
"""Environment -> kinds that do not occur there; in any other those of both."""
_SYSTEM = (
    "You are shown an episode of an agent that failed its task. Decide what it failed by. Answer "
    "in two lines and nothing else:\nKind: one name from the list\nWhy: one sentence naming the "
    "step that shows it"
)
_KIND = re.compile(r"^\W*kind\W+([a-z][a-z _-]*)", re.IGNORECASE | re.MULTILINE)
_WHY = re.compile(r"^\W*why\W+(.+)", re.IGNORECASE | re.MULTILINE)


_NOT_DECIDING = frozenset({"base_url", "max_cost_usd"})
"""Options of a policy that do not decide its answer."""


class Turn(NamedTuple):
    role: str
    content: str


@dataclass(frozen=True)
class Question:
    """What a policy reads of a conversation (`eeflib.policies.base.Conversation`)."""

    messages: tuple[Turn, ...]
    key: str
    admissible: tuple[str, ...] | None = None
    observation: str = ""
    instruction: str = ""
    task_id: str = ""


def question(trajectory: Trajectory, task: Task | None = None, *, limit: int = 12_000) -> Question:
    """The question about one failed episode.

    Args:
        limit: characters of the episode shown; what is in its middle is left out first.
    """
    hidden = _ELSEWHERE.get(trajectory.env, _SHOPPING | _LAB)
    kinds = "\n".join(f"- {k}: {v.meaning}" for k, v in KINDS.items() if k not in hidden)
    lines = [
        f"{t}. saw: {_short(s.observation)}\n   did: {_short(s.action) or '(nothing usable)'}"
        + ("" if s.valid else f" [not understood: {_short(s.reason, 80)}]")
        for t, s in enumerate(trajectory.steps)
    ]
    end = "the environment" if trajectory.terminated else "a limit, or the agent itself"
    goal = f"Goal on record: {canonical_json(task.goal)[:1500]}\n" if task and task.goal else ""
    episode = "\n".join(lines)
    if len(episode) > limit:
        left_out = f"[... {len(episode) - limit // 2 * 2} characters ...]"
        episode = f"{episode[: limit // 2]}\n{left_out}\n{episode[-(limit // 2) :]}"
    text = (
        f"Kinds:\n{kinds}\n\nTask: {clean(trajectory.instruction, 1500)}\n{goal}"
        f"Episode:\n{episode}\nEnd: {_short(trajectory.final_observation)}\n"
        f"Ended by {end} after {len(trajectory.steps)} actions; reward {trajectory.reward:.3f} of "
        f"{trajectory.threshold:g}."
    )
    turns = (Turn("system", _SYSTEM), Turn("user", text))
    return Question(turns, key=f"label:{trajectory.id}")


def _short(text: str, limit: int = 500) -> str:
    return clean(" ".join(text.split()), limit)


def label_failures(
    cases: Iterable[Case],
    labeller: Any,
    cache: str | Path,
    *,
    batch_size: int = 16,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """The model's kind for each failed episode, in order; columns: `LABEL_COLUMNS`.

    An answer is written to `cache` as soon as it is there and never asked for again: the same
    model (`labeller.name` and `config()`) and the same question give the same answer. An answer
    that names no kind of the list is kept too, with an empty kind. A failed request is not kept.

    Args:
        labeller: a policy, see `eeflib.policies.base.Policy`.
        cache: a JSON-lines file; made if it is missing.
        batch_size: questions handed to the policy at once.
        seed: of the generators that the policy gets.

    Raises:
        ProviderError: no request can succeed (key, credit, cost cap); what was answered is kept.
        DataError: the cache cannot be read or written, or another process writes it.
    """
    cases, path = list(cases), Path(cache)
    config: Mapping[str, Any] = getattr(labeller, "config", dict)()
    about = [labeller.name, {k: v for k, v in config.items() if k not in _NOT_DECIDING}]
    asked = [question(c.trajectory, c.task) for c in cases]
    keys = [content_hash([about, [tuple(m) for m in q.messages]]) for q in asked]
    known = {row["key"]: row["reply"] for row in _read(path) if isinstance(row.get("key"), str)}
    missing = list({key: i for i, key in enumerate(keys) if key not in known}.values())
    errors: dict[str, str] = {}
    if missing:
        append(path, [])  # a folder that cannot be written is found out before anything is paid
    with tqdm(total=len(missing), desc="labels", disable=not progress) as bar:
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            rngs = [np.random.default_rng([seed, i]) for i in batch]
            replies = labeller.act([asked[i] for i in batch], rng=rngs)
            rows = []
            for i, reply in zip(batch, replies, strict=True):
                if reply.error:
                    errors[keys[i]] = reply.error
                else:
                    known[keys[i]] = reply.text
                    answer = {"key": keys[i], "model": labeller.name, "reply": reply.text}
                    rows.append(answer | dict(zip(EPISODE, _names(cases[i]), strict=True)))
            append(path, [json.dumps(row) for row in rows])
            bar.update(len(batch))
    table = []
    for case, key in zip(cases, keys, strict=True):
        kind, reason = parse(known.get(key, ""))
        none = "" if kind else "the answer names no kind of the list"
        table.append([*_names(case), kind, reason, errors.get(key, none)])
    return pd.DataFrame(table, columns=list(LABEL_COLUMNS)).astype(LABEL_COLUMNS)


def _read(path: Path) -> list[dict[str, Any]]:
    """The answers in a cache."""
    rows = read_objects(path, ReadReport()) if path.is_file() else ()
    return [row for _, row in rows if isinstance(row.get("reply"), str)]


def _names(case: Case) -> list[Any]:
    e = case.trajectory
    return [case.seed, e.id, e.task_id, case.method, case.iteration]


def recorded(cache: str | Path) -> pd.DataFrame:
    """The answers in a cache of `label_failures`, with the model's name in a column `model`.

    Answers that do not say which episode they are of (older caches) are left out.
    """
    rows = []
    for row in _read(Path(cache)):
        names: list[Any] = [row.get(name) for name in EPISODE]
        fits = [isinstance(x, t) for x, t in zip(names, (int, str, str, str, int), strict=True)]
        if all(fits) and max(names[0], names[4]) < 2**63:
            rows.append([*names, *parse(row["reply"]), "", str(row.get("model", ""))])
    types = LABEL_COLUMNS | {"model": "str"}
    return pd.DataFrame(rows, columns=list(types)).astype(types)


def parse(reply: str) -> tuple[str, str]:
    """Kind and reason of an answer; an empty kind if it names none of `KINDS`."""
    reply = reply[:4000]
    found, why = _KIND.search(reply), _WHY.search(reply)
    name = re.sub(r"[\s-]+", "_", found[1].strip().lower()) if found else ""
    return name if name in KINDS else "", why[1].strip() if why else ""


@dataclass(frozen=True)
class Agreement:
    """Two labellings of the same failures."""

    n: int
    """Failures that both labelled."""
    same: int
    kappa: float
    """Cohen's kappa: agreement beyond what the two sets of counts give by chance; nan if n is 0
    or both know a single kind only."""
    table: pd.DataFrame
    """Counts: rows the first labelling's kinds, columns the second's."""
    left_out: int
    """Failures that only one of the two labelled."""

    @property
    def share(self) -> float:
        """same / n; nan if n is 0."""
        return self.same / self.n if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of `share`."""
        return wilson(self.same, self.n)

    def __str__(self) -> str:
        if not self.n:
            return f"none labelled by both, {self.left_out} by one only"
        low, high = self.interval
        return (
            f"{self.same} of {self.n} with the same kind ({self.share:.0%}, 95 % interval "
            f"{low:.0%} to {high:.0%}), Cohen's kappa {self.kappa:.2f}; "
            f"{self.left_out} labelled by one only"
        )


def agreement(first: pd.DataFrame, second: pd.DataFrame) -> Agreement:
    """Main kind against main kind, episode by episode.

    Args:
        first: the rules' `failures`, or `label_failures`, or any table with seed, method,
            iteration, trajectory_id and kind (with several rows an episode: `primary`).
        second: likewise.
    """
    a, b = (_main_kinds(t) for t in (first, second))
    episodes = a.index.union(b.index)
    a, b = a[a != ""], b[b != ""]
    both = a.index.intersection(b.index)
    a, b = a.loc[both], b.loc[both]
    n, same = len(both), int((a == b).sum())
    chance = sum(float((a == k).mean() * (b == k).mean()) for k in set(a) | set(b)) if n else 1.0
    kappa = (same / n - chance) / (1 - chance) if chance < 1 else float("nan")
    listed = [k for k in KINDS if k in set(a) | set(b)]
    table = pd.crosstab(a.to_numpy(), b.to_numpy()) if n else pd.DataFrame()
    table = table.reindex(index=listed, columns=listed, fill_value=0)
    return Agreement(n, same, kappa, table, len(episodes) - n)


def _main_kinds(failures: pd.DataFrame) -> pd.Series[str]:
    """The main kind of each failed episode, by seed, method, iteration and trajectory_id."""
    rows = failures[failures["primary"]] if "primary" in failures else failures
    return rows.set_index(["seed", "method", "iteration", "trajectory_id"])["kind"]
