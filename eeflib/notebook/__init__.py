"""What the notebooks share: sizes and folders from one preset, pictures that survive saving.

Nothing here is needed to use eeflib from a script; the notebooks' own steps are calls into the
other modules, so that a reader sees the library and not a wrapper around it.
"""

from eeflib.analysis.figures import recovery_curve, recovery_map
from eeflib.notebook.display import (
    Html,
    losses,
    rates,
    shares,
    table,
    tokens,
    transcript,
)
from eeflib.notebook.endpoint import DemoEndpoint
from eeflib.notebook.lab import DEVELOPMENT_SEED, Lab, open_lab, versions
from eeflib.notebook.reading import unread
from eeflib.notebook.shipped import Reading, dated_result, hand_labelled

__all__ = [
    "DEVELOPMENT_SEED",
    "DemoEndpoint",
    "Html",
    "Lab",
    "Reading",
    "dated_result",
    "hand_labelled",
    "losses",
    "open_lab",
    "rates",
    "recovery_curve",
    "recovery_map",
    "shares",
    "table",
    "tokens",
    "transcript",
    "unread",
    "versions",
]
