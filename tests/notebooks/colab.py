"""Run the notebooks as on Colab: the zip in an empty folder, a fresh environment, no checkout.

    python tests/notebooks/colab.py [NAME ...]     all of them, or those whose name begins so

The environment is a new one that sees the packages of this one, eeflib apart: so the first cell of
a notebook has pip install eeflib, from the wheel in the zip, and nothing else. No network can be
reached. `google.colab` is a stub with `drive`, `output` and `userdata`. A line a notebook.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path
from zipfile import ZipFile

import execute

ROOT = Path(__file__).parents[2]
KERNEL = "stubbed-colab"
SECRET = "sk-of-the-stub"
STUB = {
    "__init__": "from google.colab import drive, output, userdata",
    "drive": """
import os


def mount(path):
    os.symlink(os.environ["STUB_DRIVE"], path)
""",
    "output": """
from types import SimpleNamespace

_widgets = SimpleNamespace(_installed_url=None)


def enable_custom_widget_manager():
    _widgets._installed_url = "the widgets of the stub"
""",
    "userdata": f"""
class SecretNotFoundError(Exception):
    pass


def get(name):
    if name != "OPENAI_API_KEY":
        raise SecretNotFoundError(name)
    return "{SECRET}"
""",
}


def unpack(folder: Path) -> Path:
    """Build the zip and unpack it: the folder with wheel and notebooks."""
    command = [sys.executable, ROOT / "scripts" / "colab_zip.py", "--out", folder / "dist"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    with ZipFile(done.stdout.strip()) as bundle:
        bundle.extractall(folder / "unpacked")
    (inside,) = (folder / "unpacked").iterdir()
    return inside


def fresh_python(folder: Path, *, colab: bool = True) -> Path:
    """The Python of a new environment with our packages, but without eeflib.

    They are links in a folder of its own, so that neither pip nor an import finds the eeflib that
    is installed here, by whatever way.
    """
    packages, environment = folder / "packages", folder / "environment"
    packages.mkdir()
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(place).iterdir():
            if "eeflib" not in path.name and path.suffix != ".pth":
                (packages / path.name).symlink_to(path)
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    ask = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = Path(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip())
    (own / "packages.pth").write_text(f"{packages}\n")
    if colab:
        (own / "google" / "colab").mkdir(parents=True)
        for name, text in STUB.items():
            (own / "google" / "colab" / f"{name}.py").write_text(text + "\n")
    return python


def alone() -> dict[str, str]:
    """Variables that hide the checkout, and every network but this machine's own."""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    local = {"no_proxy": "127.0.0.1,localhost"}
    return {**proxies, **local, "PIP_NO_INDEX": "1", "PYTHONPATH": ""}


def add_kernel(folder: Path, python: Path) -> None:
    """Make `KERNEL` known to this process: that Python, alone."""
    spec = {
        "argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": KERNEL,
        "language": "python",
        "env": alone(),
    }
    place = folder / "jupyter" / "kernels" / KERNEL
    place.mkdir(parents=True)
    (place / "kernel.json").write_text(json.dumps(spec))
    os.environ["JUPYTER_PATH"] = str(folder / "jupyter")


def main(wanted: tuple[str, ...]) -> int:
    """Run them; how many failed."""
    failed = 0
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        unpacked = unpack(folder)
        for name in (n for n in execute.names() if n.startswith(wanted or "")):
            here = folder / name[:2]
            here.mkdir()
            add_kernel(here, fresh_python(here))
            began, result = time.perf_counter(), "ok"
            try:
                execute.run(name, unpacked, source=unpacked, kernel=KERNEL)
            except Exception as exc:
                failed += 1
                result = f"FAILED\n{exc}"
            took = time.perf_counter() - began
            sys.stdout.write(f"{name:32} {took:4.0f} s  {result}\n")
            sys.stdout.flush()
    return failed


if __name__ == "__main__":
    sys.exit(bool(main(tuple(sys.argv[1:]))))
