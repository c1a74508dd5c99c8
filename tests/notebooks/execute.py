"""Run notebooks on a fresh kernel, and refresh their committed outputs.

    python tests/notebooks/execute.py [NAME ...]     all of them, in order, or those named

Refreshing runs them on the shipped run, or in the tiny preset, in one new folder, each starting
from the files of the one before. What differs from run to run without meaning anything is taken out
before saving: execution counts stay, times of execution, widget state and machine details go. A
saved widget shows as an error: of a viewer its static summary is kept, of a progress bar its last
line of text. A plotly figure also gets a picture, for readers that run no scripts (GitHub, an
untrusted notebook).
"""

from __future__ import annotations

import base64
import io
import os
import re
import resource
import shutil
import sys
import tempfile
import textwrap
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import kaleido
import nbformat
from nbclient import NotebookClient
from PIL import Image

from eeflib.analysis.figures import CONFIG

FOLDER = Path(__file__).parents[2] / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"
FIGURE = "application/vnd.plotly.v1+json"
OFF = "MAKE_YOUR_OWN = False"
WIDTH = 720
"""Pixels of a saved picture: JupyterLab shows it as it is until the mouse comes, so it must fit."""


def names() -> list[str]:
    """The notebooks, in order."""
    return sorted(path.name for path in FOLDER.glob("[0-9][0-9]_*.ipynb"))


def solutions_of(notebook: nbformat.NotebookNode) -> list[str]:
    """The code of the solutions to the exercises, a text per block."""
    (text,) = (c.source for c in notebook.cells if c.source.startswith("<details>"))
    blocks = re.findall(r"^ *```python\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for block in blocks]


def run(
    name: str,
    folder: Path,
    *,
    solutions: bool = False,
    own: bool = False,
    source: Path = FOLDER,
    kernel: str = "python3",
    timeout: int = 900,
) -> nbformat.NotebookNode:
    """Execute a copy of the notebook in `folder`, its working directory; raises where a cell does.

    Runs go to `folder/runs`, whatever the environment says.

    Args:
        solutions: run the solutions of the exercises after it.
        own: after it, once more from the switch `MAKE_YOUR_OWN` on, which is on then.
        source: the folder that holds the notebook.
        kernel: name of the kernel; `python3` is this very Python.
    """
    notebook = nbformat.read(source / name, as_version=4)
    if own:
        (start,) = (i for i, c in enumerate(notebook.cells) if c.source.startswith(OFF))
        again = deepcopy([c for c in notebook.cells[start:] if c.cell_type == "code"])
        again[0].source = again[0].source.replace(OFF, OFF.replace("False", "True"))
        notebook.cells += again
    if solutions:
        notebook.cells += map(nbformat.v4.new_code_cell, solutions_of(notebook))
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    client = NotebookClient(
        notebook, timeout=timeout, kernel_name=kernel, resources={"metadata": {"path": folder}}
    )
    env = {k: v for k, v in os.environ.items() if k not in ("EEFLIB_RUNS", "OPENAI_BASE_URL")}
    env = {k: v for k, v in env.items() if not k.endswith("_API_KEY")}
    client.execute(env=env)
    return notebook


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook as it is committed."""
    state = notebook.metadata.get("widgets", {}).get(
        "application/vnd.jupyter.widget-state+json", {}
    )
    models = state.get("state", {})
    for cell in notebook.cells:
        kept = {k: v for k, v in cell.metadata.items() if k in ("cellView", "tags")}
        cell.metadata = nbformat.from_dict(kept)
        if cell.cell_type == "code":
            cell.outputs = [o for o in (_clean(x, models) for x in cell.outputs) if o]
    kept = {k: v for k, v in notebook.metadata.items() if k in ("accelerator", "colab")}
    notebook.metadata = nbformat.from_dict(
        {
            **kept,
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    return notebook


def _clean(output: Any, models: dict[str, Any]) -> Any:
    data = output.get("data", {})
    if WIDGET in data and "text/html" in data:  # a viewer brings its static summary
        output.data = nbformat.from_dict({k: v for k, v in data.items() if k != WIDGET})
    elif WIDGET in data:
        text = _bar(data[WIDGET]["model_id"], models)
        return nbformat.v4.new_output("stream", name="stdout", text=text) if text else None
    if output.output_type == "stream":
        if output.name == "stderr" and "/site-packages/" in output.text:
            return None  # a library's warning, which names a folder of this machine
        # a bar in text overwrites itself: keep what was seen last
        output.text = "\n".join(line.rsplit("\r", 1)[-1] for line in output.text.split("\n"))
        return output if output.text.strip() else None
    if "metadata" in output:
        output.metadata = {}
    return output


def _bar(model_id: str, models: dict[str, Any]) -> str:
    """The last text of a tqdm bar: `explore: 100% 92/92 [00:04<00:00, 21.9episode/s, wins=22]`."""
    box = models.get(model_id, {}).get("state", {})
    values = []
    for child in box.get("children", []):
        child_id = child.removeprefix("IPY_MODEL_")
        value = models.get(child_id, {}).get("state", {}).get("value")
        values += [value] if isinstance(value, str) else []
    text = re.sub(r"<[^>]*>", "", " ".join(values)).replace("\u2007", " ").replace("&lt;", "<")
    return " ".join(text.split()) + "\n" if text.strip() else ""


def draw(notebook: nbformat.NotebookNode) -> None:
    """Put a PNG beside each plotly figure; needs `kaleido.start_sync_server` and a Chromium."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            figure = output.get("data", {}).get(FIGURE)
            if figure is None:
                continue
            figure.pop("config", None)
            size = {"width": WIDTH, "height": figure.layout.get("height") or 420, "scale": 1}
            picture = kaleido.calc_fig_sync(figure, opts={"format": "png", **size})
            image = Image.open(io.BytesIO(picture)).convert("RGB")
            small = io.BytesIO()  # few colours, those that cover the most: a third of the size
            few = image.quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
            few.save(small, "png", optimize=True)
            output.data["image/png"] = base64.b64encode(small.getvalue()).decode()
            figure.config = dict(CONFIG)  # not plotly's own, which names a server and shows a logo
            output.data.setdefault("text/plain", figure.layout.get("title", {}).get("text", ""))


def refresh(wanted: list[str]) -> None:
    """Execute and save; prints what it took."""
    folder = Path(tempfile.mkdtemp(prefix="eef-notebooks-"))
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if chromium:  # else kaleido looks for one itself
        os.environ.setdefault("BROWSER_PATH", chromium)
    kaleido.start_sync_server(silence_warnings=True)
    for name in wanted:
        before, cpu = time.perf_counter(), os.times()
        notebook = clean(run(name, folder))
        draw(notebook)
        nbformat.write(notebook, FOLDER / name)
        wall, after = time.perf_counter() - before, os.times()
        used = after.children_user + after.children_system - cpu.children_user - cpu.children_system
        peak = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        size = (FOLDER / name).stat().st_size / 1000
        took = f"{wall:.0f} s, {used:.0f} s of CPU, {peak / 1e9:.1f} GB at most so far"
        sys.stdout.write(f"{name}: {took}, {size:.0f} kB\n")
        sys.stdout.flush()
    kaleido.stop_sync_server()
    shutil.rmtree(folder)


if __name__ == "__main__":
    chosen = [n for n in names() if not sys.argv[1:] or any(a in n for a in sys.argv[1:])]
    refresh(chosen)
