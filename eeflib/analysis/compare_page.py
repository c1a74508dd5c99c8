"""A comparison of two runs as one HTML file that opens by itself.

Owns which figures it shows, in which order. Knows nothing about how they are drawn, nor about how
the two sides were paired.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from eeflib.analysis import figures
from eeflib.analysis.compare import Comparison
from eeflib.analysis.markup import escape
from eeflib.analysis.page import Section, document
from eeflib.files import write_atomic

__all__ = ["comparison_page", "write_comparison"]


def comparison_page(comparison: Comparison) -> str:
    """The whole document: what it comes to in words, then measures, tasks, actions, failures."""
    a, b = comparison.names
    drawn = (
        ("measures", "Measures", figures.compared(comparison)),
        ("tasks", "Tasks", figures.gained_lost(comparison)),
        ("actions", "Actions", figures.action_mix(comparison)),
        ("failures", "Failures", figures.error_kinds(comparison)),
    )
    first, *others = comparison.sentences
    said = "".join(f"<li>{escape(s, 1000)}</li>" for s in others)
    return document(
        "Two runs compared",
        f"{escape(b, 200)} against {escape(a, 200)}",
        escape(first, 1000),
        [
            Section("words", "In words", "In words", f"<ul>{said}</ul>"),
            *(Section(k, f.title, short, replace(f, title="").body) for k, short, f in drawn),
        ],
        {},
        "Made by eeflib. Differences are the second minus the first. This page holds all its data "
        "and loads nothing.",
    )


def write_comparison(comparison: Comparison, path: str | Path) -> Path:
    """Write the page; return its path.

    Raises:
        DataError: the file cannot be written.
    """
    write_atomic(Path(path), comparison_page(comparison))
    return Path(path)
