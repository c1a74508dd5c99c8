"""A real JupyterLab for tests: started once, notebooks opened and run in a page."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
from playwright.sync_api import Locator, Page, expect

SECONDS = 120_000
"""A cold start on busy cores; milliseconds."""
_SETTINGS = {
    "@jupyterlab/apputils-extension/notification.jupyterlab-settings": {
        "fetchNews": "false",
        "checkForUpdates": False,
    },
    "@jupyterlab/docmanager-extension/plugin.jupyterlab-settings": {"autosave": False},
    "@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {
        "windowingMode": "none",
        "autoStartDefaultKernel": True,
    },
}


@contextlib.contextmanager
def jupyter_lab(folder: Path, *, theme: str = "JupyterLab Light") -> Iterator[str]:
    """The address of a JupyterLab over `folder`, on this machine only, ended at the end."""
    home = folder / ".jupyter"
    settings = {**_SETTINGS}
    settings["@jupyterlab/apputils-extension/themes.jupyterlab-settings"] = {"theme": theme}
    for name, values in settings.items():
        path = home / "settings" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    folders = {
        "JUPYTER_CONFIG_DIR": home / "config",
        "JUPYTER_DATA_DIR": home / "data",
        "JUPYTER_RUNTIME_DIR": home / "runtime",
        "IPYTHONDIR": home / "ipython",
    }
    options = [
        *("--no-browser", "--allow-root", "--IdentityProvider.token=", "--ServerApp.port=0"),
        *("--ServerApp.ip=127.0.0.1", "--ServerApp.disable_check_xsrf=True"),
        f"--ServerApp.root_dir={folder}",
        "--LabApp.expose_app_in_browser=True",
        f"--LabApp.user_settings_dir={home / 'settings'}",
        f"--LabApp.workspaces_dir={home / 'workspaces'}",
    ]
    log = folder / "jupyter.log"
    with open(log, "wb") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env={**os.environ, **{k: str(v) for k, v in folders.items()}},
            stdout=log_file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield _address(home / "runtime", process, log)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _address(runtime: Path, process: subprocess.Popen, log: Path) -> str:
    end = time.monotonic() + SECONDS / 1000
    while time.monotonic() < end and process.poll() is None:
        for found in runtime.glob("jpserver-*.json"):
            with contextlib.suppress(ValueError, KeyError):
                return str(json.loads(found.read_text())["url"])
        time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not start: {log.read_text()[-2000:]}")


def write_notebook(path: Path, cells: Sequence[str]) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, path)


# JupyterLab is asked itself, since what its page shows runs ahead of it: a kernel drawn as idle may
# not listen yet, and a cell that is run once more in doubt replaces the output under the reader.
_READY = """async () => {
  const notebook = jupyterapp.shell.currentWidget;
  await notebook.context.ready;
  await notebook.revealed;
  await notebook.sessionContext.ready;
  await notebook.sessionContext.session.kernel.info;
}"""
_RUN = """async (number) => {
  const notebook = jupyterapp.shell.currentWidget;
  notebook.content.deselectAll();
  notebook.content.activeCellIndex = number;
  await jupyterapp.commands.execute("notebook:run-cell");
}"""


def wait_for_kernel(page: Page) -> None:
    """Until the notebook on the page is loaded, and its kernel has answered."""
    expect(page.locator(".jp-Notebook .jp-CodeCell").first).to_be_visible(timeout=SECONDS)
    page.wait_for_function(
        "window.jupyterapp?.shell?.currentWidget?.sessionContext", timeout=SECONDS
    )
    page.evaluate(_READY)


def open_notebook(page: Page, address: str, name: str) -> None:
    """Open it in a workspace of its own, and wait for its kernel."""
    page.goto(f"{address}lab/workspaces/{Path(name).stem}/tree/{name}?reset", timeout=SECONDS)
    wait_for_kernel(page)


def run_cell(page: Page, number: int) -> Locator:
    """Run a cell, once; return its output when it is done."""
    page.evaluate(_RUN, number)
    return page.locator(".jp-Notebook .jp-CodeCell").nth(number).locator(".jp-Cell-outputArea")
