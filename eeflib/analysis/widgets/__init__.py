"""Widgets over the views: `Explorer`, `RecoveryMap`, `Compare`, `LossMask`, `Annotator`.

Only core ipywidgets: they work in JupyterLab, classic notebooks, VS Code and Colab, without an
extension of ours. Each widget's `state` is a plain value of `eeflib.analysis.views`, and its
`twin()` the same view as HTML, which is also what a saved notebook keeps.

    from eeflib.analysis.widgets import Explorer

    Explorer("runs/demo-webshop")
"""

from __future__ import annotations

from eeflib.errors import PrerequisiteError

try:
    import ipywidgets as _  # noqa: F401
except ImportError as exc:
    raise PrerequisiteError(
        "the widgets need ipywidgets: pip install 'eeflib[notebooks]'; without it every view has "
        "a static twin, see eeflib.analysis.views"
    ) from exc

from eeflib.analysis.widgets.compare import Compare
from eeflib.analysis.widgets.explore import Annotator, Explorer
from eeflib.analysis.widgets.mask import LossMask
from eeflib.analysis.widgets.recovery import RecoveryMap

__all__ = ["Annotator", "Compare", "Explorer", "LossMask", "RecoveryMap"]
