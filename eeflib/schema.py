"""The JSON form of records: what is written, what is tolerated when read, how it is hashed.

Owns `Record` (the mixin behind every record), the schema version, canonical JSON and content
hashes. Knows nothing about the records' meaning, files or models.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple, Self, get_args, get_type_hints

import msgspec

from eeflib.errors import DataError

__all__ = ["SCHEMA_VERSION", "TIMING", "Record", "canonical_json", "content_hash", "plain"]

SCHEMA_VERSION = 1

TIMING: Mapping[str, bool] = {"timing": True}
"""Field metadata: a measured time, left out of reproducible files."""

_RESERVED = frozenset({"schema", "extra"})
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no blanks: equal values give equal text, encodable as UTF-8.

    Raises:
        DataError: a value that JSON cannot hold (an object, a set, NaN); names its path.
    """
    text = json.dumps(
        plain(value), sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    # A half of a surrogate pair cannot be UTF-8; inside a JSON string its escape means the same.
    return _LONE_SURROGATE.sub(lambda m: f"\\u{ord(m.group()):04x}", text)


def content_hash(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def plain(value: Any, *, timing: bool = True, path: str = "$") -> Any:
    """`value` as dicts, lists, strings and numbers.

    Numpy scalars and arrays become Python numbers and lists, tuples lists, dict keys strings, and
    a whole number in a float field a float, so that a record and its copy read from a file are
    written alike. Keys of a record's `extra` stand beside its fields, unless a field has that name.

    Args:
        timing: False leaves out fields marked `TIMING`.
        path: where `value` is, for the error message.

    Raises:
        DataError: a value that JSON cannot hold; names its path.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise DataError(f"{path} is {value}, which JSON cannot hold: leave it out or use None")
        return float(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v, timing=timing, path=f"{path}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v, timing=timing, path=f"{path}[{i}]") for i, v in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain_fields(value, timing, path)
    if hasattr(value, "tolist"):  # numpy, without importing it
        return plain(value.tolist(), timing=timing, path=path)
    raise DataError(
        f"{path} is a {type(value).__name__}, which JSON cannot hold: "
        "use strings, numbers, lists and dicts"
    )


def _plain_fields(value: Any, timing: bool, path: str) -> dict[str, Any]:
    shape = _shape(type(value))  # type: ignore[arg-type]  # classes are hashable
    out = {}
    for name in shape.names:
        if name != "extra" and (timing or name not in shape.timings):
            item = plain(getattr(value, name), timing=timing, path=f"{path}.{name}")
            # bool is left alone: it is an error there, and from_dict says so
            out[name] = float(item) if name in shape.floats and type(item) is int else item
    extra = plain(getattr(value, "extra", {}), timing=timing, path=f"{path}.extra")
    clashing = {k: v for k, v in extra.items() if k in _RESERVED or k in shape.names}
    out.update((k, v) for k, v in extra.items() if k not in clashing)
    if clashing:
        out["extra"] = clashing
    return out


class _Shape(NamedTuple):
    names: tuple[str, ...]
    floats: frozenset[str]
    timings: frozenset[str]
    nested: dict[str, type[Record]]


@cache
def _shape(cls: type) -> _Shape:
    fields = dataclasses.fields(cls)
    hints = get_type_hints(cls)
    options = {f.name: (hints[f.name], *get_args(hints[f.name])) for f in fields}
    return _Shape(
        tuple(options),
        frozenset(name for name, types in options.items() if float in types),
        frozenset(f.name for f in fields if "timing" in f.metadata),
        {
            name: t
            for name, types in options.items()
            for t in types
            if isinstance(t, type) and issubclass(t, Record)
        },
    )


def _sort_keys(cls: type, data: Any) -> Any:
    """Move keys that `cls` has no field for into `extra`, at every level of nested records."""
    if not isinstance(data, Mapping):
        return data  # msgspec reports it, with its path
    shape = _shape(cls)
    out = {k: v for k, v in data.items() if k in shape.names}
    rest = {k: v for k, v in data.items() if k not in shape.names}
    extra = out.get("extra", {})
    if "extra" in shape.names and rest and isinstance(extra, Mapping):
        out["extra"] = {**rest, **extra}
    for name, nested in shape.nested.items():
        value = out.get(name)
        if isinstance(value, (list, tuple)):
            out[name] = [_sort_keys(nested, item) for item in value]
        elif isinstance(value, Mapping):
            out[name] = _sort_keys(nested, value)
    return out


class Record:
    """Mixin: the JSON round trip of every record.

    `from_dict(to_dict(x)) == x`, as long as what x keeps in dicts (`goal`, `extra`) is JSON: lists,
    not tuples, and string keys.
    """

    def to_dict(self, *, timing: bool = True) -> dict[str, Any]:
        """A JSON-ready dict; `schema` holds the version that wrote it.

        Args:
            timing: False leaves measured times out (`Usage.seconds`).

        Raises:
            DataError: a value that JSON cannot hold; names its path.
        """
        return {"schema": SCHEMA_VERSION, **plain(self, timing=timing)}

    def timing_seconds(self) -> float:
        """Sum of the measured times anywhere in this record."""
        return _timing_seconds(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote, also by an older or newer version.

        Unknown keys are kept in `extra` and written back; missing optional keys take their default.

        Raises:
            DataError: a required field is missing or has the wrong type; names the field.
        """
        if not isinstance(data, Mapping):
            raise DataError(f"not a {cls.__name__} record: a {type(data).__name__}, not an object")
        if type(data.get("schema", 1)) is not int:
            raise DataError(f"not a {cls.__name__} record: Expected `int` - at `$.schema`")
        prepared = _sort_keys(cls, {k: v for k, v in data.items() if k != "schema"})
        try:
            return msgspec.convert(prepared, cls, strict=True)
        except msgspec.ValidationError as exc:
            raise DataError(f"not a {cls.__name__} record: {exc}") from None


def _timing_seconds(value: Any) -> float:
    if isinstance(value, (list, tuple)):
        return math.fsum(_timing_seconds(v) for v in value)
    if not isinstance(value, Record):
        return 0.0
    shape = _shape(type(value))  # type: ignore[arg-type]  # classes are hashable
    own = math.fsum(getattr(value, name) for name in shape.timings)
    return own + math.fsum(_timing_seconds(getattr(value, name)) for name in shape.nested)
