"""Multilayer perceptrons on the same rows as one operation forwards and one backwards.

A network is a trunk, hidden layers with one activation, and heads, linear layers on its last
features. torch takes a pass through memory for each product, bias, activation and sum; the C++
extension takes 64 rows at a time through all layers, in the first caches, by the vectors of the
processor. In float32, as exact as torch's products.
Letters: B rows, D inputs, K and N inputs and outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastrl.kernels.extension import HAS_DENSE, crew_threads

if HAS_DENSE:
    from fastrl._C import Dense

ACTIVATIONS = ("relu", "tanh", "elu")
WIDEST = 512  # wider layers leave the caches, and torch's products are faster
_LANES = 16  # what hidden layers give is padded to multiples of it, as dense_layer.h does


class DenseNetwork(NamedTuple):
    """Layers as pairs of a weight `[N, K]`, dense in rows or in columns, and a bias `[N]`."""

    hidden: Sequence[tuple[Tensor, Tensor]]
    heads: Sequence[tuple[Tensor, Tensor]]


def dense(x: Tensor, networks: Sequence[DenseNetwork], activation: str) -> list[Tensor]:
    """Takes rows through networks.

    Args:
        x: float32 `[B, D]`; it gets no gradient.
        networks: each has a hidden layer and a head, or more of them.
        activation: behind hidden layers, one of `ACTIVATIONS`.

    Returns:
        The values of all heads in their order, `[B, N]`, each in memory `[N, B]`.

    Raises:
        ValueError: sizes or types do not fit, or this processor has no kernel.
    """
    weights, biases = _layers(networks)
    _check(x, networks, weights, biases, activation)
    x, layout = x.contiguous(), _layout(networks, activation)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*weights, *biases)):
        return list(_Dense.apply(x, layout, *weights, *biases))  # pyright: ignore
    return torch.ops.fastrl.dense(x, weights, biases, layout, False)[:-1]


def dense_plainly(x: Tensor, networks: Sequence[DenseNetwork], activation: str) -> list[Tensor]:
    """`dense` by torch's operations, on any machine."""
    function = {"relu": torch.relu, "tanh": torch.tanh, "elu": torch.nn.functional.elu}[activation]
    outputs = []
    for network in networks:
        y = x
        for weight, bias in network.hidden:
            y = function(torch.nn.functional.linear(y, weight, bias))
        for weight, bias in network.heads:
            outputs.append(torch.addmm(bias.unsqueeze(1), weight, y.t()).t())
    return outputs


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: list[int], *parameters: Tensor) -> Any:
        weights, biases = _halves(parameters)
        *outputs, hidden = torch.ops.fastrl.dense(x, weights, biases, layout, True)
        ctx.save_for_backward(x, hidden, *parameters)
        ctx.layout = layout
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_outputs: Tensor) -> Any:
        x, hidden, *parameters = ctx.saved_tensors
        weights, biases = _halves(parameters)
        starts = starts_of(parameters)
        given = x, hidden, list(d_outputs), weights, biases
        block = torch.ops.fastrl.dense_backward(*given, ctx.layout, starts)
        places = zip(parameters, starts, strict=False)
        return None, None, *[block.as_strided(p.shape, p.stride(), at) for p, at in places]


def starts_of(tensors: Sequence[Tensor]) -> list[int]:
    """Returns where each tensor begins in a block of all, and where the block ends.

    In the order that they have in memory: an optimiser that keeps its parameters in one vector
    finds the block in the same order.
    """
    starts, start = [0] * len(tensors), 0
    for index in sorted(range(len(tensors)), key=lambda i: tensors[i].storage_offset()):
        starts[index] = start
        start += tensors[index].numel()
    return [*starts, start]


def _layers(networks: Sequence[DenseNetwork]) -> tuple[list[Tensor], list[Tensor]]:
    layers = [layer for network in networks for layer in (*network.hidden, *network.heads)]
    return [weight for weight, _ in layers], [bias for _, bias in layers]


def _halves(tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    middle = len(tensors) // 2
    return list(tensors[:middle]), list(tensors[middle:])


def _check(
    x: Tensor,
    networks: Sequence[DenseNetwork],
    weights: list[Tensor],
    biases: list[Tensor],
    activation: str,
) -> None:
    """Raises ValueError for what the extension could not know: it is told addresses alone."""
    if not HAS_DENSE:
        raise ValueError("this processor has no wide vectors, or fastrl no extension")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation} must be one of {', '.join(ACTIVATIONS)}")
    for tensor in (x, *weights, *biases):
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            raise ValueError(f"expected float32 on the CPU, got {tensor.dtype} on {tensor.device}")
    if x.dim() != 2 or 0 in x.shape or x.requires_grad:
        raise ValueError(f"expected rows [B, D] without a gradient, got {tuple(x.shape)}")
    for network in networks:
        if not network.hidden or not network.heads:
            raise ValueError("a network needs a hidden layer and a head")
        num_inputs = x.shape[1]
        for index, (weight, bias) in enumerate((*network.hidden, *network.heads)):
            is_dense = weight.is_contiguous() or weight.mT.is_contiguous()
            shapes = tuple(weight.shape), tuple(bias.shape)
            if shapes != ((len(bias), num_inputs), (len(bias),)) or not is_dense or not len(bias):
                raise ValueError(f"expected a dense layer of {num_inputs} inputs, got {shapes}")
            if not bias.is_contiguous():
                raise ValueError("expected biases that are contiguous")
            if index < len(network.hidden):
                num_inputs = len(bias)


def _layout(networks: Sequence[DenseNetwork], activation: str) -> list[int]:
    """Returns sizes and memory order of all layers as numbers, which operations can take."""
    layout = [ACTIVATIONS.index(activation), len(networks)]
    for network in networks:
        layout += [len(network.hidden), len(network.heads)]
        for weight, _ in (*network.hidden, *network.heads):
            layout += [len(weight), int(not weight.is_contiguous())]
    return layout


def dense_kernel(num_rows: int, num_inputs: int, network: DenseNetwork, activation: str) -> Any:
    """Returns the extension's network of these sizes, its own, for whoever calls it directly."""
    x = torch.empty(num_rows, num_inputs)
    _check(x, [network], *_layers([network]), activation)
    return _Networks(num_rows, num_inputs, tuple(_layout([network], activation))).kernel


class _Networks:
    """The extension's networks of some sizes, and what they fill."""

    def __init__(self, num_rows: int, num_inputs: int, layout: tuple[int, ...]) -> None:
        numbers = iter(layout)
        code, num_networks = next(numbers), next(numbers)
        networks: list[tuple[Any, Any]] = []
        self.num_kept, self.head_sizes = 0, []
        for _ in range(num_networks):
            num_hidden, num_heads = next(numbers), next(numbers)
            hidden = [(next(numbers), bool(next(numbers))) for _ in range(num_hidden)]
            heads = [(next(numbers), bool(next(numbers))) for _ in range(num_heads)]
            networks.append((hidden, heads))
            self.num_kept += num_rows * sum(-(-size // _LANES) * _LANES for size, _ in hidden)
            self.head_sizes += [size for size, _ in heads]
        self.kernel = Dense(num_rows, num_inputs, code, networks)
        self.strides = [1, num_rows] * len(self.head_sizes)


_networks = lru_cache(_Networks)


def _forward(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], layout: list[int], is_kept: bool
) -> list[Tensor]:
    """Returns the heads' values, and behind them what hidden layers give, one after the other."""
    num_rows, num_inputs = x.shape
    networks = _networks(num_rows, num_inputs, tuple(layout))
    columns = [x.new_empty(size, num_rows) for size in networks.head_sizes]
    hidden = x.new_empty(networks.num_kept if is_kept else 0)  # 0 numbers have no address
    tensors = x, hidden, *columns, *weights, *biases
    addresses = [tensor.data_ptr() for tensor in tensors]
    networks.kernel.forward(addresses, networks.strides, crew_threads())
    return [*[values.t() for values in columns], hidden]


def _backward(
    x: Tensor,
    hidden: Tensor,
    d_outputs: list[Tensor],
    weights: list[Tensor],
    biases: list[Tensor],
    layout: list[int],
    starts: list[int],
) -> Tensor:
    """Returns the gradients of weights and biases in one block `[P]`, each from its start on."""
    block = x.new_empty(starts[-1])
    base, size = block.data_ptr(), block.element_size()
    addresses = [tensor.data_ptr() for tensor in (x, hidden, *d_outputs, *weights, *biases)]
    addresses += [base + size * start for start in starts[:-1]]
    strides = [stride for tensor in d_outputs for stride in tensor.stride()]
    _networks(*x.shape, tuple(layout)).kernel.backward(addresses, strides, crew_threads())
    return block


_LIBRARY = torch.library.Library("fastrl", "FRAGMENT")
_LIBRARY.define(
    "dense(Tensor x, Tensor[] weights, Tensor[] biases, int[] layout, bool is_kept) -> Tensor[]"
)
_LIBRARY.define(
    "dense_backward(Tensor x, Tensor hidden, Tensor[] d_outputs, Tensor[] weights, "
    "Tensor[] biases, int[] layout, int[] starts) -> Tensor"
)
_LIBRARY.impl("dense", _forward, "CPU")
_LIBRARY.impl("dense_backward", _backward, "CPU")
