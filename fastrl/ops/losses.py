"""Losses and targets of the algorithms.

Means of the on-policy ones are weighted: `weights` `[B]` sum to 1 and are 0 on padding rows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastrl.ops.moments import Moments, moments_of


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of `values` `[B]` under `weights` `[B]`, a scalar; ValueError for other shapes."""
    if values.shape != weights.shape:
        shapes = [*values.shape], [*weights.shape]
        raise ValueError(f"expected one number per row, {shapes[1]}, got {shapes[0]}")
    return torch.dot(values, weights)


def clipped_surrogate(
    log_ratio: Tensor, advantages: Tensor, weights: Tensor, clip_coef: Tensor
) -> Tensor:
    """PPO's clipped objective as a loss (arXiv 1707.06347, equation 7).

    The clipped term matters only where it is the smaller one, which is at the upper end of the
    interval for positive advantages and at the lower end for negative ones: there it is
    `advantages + clip_coef |advantages|`, without a gradient.

    Args:
        log_ratio: log pi(a|s) - log pi_old(a|s), float `[B]`.
        advantages: float `[B]`.
        weights: float `[B]`.
        clip_coef: half width of the interval that the ratio is clipped to, a scalar.

    Returns:
        A scalar to minimise.
    """
    most = advantages + clip_coef * advantages.abs()
    return -weighted_mean(torch.minimum(log_ratio.exp() * advantages, most), weights)


def value_loss(values: Tensor, returns: Tensor, weights: Tensor) -> Tensor:
    """Mean squared error of the value prediction, without the factor 1/2; all float `[B]`."""
    error = values - returns
    return weighted_mean(error * error, weights)


def clipped_value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    weights: Tensor,
    clip_coef: Tensor,
    rule: str = "larger",
) -> Tensor:
    """The loss of a prediction that moved by at most `clip_coef`, without a factor 1/2.

    Args:
        values: float `[B]`.
        old_values: what advantages and returns were computed from, float `[B]`: the values before
            the update or, with `recompute_advantages`, before this epoch.
        returns: float `[B]`.
        weights: float `[B]`.
        clip_coef: half width of the interval that the change is clipped to, a scalar.
        rule: "larger" takes the larger of it and of `value_loss` for each row, as in OpenAI
            baselines' PPO2; "clipped" takes it alone, as in Stable-Baselines3.
    """
    moved = old_values + torch.clamp(values - old_values, -clip_coef, clip_coef)
    losses = (moved - returns) ** 2
    if rule == "larger":
        losses = torch.maximum((values - returns) ** 2, losses)
    return weighted_mean(losses, weights)


def approximate_kl(log_ratio: Tensor, weights: Tensor) -> Tensor:
    """KL(old || new) by the unbiased, low-variance estimator r - 1 - log r.

    Schulman 2020, "Approximating KL divergence".
    """
    return weighted_mean(log_ratio.exp() - 1 - log_ratio, weights)


def clip_fraction(log_ratio: Tensor, weights: Tensor, clip_coef: Tensor) -> Tensor:
    """Share of the rows whose ratio lies outside the clipping interval."""
    return weighted_mean(((log_ratio.exp() - 1).abs() > clip_coef).to(weights.dtype), weights)


def explained_variance(
    values: Tensor,
    returns: Tensor,
    valid: Tensor,
    over_ranks: Callable[[Moments], Moments] = lambda moments: moments,
) -> Tensor:
    """1 - Var(returns - values) / Var(returns): 1 is perfect, 0 no better than a constant.

    Args:
        values: float `[T, N]`.
        returns: float `[T, N]`.
        valid: bool `[T, N]`.
        over_ranks: makes the moments of all ranks' rows of those of one rank's.

    Returns:
        A scalar; NaN if the returns do not vary.
    """
    rows = torch.stack([returns, returns - values], -1).flatten(0, 1)
    returns_variance, error_variance = over_ranks(moments_of(rows, valid.flatten())).variance
    return torch.where(returns_variance > 0, 1 - error_variance / returns_variance, torch.nan)


def soft_target(
    rewards: Tensor, discounts: Tensor, next_values: Tensor, next_log_probs: Tensor, alpha: Tensor
) -> Tensor:
    """What a soft action value should be (arXiv 1812.05905, equations 2 and 3), `[B]`.

    Args:
        rewards: float `[B]`.
        discounts: gamma, and 0 where the episode terminated; `[B]`.
        next_values: Q(s', a') with a' drawn anew, `[B]`.
        next_log_probs: log pi(a'|s'), `[B]`.
        alpha: temperature, a scalar.
    """
    return rewards + discounts * (next_values - alpha * next_log_probs)


def temporal_difference_loss(values: Tensor, targets: Tensor) -> Tensor:
    """Mean over the minibatch of the squared error against `targets`, summed over the critics.

    Args:
        values: `[E, B]`.
        targets: `[B]`.
    """
    error = nn.functional.mse_loss(values, targets.expand_as(values), reduction="sum")
    return error / values.shape[1]
