"""Build dist/eeflib-VERSION-colab.zip: the wheel, and the notebooks beside it, in one folder.

    python scripts/colab_zip.py [--out DIR]

Unpack it on Google Drive, or anywhere: the first cell of each notebook finds the wheel. What the
library ships, such as its example run, is in the wheel.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ("*.ipynb", "README.md", "solutions/*.py")


def build_wheel(out: Path) -> Path:
    """Built from a copy, so that no build/ of the checkout gets into it, nor is left there."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        shutil.copytree(
            ROOT / "eeflib", source / "eeflib", ignore=shutil.ignore_patterns("__pycache__")
        )
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
        options = ["--no-deps", "--no-build-isolation", "--wheel-dir", folder]
        subprocess.run([*pip, *options, source], check=True)
        (built,) = Path(folder).glob("*.whl")
        return Path(shutil.copy(built, out))


def build(out: Path) -> Path:
    """The zip, in the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    wheel = build_wheel(out)
    name = "-".join(wheel.name.split("-")[:2])  # eeflib-VERSION
    made = out / f"{name}-colab.zip"
    with ZipFile(made, "w", ZIP_DEFLATED) as bundle:
        bundle.write(wheel, f"{name}/{wheel.name}")
        for path in sorted(p for x in NOTEBOOKS for p in (ROOT / "notebooks").glob(x)):
            bundle.write(path, f"{name}/{path.relative_to(ROOT / 'notebooks')}")
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="a folder; else dist/")
    print(build(parser.parse_args().out))
