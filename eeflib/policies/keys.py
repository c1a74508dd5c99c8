"""API keys: looked up, hidden, and removed from texts.

Import `resolve_key`, `ApiKey` (a key that does not print) and `scrub` from here. A key is read from
an argument, Colab's secrets, the environment or a hidden prompt. It is used in the request only
and never written anywhere.
"""

from __future__ import annotations

import getpass
import os
import re
import sys
from typing import NoReturn

from eeflib.errors import PrerequisiteError

KEY_VARIABLES = ("EEFLIB_API_KEY", "OPENAI_API_KEY")
"""Environment variables (and names of Colab secrets) that are looked at, in this order."""

_HIDDEN = "[key]"
_SHORTEST_SECRET = 6
_REMEDY = (
    f"set the environment variable {' or '.join(KEY_VARIABLES)}, pass api_key=..., or give the "
    "base_url of a server that needs none"
)
# Providers quote keys in their error texts, in full or with the middle starred out.
_LOOKS_LIKE_A_KEY = re.compile(r"\bsk-[\w*.-]{6,}|(?<=Bearer )[^\s\"',}]+", re.IGNORECASE)


class ApiKey:
    """A key that can be used but not seen: `repr`, `str` and f-strings show `[key]`.

    `reveal()` is the only way to the text. Not picklable: a process that needs the key resolves it
    itself, so that it never travels through a file or a queue.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        """Raises PrerequisiteError: the text cannot be sent in an HTTP header."""
        self._text = text.strip()
        if not self._text or not all("!" <= c <= "~" for c in self._text):
            # Checked here because the HTTP client's own error would quote the key.
            raise PrerequisiteError(
                "the API key is empty or holds a blank, a control or a non-ASCII character: copy "
                "it again, without quotation marks around it"
            )

    def reveal(self) -> str:
        """The key itself, for the HTTP client only."""
        return self._text

    def scrub(self, text: str) -> str:
        """`text` with this key blotted out (keys under six characters are placeholders)."""
        return text if len(self._text) < _SHORTEST_SECRET else text.replace(self._text, _HIDDEN)

    def __repr__(self) -> str:
        return _HIDDEN

    def __reduce__(self) -> NoReturn:
        raise TypeError("an API key is not pickled or copied: resolve it where it is needed")


def scrub(text: str, key: ApiKey | None = None) -> str:
    """`text` without `key` and without anything that looks like a key or a bearer token."""
    return _LOOKS_LIKE_A_KEY.sub(_HIDDEN, key.scrub(text) if key is not None else text)


def resolve_key(
    api_key: str | ApiKey | None = None, *, base_url: str | None = None, interactive: bool = False
) -> ApiKey | None:
    """The key to use; None if there is none and `base_url` is given: many servers need none.

    Looked at in this order: the argument; with `interactive`, Colab's secrets (where the kernel
    runs on Colab); the environment; with `interactive` and without `base_url`, a hidden prompt
    (where somebody can answer it).

    Args:
        base_url: the endpoint, None for OpenAI's own.
        interactive: for notebooks and terminals; the default never waits for anybody.

    Raises:
        PrerequisiteError: no key, and the endpoint is OpenAI's; or an unusable one.
    """
    if isinstance(api_key, ApiKey):
        return api_key
    if api_key is not None:
        return ApiKey(api_key)
    found = [_colab_secret(name) for name in KEY_VARIABLES] if interactive else []
    found += [os.environ.get(name, "").strip() for name in KEY_VARIABLES]
    text = next(filter(None, found), "")
    if not text and base_url is not None:
        return None
    if not text and interactive and ("ipykernel" in sys.modules or sys.stdin.isatty()):
        try:
            text = getpass.getpass("API key for OpenAI (not shown, not stored): ").strip()
        except (EOFError, NotImplementedError):  # a notebook that is executed without a person
            text = ""
    if not text:
        raise PrerequisiteError(f"no API key for the OpenAI endpoint: {_REMEDY}")
    return ApiKey(text)


def _colab_secret(name: str) -> str:
    # Colab's kernel has imported its package long before any cell runs.
    userdata = getattr(sys.modules.get("google.colab"), "userdata", None)
    if userdata is None:
        return ""
    names = ("SecretNotFoundError", "NotebookAccessError", "TimeoutException")
    missing = tuple(getattr(userdata, n) for n in names if hasattr(userdata, n))
    try:
        return str(userdata.get(name)).strip()
    except missing:
        return ""
