"""Style sheets of views and pages: one set of colours for light and dark, in a page or a notebook.

Owns the CSS variables every style sheet of ours uses, and the reading of the files in `assets/`.
Knows nothing about what is styled.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

from eeflib.analysis.palette import GROUPS, LABELS

__all__ = ["asset", "themed", "variables"]

_INKS = {  # name -> on white, on dark
    "paper": ("#ffffff", "#14171b"),
    "ink": ("#1c2024", "#e6e9ed"),
    "soft": ("#5d656f", "#9aa4b0"),
    "rule": ("#dfe3e8", "#2e353d"),
    "wash": ("#f5f7f9", "#1d2228"),
    "grid": ("#e4e8ec", "#262c33"),
    "bad": ("#b3261e", "#ff8a80"),
    "accent": ("#c44600", "#ff8a3d"),
    "won": ("#00609c", "#4b9fe0"),
    "mark": ("#ffe27a", "#7a5c00"),
}

# Who says that the page is dark: JupyterLab, Colab, VS Code.
_DARK = ('body[data-jp-theme-light="false"]', 'html[theme="dark"]', "body.vscode-dark")
_LIGHT = ('body[data-jp-theme-light="true"]', 'html[theme="light"]', "body.vscode-light")


def variables(dark: bool) -> str:
    """CSS variables: `--paper`, `--ink`, ..., `--l-LABEL` and `--g-NUMBER`."""
    out = [f"--{name}:{pair[dark]}" for name, pair in _INKS.items()]
    out += [f"--l-{name}:{x.dark if dark else x.light}" for name, x in LABELS.items()]
    out += [f"--g-{i}:{x.dark if dark else x.light}" for i, x in enumerate(GROUPS)]
    return ";".join(out)


def themed(scope: str) -> str:
    """Rules that give `scope` the variables: as the notebook says, else as the system says."""
    light, dark = (
        f"{{color-scheme:light;{variables(False)}}}",
        f"{{color-scheme:dark;{variables(True)}}}",
    )
    return (
        f"{scope}{light}@media (prefers-color-scheme:dark){{{scope}{dark}}}"
        f"{','.join(f'{x} {scope}' for x in _DARK)}{dark}"
        f"{','.join(f'{x} {scope}' for x in _LIGHT)}{light}"
    )


@cache
def asset(name: str) -> str:
    """The text of the file `name` in `assets/`."""
    return resources.files("eeflib.analysis").joinpath("assets", name).read_text("utf-8")
