"""Texts of a report, each kept once: what is said in a thousand places takes the room of one.

Owns the table of texts and the JSON form that is safe inside a page. Pages of a shop and rooms of
a game are made of the same lines again and again, so a long text is a list of its lines. Knows
nothing about what the texts are.
"""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

from eeflib.analysis.markup import LIMIT, clean

__all__ = ["Texts", "inert_json", "packed"]

_SEPARATORS = (" [SEP] ", "\n")
_LONG = 160
"""Characters from which on a text is cut into its lines."""


class Texts:
    """Text -> number; 0 is the empty text."""

    def __init__(self, limit: int = LIMIT) -> None:
        """Args:
        limit: characters of a text at most; longer ones are cut, and say so.
        """
        self.limit = limit
        self._raw: dict[str, int] = {"": 0}
        self._numbers: dict[str, int] = {"": 0}
        self.rows: list[Any] = [""]
        """Per number a string, or [separator, numbers of its parts]."""

    def __call__(self, text: str) -> int:
        """The number of a text, made readable and harmless as everywhere (`markup.clean`)."""
        number = self._raw.get(text)
        if number is None:
            number = self._raw[text] = self._whole(clean(text, self.limit))
        return number

    def _whole(self, text: str) -> int:
        if text in self._numbers:
            return self._numbers[text]
        for code, separator in enumerate(_SEPARATORS):
            if len(text) >= _LONG and separator in text:
                parts = [self._piece(part) for part in text.split(separator)]
                return self._add(text, [code, *parts])
        return self._add(text, text)

    def _piece(self, text: str) -> int:
        return self._numbers[text] if text in self._numbers else self._add(text, text)

    def _add(self, text: str, row: Any) -> int:
        self._numbers[text] = len(self.rows)
        self.rows.append(row)
        return self._numbers[text]


def inert_json(value: Any) -> str:
    """JSON that no HTML parser takes for markup, for a script tag of type application/json."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def packed(text: str) -> dict[str, str]:
    """JSON text as an object of compressed text, which browsers can unpack by themselves."""
    return {"gzip": base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()}
