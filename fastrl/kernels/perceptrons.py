"""Multilayer perceptrons with ReLU side by side, in the matrix tiles of a CPU that has them.

Tiles (Intel AMX) multiply bfloat16 some ten times faster than vectors multiply float32. The C++
extension cuts each float32 into three bfloat16 and adds up the six products that count: as exact
as float32 arithmetic, in 0.7 of the time (two networks of 256-256, 256 rows, one thread). A whole
network is one operation forwards, one backwards and one for the gradients of its weights; the
extension shares rows, or weights, among threads.
Letters: E networks, B rows, D inputs, K and N inputs and outputs of a layer, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastrl.kernels.extension import HAS_TILES, check_addresses, crew_threads
from fastrl.kernels.networks import starts_of

if HAS_TILES:
    from fastrl._C import Perceptrons

_TILE = 32  # sizes of hidden layers are multiples of it
_FEWEST = 64  # numbers in a layer, and rows, that are worth cutting
_NUM_PIECES = {"highest": 3, "high": 2, "medium": 1}  # torch's float32 matmul precisions


def perceptrons(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Takes rows through E networks of the same sizes, linear layers with ReLU between.

    Args:
        x: float32 `[B, D]`, contiguous; for all networks.
        weights: two or more of `[E, K, N]`, each of its matrices dense, in rows or in columns.
        biases: for each layer `[E, N]`.

    Returns:
        `[E, B, O]`.

    Raises:
        ValueError: sizes do not fit one another, or this processor has no tiles.
    """
    _check(x, weights, biases)
    tensors = (x, *weights, *biases)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return _Perceptrons.apply(*tensors)  # pyright: ignore[reportReturnType]
    return torch.ops.fastrl.perceptrons(x, list(weights), list(biases), False)[0]


def perceptrons_plainly(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """`perceptrons` by torch's operations, on any machine."""
    y = x.expand(weights[0].shape[0], -1, -1)
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        y = torch.baddbmm(bias.unsqueeze(1), torch.relu(y) if layer else y, weight)
    return y


def suits_tiles(hidden_sizes: Sequence[int], num_rows: int) -> bool:
    """Tells whether `perceptrons` is to be had here, and fast for hidden layers of these sizes."""
    is_large = min(*hidden_sizes, num_rows) >= _FEWEST
    return HAS_TILES and is_large and all(size % _TILE == 0 for size in hidden_sizes)


class _Perceptrons(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        weights, biases = _halves(parameters)
        outputs, hidden = torch.ops.fastrl.perceptrons(x, weights, biases, True)
        ctx.save_for_backward(x, hidden, *parameters)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, hidden, *parameters = ctx.saved_tensors
        weights, _ = _halves(parameters)
        d_outputs, has_d_x = gradients[0].contiguous(), ctx.needs_input_grad[0]
        is_learnt = any(ctx.needs_input_grad[1:])
        d_hidden, d_x = torch.ops.fastrl.perceptrons_backward(
            weights, d_outputs, hidden, is_learnt, has_d_x
        )
        d_parameters: list[Any] = [None] * len(parameters)
        if is_learnt:
            starts = starts_of(parameters)
            known = x, weights, d_outputs, hidden, d_hidden
            block = torch.ops.fastrl.perceptrons_gradients(*known, starts)
            places = zip(parameters, starts, strict=False)
            d_parameters = [block.as_strided(p.shape, p.stride(), start) for p, start in places]
        return d_x.sum(0) if has_d_x else None, *d_parameters


def _halves(tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    middle = len(tensors) // 2
    return list(tensors[:middle]), list(tensors[middle:])


def _check(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
    """Raises ValueError for what the extension could not know: it is told addresses alone."""
    check_addresses(x, *weights, *biases)
    if len(weights) < 2 or len(biases) != len(weights):
        raise ValueError(f"expected two layers or more, got {len(weights)} and {len(biases)}")
    if any(weight.shape[-1] % _TILE for weight in weights[:-1]):
        sizes = [weight.shape[-1] for weight in weights[:-1]]
        raise ValueError(f"expected hidden layers of multiples of {_TILE}, got {sizes}")
    num_networks, num_inputs = weights[0].shape[0], x.shape[-1]
    wanted: list[tuple[Tensor, tuple[int, ...]]] = [(x, (len(x), num_inputs))]
    for weight, bias in zip(weights, biases, strict=True):
        wanted.append((weight, (num_networks, num_inputs, num_inputs := weight.shape[-1])))
        wanted.append((bias, (num_networks, num_inputs)))
    for tensor, shape in wanted:
        is_dense = tensor.is_contiguous() or (tensor.dim() == 3 and tensor.mT.is_contiguous())
        if tensor.shape != shape or not is_dense or 0 in shape:
            raise ValueError(
                f"expected dense {shape}, got {tuple(tensor.shape)}, {tensor.stride()}"
            )


def _how() -> tuple[int, int]:
    return _NUM_PIECES[torch.get_float32_matmul_precision()], crew_threads()


def _networks(num_rows: int, weights: list[Tensor]) -> Any:
    """Returns the extension's networks of these sizes."""
    return _networks_of(num_rows, *[(weight.shape, weight.stride()) for weight in weights])


@lru_cache
def _networks_of(num_rows: int, *layers: tuple[torch.Size, tuple[int, ...]]) -> Any:
    shapes = [shape for shape, _ in layers]
    sizes = [*[shape[1] for shape in shapes], shapes[-1][2]]
    have_rows = [stride[2] == 1 for _, stride in layers]
    return Perceptrons(shapes[0][0], num_rows, sizes, have_rows)


def _addresses(*tensors: Tensor) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def _forward(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], is_kept: bool
) -> tuple[Tensor, Tensor]:
    """Returns outputs `[E, B, O]`, and what hidden layers give, one after the other, or nothing."""
    num_networks, num_rows = weights[0].shape[0], x.shape[0]
    num_hidden = sum(bias.shape[1] for bias in biases[:-1]) if is_kept else 0
    outputs = x.new_empty(num_networks, num_rows, biases[-1].shape[1])
    hidden = x.new_empty(num_networks * num_rows * num_hidden)  # 0 numbers have no address
    networks = _networks(num_rows, weights)
    networks.forward(_addresses(x, hidden, outputs, *weights, *biases), *_how())
    return outputs, hidden


def _backward(
    weights: list[Tensor], d_outputs: Tensor, hidden: Tensor, is_kept: bool, has_d_x: bool
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of `hidden` before its ReLU, and of x by each network, `[E, B, D]`.

    One of them that is not asked for is empty.
    """
    num_networks, num_rows, _ = d_outputs.shape
    d_hidden = hidden.new_empty(hidden.numel() if is_kept else 0)
    d_x = hidden.new_empty(num_networks, num_rows if has_d_x else 0, weights[0].shape[1])
    networks = _networks(num_rows, weights)
    networks.backward(_addresses(d_outputs, hidden, d_hidden, d_x, *weights), *_how())
    return d_hidden, d_x


def _gradients(
    x: Tensor,
    weights: list[Tensor],
    d_outputs: Tensor,
    hidden: Tensor,
    d_hidden: Tensor,
    starts: list[int],
) -> Tensor:
    """Returns the gradients of weights and biases in one block `[P]`, each from its start on."""
    block = x.new_empty(starts[-1])
    base, size = block.data_ptr(), block.element_size()
    made = [base + size * start for start in starts[:-1]]
    networks = _networks(x.shape[0], weights)
    networks.gradients([*_addresses(x, d_outputs, hidden, d_hidden), *made], *_how())
    return block


_LIBRARY = torch.library.Library("fastrl", "FRAGMENT")
_LIBRARY.define(
    "perceptrons(Tensor x, Tensor[] weights, Tensor[] biases, bool is_kept) -> (Tensor, Tensor)"
)
_LIBRARY.define(
    "perceptrons_backward(Tensor[] weights, Tensor d_outputs, Tensor hidden, bool is_kept, "
    "bool has_d_x) -> (Tensor, Tensor)"
)
_LIBRARY.define(
    "perceptrons_gradients(Tensor x, Tensor[] weights, Tensor d_outputs, Tensor hidden, "
    "Tensor d_hidden, int[] starts) -> Tensor"
)
_LIBRARY.impl("perceptrons", _forward, "CPU")
_LIBRARY.impl("perceptrons_backward", _backward, "CPU")
_LIBRARY.impl("perceptrons_gradients", _gradients, "CPU")
