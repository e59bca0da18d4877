"""LSTM and GRU over whole sequences on a CPU, forwards and backwards, by the C++ extension.

Sequences lie in the order of falling length. What counts of them is packed into rows, so padding
costs nothing here. What can be done for all rows at once is: the projection of the inputs, and the
gradients of weights and inputs. The extension does the rest step by step. torch's own layers are
the twins. Letters: L steps, B sequences, F inputs, H outputs, R rows that count.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

HAS_KERNELS = False
if os.environ.get("FASTRL_NO_EXTENSION") != "1":
    try:
        from fastrl._C import gru_backward, gru_forward, lstm_backward, lstm_forward

        HAS_KERNELS = True
    except ImportError:  # none, or one from before these were in it
        pass


def lstm(inputs: Tensor, state: Tensor, alive: Tensor, *weights: Tensor) -> Tensor:
    """Goes through sequences with an LSTM.

    Args:
        inputs: float32 `[L, B, F]`, the longest sequences first.
        state: outputs and cells before the first step, `[B, 2 * H]`; it gets no gradient.
        alive: int64 `[L]`: how many sequences have a step t. They are the first ones.
        *weights: w_ih `[4 * H, F]`, w_hh `[4 * H, H]`, b_ih and b_hh `[4 * H]`, as of `nn.LSTM`.

    Returns:
        `[L, B, H]`, zeros after a sequence's end.

    Raises:
        ValueError: `alive` rises, or is not in `[0, B]`.
    """
    return _Recurrence.apply("lstm", inputs, state, alive, *weights)  # pyright: ignore


def gru(inputs: Tensor, state: Tensor, alive: Tensor, *weights: Tensor) -> Tensor:
    """Goes through sequences with a GRU; as `lstm`, with a state `[B, H]` and three gates."""
    return _Recurrence.apply("gru", inputs, state, alive, *weights)  # pyright: ignore


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kind: str, *arguments: Tensor) -> Tensor:
        forward = getattr(torch.ops.fastrl, f"{kind}_forward")
        outputs, *kept = forward(*arguments)
        _, state, alive, w_ih, w_hh, _, _ = arguments
        ctx.kind = kind
        ctx.save_for_backward(state, alive, w_ih, w_hh, *kept)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        backward = getattr(torch.ops.fastrl, f"{ctx.kind}_backward")
        d_inputs, *d_weights = backward(gradients[0], *ctx.saved_tensors)
        return None, d_inputs, None, None, *d_weights


def _rows_that_count(alive: Tensor, num_sequences: int) -> Tensor:
    """Returns the numbers of the rows of `[L * B]` that count, int64 `[R]`."""
    return (torch.arange(num_sequences) < alive.unsqueeze(1)).flatten().nonzero().squeeze(1)


def _packed(x: Tensor, rows: Tensor) -> Tensor:
    return x.flatten(0, 1).index_select(0, rows)


def _padded(x: Tensor, rows: Tensor, num_steps: int, num_sequences: int) -> Tensor:
    full = x.new_zeros(num_steps * num_sequences, x.shape[1])
    return full.index_copy_(0, rows, x).unflatten(0, (num_steps, num_sequences))


def _lstm_forward(
    inputs: Tensor,
    state: Tensor,
    alive: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor,
    b_hh: Tensor,
) -> tuple[Tensor, ...]:
    rows = _rows_that_count(alive, len(state))
    x = _packed(inputs, rows)
    gates = torch.addmm(b_ih + b_hh, x, w_ih.t())
    made = [x.new_empty(len(rows), w_hh.shape[1]) for _ in range(4)]
    first = [part.contiguous() for part in state.chunk(2, 1)]
    lstm_forward(gates, *first, *made, w_hh.t().contiguous(), alive)
    hidden, cells, squashed, before = made
    return _padded(hidden, rows, *inputs.shape[:2]), rows, x, gates, cells, squashed, before


def _lstm_backward(
    d_outputs: Tensor,
    state: Tensor,
    alive: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    rows: Tensor,
    x: Tensor,
    gates: Tensor,
    cells: Tensor,
    squashed: Tensor,
    before: Tensor,
) -> tuple[Tensor, ...]:
    d_packed, d_gates = _packed(d_outputs, rows), torch.empty_like(gates)
    first = state.chunk(2, 1)[1].contiguous()
    lstm_backward(gates, first, cells, squashed, d_packed, d_gates, w_hh.contiguous(), alive)
    d_inputs, d_bias = _padded(d_gates @ w_ih, rows, *d_outputs.shape[:2]), d_gates.sum(0)
    return d_inputs, d_gates.t() @ x, d_gates.t() @ before, d_bias, d_bias.clone()


def _gru_forward(
    inputs: Tensor,
    state: Tensor,
    alive: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor,
    b_hh: Tensor,
) -> tuple[Tensor, ...]:
    rows, num_outputs = _rows_that_count(alive, len(state)), w_hh.shape[1]
    x = _packed(inputs, rows)
    # The state's bias of n lies inside the product with r, and so with the candidates.
    of_gates, of_candidates = b_hh.split([2 * num_outputs, num_outputs])
    bias = torch.cat([b_ih[: 2 * num_outputs] + of_gates, b_ih[2 * num_outputs :]])
    gates = torch.addmm(bias, x, w_ih.t())
    hidden, before = (x.new_empty(len(rows), num_outputs) for _ in range(2))
    candidates = of_candidates.repeat(len(rows), 1)
    made = candidates, hidden, before
    gru_forward(gates, state.contiguous(), *made, w_hh.t().contiguous(), alive)
    return _padded(hidden, rows, *inputs.shape[:2]), rows, x, gates, candidates, before


def _gru_backward(
    d_outputs: Tensor,
    state: Tensor,
    alive: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    rows: Tensor,
    x: Tensor,
    gates: Tensor,
    candidates: Tensor,
    before: Tensor,
) -> tuple[Tensor, ...]:
    d_packed = _packed(d_outputs, rows)
    d_x, d_states = torch.empty_like(gates), torch.empty_like(gates)
    given = gates, state.contiguous(), candidates, before, d_packed
    gru_backward(*given, d_x, d_states, w_hh.contiguous(), alive)
    d_inputs = _padded(d_x @ w_ih, rows, *d_outputs.shape[:2])
    return d_inputs, d_x.t() @ x, d_states.t() @ before, d_x.sum(0), d_states.sum(0)


# To the dispatcher each is one operation, so that a recorded update holds it whole: how many rows
# count is another number every time.
_LIBRARY = torch.library.Library("fastrl", "FRAGMENT")
for _function, _num_results in (
    (_lstm_forward, 7),
    (_lstm_backward, 5),
    (_gru_forward, 6),
    (_gru_backward, 5),
):
    _name = _function.__name__[1:]
    _names = _function.__code__.co_varnames[: _function.__code__.co_argcount]
    _results = ", ".join(["Tensor"] * _num_results)
    _LIBRARY.define(f"{_name}({', '.join(f'Tensor {x}' for x in _names)}) -> ({_results})")
    _LIBRARY.impl(_name, _function, "CPU")
