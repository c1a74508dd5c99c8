"""One browser's way through the tasks, and all browsers that are here.

Owns `Visit` (which task, which episode, what to tell the visitor next) and `Visits` (secrets, how
many, for how long). Knows nothing about HTTP or files: finished trajectories go to a callback.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence

from eeflib.envs.webshop import WebShopEnv
from eeflib.errors import EefError
from eeflib.records import Task, Trajectory
from eeflib.shop.episode import End, HumanEpisode

__all__ = ["LONGEST_QUERY", "ShopFull", "Visit", "Visits"]

LONGEST_QUERY = 300
"""Characters of a search; nobody types more, and a page should not have to show it."""

_QUIET_SECONDS = 600.0
"""A visit idle for longer gives way when the shop is full."""

Record = Callable[[Trajectory], str]
"""Takes a finished episode; gives what the visitor should know if it could not be recorded."""


class ShopFull(EefError):
    """As many visitors as the shop takes, all of them active."""


class Visit:
    """The state behind one browser; not thread-safe, the server takes turns."""

    def __init__(
        self, tasks: Sequence[Task], make_env: Callable[[], WebShopEnv], record: Record
    ) -> None:
        self.tasks = tasks
        self.token, self.csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self.player = secrets.token_hex(4)
        self.turn = 0
        """Counts what changed; a form of an earlier turn is stale."""
        self.notice = ""
        """To be shown once, see `pop_notice`."""
        self.results: dict[int, float | None] = {}
        """Position -> best reward so far; None: ended without a purchase."""
        self.last_seen = time.monotonic()
        self._make_env, self._record = make_env, record
        self._tries: Counter[int] = Counter()
        self.position = 0
        self.episode = self._begin()

    @property
    def task(self) -> Task:
        return self.tasks[self.position]

    @property
    def solved(self) -> int:
        """Tasks solved on this visit."""
        return sum(
            reward is not None and reward >= self.tasks[i].threshold - 1e-9
            for i, reward in self.results.items()
        )

    @property
    def following(self) -> int | None:
        """Position of the next task not tried yet, after the current one and then from the start;
        None if there is none."""
        n = len(self.tasks)
        order = ((self.position + i) % n for i in range(1, n + 1))
        return next((i for i in order if i not in self.results), None)

    def pop_notice(self) -> str:
        notice, self.notice = self.notice, ""
        return notice

    def act(self, number: int) -> None:
        """Do `episode.actions[number]`, which must not be a search."""
        actions = self.episode.actions
        if not 0 <= number < len(actions) or actions[number].startswith("search["):
            self.notice = "That button is not on this page."
            return
        self._do(actions[number])

    def search(self, text: str) -> None:
        """Search as an agent would; a text that is no search is not a step."""
        # brackets are the action's own syntax, and the search index ignores them anyway
        words = " ".join(text.replace("[", " ").replace("]", " ").split())
        if not self.episode.actions or not self.episode.actions[0].startswith("search["):
            self.notice = "There is no search box on this page: go back to the search first."
        elif not words:
            self.notice = "Type what you are looking for, then search."
        elif len(words) > LONGEST_QUERY:
            self.notice = (
                f"That search has {len(words):,} characters; {LONGEST_QUERY} is the most. "
                "A few words find more."
            )
        else:
            self._do(f"search[{words}]")

    def give_up(self) -> None:
        """End the episode without a purchase."""
        self._end("given up")
        self.turn += 1

    def open(self, position: int) -> None:
        """Start the task at `position`; the current one is given up if it is not over."""
        if not 0 <= position < len(self.tasks):
            self.notice = "There is no such task."
            return
        self._end("given up")
        self.position = position
        self.turn += 1
        self.episode = self._begin()

    def leave(self) -> None:
        """The visitor is gone."""
        self._end("abandoned")

    def _begin(self) -> HumanEpisode:
        attempt = self._tries[self.position]
        return HumanEpisode(self._make_env(), self.task, self.player, attempt)

    def _do(self, action: str) -> None:
        result = self.episode.act(action)
        self.turn += 1
        if not result.info["valid"]:
            self.notice = f"The shop did not understand that: {result.info.get('reason', '')}"
        if self.episode.over:
            self._finish()

    def _end(self, how: End) -> None:
        if not self.episode.over:
            self.episode.stop(how)
            self._finish()

    def _finish(self) -> None:
        episode, at = self.episode, self.position
        if episode.ended != "abandoned":
            reward = episode.reward if episode.ended == "bought" else None
            best = max((r for r in (reward, self.results.get(at)) if r is not None), default=None)
            self.results[at] = best
        if episode.steps:  # a task that was only looked at is no episode
            self._tries[at] += 1
            self.notice = self._record(episode.trajectory()) or self.notice


class Visits:
    """Everybody who is here; bounded, and freed when idle. Not thread-safe.

    Args:
        start: makes a visit.
        most: visits at a time.
        idle_seconds: a visit that did nothing for so long is over.
    """

    def __init__(self, start: Callable[[], Visit], *, most: int, idle_seconds: float) -> None:
        self._start, self._most, self._idle = start, most, idle_seconds
        self._by_token: dict[str, Visit] = {}

    def __len__(self) -> int:
        return len(self._by_token)

    def get(self, token: str) -> Visit | None:
        """The visit of `token`, if it is still on."""
        self._sweep()
        visit = self._by_token.get(token)
        if visit is not None:
            visit.last_seen = time.monotonic()
        return visit

    def new(self) -> Visit:
        """A visitor comes in.

        Raises:
            ShopFull: no room, and nobody has been quiet for ten minutes.
        """
        self._sweep()
        if len(self._by_token) >= self._most:
            oldest = min(self._by_token.values(), key=lambda visit: visit.last_seen)
            if time.monotonic() - oldest.last_seen < min(_QUIET_SECONDS, self._idle):
                raise ShopFull(
                    f"{self._most} people are shopping, which is the most at a time: "
                    "come back in a few minutes"
                )
            self._drop(oldest)
        visit = self._start()
        self._by_token[visit.token] = visit
        return visit

    def close(self) -> None:
        """Everybody leaves."""
        for visit in list(self._by_token.values()):
            self._drop(visit)

    def _sweep(self) -> None:
        now = time.monotonic()
        for visit in list(self._by_token.values()):
            if now - visit.last_seen > self._idle:
                self._drop(visit)

    def _drop(self, visit: Visit) -> None:
        del self._by_token[visit.token]
        visit.leave()
