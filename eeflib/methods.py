"""Methods as data: which rollouts to run and which samples to keep.

Import `METHODS`, `get_method` and `rft` from here. `eeflib.selection` makes the samples; the
pipeline runs every method the same way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from eeflib.errors import DataError
from eeflib.exploration import Spacing
from eeflib.records import Branch
from eeflib.states import Evidence

Uses = Literal["positives", "all", "repository", "important", "pairs"]
States = Literal["recovery", "won", "mixed"]
Rule = Literal["nearest", "shortest", "random", "all"]
"""Which solution a state gets, see `eeflib.selection.choose`."""

FEW = 4
"""Rollouts from which on 95 % Wilson intervals of all won and all lost do not overlap."""


@dataclass(frozen=True)
class Method:
    """One way to turn teacher trajectories and student rollouts into training samples."""

    name: str
    description: str
    uses: Uses
    """`positives`: the teacher's successes; `all`: everything the teacher did; `repository`: all
    of D+; `important`: a solution for each important state; `pairs`: beside it a rollout that
    failed from there, for a training that prefers the one to the other."""
    explores_s0: bool = False
    attempts: int = 1
    """Rollouts from s0 per task and iteration."""
    budget: Literal["attempts", "steps"] = "attempts"
    """How long it explores from s0. `steps`: all tasks, again and again, until the student has
    taken as many actions as in EEF's exploration of that run; the last rollout is played out."""
    explores_states: bool = False
    M: int = 5
    """Expert states per teacher trajectory."""
    attempts_state: int = 1
    """Rollouts per expert state."""
    failures_only: bool = False
    """Explore states of the teacher's failures only."""
    successes_only: bool = False
    """Explore states of the teacher's successes only."""
    backward: bool = False
    """Explore the last states of each trajectory in the first iteration, the earlier ones in the
    later iterations, s0 in the last."""
    explored: int | None = None
    """Explore the first so many training tasks only; None: all."""
    spacing: Spacing = "even"
    states: States = "recovery"
    """Which expert states are important beside s0. `won`: from which the student solved the task;
    `mixed`: from which it both did and did not in one iteration."""
    d_s0: bool = True
    """Train on initial-state solutions."""
    d_r: bool = True
    """Train on solutions of important expert states."""
    hints: bool = False
    """Samples say after the instruction whether they solved the task; at play the student is told
    that its try is a good one."""
    mask: bool = True
    """Without it, chosen solutions are trained from their first action on."""
    rule: Rule = "nearest"
    """Which solution a state gets; with `repository`, `all` keeps every distinct one."""
    evidence: Evidence = "paper"
    accumulate: bool = True
    """D+ keeps the solutions of earlier iterations."""
    train_invalid: bool = False
    start_from: Literal["base", "previous"] = "base"
    """What each iteration's training starts from."""
    iterations: int = 0
    """Rounds of explore, select, train after behaviour cloning; 0 trains once, on the teacher."""

    def __post_init__(self) -> None:
        explores = self.explores_s0 or self.explores_states
        if min(self.attempts, self.attempts_state) < 1 or min(self.M, self.iterations) < 0:
            raise DataError(f"method {self.name!r}: attempts must be >= 1, M and iterations >= 0")
        if explores == (self.uses in ("positives", "all")) or explores != bool(self.iterations):
            raise DataError(
                f"method {self.name!r}: exploring, iterations >= 1 and uses='repository', "
                "'important' or 'pairs' go together"
            )
        if self.chooses and not (self.d_s0 or self.d_r):
            raise DataError(f"method {self.name!r} uses neither d_s0 nor d_r: nothing to train on")
        if self.chooses and self.d_r and self.states == "mixed" and self.attempts_state < 2:
            raise DataError(
                f"method {self.name!r}: states='mixed' needs attempts_state >= 2: one rollout is "
                "either won or lost"
            )
        if self.budget == "steps" and (self.explores_states or not self.explores_s0):
            raise DataError(f"method {self.name!r}: budget='steps' is for exploring from s0 only")
        if self.evidence == "wilson" and self.attempts_state < FEW:
            raise DataError(
                f"evidence='wilson' with attempts_state={self.attempts_state}: below {FEW} "
                "rollouts no interval separates won from lost; explore each state more often, or "
                "use evidence='paper'"
            )

    @property
    def explores(self) -> bool:
        return self.explores_s0 or self.explores_states

    @property
    def chooses(self) -> bool:
        """It trains on solutions of important states."""
        return self.uses in ("important", "pairs")

    @property
    def trains_harmful(self) -> bool:
        """Its samples train harmful or unknown actions on purpose: encode with `allow_harmful`."""
        if self.uses == "repository":  # whole solutions, the teacher's part of them too
            return self.explores_states
        return self.uses == "all" or (self.uses == "important" and not self.mask)

    def exploration(self, iteration: int = 1) -> dict[str, Any]:
        """Keyword arguments of `explore` and `plan_exploration`: which rollouts to run."""
        later: dict[str, Any] = {}  # absent where not asked for: it decides where records are kept
        if self.successes_only:
            later["successes_only"] = True
        if self.backward:
            later["stage"] = (min(iteration, self.iterations), self.iterations)
        return later | {
            "M": self.M,
            "attempts_s0": self.attempts,
            "attempts_state": self.attempts_state,
            "from_s0": self.explores_s0,
            "from_states": self.explores_states,
            "failures_only": self.failures_only,
            "spacing": self.spacing,
        }

    def simulations(self, n_tasks: int, n_states: int) -> int:
        """Rollouts an iteration runs, with `n_states` expert states over all trajectories; about,
        where not all tasks are explored, or `backward`, where an iteration runs its share."""
        share = min(1.0, (self.explored or n_tasks) / max(1, n_tasks))
        n_tasks, n_states = round(n_tasks * share), round(n_states * share)
        from_s0 = n_tasks * self.attempts if self.explores_s0 else 0
        runs = from_s0 + (n_states * self.attempts_state if self.explores_states else 0)
        return round(runs / self.iterations) if self.backward else runs

    def keeps(self, branch: Branch, teacher_solved: bool = False) -> bool:
        """Whether this method would have run `branch`, so that methods can share records; but for
        which states it explores.

        Args:
            teacher_solved: whether the teacher's trajectory that it goes on from did.
        """
        if branch.teacher_id is None:
            enough = self.budget == "attempts" and branch.attempt >= self.attempts
            return self.explores_s0 and not enough
        left_out = self.failures_only if teacher_solved else self.successes_only
        return self.explores_states and branch.attempt < self.attempts_state and not left_out


def rft(attempts: int = 1) -> Method:
    """Rejection-sampling fine-tuning with `attempts` rollouts a task: `RFT`, `RFTx6`, ..."""
    return Method(
        "RFT" if attempts == 1 else f"RFTx{attempts}",
        f"teacher successes and solved rollouts from s0, {attempts} a task",
        uses="repository",
        explores_s0=True,
        attempts=attempts,
        rule="all",
        iterations=3,
    )


def _neighbours(eef: Method) -> tuple[Method, ...]:
    """Ideas of other papers over the same rollouts and the same loop; docs/neighbours.md says what
    differs from each paper."""
    won = replace(eef, backward=True, states="won")
    return (
        Method(
            "NAT",
            "all teacher trajectories, each with a hint whether it solved its task",
            uses="all",
            hints=True,
        ),
        Method(
            "ETO",
            "a solution of each task preferred to a failed rollout of the clone (DPO)",
            uses="pairs",
            explores_s0=True,
            attempts=6,
            start_from="previous",
            iterations=3,
        ),
        replace(
            won,
            name="TCOD-like",
            description="the student's wins from the last expert states, then from earlier ones",
        ),
        replace(
            won,
            name="Backplay",
            description="the student's wins from states of teacher successes, the last ones first",
            successes_only=True,
        ),
        replace(
            eef,
            name="PivotRL-like",
            description="solutions from s0 and from states with rollouts both won and lost",
            states="mixed",
            attempts_state=2,
        ),
    )


def _all_methods() -> dict[str, Method]:
    eef = Method(
        "EEF",
        "solutions of initial and recovery states, found from s0 and from expert states",
        uses="important",
        explores_s0=True,
        explores_states=True,
        iterations=3,
    )
    methods = (
        Method("SFT", "behaviour cloning of the teacher's successes", uses="positives"),
        Method("SFT-all", "behaviour cloning of all teacher trajectories", uses="all"),
        rft(),
        rft(6),
        eef,
        replace(
            eef,
            name="EEF-positives",
            description="every solution from s0 and from expert states, whole: no choice, no mask",
            uses="repository",
            rule="all",
        ),
        replace(eef, name="EEF-no-mask", description="EEF, solutions trained whole", mask=False),
        replace(eef, name="EEF-s0-only", description="EEF on D_s0 only", d_r=False),
        replace(eef, name="EEF-r-only", description="EEF on D_r only", d_s0=False),
        *_neighbours(eef),
    )
    return {m.name: m for m in methods}


METHODS: Mapping[str, Method] = MappingProxyType(_all_methods())
"""Every declared method by name, with the paper's M = 5 and 3 iterations."""


def get_method(name: str) -> Method:
    """A declared method, `RFTx<k>` for any k >= 2, or `RFTx-steps` for EEF's budget of steps.

    Raises:
        DataError: no such method.
    """
    if name in METHODS:
        return METHODS[name]
    if name == "RFTx-steps":
        what = "teacher successes and solved rollouts from s0, as many actions as EEF explores with"
        return replace(rft(), name=name, description=what, budget="steps")
    times = re.fullmatch(r"RFTx([1-9]\d{0,3})", name)
    if times and int(times[1]) > 1:
        return rft(int(times[1]))
    raise DataError(
        f"unknown method {name!r}; choose one of {', '.join(METHODS)}, RFTx<k>, RFTx-steps"
    )
