"""Which trials are worth going on with: pure rules, no files and no processes.

A trial is compared with the others where their first seeds had trained for an eighth, a quarter and
a half of their steps. It is stopped there unless its greedy return is among the best two fifths. Of
equal returns half count as better, but not before three others are: where none has found anything
yet, as with a reward that comes at the goal alone, all go on. This is successive halving without
waiting (ASHA, Li et al. 2020, arXiv 1810.05934).
"""

from __future__ import annotations

from collections.abc import Sequence

NUM_TESTS = 8
"""Greedy tests of a run, evenly over its steps."""
RUNGS = (1, 2, 4)
"""The tests at which trials are compared: after an eighth, a quarter and a half of the steps."""
KEPT_SHARE = 0.4
FEWEST = 4
"""Others that must have come as far before any is stopped."""
SLOWEST = 4.0
"""A run that takes this many times as long as the defaults, or another first trial, is stopped."""
SLOWEST_TO_TARGET = 1.5
"""If seconds count: one that takes this many times as long as the best."""
NUM_LEADERS = 3
"""Trials that get all seeds."""


def is_behind(value: float, others: Sequence[float]) -> bool:
    """Returns whether a trial is to be stopped at a point of comparison.

    Args:
        value: its greedy return there.
        others: those of the others that came as far.
    """
    if len(others) < FEWEST:
        return False
    num_better = sum(other > value for other in others)
    num_equal = sum(other == value for other in others)
    place = num_better + (num_equal / 2 if num_better >= NUM_LEADERS else 0)
    return place >= KEPT_SHARE * (len(others) + 1)


def rung_of(num_tests: int) -> int | None:
    """Returns the index of the point of comparison at a test; None if it is none of them."""
    return RUNGS.index(num_tests) if num_tests in RUNGS else None
