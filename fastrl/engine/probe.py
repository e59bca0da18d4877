"""Proves that a twin computes what the readable function says, before it may run in its place.

Both get the same random rows, while weights, normalisers and coefficients are moved away from where
they begin (zero biases and unit scales would hide much), and must give the same numbers and the
same gradients but for rounding. So a loss that somebody edited, a head that somebody derived or a
layer that somebody put in is never bypassed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

NUM_ROWS = 256
# Float32 rounds differently by 5e-7 or so of a norm; what anybody adds to a loss is larger.
_TOLERANCE = 1e-5
_SCALES = (0.1, 1.0)  # by how much weights are moved
_SEED_OF_SUMS = 1


def differences(
    readable: Callable[..., Any],
    twin: Callable[..., Any],
    draw: Callable[[torch.Generator], tuple[Tensor, ...]],
    state: Sequence[Tensor],
    names: Sequence[str],
    scales: Sequence[float] = _SCALES,
) -> list[str]:
    """Says in which results two functions differ; nothing if they are the same.

    Args:
        readable: what is to be computed; returns tensors.
        twin: what may compute it.
        draw: makes random arguments; called while `state` is moved.
        state: what both read: weights, buffers, coefficients. It is put back.
        names: what the results are called.
        scales: by how much `state` is moved, each time with other arguments.
    """
    found: list[str] = []
    for scale in scales:
        generator = torch.Generator().manual_seed(int(scale * 1000))
        with moved(state, scale, generator):
            given = draw(generator)
            expected = _leaves(readable(*(tensor.clone() for tensor in given)))
            try:
                actual = _leaves(twin(*(tensor.clone() for tensor in given)))
            except Exception as error:
                return [str(error).partition("\n")[0] or type(error).__name__]
        if len(actual) != len(expected):
            return [f"it returns {len(expected)} tensors, not {len(actual)}"]
        for index, (x, y) in enumerate(zip(expected, actual, strict=True)):
            if not _agree(x, y):
                found.append(names[index] if index < len(names) else f"result {index}")
    return list(dict.fromkeys(found))


def outputs_and_gradients(
    function: Callable[..., Any], module: nn.Module
) -> Callable[..., list[Tensor]]:
    """Returns a function that also gives its results' gradients by weights and some arguments.

    They are those of a random weighted sum of the results, the same at every call.
    """

    def run(*arguments: Tensor) -> list[Tensor]:
        parameters = [x for x in module.parameters() if x.requires_grad]
        wanted = [x for x in arguments if x.requires_grad]
        with torch.enable_grad():
            results = _leaves(function(*arguments))
            generator = torch.Generator().manual_seed(_SEED_OF_SUMS)
            total = torch.zeros(())
            for result in results:
                if result.requires_grad:
                    total = total + (result * torch.randn(result.shape, generator=generator)).sum()
            reached = [*parameters, *wanted] if total.requires_grad else []
            gradients = (
                torch.autograd.grad(total, reached, materialize_grads=True) if reached else ()
            )
        return [*(result.detach() for result in results), *gradients]

    return run


@contextmanager
def moved(state: Sequence[Tensor], scale: float, generator: torch.Generator) -> Iterator[None]:
    """Moves float tensors away from where they are, in place, and puts them back."""
    chosen = [x for x in state if x.is_floating_point() and x.numel()]
    floats = [x.detach() for x in chosen]
    before = [x.clone() for x in floats]
    try:
        for x, given in zip(floats, chosen, strict=True):
            # Positive, because variances must stay so; weights go both ways.
            step = torch.rand(x.shape, generator=generator, dtype=x.dtype)
            if isinstance(given, nn.Parameter):
                step = 2 * step - 1
            if x.dim() > 1:
                step *= (3 / x.shape[-1]) ** 0.5
            x.add_(step.to(x.device), alpha=scale)
        yield
    finally:
        for x, value in zip(floats, before, strict=True):
            x.copy_(value)


def random_rows(like: Tensor, num_rows: int, generator: torch.Generator) -> Tensor:
    """Returns rows of the type and shape of `like`'s, some far from zero."""
    shape = (num_rows, *like.shape[1:])
    if like.is_floating_point():
        return (torch.randn(shape, generator=generator) * 3).to(like.dtype)
    most = {torch.bool: 2, torch.uint8: 256}.get(like.dtype, 8)
    return torch.randint(0, most, shape, generator=generator).to(like.dtype)


def _leaves(results: Any) -> list[Tensor]:
    return [x for x in tree_leaves(results) if isinstance(x, Tensor)]


def _agree(expected: Tensor, actual: Tensor) -> bool:
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return False
    if not expected.is_floating_point():  # draws: rounding may decide between two that are as good
        return bool((expected == actual).float().mean() > 0.98)
    if expected.numel() <= 16:  # a few numbers, each of which counts
        largest = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
        return torch.allclose(actual, expected, rtol=_TOLERANCE, atol=2e-5 * largest)
    difference = (expected - actual).double().norm()
    return bool(difference <= _TOLERANCE * expected.double().norm() + 1e-7)
