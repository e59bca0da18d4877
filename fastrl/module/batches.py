"""What a `training_step` learns from, where it learns from whole rollouts."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class Rollout(NamedTuple):
    """T steps of N environments, in order; row t is what action t was and caused.

    The row after an episode's end is the reset row: its action was ignored, its reward is 0 and so
    is its weight. `next_obs` of the row before it is the true last observation.
    """

    obs: Any
    """`[T, N, *O]`, or of several parts `[T, N, *shape]` by key."""
    actions: Tensor
    """`[T, N, *A]`, as they are stored."""
    next_obs: Any
    """As `obs`: what the actions led to."""
    rewards: Tensor
    """float32 `[T, N]`; with `reward_scaling` divided as those that values are learned from."""
    terminated: Tensor
    """bool `[T, N]`."""
    truncated: Tensor
    """bool `[T, N]`: a time limit cut the episode."""
    log_probs: Tensor
    """float32 `[T, N]`: log-probabilities of the actions under the policy that acted."""
    values: Tensor
    """float32 `[T, N]`: V(s) before the update; 0 without a value function."""
    advantages: Tensor
    """float32 `[T, N]`, by generalised advantage estimation."""
    returns: Tensor
    """float32 `[T, N]`: advantages plus values."""
    weights: Tensor
    """float32 `[T, N]`: 1 / count on the rows that count, 0 on reset rows."""
