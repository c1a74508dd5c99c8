"""Notebook 03, exercise 1: labels of a teacher's actions from the student's rollouts."""

from itertools import pairwise


def labels(states, solved):
    """One label for each action, from `won`, `lost` or `untried` of the states before them."""
    end = len(states)
    if solved:
        return ["beneficial"] * end  # the teacher itself shows that they lead to a win
    out = ["unknown"] * end
    tried = [t for t in range(end) if states[t] != "untried"]
    for here, after in pairwise([*tried, end]):
        if states[here] == "won" and (after == end or states[after] == "lost"):
            out[here:after] = ["harmful"] * (after - here)
        if states[here] == "lost" and "won" in states[here:]:
            won = states.index("won", here)
            out[here:won] = ["beneficial"] * (won - here)
    return out
