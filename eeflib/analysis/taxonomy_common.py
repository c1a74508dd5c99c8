"""Rules that fit any environment: faults, invalid actions, loops, no progress, how it ended.

Owns these rules; each is a few lines, trajectory and task -> findings. Knows nothing about what
actions or observations of an environment mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from eeflib.analysis.taxonomy_kinds import Finding
from eeflib.records import Task, Trajectory

__all__ = ["best_score", "ending", "fault", "invalid_actions", "loop", "no_progress", "step_limit"]

HARDLY = 0.1
"""A best score up to this is no progress. [ours]"""
LONGEST_ROUND = 6
"""Actions in the longest round that counts as a loop. [ours]"""


def step_limit(task: Task | None) -> int | None:
    """Most actions the task allows, where it says so."""
    limit = task.settings.get("max_steps") if task else None
    return limit if isinstance(limit, int) and limit > 0 else None


def best_score(trajectory: Trajectory) -> float:
    """The highest score or reward on the way; an end that takes all away does not count."""
    scores = [s.reward if s.score is None else s.score for s in trajectory.steps]
    return max([*scores, trajectory.reward])


def fault(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """The record names a fault."""
    if trajectory.error:
        yield Finding("fault", "error on record", len(trajectory.steps), trajectory.error)


def invalid_actions(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """Three actions and a third of all were not understood; the main matter where it is half."""
    bad = [t for t, s in enumerate(trajectory.steps) if not s.valid]
    total = len(trajectory.steps)
    if len(bad) >= 3 and 3 * len(bad) >= total:
        step = trajectory.steps[bad[0]]
        what = step.action or "no action at all"
        text = f"{len(bad)} of {total} actions not understood, first: {what} ({step.reason})"
        yield Finding("invalid_actions", "a third invalid", bad[0], text, 2 * len(bad) >= total)


def loop(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """The same in the same place, three times running or round by round; main where half is that.

    Waiting is no loop: some tasks need it.
    """
    moves = [(s.observation, s.action) for s in trajectory.steps]
    counts = Counter(m for m in moves if not m[1].startswith("wait"))
    repeated = sum(n for n in counts.values() if n >= 3)
    main = 2 * repeated >= len(moves)
    for size in range(1, LONGEST_ROUND + 1):
        rounds, start = _rounds(moves, size)
        if rounds >= 3:
            actions = ", ".join(a or "(none)" for _, a in moves[start : start + size])
            yield Finding("loop", "same round", start, f"{rounds} times running: {actions}", main)
            return
    if main and repeated >= 6:
        (_, action), n = counts.most_common(1)[0]
        start = next(t for t, s in enumerate(trajectory.steps) if s.action == action)
        text = f"{repeated} of {len(moves)} steps repeat others, most of all {action} ({n} times)"
        yield Finding("loop", "half repeated", start, text)


def _rounds(moves: Sequence[tuple[str, str]], size: int) -> tuple[int, int]:
    """How often a round of `size` actions is walked without pause, and where that begins.

    The first round may be entered from elsewhere: only from the second on the observations count.
    """
    best, begin, run = 1, 0, 0
    for t in range(size, len(moves)):
        (here, action), (there, before) = moves[t], moves[t - size]
        if action != before or action.startswith("wait"):
            run = 0
        elif here == there or run < size:
            run += 1
        else:
            run = 1
        if run // size + 1 > best:
            best, begin = run // size + 1, t - run + 1 - size
    return best, begin


def no_progress(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """The best score stays at a tenth; the main matter only where all steps were used."""
    best = best_score(trajectory)
    if best <= HARDLY and trajectory.steps:
        used = any(f.kind == "ran_out_of_steps" for f in ending(trajectory, task))
        text = f"best score {best:.2f} in {len(trajectory.steps)} actions"
        yield Finding("no_progress", "score", len(trajectory.steps), text, used)


def ending(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """Given up, cut by the limit, or ended by the environment."""
    total, limit = len(trajectory.steps), step_limit(task)
    last = trajectory.steps[-1].action if total else "no action at all"
    if trajectory.terminated:
        text = f"reward {trajectory.reward:.2f} of {trajectory.threshold:g} after: {last}"
        yield Finding("wrong_end", "ended, not solved", total, text)
    elif (limit is not None and total >= limit) or (limit is None and trajectory.truncated):
        text = f"{total} actions, score {best_score(trajectory):.2f}, last: {last}"
        yield Finding("ran_out_of_steps", "limit", total, text)
    else:
        left = f", {limit - total} steps left" if limit is not None else ""
        text = f"ends after {total} actions{left}, last: {last}"
        yield Finding("stopped_early", "not ended by anything", total, text)
