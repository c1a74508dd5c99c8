"""API keys: looked up, hidden, and removed from texts.

Import `resolve_key`, `ApiKey` (a key that does not print) and `scrub` from here. A key is read from
an argument, Colab's secrets, the environment or a hidden prompt. It is used in the request only
and never written anywhere.
"""

from __future__ import annotations

import getpass
import ipaddress
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn
from urllib.parse import urlsplit

from eeflib.errors import PrerequisiteError

__all__ = ["KEY_VARIABLES", "ApiKey", "is_local", "resolve_key", "scrub"]

KEY_VARIABLES = ("EEFLIB_API_KEY", "OPENAI_API_KEY")
"""Environment variables (and names of Colab secrets) that are looked at, in this order."""

_HIDDEN = "[key]"
_SHORTEST_SECRET = 6
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
        text = text.strip()
        if not text:
            raise PrerequisiteError("the API key is empty; " + _remedy(KEY_VARIABLES))
        if not all("!" <= c <= "~" for c in text):
            # Checked here because the HTTP client's own error would quote the key.
            raise PrerequisiteError(
                "the API key holds a blank, a control or a non-ASCII character: copy it again, "
                "without quotation marks around it"
            )
        self._text = text

    def reveal(self) -> str:
        """The key itself, for the HTTP client only."""
        return self._text

    def scrub(self, text: str) -> str:
        """`text` with this key blotted out (keys under six characters are placeholders)."""
        if len(self._text) < _SHORTEST_SECRET:
            return text
        return text.replace(self._text, _HIDDEN)

    def __repr__(self) -> str:
        return _HIDDEN

    def __reduce__(self) -> NoReturn:
        raise TypeError("an API key is not pickled or copied: resolve it where it is needed")


def scrub(text: str, key: ApiKey | None = None) -> str:
    """`text` without `key` and without anything that looks like a key or a bearer token."""
    return _LOOKS_LIKE_A_KEY.sub(_HIDDEN, key.scrub(text) if key is not None else text)


def is_local(base_url: str | None) -> bool:
    """Whether `base_url` names this machine or a private network, where servers may need no key."""
    try:
        host = urlsplit(base_url or "").hostname or ""
    except ValueError:
        return False
    if not host:
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a name: "localhost", a container's name, "gpu1.local"
        return "." not in host or host.endswith((".localhost", ".local", ".internal"))
    return address.is_loopback or address.is_private or address.is_unspecified


def resolve_key(
    api_key: str | ApiKey | None = None,
    *,
    base_url: str | None = None,
    interactive: bool = False,
    variables: Sequence[str] = KEY_VARIABLES,
    ask: Callable[[str], str] | None = None,
) -> ApiKey | None:
    """The key to use for `base_url`; None if there is none and the server is a local one.

    Looked at in this order: the argument; with `interactive`, Colab's secrets (where the kernel
    runs on Colab); the environment; with `interactive`, a hidden prompt (where somebody can answer
    it, and never for a local server).

    Args:
        api_key: a key given by the caller.
        base_url: the endpoint, None for OpenAI's own.
        interactive: for notebooks and terminals; the default never waits for anybody.
        variables: names to look for in Colab's secrets and in the environment.
        ask: the hidden prompt; default `getpass.getpass`.

    Raises:
        PrerequisiteError: no key, and the endpoint is not local; or an unusable one.
    """
    if isinstance(api_key, ApiKey):
        return api_key
    if api_key is not None:
        return ApiKey(api_key)
    text = (_from_colab(variables) if interactive else "") or _from_environment(variables)
    if text:
        return ApiKey(text)
    if is_local(base_url):
        return None
    if interactive and (ask is not None or _somebody_is_there()):
        text = _from_prompt(base_url, ask)
        if text:
            return ApiKey(text)
    raise PrerequisiteError(f"no API key for {_host(base_url)}: {_remedy(variables)}")


def _remedy(variables: Sequence[str]) -> str:
    return (
        f"set the environment variable {' or '.join(variables)}, pass api_key=..., or give the "
        "base_url of a local server"
    )


def _host(base_url: str | None) -> str:
    return (urlsplit(base_url).hostname if base_url else None) or "the OpenAI endpoint"


def _from_environment(variables: Sequence[str]) -> str:
    return next((v for name in variables if (v := os.environ.get(name, "").strip())), "")


def _from_colab(variables: Sequence[str]) -> str:
    # Colab's kernel has imported its package long before any cell runs.
    userdata = getattr(sys.modules.get("google.colab"), "userdata", None)
    if userdata is None:
        return ""
    missing = tuple(
        error
        for name in ("SecretNotFoundError", "NotebookAccessError", "TimeoutException")
        if isinstance(error := getattr(userdata, name, None), type) and issubclass(error, Exception)
    )
    for name in variables:
        try:
            text = userdata.get(name)
        except missing:
            continue
        if isinstance(text, str) and text.strip():
            return text.strip()
    return ""


def _somebody_is_there() -> bool:
    return "ipykernel" in sys.modules or (sys.stdin is not None and sys.stdin.isatty())


def _from_prompt(base_url: str | None, ask: Callable[[str], str] | None) -> str:
    try:
        return (ask or getpass.getpass)(
            f"API key for {_host(base_url)} (not shown, not stored): "
        ).strip()
    except (EOFError, NotImplementedError):  # a notebook that is executed without a person
        return ""
