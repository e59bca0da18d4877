"""Actions of a normal distribution squashed by tanh, with a gradient through them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0


def squashed_normal(outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draws actions and their log-density (arXiv 1812.05905, appendix C).

    Args:
        outputs: of a network: means, and logarithms of standard deviations, which are clamped to
            [-5, 2]; float `[B, 2 * A]`.
        noise: standard normal, `[B, A]`; no gradient goes to it.

    Returns:
        Actions in [-1, 1], `[B, A]`, and log pi(a|s), `[B]`, in nats.
    """
    return _SquashedNormal.apply(outputs, noise)  # pyright: ignore[reportReturnType]


def squashed_normal_plainly(outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """`squashed_normal` as the formulas stand, its gradient left to autograd."""
    mean, log_std = outputs.chunk(2, 1)
    log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
    u = mean + log_std.exp() * noise
    log_normal = -0.5 * noise * noise - log_std - 0.5 * math.log(2 * math.pi)
    return torch.tanh(u), (log_normal - log_slope_of_tanh(u)).sum(1)


def log_slope_of_tanh(u: Tensor) -> Tensor:
    """log(1 - tanh(u)^2), without cancellation at large |u|; any shape."""
    return 2 * (math.log(2) - u - nn.functional.softplus(-2 * u))


class _SquashedNormal(torch.autograd.Function):
    """Half the operations of the formulas, and a third of those of their gradient.

    d log(1 - tanh(u)^2) / du is -2 tanh(u), so what the density adds to the gradient of u is twice
    the action.
    """

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, wanted_log_std = outputs.chunk(2, 1)
        log_std = wanted_log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
        std = log_std.exp()
        u = torch.addcmul(mean, std, noise)
        actions = torch.tanh(u)
        # A density's terms with the signs turned, and without the constant.
        terms = torch.sub(log_std, u + nn.functional.softplus(-2 * u), alpha=2)
        terms = torch.addcmul(terms, noise, noise, value=0.5)
        constant = -noise.shape[1] * (0.5 * math.log(2 * math.pi) + 2 * math.log(2))
        ctx.save_for_backward(actions, std, noise, log_std, wanted_log_std)
        return actions, constant - terms.sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        d_actions, d_log_probs = gradients
        actions, std, noise, log_std, wanted_log_std = ctx.saved_tensors
        d_log_probs = d_log_probs.unsqueeze(1)
        d_u = torch.ops.aten.tanh_backward(d_actions, actions)
        d_mean = torch.addcmul(d_u, actions, d_log_probs, value=2)
        d_log_std = (d_mean * std * noise - d_log_probs) * (log_std == wanted_log_std)
        return torch.cat([d_mean, d_log_std], 1), None
