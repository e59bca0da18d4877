"""Multilayer perceptrons on the same rows as one operation forwards and one backwards.

A network is a trunk, hidden layers with one activation, and heads, linear layers on its last
features. torch takes a pass through memory for each product, bias, activation and sum; the C++
extension takes 64 rows at a time through all layers, in the first caches, by the vectors of the
processor. In float32, as exact as torch's products.
Letters: B rows, D inputs, E networks, K and N inputs and outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastrl.kernels.extension import HAS_DENSE, num_worker_threads

if HAS_DENSE:
    from fastrl._C import Dense

ACTIVATIONS = ("relu", "tanh", "elu")
_BYTES = 4  # of a float32
WIDEST = 512  # wider layers leave the caches, and torch's products are faster


class DenseNetwork(NamedTuple):
    """Layers as pairs of a weight `[N, K]`, dense in rows or in columns, and a bias `[N]`."""

    hidden: Sequence[tuple[Tensor, Tensor]]
    heads: Sequence[tuple[Tensor, Tensor]]


def dense(x: Tensor, networks: Sequence[DenseNetwork], activation: str) -> list[Tensor]:
    """Takes rows through networks.

    Args:
        x: float32 `[B, D]`.
        networks: each has a hidden layer and a head, or more of them.
        activation: behind hidden layers, one of `ACTIVATIONS`.

    Returns:
        The values of all heads in their order, `[B, N]`, each in memory `[N, B]`. They have a
        gradient by x and by the layers, worked out as far as it is asked for, and no second one.

    Raises:
        ValueError: sizes or types do not fit, or this processor has no kernel.
    """
    weights, biases = _layers(networks)
    _check(x, networks, weights, biases, activation)
    is_kept = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *weights, *biases))
    layout = layout_of(networks, activation)
    return torch.ops.fastrl.dense(x.contiguous(), weights, biases, layout, is_kept)[:-1]


def dense_stack(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], activation: str
) -> Tensor:
    """Takes rows through E networks of the same sizes, whose layers lie side by side.

    Args:
        x: float32 `[B, D]`.
        weights: of two layers or more `[E, K, N]`, contiguous.
        biases: for each layer `[E, 1, N]`, contiguous.
        activation: between layers, one of `ACTIVATIONS`.

    Returns:
        What the last layers give, `[E, B, N]`, with a gradient as that of `dense`.

    Raises:
        ValueError: sizes or types do not fit, or this processor has no kernel.
    """
    for tensor in (*weights, *biases):
        if tensor.dim() != 3 or not tensor.is_contiguous() or len(tensor) != len(weights[0]):
            found = tuple(tensor.shape), tensor.stride()
            raise ValueError(f"expected contiguous layers of {len(weights[0])} networks, {found}")
    first = [(weight[0].t(), bias[0, 0]) for weight, bias in zip(weights, biases, strict=True)]
    network = DenseNetwork(first[:-1], first[-1:])
    _check(x, [network], *_layers([network]), activation)
    num_networks = len(weights[0])
    code, _, _, *layers = layout_of([network], activation)
    layout = [code, num_networks, num_networks, *(num_networks * layers)]
    is_kept = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *weights, *biases))
    given = x.contiguous(), list(weights), list(biases)
    return torch.ops.fastrl.dense(*given, layout, is_kept)[0]


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
    if x.dim() != 2 or 0 in x.shape:
        raise ValueError(f"expected rows [B, D], got {tuple(x.shape)}")
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


def layout_of(networks: Sequence[DenseNetwork], activation: str) -> list[int]:
    """Returns sizes and memory order of all layers as numbers, which operators can take.

    The activation, how many networks each tensor has layers of (0: of one, without a dimension for
    it), how many networks there are; then of each the numbers of hidden layers and heads, and of
    each layer its outputs and whether its weight lies as `[K, N]`.
    """
    layout = [ACTIVATIONS.index(activation), 0, len(networks)]
    for network in networks:
        layout += [len(network.hidden), len(network.heads)]
        for weight, _ in (*network.hidden, *network.heads):
            layout += [len(weight), int(not weight.is_contiguous())]
    return layout


def dense_kernel(num_rows: int, num_inputs: int, network: DenseNetwork, activation: str) -> Any:
    """Returns the extension's network of these sizes, its own, for whoever calls it directly."""
    x = torch.empty(num_rows, num_inputs)
    _check(x, [network], *_layers([network]), activation)
    return _Networks(num_rows, num_inputs, tuple(layout_of([network], activation))).kernel


class _Networks:
    """The extension's networks of some sizes, and what they fill."""

    def __init__(self, num_rows: int, num_inputs: int, layout: tuple[int, ...]) -> None:
        numbers = iter(layout)
        code, self.num_stacked, num_networks = next(numbers), next(numbers), next(numbers)
        networks: list[tuple[Any, Any]] = []
        self.head_sizes: list[int] = []
        for _ in range(num_networks):
            num_hidden, num_heads = next(numbers), next(numbers)
            hidden = [(next(numbers), bool(next(numbers))) for _ in range(num_hidden)]
            heads = [(next(numbers), bool(next(numbers))) for _ in range(num_heads)]
            networks.append((hidden, heads))
            self.head_sizes += [size for size, _ in heads]
        self.kernel = Dense(num_rows, num_inputs, code, networks)
        self.num_kept = self.kernel.num_kept
        self.strides = [1, num_rows] * len(self.head_sizes)

    def new_values(self, x: Tensor) -> list[Tensor]:
        """Returns memory for the heads' values, each column in one piece."""
        if self.num_stacked:
            return [x.new_empty(self.num_stacked, self.head_sizes[0], x.shape[0]).mT]
        return [x.new_empty(size, x.shape[0]).t() for size in self.head_sizes]

    def addresses(self, tensors: Sequence[Tensor]) -> list[int]:
        """Returns where each network's part of each tensor begins."""
        first = [tensor.data_ptr() for tensor in tensors]
        return self._for_each(first, tensors) if self.num_stacked else first

    def places(self, block: Tensor, starts: Sequence[int], like: Sequence[Tensor]) -> list[int]:
        """Returns where in a block, from these starts on, each network's part of each begins."""
        first = [block.data_ptr() + _BYTES * start for start in starts]
        return self._for_each(first, like) if self.num_stacked else first

    def _for_each(self, first: Sequence[int], like: Sequence[Tensor]) -> list[int]:
        steps = [_BYTES * tensor.stride(0) for tensor in like]
        return [
            start + network * step
            for network in range(self.num_stacked)
            for start, step in zip(first, steps, strict=True)
        ]


_networks = lru_cache(_Networks)


def _forward(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], layout: list[int], is_kept: bool
) -> list[Tensor]:
    """Returns the heads' values, and behind them what hidden layers give, one after the other."""
    num_rows, num_inputs = x.shape
    networks = _networks(num_rows, num_inputs, tuple(layout))
    values = networks.new_values(x)
    hidden = x.new_empty(networks.num_kept if is_kept else 0)  # 0 numbers have no address
    addresses = [x.data_ptr(), hidden.data_ptr()]
    for part in (values, weights, biases):
        addresses += networks.addresses(part)
    networks.kernel.forward(addresses, networks.strides, num_worker_threads())
    return [*values, hidden]


def _forward_shapes(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], layout: list[int], is_kept: bool
) -> list[Tensor]:
    of_a_row = _networks(1, 1, tuple(layout))
    return [*of_a_row.new_values(x), x.new_empty(x.shape[0] * of_a_row.num_kept if is_kept else 0)]


def _backward(
    x: Tensor,
    hidden: Tensor,
    d_outputs: list[Tensor],
    weights: list[Tensor],
    biases: list[Tensor],
    layout: list[int],
    starts: list[int],
    has_d_x: bool,
) -> tuple[Tensor, Tensor]:
    """Returns gradients of weights and biases in one block `[P]`, each from its start on, and of x.

    Without starts the block is empty, and so is x's gradient unless it is asked for.
    """
    block = x.new_empty(starts[-1] if starts else 0)
    d_x = x.new_empty(x.shape if has_d_x else 0)
    networks = _networks(*x.shape, tuple(layout))
    addresses = [x.data_ptr(), hidden.data_ptr()]
    for part in (d_outputs, weights, biases):
        addresses += networks.addresses(part)
    if starts:
        middle = len(weights)
        addresses += networks.places(block, starts[:middle], weights)
        addresses += networks.places(block, starts[middle:-1], biases)
    strides = [stride for tensor in d_outputs for stride in tensor.stride()[-2:]]
    strides *= networks.num_stacked or 1
    given = addresses, strides, bool(starts), d_x.data_ptr()
    networks.kernel.backward(*given, num_worker_threads())
    return block, d_x


def _backward_shapes(
    x: Tensor,
    hidden: Tensor,
    d_outputs: list[Tensor],
    weights: list[Tensor],
    biases: list[Tensor],
    layout: list[int],
    starts: list[int],
    has_d_x: bool,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(starts[-1] if starts else 0), x.new_empty(x.shape if has_d_x else 0)


def _keep(ctx: Any, inputs: Any, output: list[Tensor]) -> None:
    x, weights, biases, ctx.layout, is_kept = inputs
    if not is_kept:
        raise ValueError(
            "fastrl::dense keeps nothing of this pass that a gradient could be made of"
        )
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, output[-1], *weights, *biases)


def _gradients(ctx: Any, d_outputs: list[Tensor | None]) -> Any:
    x, hidden, *parameters = ctx.saved_tensors
    middle = len(parameters) // 2
    weights, biases = parameters[:middle], parameters[middle:]
    has_d_x, *are_learning = ctx.needs_input_grad[:3]
    starts = starts_of(parameters) if any(map(any, are_learning)) else []
    zeros = _networks(1, 1, tuple(ctx.layout)).new_values(x)
    given = [
        values.zero_() if d_values is None else d_values
        for d_values, values in zip(d_outputs[:-1], zeros, strict=True)
    ]
    block, d_x = torch.ops.fastrl.dense_backward(
        x, hidden, given, weights, biases, ctx.layout, starts, has_d_x
    )
    found: list[Any] = [None] * len(parameters)
    if starts:
        places = zip(parameters, starts, strict=False)
        found = [block.as_strided(p.shape, p.stride(), at) for p, at in places]
    return d_x if has_d_x else None, found[:middle], found[middle:], None, None


class SecondDerivativeError(RuntimeError):
    """A gradient of a gradient was asked for, as of a gradient penalty."""


def _refuse(ctx: Any, *gradients: Any) -> Any:
    raise SecondDerivativeError("the kernels have no second derivatives")


_LIBRARY = torch.library.Library("fastrl", "FRAGMENT")
_LIBRARY.define(
    "dense(Tensor x, Tensor[] weights, Tensor[] biases, int[] layout, bool is_kept) -> Tensor[]"
)
_LIBRARY.define(
    "dense_backward(Tensor x, Tensor hidden, Tensor[] d_outputs, Tensor[] weights, "
    "Tensor[] biases, int[] layout, int[] starts, bool has_d_x) -> (Tensor, Tensor)"
)
_LIBRARY.impl("dense", _forward, "CPU")
_LIBRARY.impl("dense_backward", _backward, "CPU")
torch.library.register_fake("fastrl::dense", _forward_shapes, lib=_LIBRARY)
torch.library.register_fake("fastrl::dense_backward", _backward_shapes, lib=_LIBRARY)
torch.library.register_autograd("fastrl::dense", _gradients, setup_context=_keep, lib=_LIBRARY)
torch.library.register_autograd("fastrl::dense_backward", _refuse, lib=_LIBRARY)
