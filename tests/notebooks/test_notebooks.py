"""The notebooks: each runs on a fresh kernel in an empty folder, and keeps the promised form."""

import re
import subprocess
import sys

import execute
import nbformat
import pytest

from eeflib.analysis.figures import CONFIG
from eeflib.analysis.taxonomy import KINDS

NAMES = execute.names()
HEADER = ("Goal", "Needs", "Time", "Memory", "Cost", "Reads → writes")
OWN = ("00", "02", "03", "04", "05")
"""Notebooks that start from the shipped run, and make one of their own if a switch is on."""
SWITCH = 'MAKE_YOUR_OWN = False  # @param {type:"boolean"}'
PRESET = 'PRESET = "tiny"  # @param ["tiny", "laptop", "colab", "paper"]'


def load(name: str) -> nbformat.NotebookNode:
    notebook = nbformat.read(execute.FOLDER / name, as_version=4)
    nbformat.validate(notebook)
    return notebook


def prose(notebook: nbformat.NotebookNode) -> list[str]:
    return [c.source for c in notebook.cells if c.cell_type == "markdown"]


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [c for c in notebook.cells if c.cell_type == "code"]


def test_all_nine_are_there_and_in_the_index():
    assert [n[:2] for n in NAMES] == [f"0{i}" for i in range(9)]
    index = (execute.FOLDER / "README.md").read_text("utf-8")
    assert [n for n in NAMES if f"({n})" not in index] == []


@pytest.mark.parametrize("name", NAMES)
class TestForm:
    def test_a_header_says_what_it_takes(self, name):
        first = prose(load(name))[0]
        assert first.startswith(f"# {name[:2]} · ")
        for row in HEADER:
            found = re.search(rf"^\| \*\*{row}\*\* \| (.+) \|$", first, re.MULTILINE)
            assert found, f"no row {row!r}"
            assert "@" not in found[1], f"row {row!r} is not filled in"

    def test_one_form_cell_decides_the_size(self, name):
        forms = [c for c in code(load(name)) if "@param" in c.source]
        assert len(forms) == 1
        lines = forms[0].source.splitlines()
        if name[:2] in OWN:
            assert lines[:2] == [SWITCH, PRESET]
            return
        assert lines[0] == PRESET
        second = code(load(name))[1]
        assert second.source == forms[0].source, "only what installs comes before the form"

    def test_more_prose_than_code_and_thin_cells(self, name):
        notebook = load(name)
        assert len(prose(notebook)) > len(code(notebook))
        install, *cells = code(notebook)
        assert install.metadata["cellView"] == "form", "folded on Colab"
        thick = [c.source for c in cells if len(c.source.splitlines()) > 10]
        assert not thick, thick[0]

    def test_it_imports_eeflib_as_eef_and_at_most_one_submodule(self, name):
        lines = [line.strip() for c in code(load(name)) for line in c.source.splitlines()]
        assert lines.count("import eeflib as eef") == 1
        deeper = [x for x in lines if re.match(r"(from|import) eeflib\b", x)]
        assert len(deeper) <= 2, deeper

    def test_steps_are_checked(self, name):
        notebook = load(name)
        assert sum("assert " in c.source for c in code(notebook)) >= 7
        told = [text for text in prose(notebook) if re.search("ou should (have )?seen?", text)]
        assert len(told) >= 5

    def test_three_exercises_with_solutions(self, name):
        cells = prose(load(name))
        (exercises,) = (text for text in cells if text.startswith("## Exercises"))
        (solutions,) = (text for text in cells if text.startswith("<details>"))
        for text in (exercises, solutions):
            assert re.findall(r"^(\d)\. ", text, re.MULTILINE) == ["1", "2", "3"]
        assert solutions.endswith("</details>")

    def test_takeaways_and_a_way_on(self, name):
        last = prose(load(name))[-1]
        assert last.startswith("## Takeaways")
        assert "](" in last

    def test_links_lead_somewhere(self, name):
        for target in re.findall(r"\]\(([^)#]+)\)", "\n".join(prose(load(name)))):
            assert (execute.FOLDER / target).exists(), target

    def test_outputs_are_committed_and_small(self, name):
        assert (execute.FOLDER / name).stat().st_size < 1_000_000
        cells = code(load(name))
        assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
        assert sum(bool(c.outputs) for c in cells) >= len(cells) / 2
        for output in (o for c in cells for o in c.outputs):
            assert output.output_type != "error"
            assert execute.WIDGET not in output.get("data", {}), "a saved widget shows as an error"
            if execute.FIGURE in output.get("data", {}):
                assert output.data[execute.FIGURE]["config"] == CONFIG, "no logo"
            if "text/html" in output.get("data", {}):
                assert output.data["text/plain"].strip(), "a view without a text twin"

    def test_nothing_of_the_machine_is_saved(self, name):
        notebook = load(name)
        on_a_gpu = {"accelerator": "GPU", "colab": {"gpuType": "T4"}}
        told = {k: v for k, v in notebook.metadata.items() if k in on_a_gpu}
        assert told == (on_a_gpu if name[:2] in ("04", "07") else {})
        assert set(notebook.metadata) - set(told) == {"kernelspec", "language_info"}
        assert all(set(c.metadata) <= {"cellView", "tags"} for c in notebook.cells)
        text = (execute.FOLDER / name).read_text("utf-8")
        assert not re.search(r"(?<![\w.:/~-])/(?:root|home|Users|work|tmp|usr|mnt)/\w", text)
        assert not re.search(r"\bsk-\w{6,}|127\.0\.0\.1:\d", text)


def html_of(cell: nbformat.NotebookNode) -> str:
    return "".join(o.data.get("text/html", "") for o in cell.outputs if "data" in o)


def test_failures_can_be_read_on_a_page_and_nothing_is_told_before_the_reader_has_decided():
    cells = code(load(NAMES[2]))
    turn = next(i for i, c in enumerate(cells) if c.source.startswith("YOURS = "))
    views = [i for i, c in enumerate(cells) if "Run the notebook to browse" in html_of(c)]
    before = [i for i in views if i < turn]
    tasks = [re.search(r"<b>Task</b> ([^<]+)", html_of(cells[i])) for i in before]
    assert len({found[1] for found in tasks if found}) == 3
    for i in before:
        assert html_of(cells[i]).count("<summary") >= 4, "its steps can be unfolded"
        assert html_of(cells[i]).count("search[") >= 1
    titles = "|".join(re.escape(kind.title) for kind in KINDS.values())  # a towel may have loops
    told = [i for i in views if re.search(rf"\b({titles})\b", html_of(cells[i]))]
    assert told
    assert min(told) > turn


def test_the_evaluation_shows_episodes_and_pictures_without_a_kernel():
    outputs = [o for c in code(load(NAMES[5])) for o in c.outputs if "data" in o]
    assert sum("Run the notebook to browse" in o.data.get("text/html", "") for o in outputs) == 2
    figures = [o.data for o in outputs if execute.FIGURE in o.data]
    assert len(figures) >= 10
    assert all("image/png" in data for data in figures), "for who runs no scripts"


def test_lint_and_format():
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, str(execute.FOLDER)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
