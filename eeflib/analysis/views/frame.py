"""What surrounds every view: its style sheet and its scope.

Owns nothing else.
"""

from __future__ import annotations

from functools import cache

from eeflib.analysis import style
from eeflib.analysis.transcripts import STYLE

__all__ = ["css", "sheet"]


@cache
def css() -> str:
    """The style sheet of all views, scoped to `.eef` and `.eef-t`."""
    return style.themed(".eef") + style.asset("views.css") + STYLE


def sheet(body: str) -> str:
    """A view as a fragment that brings its style sheet."""
    return f'<div class="eef"><style>{css()}</style>{body}</div>'
