"""One suite that every environment passes: `check_environment(make_env, tasks)`, and its report.

Owns the list of checks, their order, and the report. What each check looks at is in
`conformance_episode`, `_actions`, `_restore` and `_process`. Knows no environment.

    report = check_environment(MyEnv, tasks)
    print(report)
    assert report.passed, report
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from eeflib.envs import conformance_actions as acting
from eeflib.envs import conformance_episode as episode
from eeflib.envs import conformance_process as process
from eeflib.envs import conformance_restore as restoring
from eeflib.envs.base import TextEnv
from eeflib.envs.conformance_play import Broken, Caught, Propose
from eeflib.envs.conformance_subject import NotLooked, Subject
from eeflib.errors import DataError
from eeflib.records import Task

__all__ = ["CHECKS", "Check", "Report", "check_environment"]

CHECKS = {
    "contract": "types and ranges of what reset and step give",
    "texts": "every text is a str that can be written as UTF-8",
    "reset": "a reset in mid-episode starts afresh",
    "ending": "won if the reward says so; a step after the end changes nothing",
    "valid_actions": "listed actions are accepted; asking changes nothing",
    "hostile_actions": "empty, huge, binary and prompt-like actions never raise",
    "unknown_task": "a task it cannot hold is a DataError that says so",
    "restore": "restored states are the recorded ones, and go on the same",
    "mismatch": "a wrong prefix is reported, not raised",
    "two_environments": "two, stepped in turn, see the same and share nothing",
    "processes": "fresh processes with other hash seeds see the same",
    "state_key": "equal for equal states, different for different ones",
    "close": "may be called at any time, and again",
    "leaks": "no thread, process or file handle is left behind",
}
"""Name of each check, and what it says of an environment that passes; in the order of running."""

Outcome = Literal["passed", "failed", "not run"]
_MOST_TASKS = 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Check:
    """One row of a report."""

    name: str
    """A key of `CHECKS`."""
    outcome: Outcome
    detail: str
    """What was looked at, what is wrong and where, or why it could not be run."""
    seconds: float

    @property
    def rule(self) -> str:
        return CHECKS[self.name]


@dataclass(frozen=True)
class Report:
    """Outcome of `check_environment`; `print` shows it as a table."""

    env: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Nothing failed, and something was run. What was not run is in `not_run`."""
        return not self.failed and any(c.outcome == "passed" for c in self.checks)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return tuple(c.name for c in self.checks if c.outcome == "failed")

    @property
    def not_run(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.checks if c.outcome == "not run")

    def __getitem__(self, name: str) -> Check:
        """The row of check `name`."""
        return next(c for c in self.checks if c.name == name)

    @property
    def text(self) -> str:
        """A line per check: outcome, name, rule, seconds; below it the detail."""
        ran = [c for c in self.checks if c.outcome != "not run"]
        lines = [f"{self.env}: {len(ran) - len(self.failed)} of {len(ran)} checks passed"]
        for c in self.checks:
            lines.append(f"  {c.outcome:<8}{c.name:<17}{c.rule} ({c.seconds:.1f} s)")
            lines.append(f"  {'':<25}{_printable(c.detail)}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text


def check_environment(
    make_env: Callable[[], TextEnv],
    tasks: Sequence[Task],
    *,
    seed: int = 0,
    walks: int = 4,
    depth: int = 12,
    episodes: int = 100,
    environments: int = 3,
    processes: int = 2,
    refused_states: float = 0.0,
    refused_actions: float = 0.0,
    propose: Propose | None = None,
    endings: Mapping[str, Sequence[str]] | None = None,
    unknown: Sequence[Task] = (),
    only: Sequence[str] | None = None,
    timeout_s: float = 300.0,
    settle_s: float = 5.0,
) -> Report:
    """Check that an environment keeps its side of `eeflib.envs.base.TextEnv`.

    Makes about 6 + `processes` + `environments` environments, no more than two at a time in this
    process: seconds for one in Python, a minute or two where each starts a JVM.

    Args:
        make_env: builds one environment. For `processes` it must be a class or function at the top
            level of a module, so that another process finds it.
        tasks: a few, of different kinds; the first 20 are used.
        seed: of the random walks.
        walks: random walks, in turn over the tasks, that the checks share.
        depth: actions in a walk, at most.
        episodes: played in the search for leaks, spread over `environments`.
        processes: fresh processes to compare with; 0 for none.
        refused_states: share of states that `restore` may refuse with a `detail`: a simulator may
            have states that cannot be gone on from safely (ScienceWorld: a pending menu).
        refused_actions: share of listed actions that may turn out invalid: a simulator's own list
            may be too long (ScienceWorld: things in closed containers).
        propose: chooses a walk's actions, for an environment whose `valid_actions()` is None.
        endings: per task id, actions that end the episode; else short random episodes are tried.
        unknown: further tasks that must raise DataError.
        only: names of `CHECKS` to run; None for all.
        timeout_s: for each fresh process.
        settle_s: how long a thread or process may take to end after `close()`.

    Raises:
        DataError: no tasks, or an unknown name in `only`.
    """
    if not tasks:
        raise DataError("check_environment needs at least one task; pass a few of different kinds")
    names = list(CHECKS if only is None else only)
    strange = [n for n in names if n not in CHECKS]
    if strange:
        raise DataError(f"unknown check {strange[0]!r}; choose from {', '.join(CHECKS)}")
    subject = Subject(
        make_env, tasks[:_MOST_TASKS], seed, walks, depth, propose, endings or {}, unknown
    )
    run: dict[str, Callable[[Subject], str]] = {
        "contract": episode.contract,
        "texts": acting.texts,
        "reset": episode.reset_anywhere,
        "ending": episode.ending,
        "valid_actions": partial(acting.valid_actions, refused=refused_actions),
        "hostile_actions": acting.hostile,
        "unknown_task": acting.unknown_task,
        "restore": partial(restoring.restore, refused=refused_states),
        "mismatch": restoring.mismatch,
        "two_environments": episode.two_environments,
        "processes": partial(process.processes, count=processes, timeout_s=timeout_s),
        "state_key": episode.state_keys,
        "close": process.close,
        "leaks": partial(
            process.leaks, episodes=episodes, environments=environments, settle_s=settle_s
        ),
    }
    rows = [_row(name, run[name], subject) for name in CHECKS if name in names]
    with Caught() as caught:
        subject.close()
    if caught.error:
        _log.warning("closing the environment under test failed: %s", caught)
    return Report(tasks[0].env, tuple(rows))


def _row(name: str, check: Callable[[Subject], str], subject: Subject) -> Check:
    started, detail = time.perf_counter(), ""
    with Caught() as caught:
        detail = check(subject)
    outcome: Outcome = "passed"
    if isinstance(caught.error, NotLooked):
        outcome, detail = "not run", str(caught.error)
    elif caught.error is not None:
        outcome = "failed"
        detail = str(caught.error) if isinstance(caught.error, Broken) else f"raised {caught}"
        with Caught():  # its state is unknown: the next check gets a new one
            subject.close()
    _log.info("%s: %s %s", name, outcome, detail)
    return Check(name, outcome, detail, time.perf_counter() - started)


def _printable(text: str) -> str:
    """On one line, without control characters or lone surrogates."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
