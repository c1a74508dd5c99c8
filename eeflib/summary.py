"""A run's outcomes as the one table that is printed, written to summary.json and reported.

Owns which figures are in it and how they are rendered as text. Knows nothing about how they came
about.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eeflib.records import Evaluation
from eeflib.stats import (
    PairedDifference,
    gained_lost,
    last_iteration,
    mean_reward,
    paired_difference,
    pooled,
    win_rate,
)

__all__ = ["compare", "method_row", "render_table", "sentence"]


def _number(value: float, digits: int = 4) -> float | None:
    return None if math.isnan(value) else round(value, digits)


def method_row(
    name: str, outcomes: Sequence[Evaluation], *, simulations: float, seconds: float
) -> dict[str, Any]:
    """One method: win rate over all test tasks of all seeds with its Wilson interval, and more.

    Args:
        outcomes: of all iterations and seeds; the row is about the last iteration.
        simulations: student rollouts per seed.
        seconds: per seed, of one worker; cloning included for methods that start from it.
    """
    final = last_iteration(outcomes)
    all_seeds = pooled(final)
    levels = sorted({o.level for o in final if o.level})
    iterations = []
    for i in sorted({o.iteration for o in outcomes}):
        rate = win_rate(o for o in outcomes if o.iteration == i)
        row = {"iteration": i, "win_rate": _number(rate.rate)}
        iterations.append({**row, "interval": [_number(rate.low), _number(rate.high)]})
    return {
        "method": name,
        "win_rate": _number(all_seeds.rate.rate),
        "interval": [_number(all_seeds.rate.low), _number(all_seeds.rate.high)],
        "sd_over_seeds": _number(all_seeds.sd),
        "reward": _number(mean_reward(final).value),
        "simulations": round(simulations),
        "seconds": round(seconds, 1),
        "n": all_seeds.rate.n,
        "per_seed": [_number(r.rate) for r in all_seeds.per_seed.values()],
        "per_level": {
            level: _number(win_rate(o for o in final if o.level == level).rate) for level in levels
        },
        "iterations": iterations,
    }


def compare(a: Iterable[Evaluation], b: Iterable[Evaluation]) -> dict[str, Any]:
    """Paired difference a - b over seeds, with its interval, and tasks gained and lost."""
    a, b = last_iteration(a), last_iteration(b)
    d: PairedDifference = paired_difference(a, b)
    changed = gained_lost(b, a)
    return {
        "a": d.a,
        "b": d.b,
        "difference": _number(d.mean),
        "interval": [_number(d.low), _number(d.high)],
        "sd": _number(d.sd),
        "p": _number(d.p, 6),
        "basis": d.basis,
        "seeds": d.n,
        "better_in": d.better,
        "per_seed": [_number(x) for x in d.differences],
        "gained": len(changed.gained),
        "lost": len(changed.lost),
        "never": len(changed.never),
    }


def sentence(c: Mapping[str, Any]) -> str:
    """A comparison in words."""
    low, high = c["interval"]
    over = f"{c['seeds']} seeds" if c["basis"] == "seeds" else "the tasks of one seed"
    p = "p = " + (f"{c['p']:.4f}" if c["p"] >= 1e-4 else f"{c['p']:.1e}")
    return (
        f"{c['a']} - {c['b']}: {100 * c['difference']:+.1f} points, 95 % interval "
        f"[{100 * low:+.1f}, {100 * high:+.1f}], {p} (paired, {over}; better in "
        f"{c['better_in']} of {c['seeds']}); tasks gained {c['gained']}, lost {c['lost']}"
        + ("" if c["gained"] or c["lost"] else ": no task tells them apart")
    )


def render_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of `method_row` as a plain-text table."""
    head = ("method", "win rate", "95 % interval", "reward", "simulations", "seconds")
    body = [
        (
            row["method"],
            f"{100 * row['win_rate']:.1f} %",
            f"{100 * row['interval'][0]:.1f} - {100 * row['interval'][1]:.1f}",
            f"{row['reward']:.3f}",
            f"{row['simulations']:,}",
            f"{row['seconds']:.0f}",
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join((first, *rest)).rstrip()

    rule = "  ".join("-" * w for w in widths)
    return "\n".join([line(head), rule, *map(line, body)])
