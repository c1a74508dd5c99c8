"""Many episodes at once: a policy and a pool of environments -> trajectories.

Import `Episode` and `run_episodes` from here. This module knows the step limit, the conversation
that grows turn by turn, what a bad reply does, and which faults end one episode only; exploration
from expert states is `eeflib.exploration`.

Determinism: episodes are cut, in order, into fixed chunks; an episode's random stream depends on
the seed and its id only; a chunk is finished whole or redone whole. So a run that was killed and
continued gives the same trajectories, also where a model's arithmetic depends on its batch. Only
for a policy that `refills` (a server, whose replies are not repeated to the last bit anyway) an
episode that ends is replaced at once, and put on file at once.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Self, TypeVar

from tqdm.auto import tqdm

from eeflib.envs.base import REWARD_FACTS, EnvPool, StepResult, TextEnv
from eeflib.errors import (
    ActionError,
    DataError,
    EefError,
    EnvironmentFault,
    ProviderError,
    RestoreMismatch,
)
from eeflib.policies.base import Conversation, Policy, Reply
from eeflib.prompts import PromptFormat, parse_reply, split_reasoning, without_markers
from eeflib.records import Actor, Step, Task, Trajectory, episode_rng

DEFAULT_MAX_STEPS = 100
"""Step limit of a task whose `settings` name none."""

Done = TypeVar("Done")

_SIMULATORS = 8
"""Most environments with a process of their own, where what is waited for is a server."""
_WAITING = -1
"""Slot of an episode that has none yet."""

_LOG = logging.getLogger(__name__)
_NOT_UNDERSTOOD = "the environment does not know this action here"


def step_limit(task: Task) -> int:
    """`task.settings["max_steps"]`: the most actions an episode may have, its prefix included."""
    return int(task.settings.get("max_steps", DEFAULT_MAX_STEPS))


@dataclass(frozen=True)
class Episode:
    """One rollout to run: a task from s0, or from the state after `prefix`."""

    task: Task
    key: str
    """Distinguishes this rollout from others of the task, e.g. `teacher` or `i1.s0`."""
    attempt: int = 0
    prefix: tuple[Step, ...] = ()
    """Recorded steps to restore; the prompt holds them as history."""
    expected: str | None = None
    """Recorded text of the state after `prefix`, which restoring must reproduce."""
    state_key: str = ""
    """Recorded fingerprint of that state, for `Step.state_key` of the first own step."""

    @property
    def id(self) -> str:
        """`{task.id}#{key}.{attempt}`: id of the trajectory, and key of the conversation."""
        return f"{self.task.id}#{self.key}.{self.attempt}"


class RunningEpisode:
    """An episode under way: `start`, then `conversation` and `advance` until `over`.

    `start`, `look_around` and `advance` raise what the environment raises, and RestoreMismatch; the
    caller hands that to `fail`. `trajectory` is the record so far, at any time.
    """

    def __init__(
        self,
        episode: Episode,
        policy: str,
        fmt: PromptFormat,
        actor: Actor,
        seed: int,
        slot: int = 0,
    ) -> None:
        self.episode, self.policy, self.fmt = episode, policy, fmt
        self.actor, self.seed, self.slot = actor, seed, slot
        self.env: TextEnv
        self.rewind()

    def rewind(self) -> Self:
        """As before `start`, to be played anew."""
        episode = self.episode
        self.rng = episode_rng(self.seed, episode.id)
        self.left = step_limit(episode.task) - len(episode.prefix)
        last = episode.prefix[-1] if episode.prefix else None
        self.reward = last.reward if last else 0.0
        self.score = last.score if last else None
        self.observation = episode.expected or ""
        self.state_key = episode.state_key
        self.admissible: tuple[str, ...] | None = None
        self.steps: list[Step] = []
        self.terminated = self.truncated = False
        self.error = ""
        self.extra: dict[str, str] = {}
        return self

    @property
    def over(self) -> bool:
        return self.terminated or self.truncated or bool(self.error)

    def fail(self, exc: EefError) -> Self:
        """The episode ends here, on record as failed by `exc`."""
        self.error = f"{type(exc).__name__}: {exc}"
        if not isinstance(exc, RestoreMismatch):  # those are counted where the state is restored
            _LOG.warning("episode %s ended: %s", self.episode.id, self.error)
        return self

    def start(self, env: TextEnv) -> None:
        """Reset or restore `env`, which is this episode's from now on."""
        e, self.env = self.episode, env
        if e.prefix:
            # A step without an action never reached the environment: nothing to replay.
            replay = [s for s in e.prefix if s.action]
            restored = self.env.restore(e.task, replay, e.expected)
            if not restored.ok:
                at = "" if restored.first_mismatch is None else f"s_{restored.first_mismatch}: "
                raise RestoreMismatch(f"{at}{restored.detail or 'the state differs'}")
            self.observation = restored.text
        else:
            seen = self.env.reset(e.task)
            if e.expected is not None and seen.text != e.expected:
                raise RestoreMismatch("s_0: the first observation differs from the recorded one")
            self.observation = seen.text
            self.state_key = str(seen.info.get("state_key", "")) or e.state_key
        self.truncated = self.left <= 0

    def look_around(self) -> None:
        """Ask for the admissible actions, for policies that want them."""
        actions = self.env.valid_actions()
        self.admissible = None if actions is None else tuple(actions)

    def conversation(self) -> Conversation:
        """What the policy is asked now."""
        task = self.episode.task
        return self.fmt.conversation(
            task.instruction,
            (*self.episode.prefix, *self.steps),
            self.observation,
            key=self.episode.id,
            admissible=self.admissible,
            task_id=task.id,
        )

    def advance(self, reply: Reply) -> None:
        """Take the policy's reply: parse it, act, record the step."""
        if reply.error:
            if reply.usage is not None:  # what was paid stays on record
                self._record(reply, "", "", False, "provider error")
            self.fail(ProviderError(reply.error))
            return
        parsed = parse_reply(reply.text, self.fmt.thoughts)
        if parsed.valid:
            try:
                result = self.env.step(parsed.action)
                if not 0 <= result.reward <= 1:  # a reader would refuse the record
                    raise EnvironmentFault(
                        f"{self.env.name} gave the reward {result.reward}; rewards are in [0, 1]: "
                        "scale them in its step()"
                    )
            except EnvironmentFault:
                self._record(reply, parsed.thought, parsed.action, False, "environment fault")
                raise
        else:
            same = {"score": self.score, "valid": False, "state_key": self.state_key}
            result = StepResult(self.observation, self.reward, False, False, same)
        info = result.info
        # what an environment says its reward is made of, and rests on, is kept for the analysis
        self.extra.update({key: info[key] for key in REWARD_FACTS if key in info})
        valid = bool(info.get("valid", True))
        reason = "" if valid else parsed.reason or str(info.get("reason", "")) or _NOT_UNDERSTOOD
        self.reward, self.score = result.reward, info.get("score")
        self._record(reply, parsed.thought, parsed.action, valid, reason)
        self.observation = result.text
        self.state_key = str(info.get("state_key", ""))
        self.left -= 1
        self.terminated = result.terminated
        self.truncated = not result.terminated and (
            result.truncated or self.left <= 0 or reply.stop
        )

    def _record(self, reply: Reply, thought: str, action: str, valid: bool, reason: str) -> None:
        # hidden reasoning is kept, but neither asked with again nor trained: templates differ in it
        hidden, text = split_reasoning(reply.text)
        hidden = "\n\n".join(filter(None, (reply.reasoning, hidden)))
        text = text.strip() if hidden else text
        extra: dict[str, Any] = {"reasoning": hidden} if hidden else {}
        if (clean := without_markers(text)) != text and not reply.ids:
            extra["raw"], text = text, clean  # a marker in history would be asked with again
        if (
            reply.ids and not hidden
        ):  # what was sampled, where the text would be tokenised otherwise
            extra |= {"ids": list(reply.ids), "tokenizer": reply.tokenizer}
        self.steps.append(
            Step(
                self.observation,
                action,
                self.actor,
                reply="" if text == action else text,
                thought=thought,
                valid=valid,
                reason=reason,
                reward=self.reward,
                score=self.score,
                state_key=self.state_key,
                usage=reply.usage,
                extra=extra,
            )
        )

    def trajectory(self) -> Trajectory:
        task = self.episode.task
        return Trajectory(
            id=self.episode.id,
            task_id=task.id,
            env=task.env,
            instruction=task.instruction,
            policy=self.policy,
            steps=tuple(self.steps),
            final_observation=self.observation,
            reward=self.reward,
            terminated=self.terminated,
            truncated=self.truncated,
            threshold=task.threshold,
            seed=self.seed,
            prompt_hash=self.fmt.hash,
            error=self.error,
            extra=dict(self.extra),
        )


_EPISODE_FAULTS = (ActionError, DataError, EnvironmentFault, RestoreMismatch)


def run_episodes(
    episodes: Sequence[Episode],
    policy: Policy,
    make_env: Callable[[], TextEnv] | EnvPool,
    fmt: PromptFormat,
    *,
    actor: Actor,
    seed: int,
    batch_size: int = 32,
    done: Mapping[str, Done] | None = None,
    on_done: Callable[[list[Trajectory]], None] | None = None,
    progress: str | None = None,
) -> list[Trajectory | Done]:
    """Run `episodes`, up to `batch_size` environments at once; one trajectory each, in order.

    Each round asks the policy once for all running conversations, then steps each environment; one
    that is best asked `alone` plays each episode in a thread of its own. A
    trajectory holds the policy's own steps only, without the prefix. Its reward is that of its
    last step. A reply without an action is an invalid step: the environment is not touched, the
    observation repeats, and the step counts. A fault (provider, environment, a task that cannot be
    set up or restored) ends its own episode, recorded in `Trajectory.error`. Where the provider
    cannot serve any further request, the running chunk is recorded like that, and the run ends.
    An environment with a process of its own may lose it for no reason of the episode's: that
    episode is run once more, from its start, before it is recorded as failed.

    Args:
        make_env: builds one environment; called at most `batch_size` times, plus once for each
            environment that broke. Or a pool, which the caller closes. If the environment has an
            attribute `max_parallel`, chunks are no larger than that; see `EnvPool.width`.
        actor: who the policy is, for `Step.actor`.
        seed: of the policy's random choices; each episode has its own stream, see `episode_rng`.
        done: results by episode id from an earlier, interrupted run with the same arguments: a
            chunk all of whose episodes are in it is not run again, any other chunk is run whole
            (only what is missing in it, if the policy is `independent`).
        on_done: called after each chunk that was run with its trajectories, less those in `done`;
            for a policy that `refills`, with those that ended in a round.
        progress: shows a progress bar of that text (wins and, where known, dollars so far).

    Raises:
        DataError: two episodes share an id, a task is not of the format's environment, or
            `batch_size` is not positive.
        PrerequisiteError: from `make_env`.
        ProviderError: key refused, no credit, cost cap and the like; `on_done` has been given
            everything until then, the episodes that were cut short with their `error`.
    """
    _check(episodes, fmt, batch_size)
    out: dict[str, Trajectory | Done] = dict(done or {})
    if all(e.id in out for e in episodes):
        return [out[e.id] for e in episodes]
    pool = make_env if isinstance(make_env, EnvPool) else EnvPool(make_env)
    independent = bool(getattr(policy, "independent", False))
    refills = independent and bool(getattr(policy, "refills", False))

    def begin(episode: Episode, slot: int) -> RunningEpisode:
        return RunningEpisode(episode, policy.name, fmt, actor, seed, slot)

    kept = set(out)

    def record(played: Iterable[Trajectory]) -> None:
        """On file, what is not there yet."""
        new = [t for t in played if t.id not in kept]
        kept.update(t.id for t in new)
        if on_done is not None and new:
            on_done(new)

    def put(ended: Sequence[RunningEpisode]) -> None:
        record(run.trajectory() for run in ended if run.episode.id not in kept)

    try:
        alone = bool(getattr(policy, "alone", False))  # it waits for a server, not for a core
        size = pool.width(len(episodes), batch_size, independent=independent and not alone)
        chunk_size = len(episodes) if refills else size
        with _Bar(total=len(episodes), desc=progress, unit="episode", disable=not progress) as bar:
            chunks = [
                episodes[start : start + chunk_size]
                for start in range(0, len(episodes), chunk_size)
            ]
            elsewhere = getattr(policy, "elsewhere", None)
            if elsewhere is not None:
                left = [c for c in chunks if not all(e.id in out for e in c)]
                bar.skip(len(episodes) - sum(map(len, left)))
                for played, restores, redone in elsewhere(left, actor, seed, size):
                    pool.add(restores, redone)
                    bar.update(len(played))
                    record(played)
                    out |= {t.id: t for t in played}
                chunks = []
            for chunk in chunks:
                missing = [e for e in chunk if e.id not in out]
                if not independent and missing:
                    missing = list(chunk)
                bar.skip(len(chunk) - len(missing))
                runs = [begin(e, i if i < size else _WAITING) for i, e in enumerate(missing)]
                at_once = put if refills else None
                play = _play_alone if alone else _play
                fatal, broken = play(runs, policy, pool, bar, redo=pool.own_process, ended=at_once)
                if broken and not fatal:
                    pool.redone += len(broken)
                    again = {run.episode.id: begin(run.episode, run.slot) for run in broken}
                    runs = [again.get(run.episode.id, run) for run in runs]
                    for i, run in enumerate(again.values() if refills else ()):
                        run.slot = i if i < size else _WAITING  # two may have had one slot
                    fatal, _ = _play([*again.values()], policy, pool, bar, redo=False)
                put([run for run in runs if run.slot != _WAITING])
                if fatal:
                    raise ProviderError(fatal)
                out |= {run.episode.id: run.trajectory() for run in runs}
    finally:
        if pool is not make_env:
            pool.close()
    return [out[e.id] for e in episodes]


def _check(episodes: Sequence[Episode], fmt: PromptFormat, batch_size: int) -> None:
    if batch_size < 1:
        raise DataError(f"batch_size is {batch_size}; it must be at least 1")
    seen: set[str] = set()
    for e in episodes:
        if e.id in seen:
            raise DataError(f"two episodes have the id {e.id!r}; give them different keys")
        seen.add(e.id)
        if e.task.env != fmt.env:
            raise DataError(
                f"task {e.task.id!r} is of environment {e.task.env!r}, the prompt format is for "
                f"{fmt.env!r}; use get_format({fmt.name!r}, {e.task.env!r})"
            )


def _play(
    runs: Sequence[RunningEpisode],
    policy: Policy,
    pool: EnvPool,
    bar: _Bar,
    *,
    redo: bool,
    ended: Callable[[list[RunningEpisode]], None] | None = None,
) -> tuple[str, list[RunningEpisode]]:
    """Play `runs` to their ends, each in the environment of its slot.

    Those that wait get the slots of those that end, at once; `ended` is told of the latter.

    Returns:
        Why the provider cannot go on, or nothing; and, with `redo`, the runs whose environment
        broke: they are not done with.
    """
    fatal = ""
    active = [run for run in runs if run.slot != _WAITING]
    waiting = deque(run for run in runs if run.slot == _WAITING)
    broken: list[RunningEpisode] = []

    def each(act: Callable[[RunningEpisode], None], some: Sequence[RunningEpisode]) -> None:
        """`act` on running episodes; a fault ends that one only."""

        def fault(run: RunningEpisode) -> EefError | None:
            try:
                act(run)
            except _EPISODE_FAULTS as exc:
                return exc
            return None

        for run, exc in zip(some, pool.map(fault, some), strict=True):
            if exc is not None:
                run.fail(exc)
            if isinstance(exc, EnvironmentFault):
                pool.discard(run.slot)
                if redo:
                    broken.append(run)
                    continue
            if run.over:
                bar.finished(run)

    def settle() -> list[RunningEpisode]:
        """Those that go on, and those that now have the slots of the others."""
        over = [run for run in active if run.over]
        if over and ended is not None:
            ended([run for run in over if run not in broken])
        slots = [] if fatal else [run.slot for run in over]
        new = [waiting.popleft() for _ in slots[: len(waiting)]]
        for run, slot in zip(new, slots, strict=False):
            run.slot = slot
        each(lambda run: run.start(pool.get(run.slot)), new)
        return [run for run in active if not run.over] + new

    try:
        each(lambda run: run.start(pool.get(run.slot)), active)
        while active := settle():
            # the others wait: taking turns they would drive each other out of its memory
            turn = active[: getattr(policy, "holds", lambda: None)()]
            if policy.wants_admissible:
                each(RunningEpisode.look_around, [run for run in turn if not run.over])
            asked = [run for run in turn if not run.over]
            answers = _ask(policy, asked)
            fatal = fatal or next((r.error for r in answers if r.fatal), "")
            given = {run.episode.id: r for run, r in zip(asked, answers, strict=False)}
            each(lambda run, given=given: run.advance(given[run.episode.id]), asked)  # type: ignore[misc]
    finally:
        policy.forget([run.episode.id for run in runs])
    return fatal, broken


def _play_alone(
    runs: Sequence[RunningEpisode],
    policy: Policy,
    pool: EnvPool,
    bar: _Bar,
    *,
    redo: bool,
    ended: Callable[[list[RunningEpisode]], None] | None = None,
) -> tuple[str, list[RunningEpisode]]:
    """As `_play`, each episode in a thread of its own: none waits for another's reply.

    What a provider could not answer is played once more at the end: for one that keeps its answers
    the episode goes on from the step that it had lost.
    """
    slots: SimpleQueue[int] = SimpleQueue()
    for run in runs:
        if run.slot != _WAITING:
            slots.put(run.slot)
    turn, over = threading.Lock(), threading.Event()
    broken: list[RunningEpisode] = []
    fatal = ""

    def step(run: RunningEpisode) -> None:
        nonlocal fatal
        if policy.wants_admissible:
            run.look_around()
        (reply,) = _ask(policy, [run])
        fatal = fatal or (reply.error if reply.fatal else "")
        run.advance(reply)

    def whole(run: RunningEpisode, last: bool) -> RunningEpisode | None:
        """The episode to play again, if it is to be."""
        if over.is_set() or fatal:
            run.slot = _WAITING  # not begun: no record
            return None
        run.slot = slots.get()
        try:
            run.start(pool.get(run.slot))
            while not (run.over or over.is_set()):
                step(run)
        except _EPISODE_FAULTS as exc:
            run.fail(exc)
            if isinstance(exc, EnvironmentFault):
                pool.discard(run.slot)
                if redo:
                    with turn:
                        broken.append(run)
                    return None
        finally:
            policy.forget([run.episode.id])
            slots.put(run.slot)
        if run.error.startswith(ProviderError.__name__) and not (last or fatal):
            return run.rewind()
        with turn:
            if run.over and not over.is_set():
                bar.finished(run)
                if ended is not None:
                    ended([run])
        return None

    threads = ThreadPoolExecutor(max(1, slots.qsize()), "eef-episodes")
    todo, done = list(runs), False
    try:
        for last in (not getattr(policy, "remembers", False), True):
            played = threads.map(partial(whole, last=last), todo)
            todo = [run for run in played if run is not None]
        done = True
    finally:
        if not done:  # an interrupt: no further request, and no waiting for those in flight
            over.set()
            getattr(policy, "interrupt", lambda: None)()
        threads.shutdown(wait=done, cancel_futures=True)
    return fatal, broken


def _ask(policy: Policy, active: Sequence[RunningEpisode]) -> list[Reply]:
    if not active:
        return []
    asked = [run.conversation() for run in active]
    try:
        replies = policy.act(asked, rng=[run.rng for run in active])
    except ProviderError as exc:
        return [Reply("", error=str(exc), fatal=True) for _ in active]
    if len(replies) != len(active):
        raise DataError(
            f"policy {policy.name!r} gave {len(replies)} replies to {len(active)} conversations; "
            "act() must return one per conversation"
        )
    return replies


class _Bar(tqdm):
    """A progress bar over episodes that shows wins, and dollars so far, or tokens of a server."""

    _wins, _cost, _tokens = 0, 0.0, 0

    def finished(self, run: RunningEpisode) -> None:
        if not self.disable:
            self._wins += run.trajectory().solved
            used = run.trajectory().usage
            self._cost += used.cost_usd or 0.0
            self._tokens += used.prompt_tokens + used.completion_tokens
            cost = {"cost": f"${self._cost:.2f}"} if self._cost else {}
            if self._tokens and not cost:
                cost = {"tokens": f"{self._tokens:,}"}
            self.set_postfix({"wins": str(self._wins), **cost}, refresh=False)
            self.update()

    def skip(self, n: int) -> None:
        """`n` episodes are on file: the time left is that of what is still to run."""
        if not self.disable:
            self.initial += n
            self.update(n)
