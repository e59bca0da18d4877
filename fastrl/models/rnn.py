"""Memory for policies: an LSTM or a GRU, a step at a time and over whole sequences at once.

A state is one row `[B, S]` whose first H numbers are the output; zeros are the state in which an
episode begins. Letters: L steps of a sequence, B rows, F inputs, H outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Memory(nn.Module):
    """One layer of LSTM (Hochreiter and Schmidhuber 1997) or GRU (Cho et al. 2014)."""

    def __init__(self, kind: str, num_inputs: int, num_outputs: int, ortho_init: bool) -> None:
        """Makes the layer.

        Args:
            kind: "lstm" or "gru".
            num_inputs: F.
            num_outputs: H.
            ortho_init: orthogonal initial weights and zero biases, in place of torch's default.
        """
        super().__init__()
        self.num_outputs = num_outputs
        self.layer: nn.RNNBase = (nn.LSTM if kind == "lstm" else nn.GRU)(num_inputs, num_outputs)
        self.state_size = num_outputs * (2 if kind == "lstm" else 1)
        if ortho_init:
            for name, parameter in self.layer.named_parameters():
                if name.startswith("bias"):
                    nn.init.zeros_(parameter)
                    continue
                for gate in parameter.detach().split(num_outputs):
                    nn.init.orthogonal_(gate)

    def forward(self, inputs: Tensor, state: Tensor, batch_sizes: Tensor | None = None) -> Tensor:
        """Goes through sequences of at most L steps, without a reset in between.

        Args:
            inputs: `[L, B, F]`.
            state: `[B, S]` before the first step; it gets no gradient if `batch_sizes` is given.
            batch_sizes: int64 `[L]`: how many sequences have a step t, the first ones, as in a
                `PackedSequence`; None: all have L. All L steps are taken of each here.

        Returns:
            Outputs of all steps, `[L, B, H]`. Those of padding after a sequence's end depend on
            nothing that comes later, and nothing that counts depends on them.
        """
        parts = [part.contiguous().unsqueeze(0) for part in state.split(self.num_outputs, 1)]
        outputs, _ = self.layer(inputs, parts[0] if len(parts) == 1 else tuple(parts))
        return outputs

    def step(self, inputs: Tensor, state: Tensor) -> Tensor:
        """Takes one step from `state` `[B, S]` with `inputs` `[B, F]`; returns the new state."""
        (weights,) = self.layer.all_weights
        w_ih, w_hh, b_ih, b_hh = weights
        if isinstance(self.layer, nn.GRU):
            return torch.gru_cell(inputs, state, w_ih, w_hh, b_ih, b_hh)
        before = state.split(self.num_outputs, 1)
        output, cell = torch.lstm_cell(inputs, before, w_ih, w_hh, b_ih, b_hh)
        return torch.cat([output, cell], 1)
