"""Notebook 03, exercise 2: which samples a task gives."""

from itertools import pairwise


def choose(states, labels, solved):
    """A pair (important state, state where the student takes over) for each sample."""
    end = len(states)
    tried = [t for t in range(end) if states[t] != "untried"]
    recovery = [b for a, b in pairwise(tried) if states[a] == "won" and states[b] == "lost"]
    takeovers = [t for t in tried if states[t] == "won"] + ([end] if solved else [])
    samples = []
    for start in [0, *recovery]:
        for there in takeovers:  # the earliest first
            if there >= start and set(labels[start:there]) <= {"beneficial"}:
                samples.append((start, there))
                break
    return samples
