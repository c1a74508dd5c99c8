"""The kinds of failure, and the rules that hold in any environment.

Import `KINDS`, `Finding` and `Usual` from here, the rules in `eeflib.analysis.taxonomy`, which adds
those of the known environments. A rule is a function, trajectory and task -> findings. What an
environment thought of an action is on record only where ours acted: of other episodes it is read
off the answers, how they were ended off the other episodes, and what neither tells is not claimed.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from eeflib.records import Step, Task, Trajectory


class Kind(NamedTuple):
    """A way to fail."""

    title: str
    meaning: str
    glyph: str
    says: str
    """What it tells: why it failed (`cause`), only how it ended (`end`), or `nothing`."""


_CAUSES = {
    "fault": ("\u26a0", "Provider or environment broke; the episode says nothing."),
    "wrong_focus": ("\u25ce", "Focused on something else than was asked, which ends the task."),
    "wrong_product": ("\u2716", "Bought a thing of another kind."),
    "missed_attribute": ("\u25d1", "What was bought lacks a quality that was asked for."),
    "wrong_option": ("\u21c4", "Chose another value of an option that was asked for."),
    "missing_option": ("\u25a1", "Did not choose an option that was asked for."),
    "over_price": ("$", "What was bought costs more than allowed."),
    "invalid_actions": (
        "\u2298",
        "A third of the actions was refused, or changed nothing.",
    ),
    "menu_mishap": ("#", "A question that asked for a number took what came next as its answer."),
    "loop": ("\u21bb", "Did the same over and over."),
    "stalled": ("\u2015", "Saw nothing new in the last third of its actions, or longer."),
    "contradiction": ("\u2260", "Did another thing than its own thought names."),
    "no_progress": ("\u2013", "Used its steps and hardly scored."),
    "wandered": ("\u2934", "Used its steps looking at pages, and bought nothing."),
}
_ENDS = {
    "stopped_early": ("\u25fc", "Ended before any limit, by nothing on record but itself."),
    "said_done": (
        "\u2611",
        "Said that it was done, or handed in an answer; not solved.",
    ),
    "ran_out_of_steps": ("\u25f7", "Was getting on when the limit ended it."),
    "never_bought": ("\u2205", "Ended without a purchase."),
    "bad_purchase": ("\u2048", "Bought, and nothing recorded tells what was wrong."),
    "wrong_end": ("\u2573", "The environment ended it, not solved."),
}
_NOTHING = {"no_cause_found": ("?", "No rule says why it failed.")}
KINDS: Mapping[str, Kind] = {
    name: Kind(name.replace("_", " ").capitalize(), meaning, glyph, says)
    for says, kinds in (("cause", _CAUSES), ("end", _ENDS), ("nothing", _NOTHING))
    for name, (glyph, meaning) in kinds.items()
}
"""Name -> kind, in the order of precedence: of several, the first is the main one. A kind that is
only a minor finding of an episode (`Finding.main` is False) comes after all that are not."""


class Finding(NamedTuple):
    """One kind of failure, and what shows it."""

    kind: str
    rule: str
    """Name of the rule that found it."""
    t: int
    """The step that shows it; the number of steps for the end."""
    text: str
    """What was seen or done, or the numbers behind it. Holds text of the record: escape it."""
    main: bool = True
    """False: it happened, but something else may have decided the episode."""


HARDLY = 0.1
"""A best score up to this is no progress. [ours]"""
LONGEST_ROUND = 6
"""Actions in the longest round that counts as a loop. [ours]"""


def step_limit(task: Task | None) -> int | None:
    """Most actions the task allows, where it says so."""
    limit = task.settings.get("max_steps") if task else None
    return limit if isinstance(limit, int) and limit > 0 else None


def best_score(trajectory: Trajectory) -> float:
    """The highest score or reward on the way; an end that takes all away does not count."""
    scores = [s.reward if s.score is None else s.score for s in trajectory.steps]
    return max([*scores, trajectory.reward])


def fault(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """The record names a fault."""
    if trajectory.error:
        yield Finding("fault", "error on record", len(trajectory.steps), trajectory.error)


def loop(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """The same in the same place, three times running or round by round; main where half is that.

    Waiting is no loop: some tasks need it.
    """
    moves = [(s.observation, s.action) for s in trajectory.steps]
    counts = Counter(m for m in moves if not m[1].startswith("wait"))
    repeated = sum(n for n in counts.values() if n >= 3)
    main = 2 * repeated >= len(moves)
    for size in range(1, LONGEST_ROUND + 1):
        rounds, start = _rounds(moves, size)
        if rounds >= 3:
            actions = ", ".join(a or "(none)" for _, a in moves[start : start + size])
            yield Finding("loop", "same round", start, f"{rounds} times running: {actions}", main)
            return
    if main and repeated >= 6:
        (_, action), n = counts.most_common(1)[0]
        start = next(t for t, s in enumerate(trajectory.steps) if s.action == action)
        text = f"{repeated} of {len(moves)} steps repeat others, most of all {action} ({n} times)"
        yield Finding("loop", "half repeated", start, text)


def _rounds(moves: Sequence[tuple[str, str]], size: int) -> tuple[int, int]:
    """How often a round of `size` actions is walked without pause, and where that begins.

    The first round may be entered from elsewhere: only from the second on the observations count.
    """
    best, begin, run = 1, 0, 0
    for t in range(size, len(moves)):
        (here, action), (there, before) = moves[t], moves[t - size]
        if action != before or action.startswith("wait"):
            run = 0
        elif here == there or run < size:
            run += 1
        else:
            run = 1
        if run // size + 1 > best:
            best, begin = run // size + 1, t - run + 1 - size
    return best, begin


def no_progress(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """The best score stays at a tenth; the main finding only where all steps were used."""
    best = best_score(trajectory)
    if best <= HARDLY and trajectory.steps:
        used = any(f.kind == "ran_out_of_steps" for f in ending(trajectory, task))
        text = f"best score {best:.2f} in {len(trajectory.steps)} actions"
        yield Finding("no_progress", "score", len(trajectory.steps), text, used)


def ending(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """Given up, cut by the limit, or ended by the environment."""
    total, limit = len(trajectory.steps), step_limit(task)
    last = trajectory.steps[-1].action if total else "no action at all"
    if trajectory.terminated:
        text = f"reward {trajectory.reward:.2f} of {trajectory.threshold:g} after: {last}"
        yield Finding("wrong_end", "ended, not solved", total, text)
    elif (limit is not None and total >= limit) or (limit is None and trajectory.truncated):
        text = f"{total} actions, score {best_score(trajectory):.2f}, last: {last}"
        yield Finding("ran_out_of_steps", "limit", total, text)
    else:
        left = f", {limit - total} steps left" if limit is not None else ""
        text = f"ends after {total} actions{left}, last: {last}"
        yield Finding("stopped_early", "not ended by anything", total, text)


# -- where the environment is not known -----------------------------------------------------------


class Usual(NamedTuple):
    """How long the episodes of an environment are, where no task says how long they may be."""

    limit: int = 0
    """Actions after which unsolved episodes end as if by a limit; 0: none is seen."""
    ended: int = 0
    """Unsolved episodes that end there."""
    solved: float = 0.0
    """Median actions of solved episodes; 0: fewer than five."""


NOT_KNOWN = Usual()


def usual(episodes: Iterable[tuple[str, int, bool, bool]]) -> dict[str, Usual]:
    """Environment -> `Usual`, from (environment, actions, solved, ended by the environment).

    A limit is seen where the longest episodes are three unsolved ones or more, equally long, and
    more than twice as many as at any other length of unsolved ones.
    """
    by_env: dict[str, list[tuple[int, bool, bool]]] = defaultdict(list)
    for env, length, solved, ended in episodes:
        by_env[env].append((length, solved, ended))
    out = {}
    for env, group in by_env.items():
        won = [length for length, solved, _ in group if solved]
        lost = Counter(length for length, solved, ended in group if not (solved or ended))
        most = max((length for length, *_ in group), default=0)
        rest = max((n for length, n in lost.items() if length != most), default=0)
        seen = most > 1 and lost[most] >= 3 and lost[most] > 2 * rest
        out[env] = Usual(
            limit=most if seen else 0,
            ended=lost[most] if seen else 0,
            solved=statistics.median(won) if len(won) >= 5 else 0.0,
        )
    return out


_TOLD = r"^\W*(?:(?:observation|result|output|response|feedback|system|tool|env(?:ironment)?)\W+)?"
_REFUSED = re.compile(
    _TOLD + r"(?:nothing happen(?:s|ed)|no known action|no such (?:action|command|tool|function|"
    r"option|element|file)|not a valid|(?:invalid|illegal|unrecogni[sz]ed|unsupported|malformed)\b|"
    r"unknown (?:action|command|tool|function|verb|option|argument)|error\b|[\w.]*(?:error|"
    r"exception)\W*:|traceback|i (?:do not|don't|didn't) understand|(?:i'm|i am) not sure what|"
    r"you (?:can't|cannot|can not)\b|that(?:'s| is) not (?:a verb|something)|(?:could|can) ?not "
    r"(?:understand|parse|execute)|failed to (?:parse|execute)|(?:the|that|this|your)? ?(?:\w+ )?"
    r"(?:action|command|input|move|tool|function)(?: [\w\[\]\"'`-]+)? (?:is |was )?(?:not (?:valid|"
    r"recogni[sz]ed|possible|allowed|understood|supported|available|found)|invalid))",
    re.IGNORECASE,
)
"""How an answer begins that refuses an action."""
_LOOKING = re.compile(r"\W*(?:look|examine|inventory|check|wait|think|observe|read|noop|pass)")
_COUNTER = re.compile(
    r"\b(?:step|turn|round|move|attempt)s?\b\D{0,12}\d+(?:\s*(?:/|of)\s*\d+)?"
    r"|\b\d+ (?:more )?(?:step|turn|round|move|attempt)s?\b",
    re.IGNORECASE,
)
_PAGE = 60
"""Characters from which on an answer is what there is to see, and no mere "OK"."""


def answers(trajectory: Trajectory) -> list[str]:
    """What was seen after each action, without counts of steps."""
    seen = [s.observation for s in trajectory.steps[1:]] + [trajectory.final_observation]
    return [_plain(text) for text in seen[: len(trajectory.steps)]]


def _plain(text: str) -> str:
    """The beginning of what was seen, without counts of steps."""
    return _COUNTER.sub("", text[:5000]).strip()


def invalid_actions(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """Three actions and a third of all; the main finding where it is half of them.

    Those that were not understood, that the answer refuses, or that leave a page as it was.
    """
    bad: dict[int, str] = {}
    for t, (step, answer) in enumerate(zip(trajectory.steps, answers(trajectory), strict=True)):
        if not step.valid:
            bad[t] = step.reason
        elif _REFUSED.match(answer[:200]):
            bad[t] = quoted(answer)
        elif len(answer) >= _PAGE and answer == _plain(step.observation) and _unseen(step):
            bad[t] = "nothing changed"
    total, first = len(trajectory.steps), min(bad, default=0)
    if len(bad) >= 3 and 3 * len(bad) >= total:
        what = trajectory.steps[first].action or "no action at all"
        text = f"{len(bad)} of {total} actions not understood or without effect, first: {what}"
        text += f" ({bad[first]})"
        yield Finding("invalid_actions", "a third invalid", first, text, 2 * len(bad) >= total)


def _unseen(step: Step) -> bool:
    """Whether it acts on what its page does not show; a choice that is offered may not show."""
    _, _, what = step.action.replace("[", " ").rstrip("] ").partition(" ")
    return not _LOOKING.match(step.action) and what.lower() not in step.observation.lower()


def quoted(text: str, limit: int = 120) -> str:
    """The beginning of a text, in quotes."""
    line = " ".join(text.split())
    return "\u201c" + (line if len(line) <= limit else f"{line[:limit]}\u2026") + "\u201d"


def last_news(trajectory: Trajectory) -> int:
    """The last action after which something new was seen or the score rose; -1: none.

    A short answer is new if the action is: "OK" may mean anything. One that refuses is none.
    """
    known = {_plain(s.observation) for s in trajectory.steps[:1]}
    last, best = -1, 0.0
    for t, (step, answer) in enumerate(zip(trajectory.steps, answers(trajectory), strict=True)):
        key = answer if len(answer) >= _PAGE else f"{step.action}\n{answer}"
        score = step.reward if step.score is None else step.score
        if score > best or (key not in known and answer and not _REFUSED.match(answer[:200])):
            last = t
        known.add(key)
        best = max(best, score)
    return last


def stalled(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """Nothing new in the last third of its actions, five at least; main where it is half."""
    total, last = len(trajectory.steps), last_news(trajectory)
    left = total - 1 - last
    if left >= 5 and 3 * left >= total:
        what = f"nothing new after step {last + 1} of {total}"
        if last >= 0:
            what += f", {trajectory.steps[last].action}: {quoted(answers(trajectory)[last])}"
        yield Finding("stalled", "last progress", max(last, 0), what, 2 * left >= total)


_DONE = re.compile(
    r"\W*(?:finish(?:ed)?|submit|done|stop|exit|quit|answer|terminate|complete[d]?|end|"
    r"final[_ ]answer|task[_ ](?:is )?(?:done|completed?))\b",
    re.IGNORECASE,
)
_SAYS_DONE = re.compile(
    r"\b(?:task|everything) (?:is|has been) (?:now )?(?:successfully )?(?:done|completed?|finished)"
    r"|\bi(?:'ve| have) (?:now )?(?:successfully )?(?:completed|finished) ",
    re.IGNORECASE,
)
_GIVES_UP = re.compile(
    r"\bgiv(?:e|ing) up\b|\b(?:unable|impossible|not possible|cannot be|can't be)\b"
    r"|\bi (?:can't|cannot|couldn't|could not) ",
    re.IGNORECASE,
)


def own_end(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """The last action says that it is done, hands in an answer, or gives up."""
    if not trajectory.steps:
        return
    t, step = len(trajectory.steps) - 1, trajectory.steps[-1]
    if not (_DONE.match(step.action) or _SAYS_DONE.search(step.action[:2000])):
        return
    text = f"{quoted(step.action)}, reward {trajectory.reward:.2f} of {trajectory.threshold:g}"
    if _GIVES_UP.search(step.action[:2000]):
        yield Finding("stopped_early", "says that it gives up", t, text)
    else:
        yield Finding("said_done", "last action", t, text)


def unknown_ending(trajectory: Trajectory, task: Task | None, known: Usual) -> Iterator[Finding]:
    """As `ending`; where no end is on record, by how long other episodes are, or not at all."""
    total = len(trajectory.steps)
    if any(own_end(trajectory, task)):
        return
    if trajectory.terminated or trajectory.truncated or step_limit(task) is not None:
        yield from ending(trajectory, task)
    elif total and total == known.limit:
        text = f"{total} actions, which no episode exceeds; {known.ended} unsolved ones end there"
        yield Finding("ran_out_of_steps", "as long as the longest", total, text)
    elif total and 2 * total <= (known.solved or known.limit):
        what = (
            f"solved ones take {known.solved:g} (median)"
            if known.solved
            else f"others go on to {known.limit}"
        )
        text = f"ends after {total} actions, {what}, last: {trajectory.steps[-1].action}"
        yield Finding("stopped_early", "half as long as others", total, text)


_SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?](?=\w)[^.!?\n]+)*")
_WILL = re.compile(
    r"\b(?:i(?:'ll| will| should| need to| must| am going to|'m going to| have to)|let me|let's"
    r"|next step is to|now to)\b",
    re.IGNORECASE,
)
_MORE = re.compile(
    r"\b(?:next|other|another|after|before|instead|rather|remaining|from|not|or|if|each|every|then"
    r"|all|until|than|one by one)\b|n't\b|\d\s*(?:-|\u2013|to|through|and|,)\s*\d",
    re.IGNORECASE,
)
"""What makes a plan name more than the one thing that is done now."""
_NUMBERED = re.compile(r"\b([a-z]{3,}) (\d{1,4})\b")
_ID = re.compile(r"\b(?=[a-z_]*\d)(?=\d*[a-z])[a-z0-9_]{6,}\b")
_CALL = re.compile(r"\b(\w+)\[([^\[\]]{1,80})\]")


def contradiction(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """The last plan in a thought names one thing, and the action does the same to another one.

    Named are the same noun with another number (`drawer 2`, `drawer 3`), another id
    (`b000000001`) or the same call with another argument (`click[red]`). What the action does must
    stand nowhere in the thought, and the plan must be of one thing. Never the main finding.
    """
    found = []
    for t, step in enumerate(trajectory.steps):
        plans = [s for s in _SENTENCE.findall(step.thought[:2000]) if _WILL.search(s)]
        if plans and not _MORE.search(plans[-1]):
            plan = plans[-1].strip()
            if _another(plan.lower(), step.thought.lower(), step.action.lower()):
                found.append((t, plan))
    if found:
        t, plan = found[0]
        text = f"thinks {quoted(plan)}, does {trajectory.steps[t].action}"
        text += f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        yield Finding("contradiction", "names another thing", t, text, False)


def _another(plan: str, thought: str, action: str) -> bool:
    """Whether the plan names one thing, the action another, which the thought does not name."""
    call, planned = _CALL.fullmatch(action.strip()), _CALL.findall(plan)
    if call and planned:
        return len(planned) == 1 and planned[0][0] == call[1] and call[2] not in thought
    ids, meant = (set(_ID.findall(text)) for text in (action, plan))
    if len(ids) == len(meant) == 1 and not (ids & meant):
        return ids.pop() not in thought
    done, named = (_NUMBERED.findall(text) for text in (action, plan))
    return any(
        noun == other and n != m and (noun, m) not in done and not re.search(rf"\b{n}\b", thought)
        for noun, n in done
        for other, m in named
    )


def scored_progress(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """As `no_progress`, where there are scores on the way: a reward at the end tells nothing."""
    if any(s.score is not None or s.reward for s in trajectory.steps):
        yield from no_progress(trajectory, task)


Rule = Callable[[Trajectory, Task | None], Iterable[Finding]]
ANY: Sequence[Rule] = (fault, invalid_actions, loop)
FOREIGN: Sequence[Rule] = (stalled, contradiction, own_end, scored_progress)
"""Of episodes that eeflib did not play: what an action did, and what ended them, is not known."""
