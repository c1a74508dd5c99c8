"""Every figure of the analysis, by name: pure functions, table -> `Figure`.

Owns the list. A `Figure` shows in a notebook, goes into a page (`body`, with `STYLE` once), opens
as a file of its own (`page()`), and holds the table behind it. Colours are told apart by people
with the common colour-vision deficiencies and come with a glyph, a dash or a hatching; light and
dark follow the reader. Knows nothing about files.
"""

from __future__ import annotations

from eeflib.analysis.figure import STYLE, Figure
from eeflib.analysis.figure_parts import Anchor
from eeflib.analysis.figures_compare import action_mix, compared, error_kinds, gained_lost
from eeflib.analysis.figures_methods import (
    budget,
    discovered,
    newly_solved,
    other_m,
    simplicity_bias,
)
from eeflib.analysis.figures_outcomes import (
    failure_agreement,
    failure_kinds,
    lengths,
    outcome_by_type,
    rewards,
    steps_to_failure,
    win_rates,
)
from eeflib.analysis.figures_recovery import (
    first_solved,
    recovery_curve,
    recovery_map,
    segment_ribbon,
    trajectory_curve,
)

__all__ = [
    "STYLE",
    "Anchor",
    "Figure",
    "action_mix",
    "budget",
    "compared",
    "discovered",
    "error_kinds",
    "failure_agreement",
    "failure_kinds",
    "first_solved",
    "gained_lost",
    "lengths",
    "newly_solved",
    "other_m",
    "outcome_by_type",
    "recovery_curve",
    "recovery_map",
    "rewards",
    "segment_ribbon",
    "simplicity_bias",
    "steps_to_failure",
    "trajectory_curve",
    "win_rates",
]
