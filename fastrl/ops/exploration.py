"""Exploration of agents that learn values of actions, in place of a policy."""

from __future__ import annotations

import torch
from torch import Tensor


def epsilon_greedy(values: Tensor, noise: Tensor, epsilon: Tensor | float) -> Tensor:
    """Returns the best action or, with probability epsilon, one drawn uniformly: int64 `[B]`.

    The noise is what policies draw with. Of K independent Gumbel numbers the place of the largest
    is uniform, and independent of how large it is (Gumbel 1954): P(max <= m) = exp(-K exp(-m)). So
    one draw is both the action and the coin, and acting stays a function of its arguments.

    Args:
        values: of actions, float `[B, K]`.
        noise: standard Gumbel `[B, K]`.
        epsilon: probability of a random action, a number or a scalar.
    """
    assert values.shape == noise.shape and values.dim() == 2
    largest, drawn = noise.max(1)
    coin = torch.exp(-values.shape[1] * torch.exp(-largest))
    return torch.where(coin < epsilon, drawn, values.argmax(1))
