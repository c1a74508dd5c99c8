"""Colours, dashes, markers and glyphs: CSS for pages and notebooks, a template for plotly.

Import `method_looks` and `group_looks` for how a series is drawn, `order` for the reading order of
methods, `themed` and `asset` for style sheets, `template` and `dark` for figures. Colours are Okabe
and Ito's, which people with the common colour-vision deficiencies can distinguish, with a lighter
twin for dark pages. Every line also has a dash and a marker of its own, every label a glyph.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import plotly.graph_objects as go


@dataclass(frozen=True)
class Look:
    """How one thing is drawn."""

    light: str
    """Colour on a white page."""
    dark: str
    """Colour on a dark page."""
    dash: str = "solid"
    """Plotly's dash name."""
    marker: str = "circle"
    """Plotly's marker name: circle, square, diamond, triangle-up, triangle-down, x, cross."""
    glyph: str = "\u25cf"
    """The marker as text."""


_METHODS: Mapping[str, Look] = {
    "teacher": Look("#6b7280", "#a3abb8", "dot", "x", "\u2715"),
    "sft": Look("#008a64", "#2fc49b", "dash", "square", "\u25a0"),
    "sftall": Look("#7a8f00", "#b9cf3a", "dash", "cross", "\u271a"),
    "rft": Look("#3a9bd9", "#86cdf5", "dashdot", "triangle-up", "\u25b2"),
    "rftx": Look("#00609c", "#4b9fe0", "longdash", "diamond", "\u25c6"),
    "nat": Look("#8a6d3b", "#c9a86a", "dot", "triangle-down", "\u25bc"),
    "eto": Look("#5b4aa8", "#a79af0", "dashdot", "cross", "\u271a"),
    "eef": Look("#d55e00", "#ff8a3d", "solid", "circle", "\u25cf"),
}
"""Known methods in reading order, by normalised name; unknown ones come last, by name."""
_SPARE = (
    Look("#b8568f", "#ec9ecb", "dash", "diamond", "\u25c6"),
    Look("#b58900", "#f0c23b", "dot", "square", "\u25a0"),
    Look("#8c2d04", "#f2a27f", "longdash", "triangle-down", "\u25bc"),
    Look("#4d4d4d", "#c4c4c4", "dashdot", "triangle-up", "\u25b2"),
)

LABELS: Mapping[str, Look] = {
    "beneficial": Look("#00609c", "#4b9fe0", glyph="\u25b2"),
    "harmful": Look("#c44600", "#ff8a3d", glyph="\u25bc"),
    "unknown": Look("#6b7280", "#a3abb8", glyph="?"),
    "student": Look("#008a64", "#2fc49b", glyph="\u25cf"),
    "context": Look("#6b7280", "#a3abb8", glyph="\u00b7"),
}
"""Looks of action labels: colour and glyph."""

GROUPS: tuple[Look, ...] = (
    Look("#4d5560", "#c4cad2", "solid", "circle", "\u25cf"),
    Look("#d55e00", "#ff8a3d", "dot", "triangle-up", "\u25b2"),
    Look("#00609c", "#4b9fe0", "longdash", "diamond", "\u25c6"),
    Look("#008a64", "#2fc49b", "dash", "square", "\u25a0"),
    Look("#b58900", "#f0c23b", "dashdot", "triangle-down", "\u25bc"),
    Look("#b8568f", "#ec9ecb", "dash", "x", "\u2715"),
    Look("#3a9bd9", "#86cdf5", "dot", "cross", "\u271a"),
)
"""Looks of groups that are no methods, such as difficulty levels."""

LEVELS = ("hard", "medium", "easy")
"""Difficulty levels known by name, hardest first."""


def family(method: str) -> str:
    """The known method that `method` is a spelling of (`RFTx6` -> `rftx`); empty if none."""
    name = re.sub(r"[^a-z0-9]", "", method.lower())
    if name.startswith("sftpos") or name == "bc":
        return "sft"
    if re.fullmatch(r"rftx?(k|\d+)", name):
        return "rftx"
    return name if name in _METHODS else ""


def order(methods: Iterable[str]) -> list[str]:
    """Methods in reading order: teacher, baselines, EEF, its variants."""

    place = {known: i for i, known in enumerate((*_METHODS, ""))}
    return sorted(dict.fromkeys(methods), key=lambda method: (place[family(method)], method))


def method_looks(methods: Iterable[str]) -> dict[str, Look]:
    """A look per method; unknown ones share the spare looks in order."""
    spare = itertools.cycle(_SPARE)
    return {m: _METHODS[family(m)] if family(m) else next(spare) for m in order(methods)}


def group_looks(groups: Iterable[str]) -> dict[str, Look]:
    """A look per difficulty level or other group; levels known by name keep theirs."""
    names = set(groups)
    listed = [g for g in ("all",) if g in names] + level_order(names - {"all"})
    return {g: GROUPS[i % len(GROUPS)] for i, g in enumerate(listed)}


def level_order(levels: Iterable[str]) -> list[str]:
    """Levels in reading order: the known ones hardest first, then the others by name."""
    names = set(levels)
    return [x for x in LEVELS if x in names] + sorted(names.difference(LEVELS))


INKS: Mapping[str, tuple[str, str]] = {
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
"""Colours of text, paper and rules by name: on a white page, on a dark one."""

# Who says that the page is dark: JupyterLab, Colab, VS Code.
_DARK = ('body[data-jp-theme-light="false"]', 'html[theme="dark"]', "body.vscode-dark")
_LIGHT = ('body[data-jp-theme-light="true"]', 'html[theme="light"]', "body.vscode-light")


def variables(dark: bool) -> str:
    """CSS variables: `--paper`, `--ink`, ..., `--l-LABEL` and `--g-NUMBER`."""
    out = [f"--{name}:{pair[dark]}" for name, pair in INKS.items()]
    out += [f"--l-{name}:{x.dark if dark else x.light}" for name, x in LABELS.items()]
    out += [f"--g-{i}:{x.dark if dark else x.light}" for i, x in enumerate(GROUPS)]
    return ";".join(out)


def themed(scope: str) -> str:
    """Rules that give `scope` the variables: as the notebook says, else as the system says."""
    light, dark = (
        f"{{color-scheme:{name};{variables(name == 'dark')}}}" for name in ("light", "dark")
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


FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


def twins() -> dict[str, str]:
    """Every colour of a light figure -> the one that stands for it on a dark page."""
    looks = [*_METHODS.values(), *_SPARE, *LABELS.values(), *GROUPS]
    return {look.light: look.dark for look in looks} | dict(INKS.values())


@cache
def template() -> go.layout.Template:
    """How a figure looks on a white page; registered with plotly as `eef`."""
    paper, ink, soft, rule, grid = (INKS[x][0] for x in ("paper", "ink", "soft", "rule", "grid"))
    small, clear = {"color": soft, "size": 12}, f"{paper}00"
    axis = {
        "gridcolor": grid, "linecolor": rule, "zeroline": False, "ticks": "", "tickfont": small,
        "title": {"font": small, "standoff": 8}, "automargin": True,
    }  # fmt: skip
    title = {
        "font": {"size": 16, "weight": 650}, "subtitle_font": {"color": soft, "size": 11.5},
        "x": 0, "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top",
        "pad": {"l": 12, "t": 12},
    }  # fmt: skip
    layout = {
        "font": {"family": FONT, "size": 12.5, "color": ink},
        "title": title,
        "margin": {"l": 24, "r": 24, "b": 46},
        "paper_bgcolor": paper,
        "plot_bgcolor": paper,
        "colorway": [look.light for look in GROUPS],
        "xaxis": axis,
        "yaxis": axis,
        "legend": {"orientation": "h", "traceorder": "normal", "x": 0, "y": 1, "bgcolor": clear},
        "legend_yanchor": "bottom",
        "hoverlabel": {"bgcolor": paper, "bordercolor": soft, "font_color": ink, "align": "left"},
        "hovermode": "closest",
        "dragmode": False,  # a finger on a figure scrolls the page
        "bargap": 0.3,
        "modebar": {"bgcolor": clear, "color": rule, "activecolor": soft},
    }
    return go.layout.Template(layout=layout)


def dark(figure: go.Figure) -> go.Figure:
    """A copy for a dark page: every colour of the palette replaced by its twin."""
    known = twins()

    def swap(value: Any, colour: bool) -> Any:
        if isinstance(value, dict):
            return {k: swap(v, "color" in k) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [swap(v, colour) for v in value]
        if colour and isinstance(value, str):  # opacity may follow: #rrggbbaa
            return known.get(value[:7], value[:7]) + value[7:]
        return value

    return go.Figure(swap(figure.to_plotly_json(), False))
