"""LSTM and GRU over whole sequences on a CPU, forwards and backwards, by the C++ extension.

Sequences lie in the order of falling length. What counts of them is packed into rows, so padding
costs nothing here. What can be done for all rows at once is: the projection of the inputs, and the
gradients of weights and inputs. The extension does the rest step by step. torch's own layers are
the twins. Letters: L steps, B sequences, F inputs, H outputs, R rows that count.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastrl.kernels.extension import HAS_EXTENSION

if HAS_EXTENSION:
    from fastrl._C import gru_backward, gru_forward, lstm_backward, lstm_forward


def lstm(inputs: Tensor, state: Tensor, batch_sizes: Tensor | None, *weights: Tensor) -> Tensor:
    """Goes through sequences with an LSTM.

    Args:
        inputs: float32 `[L, B, F]`, the longest sequences first.
        state: outputs and cells before the first step, `[B, 2 * H]`; it gets no gradient.
        batch_sizes: int64 `[L]`: how many sequences have a step t, as in a `PackedSequence`; they
            are the first ones. None: all have L, and no size in here depends on a value.
        *weights: w_ih `[4 * H, F]`, w_hh `[4 * H, H]`, b_ih and b_hh `[4 * H]`, as of `nn.LSTM`.

    Returns:
        `[L, B, H]`, zeros after a sequence's end.

    Raises:
        ValueError: `batch_sizes` rises, or is not in `[0, B]`.
    """
    return _Lstm.apply(inputs, state, batch_sizes, *weights)  # pyright: ignore[reportReturnType]


def gru(inputs: Tensor, state: Tensor, batch_sizes: Tensor | None, *weights: Tensor) -> Tensor:
    """Goes through sequences with a GRU; as `lstm`, with a state `[B, H]` and three gates."""
    return _Gru.apply(inputs, state, batch_sizes, *weights)  # pyright: ignore[reportReturnType]


class _Lstm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, state: Tensor, batch_sizes: Tensor | None, *weights: Tensor
    ) -> Tensor:
        w_ih, w_hh, b_ih, b_hh = weights
        rows, x = _packed(inputs, batch_sizes)
        batch_sizes = _sizes(inputs, batch_sizes)
        gates = torch.addmm(b_ih + b_hh, x, w_ih.t())
        first = [part.contiguous() for part in state.chunk(2, 1)]
        made = [torch.empty_like(gates.chunk(4, 1)[0], memory_format=_DENSE) for _ in range(4)]
        torch.ops.fastrl.lstm_forward_(gates, *first, *made, w_hh.t().contiguous(), batch_sizes)
        hidden, cells, squashed, before = made
        ctx.save_for_backward(
            batch_sizes, w_ih, w_hh, rows, x, first[1], gates, cells, squashed, before
        )
        return _padded(hidden, rows, inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        batch_sizes, w_ih, w_hh, rows, x, first, gates, cells, squashed, before = ctx.saved_tensors
        d_outputs = gradients[0].flatten(0, 1)
        if rows is not None:
            d_outputs = d_outputs.index_select(0, rows)
        d_gates, given = torch.empty_like(gates), (gates, first, cells, squashed, d_outputs)
        torch.ops.fastrl.lstm_backward_(*given, d_gates, w_hh.contiguous(), batch_sizes)
        d_inputs, d_bias = _padded(d_gates @ w_ih, rows, gradients[0]), d_gates.sum(0)
        return d_inputs, None, None, d_gates.t() @ x, d_gates.t() @ before, d_bias, d_bias


class _Gru(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, state: Tensor, batch_sizes: Tensor | None, *weights: Tensor
    ) -> Tensor:
        w_ih, w_hh, b_ih, b_hh = weights
        rows, x = _packed(inputs, batch_sizes)
        batch_sizes = _sizes(inputs, batch_sizes)
        num_outputs = w_hh.shape[1]
        # The state's bias of n lies inside the product with r, and so with the candidates.
        of_gates, of_candidates = b_hh.split([2 * num_outputs, num_outputs])
        bias = torch.cat([b_ih[: 2 * num_outputs] + of_gates, b_ih[2 * num_outputs :]])
        gates, first = torch.addmm(bias, x, w_ih.t()), state.contiguous()
        part = gates.chunk(3, 1)[0]
        candidates, hidden, before = (
            torch.empty_like(part, memory_format=_DENSE) for _ in range(3)
        )
        candidates.copy_(of_candidates)
        made = candidates, hidden, before
        torch.ops.fastrl.gru_forward_(gates, first, *made, w_hh.t().contiguous(), batch_sizes)
        ctx.save_for_backward(batch_sizes, w_ih, w_hh, rows, x, first, gates, candidates, before)
        return _padded(hidden, rows, inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        batch_sizes, w_ih, w_hh, rows, x, first, gates, candidates, before = ctx.saved_tensors
        d_outputs = gradients[0].flatten(0, 1)
        if rows is not None:
            d_outputs = d_outputs.index_select(0, rows)
        d_gates, d_states = torch.empty_like(gates), torch.empty_like(gates)
        given = gates, first, candidates, before, d_outputs, d_gates, d_states
        torch.ops.fastrl.gru_backward_(*given, w_hh.contiguous(), batch_sizes)
        d_weights = d_gates.t() @ x, d_states.t() @ before, d_gates.sum(0), d_states.sum(0)
        return _padded(d_gates @ w_ih, rows, gradients[0]), None, None, *d_weights


_DENSE = torch.contiguous_format


def _packed(inputs: Tensor, batch_sizes: Tensor | None) -> tuple[Tensor | None, Tensor]:
    """Returns the numbers of the rows of `[L * B]` that count, int64 `[R]`, and these rows.

    No size of what follows is spelled out as a number: R is another one at every call of a
    recorded graph. If all rows count there are no numbers.
    """
    if batch_sizes is None:
        return None, inputs.flatten(0, 1)
    columns = torch.arange(inputs.shape[1])
    rows = (columns < batch_sizes.unsqueeze(1)).flatten().nonzero().squeeze(1)
    return rows, inputs.flatten(0, 1).index_select(0, rows)


def _sizes(inputs: Tensor, batch_sizes: Tensor | None) -> Tensor:
    if batch_sizes is None:
        return torch.full((inputs.shape[0],), inputs.shape[1])
    return batch_sizes


def _padded(x: Tensor, rows: Tensor | None, like: Tensor) -> Tensor:
    """Returns rows `[R, K]` at their places in zeros `[L, B, K]`."""
    if rows is None:
        return x.unflatten(0, like.shape[:2])
    full = x.new_zeros(like.shape[0] * like.shape[1], x.shape[1])
    return full.index_copy_(0, rows, x).unflatten(0, like.shape[:2])


# To the dispatcher each kernel is one operation, which tells what it changes.
_LIBRARY = torch.library.Library("fastrl", "FRAGMENT")
_SCHEMAS = (
    "lstm_forward_(Tensor(a!) gates, Tensor first_hidden, Tensor first_cells, Tensor(b!) hidden, "
    "Tensor(c!) cells, Tensor(d!) squashed, Tensor(e!) before, Tensor weight, "
    "Tensor batch_sizes) -> ()",
    "lstm_backward_(Tensor gates, Tensor first_cells, Tensor cells, Tensor squashed, "
    "Tensor d_outputs, Tensor(a!) d_gates, Tensor weight, Tensor batch_sizes) -> ()",
    "gru_forward_(Tensor(a!) gates, Tensor first_hidden, Tensor(b!) candidates, Tensor(c!) hidden, "
    "Tensor(d!) before, Tensor weight, Tensor batch_sizes) -> ()",
    "gru_backward_(Tensor gates, Tensor first_hidden, Tensor candidates, Tensor before, "
    "Tensor d_outputs, Tensor(a!) d_gates, Tensor(b!) d_states, Tensor weight, "
    "Tensor batch_sizes) -> ()",
)
for _schema in _SCHEMAS:
    _LIBRARY.define(_schema)
    _name = f"fastrl::{_schema.partition('(')[0]}"
    torch.library.register_fake(_name, lambda *arguments: None, lib=_LIBRARY)
if HAS_EXTENSION:
    _KERNELS = lstm_forward, lstm_backward, gru_forward, gru_backward
    for _schema, _kernel in zip(_SCHEMAS, _KERNELS, strict=True):
        _LIBRARY.impl(_schema.partition("(")[0], _kernel, "CPU")
