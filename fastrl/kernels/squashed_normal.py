"""Actions of a normal distribution squashed by tanh, with a gradient through them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fastrl.kernels.extension import HAS_TILES, check_addresses, crew_threads

if HAS_TILES:
    from fastrl._C import draw_squashed_normal, take_back_squashed_normal

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0


def squashed_normal(
    outputs: Tensor, noise: Tensor, in_extension: bool = False
) -> tuple[Tensor, Tensor]:
    """Draws actions and their log-density (arXiv 1812.05905, appendix C).

    Args:
        outputs: of a network: means, and logarithms of standard deviations, which are clamped to
            [-5, 2]; float `[B, 2 * A]`.
        noise: standard normal, `[B, A]`; no gradient goes to it.
        in_extension: work in one operation of the C++ extension, which takes float32 on the CPU,
            where `kernels/extension.py` has tiles; torch's operations take a few microseconds each.

    Returns:
        Actions in [-1, 1], `[B, A]`, and log pi(a|s), `[B]`, in nats.

    Raises:
        ValueError: the extension is asked for and cannot take these.
    """
    if in_extension:
        _check(outputs, noise)
    function = _InExtension if in_extension else _SquashedNormal
    return function.apply(outputs, noise)  # pyright: ignore[reportReturnType]


def squashed_normal_plainly(outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """`squashed_normal` as the formulas stand, its gradient left to autograd."""
    mean, log_std = outputs.chunk(2, 1)
    log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
    u = mean + log_std.exp() * noise
    # 2 (log 2 - u - softplus(-2u)) is log(1 - tanh(u)^2) without cancellation at large |u|.
    log_slope = 2 * (math.log(2) - u - nn.functional.softplus(-2 * u))
    log_normal = -0.5 * noise * noise - log_std - 0.5 * math.log(2 * math.pi)
    return torch.tanh(u), (log_normal - log_slope).sum(1)


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


class _InExtension(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        outputs, noise = outputs.contiguous(), noise.contiguous()
        actions, log_probs = torch.ops.fastrl.squashed_normal(outputs, noise)
        ctx.save_for_backward(outputs, noise, actions)
        return actions, log_probs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        d_actions, d_log_probs = gradients
        if d_actions.stride(1) != 1:  # rows may be parts of wider ones
            d_actions = d_actions.contiguous()
        known = (*ctx.saved_tensors, d_actions, d_log_probs.contiguous())
        return torch.ops.fastrl.squashed_normal_backward(*known), None


def _check(outputs: Tensor, noise: Tensor) -> None:
    """Raises ValueError for what the extension could not know: it is told addresses alone."""
    check_addresses(outputs, noise)
    num_rows, num_actions = noise.shape
    if outputs.shape != (num_rows, 2 * num_actions):
        found = f"{tuple(outputs.shape)} outputs, {tuple(noise.shape)} noise"
        raise ValueError(f"expected [B, 2 * A] outputs and [B, A] noise, got {found}")


def _draw(outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    actions, log_probs = torch.empty_like(noise), noise.new_empty(len(noise))
    addresses = [tensor.data_ptr() for tensor in (outputs, noise, actions, log_probs)]
    num_rows, num_actions = noise.shape
    bounds = LOG_STD_MIN, LOG_STD_MAX
    draw_squashed_normal(addresses, num_rows, num_actions, *bounds, crew_threads())
    return actions, log_probs


def _take_back(
    outputs: Tensor, noise: Tensor, actions: Tensor, d_actions: Tensor, d_log_probs: Tensor
) -> Tensor:
    d_outputs = torch.empty_like(outputs)
    tensors = (outputs, noise, actions, d_actions, d_log_probs, d_outputs)
    addresses = [tensor.data_ptr() for tensor in tensors]
    num_rows, num_actions = noise.shape
    sizes, bounds = (num_rows, num_actions, d_actions.stride(0)), (LOG_STD_MIN, LOG_STD_MAX)
    take_back_squashed_normal(addresses, *sizes, *bounds, crew_threads())
    return d_outputs


_LIBRARY = torch.library.Library("fastrl", "FRAGMENT")
_LIBRARY.define("squashed_normal(Tensor outputs, Tensor noise) -> (Tensor, Tensor)")
_LIBRARY.define(
    "squashed_normal_backward(Tensor outputs, Tensor noise, Tensor actions, Tensor d_actions, "
    "Tensor d_log_probs) -> Tensor"
)
_LIBRARY.impl("squashed_normal", _draw, "CPU")
_LIBRARY.impl("squashed_normal_backward", _take_back, "CPU")
