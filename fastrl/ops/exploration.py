"""Exploration other than by independent noise at each step.

Letters: B rows, F features, A action dimensions, K choices.
"""

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


def exploration_noise(features: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    """Returns what state-dependent exploration adds to the means of actions, `[B, A]`.

    It is a linear function of the features, whose weights are normal and stay for many steps, so
    that a state leads to the same noise each time (Raffin et al. 2021, arXiv 2005.05719, section
    3.1):

        sum over f of  features[b, f] exp(log_std[f, a]) noise[b, f, a]

    Args:
        features: float `[B, F]`.
        log_std: logarithms of the weights' standard deviations, float `[F, A]`.
        noise: standard normal, `[B, F A]`.
    """
    assert features.dim() == log_std.dim() == 2 and noise.shape[1] == log_std.numel()
    weights = log_std.exp() * noise.unflatten(1, log_std.shape)
    return torch.bmm(features.unsqueeze(1).to(weights.dtype), weights).squeeze(1)


def exploration_log_std(features: Tensor, log_std: Tensor, eps: float = 1e-6) -> Tensor:
    """Returns the logarithms of the standard deviations of `exploration_noise`, `[B, A]`.

    Over the draws of the weights the noise of a state is normal (equation 7 there):

        variance[b, a] = sum over f of  features[b, f]^2 exp(log_std[f, a])^2

    Args:
        features: float `[B, F]`.
        log_std: float `[F, A]`.
        eps: added to the variance, so that it is none where all features are zero.
    """
    assert features.dim() == log_std.dim() == 2
    variance = features.float().square() @ (2 * log_std).exp()
    return 0.5 * (variance + eps).log()
