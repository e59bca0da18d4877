"""Gradient clipping and Adam on one flat vector of all parameters, in place."""

from __future__ import annotations

import torch
from torch import Tensor


def clip_by_norm(gradient: Tensor, max_norm: float) -> Tensor:
    """Scales `gradient` `[P]` in place to a norm of at most `max_norm`; returns the norm it had."""
    norm = gradient.norm()
    gradient.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def adam_step(
    parameters: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    step: Tensor,
    learning_rate: Tensor,
    eps: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
) -> None:
    """One step of Adam (Kingma and Ba 2015, arXiv 1412.6980, algorithm 1), in place.

    Args:
        parameters: float `[P]`, changed.
        gradient: float `[P]`.
        mean: running mean of the gradient, float `[P]`, changed.
        square: running mean of its square, float `[P]`, changed.
        step: number of steps so far, a float scalar, changed.
        learning_rate: a scalar.
        eps: added to the root of `square`.
        beta1: decay of `mean`.
        beta2: decay of `square`.
    """
    step.add_(1)
    mean.lerp_(gradient, 1 - beta1)
    square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    mean_correction = 1 - beta1**step
    square_correction = (1 - beta2**step).sqrt()
    root = (square.sqrt() / square_correction).add_(eps)
    parameters.sub_((learning_rate / mean_correction) * mean / root)


# torch's fused kernel changes tensors in lists, which TorchScript takes for no effect at all and
# leaves out of a graph. As an operation of its own, with a schema that names them, it stays.
_LIBRARY = torch.library.Library("fastrl", "FRAGMENT")
_LIBRARY.define(
    "fused_adam_(Tensor(a!) parameters, Tensor gradient, Tensor(b!) mean, Tensor(c!) square, "
    "Tensor(d!) step, Tensor learning_rate, float eps, float beta1, float beta2) -> ()"
)


def _fused_adam(
    parameters: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    step: Tensor,
    learning_rate: Tensor,
    eps: float,
    beta1: float,
    beta2: float,
) -> None:
    step.add_(1)
    torch.ops.aten._fused_adam_(
        [parameters],
        [gradient],
        [mean],
        [square],
        [],
        [step],
        lr=learning_rate,
        beta1=beta1,
        beta2=beta2,
        weight_decay=0.0,
        eps=eps,
        amsgrad=False,
        maximize=False,
    )


for _key in ("CPU", "CUDA"):
    _LIBRARY.impl("fused_adam_", _fused_adam, _key)
torch.library.register_fake("fastrl::fused_adam_", lambda *arguments: None, lib=_LIBRARY)


def fused_adam_step(
    parameters: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    step: Tensor,
    learning_rate: Tensor,
    eps: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
) -> None:
    """`adam_step` in one pass over memory; equal up to rounding.

    For 140,000 parameters on one thread it takes 0.4 of the time. Arguments as of `adam_step`. The
    kernel is that of `torch.optim.Adam(fused=True)`.
    """
    state = (mean, square, step, learning_rate)
    torch.ops.fastrl.fused_adam_(parameters, gradient, *state, eps, beta1, beta2)
