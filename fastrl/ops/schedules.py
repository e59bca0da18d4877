"""Schedules as pure functions of progress, and the adaptive learning rate.

Progress is the share of a run that is over: 0 before the first update, 1 - 1/U before the last of
U. A factor is what the coefficient's starting value is multiplied by.
"""

from __future__ import annotations

import math

WARMUP_START = 0.1
"""The factor that a warm-up rises from: with 0, a run's first update would learn nothing."""


def constant(progress: float, floor: float = 0.0) -> float:
    """1 throughout; `floor` has no effect."""
    return 1.0


def linear(progress: float, floor: float = 0.0) -> float:
    """Falls in a line from 1 to `floor`."""
    return floor + (1 - floor) * (1 - progress)


def cosine(progress: float, floor: float = 0.0) -> float:
    """Falls from 1 to `floor` along half a cosine (Loshchilov, Hutter 2017, arXiv 1608.03983)."""
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


SHAPES = {"constant": constant, "linear": linear, "cosine": cosine}


def factor(shape: str, progress: float, floor: float = 0.0, warmup: float = 0.0) -> float:
    """Returns the factor of a schedule.

    Args:
        shape: a name in `SHAPES`, for what is left of the run after the warm-up.
        progress: share of the run that is over, in [0, 1].
        floor: what the factor falls to, in [0, 1].
        warmup: share of the run in which it first rises in a line from `WARMUP_START` to 1.
    """
    if progress < warmup:
        return WARMUP_START + (1 - WARMUP_START) * progress / warmup
    return SHAPES[shape]((progress - warmup) / (1 - warmup), floor)


def progress_of(update_index: int, num_updates: int) -> float:
    """Returns the share of a run that is over before an update, from 0.

    An update by hand beyond the run's last has the progress of the last.
    """
    return min(update_index, num_updates - 1) / num_updates


def adapted_to_kl(learning_rate: float, kl: float, target: float, low: float, high: float) -> float:
    """Returns the learning rate that keeps steps of the policy near a KL divergence.

    As in rsl_rl and rl_games: a KL of more than twice the target divides the learning rate by 1.5,
    one of less than half of it multiplies by 1.5.

    Args:
        learning_rate: so far.
        kl: mean KL divergence between the policy that acted and the one of now, in nats.
        target: what it should be.
        low: least learning rate.
        high: largest learning rate.
    """
    if kl > 2 * target:
        return max(low, learning_rate / 1.5)
    if kl < target / 2:
        return min(high, learning_rate * 1.5)
    return learning_rate
