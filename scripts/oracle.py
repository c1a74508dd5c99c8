"""Fingerprint a finished demo run, and compare it with the fingerprint of another version.

    python scripts/oracle.py RUN                          print what the run holds
    python scripts/oracle.py RUN --write oracle.json      keep it
    python scripts/oracle.py RUN --against oracle.json    print every difference; exit code 1 if any

Every record file has two hashes. `bytes` is of the file as it is. `content` is of the set of its
records: their order, the order of keys, `1` or `1.0`, and the keys in `VOLATILE` do not count.
Sample files have a third, `training`: the id, actions, trained flags and labels of each sample,
which decide what is trained. `fields` has a hash per key, so that a difference can be named.

Moved files with the same content and files with other bytes but the same content are printed as
notes; they count as differences only with --strict. The script reads files only and imports
nothing from eeflib, so it reads runs of any version. Exit code 2: the run cannot be read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

KINDS = ("tasks", "trajectories", "branches", "samples", "evaluations")
VOLATILE = frozenset({"schema", "seconds", "created", "created_at", "timestamp", "started"})
"""Keys, at any depth, that say when or how fast something was done, not what."""
TABLE = ("win_rate", "interval", "reward", "simulations")


def normal(value: Any) -> Any:
    """`value` without volatile keys, and with whole floats as integers."""
    if isinstance(value, dict):
        return {k: normal(v) for k, v in value.items() if k not in VOLATILE}
    if isinstance(value, list):
        return [normal(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def canonical(value: Any) -> str:
    return json.dumps(normal(value), sort_keys=True, separators=(",", ":"))


def digest(values: Sequence[Any], length: int = 64) -> str:
    """SHA-256 of a set of JSON values: equal ones count as often as they occur, order does not."""
    text = "\n".join(sorted(canonical(v) for v in values))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_rows(path: Path) -> list[Row]:
    """The records of a file of JSON lines; ValueError names the line that is not JSON."""
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as exc:
            raise ValueError(f"{path}:{number}: not JSON: {exc}") from exc
    return rows


def visible(run: Path, pattern: str) -> Iterator[tuple[str, Path]]:
    """(path inside the run, path) of files that match; hidden folders hold unfinished work."""
    for path in sorted(run.rglob(pattern)):
        name = path.relative_to(run)
        if not any(part.startswith(".") for part in name.parts):
            yield name.as_posix(), path


def field_digests(kind: str, rows: Sequence[Row]) -> dict[str, str]:
    identity = ("method", "seed", "iteration", "task_id") if kind == "evaluations" else ("id",)
    return {
        key: digest([[*(r.get(i) for i in identity), r[key]] for r in rows if key in r], 12)
        for key in sorted({k for r in rows for k in r} - VOLATILE)
    }


def training_content(sample: Row) -> list[Any]:
    actions = [step["action"] for step in sample["steps"]]
    return [sample["id"], actions, sample["trained"], sample["labels"]]


def take(run: Path) -> Row:
    """The fingerprint of the finished demo in `run`."""
    summary = json.loads((run / "summary.json").read_bytes())
    manifest = json.loads((run / "manifest.json").read_bytes())
    counts: Counter[str] = Counter()
    restores: Counter[str] = Counter()
    files: dict[str, Row] = {}
    for name, path in visible(run, "*.jsonl"):
        kind = re.split(r"[^a-z]", path.stem)[0]  # `samples-M3` is a file of samples
        if kind in KINDS:
            rows = read_rows(path)
            counts[kind] += len(rows)
            entry: Row = {"records": len(rows), "bytes": file_digest(path), "content": digest(rows)}
            if kind == "samples":
                entry["training"] = digest([training_content(r) for r in rows])
            if kind == "branches":  # k numbers the teacher's states; 0 is the initial one
                states = [r for r in rows if r["k"] > 0]
                verified = sum(r.get("rollout") is not None for r in states)
                restores.update(restorations=len(states), verified=verified)
            files[name] = {**entry, "fields": field_digests(kind, rows)}
    files |= {name: {"content": file_digest(p)} for name, p in visible(run, "*.safetensors")}
    phases = {
        name: {k: v for k, v in json.loads(p.read_bytes())["summary"].items() if k not in VOLATILE}
        for name, p in visible(run, "phases/explore.json")
    }
    cases = {"main": summary} | {k: summary[k] for k in ("better_teacher",) if k in summary}
    return {
        "made_by": {k: manifest.get(k) for k in ("created", "git", "python", "versions")},
        "run": {k: summary.get(k) for k in ("env", "preset", "student", "seeds")},
        "table": {
            f"{case}/{row['method']}": {k: row.get(k) for k in TABLE}
            for case, part in cases.items()
            for row in part["methods"]
        },
        "teacher": {c: part["teacher_on_training_tasks"] for c, part in cases.items()},
        "counts": dict(counts),
        "restores": dict(restores),
        "phases": phases,
        "files": files,
    }


def compare(old: Row, new: Row) -> tuple[list[str], list[str]]:
    """(differences, notes) between two fingerprints, a line each."""
    wrong, notes = list[str](), list[str]()
    for part in ("run", "table", "teacher", "counts", "restores", "phases"):
        for key in sorted(old[part].keys() | new[part].keys()):
            a, b = old[part].get(key), new[part].get(key)
            if a != b:  # a version may leave out what a phase summed up
                lines = notes if part == "phases" and b is None else wrong
                lines.append(f"{part} {key}: {json.dumps(a)} -> {json.dumps(b)}")
    before, after = old["files"], new["files"]
    added = {name: after[name]["content"] for name in sorted(after.keys() - before.keys())}
    for name, a in before.items():
        if b := after.get(name):
            if a["content"] != b["content"]:
                wrong.append(f"{name}: {_what_changed(a, b)}")
            elif a.get("bytes") != b.get("bytes"):
                notes.append(f"{name}: same content, other bytes (order or form)")
        elif to := next((n for n, content in added.items() if content == a["content"]), None):
            added.pop(to)
            notes.append(f"{name}: moved to {to}, same content")
        else:
            wrong.append(f"{name}: missing, and no new file has its content")
    wrong += [f"{name}: new, with content of its own" for name in added]
    return wrong, notes


def _what_changed(a: Row, b: Row) -> str:
    if "records" not in a:
        return "other weights"
    if a["records"] != b["records"]:
        return f"records {a['records']} -> {b['records']}"
    old, new = a["fields"], b["fields"]
    parts = [f"values differ in {k}" for k in old if k in new and old[k] != new[k]]
    if "training" in a:
        parts.append(f"training content {'same' if a['training'] == b['training'] else 'DIFFERS'}")
    parts += [f"key {k} {'gone' if k in old else 'new'}" for k in sorted(old.keys() ^ new.keys())]
    return "; ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished demo")
    parser.add_argument("--against", type=Path, help="a fingerprint to compare with")
    parser.add_argument("--write", type=Path, help="where to write the fingerprint")
    parser.add_argument("--strict", action="store_true", help="notes count as differences")
    options = parser.parse_args()
    try:
        new = take(options.run)
        old = json.loads(options.against.read_bytes()) if options.against else {}
    except (OSError, ValueError, KeyError, TypeError) as exc:
        print(f"{options.run}: not a finished demo run: {exc!r}", file=sys.stderr)
        sys.exit(2)
    if options.write:
        options.write.write_text(json.dumps(new, indent=1) + "\n", "utf-8")
    elif not old:
        print(json.dumps(new, indent=1))
    if old:
        wrong, notes = compare(old, new)
        for line in (*(f"DIFFERS  {x}" for x in wrong), *(f"note     {x}" for x in notes)):
            print(line)
        print(f"{len(new['files'])} files: {len(wrong)} differences, {len(notes)} notes")
        sys.exit(bool(wrong or (options.strict and notes)))


if __name__ == "__main__":
    main()
