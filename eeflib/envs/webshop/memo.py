"""States that environments over one catalogue have been in, to jump back to.

Owns a bounded table: fingerprint -> (state, hash of its observation). Knows nothing about tasks.
"""

from __future__ import annotations

from eeflib.envs.webshop.state import WebShopState

__all__ = ["StateMemo"]

_LONGEST_QUERY = 1_000


class StateMemo:
    """Remembers the newest `size` states; states with very long searches are not kept."""

    def __init__(self, size: int = 100_000) -> None:
        self._size = size
        self._table: dict[tuple[str, str], tuple[WebShopState, int]] = {}

    def __len__(self) -> int:
        return len(self._table)

    def add(self, view: str, key: str, state: WebShopState, text: str) -> None:
        """Remember `state` under its `key`, seen as `text` in `view` (mode and settings)."""
        if len(state.query) > _LONGEST_QUERY or (view, key) in self._table:
            return
        if len(self._table) >= self._size:
            self._table.pop(next(iter(self._table)), None)
        self._table[view, key] = state, hash(text)

    def get(self, view: str, key: str, text: str) -> WebShopState | None:
        """The state of `key`, if it is known and was seen as `text`."""
        known = self._table.get((view, key))
        return known[0] if known is not None and known[1] == hash(text) else None
