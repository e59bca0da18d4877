"""PPO's clipped objective and its gradient by what the networks give, in one operation.

`ops/losses.py` and `models/distributions.py` have the same as formulas; torch works them and their
derivatives out in some eighty small operations. Letters: B rows, A logits or means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastrl.kernels.extension import HAS_DENSE, num_worker_threads

if HAS_DENSE:
    from fastrl._C import clipped_objective as _run

NUM_METRICS = 5
_NOTHING = torch.empty(0)


class ClippedGradient(NamedTuple):
    """The gradient of policy loss + vf_coef * value loss - ent_coef * entropy, and its parts."""

    outputs: Tensor
    """By logits or means, `[B, A]`."""
    values: Tensor
    """By values, `[B]`."""
    log_std: Tensor
    """By the logarithms of standard deviations, `[A]`; `[0]` where actions are choices."""
    metrics: Tensor
    """Policy loss, value loss, minus the entropy, approximate KL and clip fraction, `[5]`."""


def clipped_gradient(
    outputs: Tensor,
    values: Tensor,
    log_std: Tensor | None,
    num_choices: Sequence[int],
    minibatch: Sequence[Tensor],
    clip_coef: Tensor,
    ent_coef: Tensor,
    vf_coef: float,
    clips_values: bool,
) -> ClippedGradient:
    """Returns the gradient of `clipped_surrogate` and what is added to it (arXiv 1707.06347).

    Args:
        outputs: logits, of all dimensions side by side, or means of normals; float32 `[B, A]`.
        values: V(s), `[B]`.
        log_std: of normals, `[A]`; None for choices.
        num_choices: of each action dimension; none for normals.
        minibatch: actions, int64 `[B]` or `[B, dimensions]`, or float32 `[B, A]`; then of the
            policy that acted log-probabilities; advantages; returns; its values; weights, `[B]`.
        clip_coef: half width of the interval of ratios, and of values if these are clipped.
        ent_coef: weight of the entropy.
        vf_coef: weight of the value loss.
        clips_values: take `clipped_value_loss` in place of `value_loss`.

    Raises:
        ValueError: types or shapes do not fit, or this processor has no kernel.
    """
    if not HAS_DENSE:
        raise ValueError("this processor has no wide vectors, or fastrl no extension")
    actions, *rows = minibatch
    num_rows, num_outputs = outputs.shape
    if not num_rows:
        raise ValueError("expected rows, got none")
    log_std = _NOTHING if log_std is None else log_std
    wanted: list[tuple[Tensor, tuple[int, ...]]] = [(row, (num_rows,)) for row in (values, *rows)]
    wanted += [(outputs, (num_rows, sum(num_choices) or num_outputs)), (clip_coef, ())]
    wanted += [(ent_coef, ()), (log_std, (0 if num_choices else num_outputs,))]
    for tensor, shape in wanted:
        if tensor.shape != shape or tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            raise ValueError(f"expected float32 {shape}, got {tensor.dtype} {tuple(tensor.shape)}")
    dtype, size = (torch.int64, len(num_choices)) if num_choices else (torch.float32, num_outputs)
    if (
        actions.device.type != "cpu"
        or actions.dtype != dtype
        or actions.numel() != num_rows * size
        or len(actions) != num_rows
    ):
        raise ValueError(f"expected {dtype} actions of {num_rows} rows, got {actions.dtype}")
    given = outputs.t().contiguous(), actions, log_std, values, *rows
    coefs = clip_coef, ent_coef
    tensors = [tensor.detach().contiguous() for tensor in (*given, *coefs)]
    results = torch.ops.fastrl.clipped_gradient(tensors, list(num_choices), vf_coef, clips_values)
    return ClippedGradient(results[0].t(), *results[1:])


def _clipped_gradient(
    tensors: list[Tensor], num_choices: list[int], vf_coef: float, clips_values: bool
) -> list[Tensor]:
    outputs, _, log_std, values = tensors[:4]
    num_outputs, num_rows = outputs.shape
    results = [torch.empty_like(tensor) for tensor in (outputs, values, log_std)]
    results.append(outputs.new_empty(NUM_METRICS))
    addresses = [tensor.data_ptr() for tensor in (*tensors, *results)]
    sizes = num_rows, num_outputs, num_choices
    if not _run(addresses, *sizes, vf_coef, clips_values, num_worker_threads()):
        raise ValueError(f"an action is none of the choices, of which there are {num_choices}")
    return results


def _shapes(
    tensors: list[Tensor], num_choices: list[int], vf_coef: float, clips_values: bool
) -> list[Tensor]:
    outputs, _, log_std, values = tensors[:4]
    results = [torch.empty_like(tensor) for tensor in (outputs, values, log_std)]
    return [*results, outputs.new_empty(NUM_METRICS)]


_LIBRARY = torch.library.Library("fastrl", "FRAGMENT")
_LIBRARY.define(
    "clipped_gradient(Tensor[] tensors, int[] num_choices, float vf_coef, bool clips_values) "
    "-> Tensor[]"
)
_LIBRARY.impl("clipped_gradient", _clipped_gradient, "CPU")
torch.library.register_fake("fastrl::clipped_gradient", _shapes, lib=_LIBRARY)
