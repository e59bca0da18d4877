"""LSTM and GRU over whole sequences on a CPU, forwards and backwards, by the C++ extension.

What can be done for all steps at once is: the projection of the inputs and the gradients of weights
and inputs are products over all rows. What is left, the extension does step by step, only for the
sequences that have not ended: padding costs nothing there. torch's own layers are the twins.
Letters: L steps, B sequences, F inputs, H outputs, G gates (4 and 3).
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

HAS_KERNELS = False
if os.environ.get("FASTRL_NO_EXTENSION") != "1":
    try:
        from fastrl import _C

        HAS_KERNELS = True
    except ImportError:
        pass

# To the dispatcher each is one operation, so that a recorded update holds it.
_LIBRARY = torch.library.Library("fastrl", "FRAGMENT")
_LIBRARY.define(
    "lstm_forward(Tensor gates, Tensor state, Tensor w_hh, Tensor alive) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)
_LIBRARY.define(
    "lstm_backward(Tensor d_outputs, Tensor gates, Tensor cells, Tensor squashed, Tensor w_hh, "
    "Tensor alive) -> Tensor"
)
_LIBRARY.define(
    "gru_forward(Tensor gates, Tensor state, Tensor w_hh, Tensor b_hh, Tensor alive) "
    "-> (Tensor, Tensor, Tensor)"
)
_LIBRARY.define(
    "gru_backward(Tensor d_outputs, Tensor gates, Tensor candidates, Tensor hidden, Tensor w_hh, "
    "Tensor alive) -> (Tensor, Tensor)"
)


def lstm(inputs: Tensor, state: Tensor, alive: Tensor, *weights: Tensor) -> Tensor:
    """Goes through sequences with an LSTM.

    Args:
        inputs: float32 `[L, B, F]`, sequences in the order of falling length.
        state: outputs and cells before the first step, `[B, 2 * H]`; it gets no gradient.
        alive: int64 `[L]`: how many sequences have a step t. They are the first ones.
        *weights: w_ih `[4 * H, F]`, w_hh `[4 * H, H]`, b_ih and b_hh `[4 * H]`, as of `nn.LSTM`.

    Returns:
        `[L, B, H]`, zeros after a sequence's end.
    """
    return _Lstm.apply(inputs, state, alive, *weights)  # pyright: ignore[reportReturnType]


def gru(inputs: Tensor, state: Tensor, alive: Tensor, *weights: Tensor) -> Tensor:
    """Goes through sequences with a GRU; arguments as of `lstm`, with a state of `[B, H]`."""
    return _Gru.apply(inputs, state, alive, *weights)  # pyright: ignore[reportReturnType]


class _Lstm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        state: Tensor,
        alive: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor,
        b_hh: Tensor,
    ) -> Tensor:
        rows = torch.addmm(b_ih + b_hh, inputs.flatten(0, 1), w_ih.t())
        projected = rows.unflatten(0, inputs.shape[:2])
        gates, *memory = torch.ops.fastrl.lstm_forward(projected, state, w_hh, alive)
        ctx.save_for_backward(inputs, alive, w_ih, w_hh, gates, *memory)
        return memory[0][1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        inputs, alive, w_ih, w_hh, gates, hidden, cells, squashed = ctx.saved_tensors
        backward = torch.ops.fastrl.lstm_backward
        d_gates = backward(gradients[0], gates, cells, squashed, w_hh, alive).flatten(0, 1)
        d_bias = d_gates.sum(0)
        return (
            (d_gates @ w_ih).view_as(inputs) if ctx.needs_input_grad[0] else None,
            None,
            None,
            d_gates.t() @ inputs.flatten(0, 1),
            d_gates.t() @ hidden[:-1].flatten(0, 1),
            d_bias,
            d_bias,
        )


class _Gru(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        state: Tensor,
        alive: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor,
        b_hh: Tensor,
    ) -> Tensor:
        rows = torch.addmm(b_ih, inputs.flatten(0, 1), w_ih.t())
        projected = rows.unflatten(0, inputs.shape[:2])
        gates, *memory = torch.ops.fastrl.gru_forward(projected, state, w_hh, b_hh, alive)
        ctx.save_for_backward(inputs, alive, w_ih, w_hh, gates, *memory)
        return memory[1][1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        inputs, alive, w_ih, w_hh, gates, candidates, hidden = ctx.saved_tensors
        backward = torch.ops.fastrl.gru_backward
        both = backward(gradients[0], gates, candidates, hidden, w_hh, alive)
        d_inputs, d_states = (x.flatten(0, 1) for x in both)
        return (
            (d_inputs @ w_ih).view_as(inputs) if ctx.needs_input_grad[0] else None,
            None,
            None,
            d_inputs.t() @ inputs.flatten(0, 1),
            d_states.t() @ hidden[:-1].flatten(0, 1),
            d_inputs.sum(0),
            d_states.sum(0),
        )


def _with_first(state: Tensor, num_steps: int) -> Tensor:
    """Returns zeros `[L + 1, B, H]` with a state `[B, H]` as the first row."""
    rows = state.new_zeros(num_steps + 1, *state.shape)
    rows[0] = state
    return rows


def _lstm_forward(
    gates: Tensor, state: Tensor, w_hh: Tensor, alive: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gates = gates.clone()
    hidden, cells = (_with_first(part, len(gates)) for part in state.chunk(2, 1))
    squashed = torch.empty_like(hidden[1:])
    _C.lstm_forward(gates, hidden, cells, squashed, w_hh.t().contiguous(), alive)
    return gates, hidden, cells, squashed


def _lstm_backward(
    d_outputs: Tensor, gates: Tensor, cells: Tensor, squashed: Tensor, w_hh: Tensor, alive: Tensor
) -> Tensor:
    d_gates = torch.zeros_like(gates)
    given = gates, cells, squashed, d_outputs.contiguous()
    _C.lstm_backward(*given, d_gates, w_hh.contiguous(), alive)
    return d_gates


def _gru_forward(
    gates: Tensor, state: Tensor, w_hh: Tensor, b_hh: Tensor, alive: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    num_outputs = state.shape[1]
    gates = gates.clone()
    gates[..., : 2 * num_outputs] += b_hh[: 2 * num_outputs]
    hidden = _with_first(state, len(gates))
    candidates = b_hh[2 * num_outputs :].expand_as(hidden[1:]).contiguous()
    _C.gru_forward(gates, candidates, hidden, w_hh.t().contiguous(), alive)
    return gates, candidates, hidden


def _gru_backward(
    d_outputs: Tensor,
    gates: Tensor,
    candidates: Tensor,
    hidden: Tensor,
    w_hh: Tensor,
    alive: Tensor,
) -> tuple[Tensor, Tensor]:
    d_inputs, d_states = torch.zeros_like(gates), torch.zeros_like(gates)
    given = gates, candidates, hidden, d_outputs.contiguous()
    _C.gru_backward(*given, d_inputs, d_states, w_hh.contiguous(), alive)
    return d_inputs, d_states


for _function in (_lstm_forward, _lstm_backward, _gru_forward, _gru_backward):
    _LIBRARY.impl(_function.__name__[1:], _function, "CPU")
