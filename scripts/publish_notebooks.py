"""Put a repository into the notebooks: a badge that opens them in Colab, and where eeflib is from.

    python scripts/publish_notebooks.py --repo OWNER/NAME --ref TAG [--out DIR]

Writes copies into DIR, or changes notebooks/ itself; run again with another tag it puts that one.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
HOST = "github.com"
COLAB = "https://colab.research.google.com"
BADGE = re.compile(r"^\[!\[Open in Colab\].*\n\n", re.MULTILINE)
PLACE = re.compile(r'^REPOSITORY = ".*"$', re.MULTILINE)


def publish(path: Path, out: Path, repo: str, ref: str) -> None:
    """Write the notebook `path`, with its badge and the repository, into the folder `out`."""
    notebook = json.loads(path.read_text("utf-8"))
    head = notebook["cells"][0]
    first = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    address = f"{COLAB}/github/{repo}/blob/{ref}/notebooks/{path.name}"
    badge = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({address})"
    title, rest = BADGE.sub("", "".join(head["source"])).split("\n\n", 1)
    head["source"] = f"{title}\n\n{badge}\n\n{rest}".splitlines(keepends=True)
    line = f'REPOSITORY = "git+https://{HOST}/{repo}@{ref}"'
    source, places = PLACE.subn(line, "".join(first["source"]))
    first["source"] = source.splitlines(keepends=True)
    if places != 1:
        raise SystemExit(f"{path}: its first code cell has no line REPOSITORY = ...")
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)  # as nbformat does
    (out / path.name).write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME")
    parser.add_argument("--ref", required=True, metavar="TAG", help="a tag, branch or commit")
    parser.add_argument("--out", type=Path, default=NOTEBOOKS, help="a folder; else notebooks/")
    given = parser.parse_args()
    if not re.fullmatch(r"[\w.-]+/[\w.-]+@[\w.-]+(/[\w.-]+)*", f"{given.repo}@{given.ref}"):
        parser.error(f"no repository: {given.repo} at {given.ref}, wanted OWNER/NAME and a tag")
    given.out.mkdir(parents=True, exist_ok=True)
    for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        publish(path, given.out, given.repo, given.ref)
        print(given.out / path.name)
