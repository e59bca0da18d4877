"""The plain twin of recurrent PPO: cells of nn.LSTMCell, step by step, and torch.optim.Adam."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastrl.buffers.sequences import SequenceMinibatch


class PlainRecurrent(nn.Module):
    """A layer of 64, tanh, an LSTM of 64 and two heads, with the weights of a policy."""

    def __init__(self, policy: Any, num_inputs: int, num_actions: int) -> None:
        super().__init__()
        self.layer, self.cell = nn.Linear(num_inputs, 64), nn.LSTMCell(64, 64)
        self.logits, self.value = nn.Linear(64, num_actions), nn.Linear(64, 1)
        theirs = [*policy.encoders, *policy.memories, policy.head, policy.value_head]
        sources = [parameter for part in theirs for parameter in part.parameters()]
        with torch.no_grad():
            for mine, source in zip(self.parameters(), sources, strict=True):
                mine.copy_(source)

    def forward(self, obs: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits and values of sequences side by side: `obs` `[L * B, O]`, step by step."""
        memory, steps = states.chunk(2, 1), []
        for inputs in torch.tanh(self.layer(obs)).split(len(states)):
            memory = self.cell(inputs, memory)
            steps.append(memory[0])
        features = torch.cat(steps)
        return self.logits(features), self.value(features).squeeze(-1)


def plain_recurrent_update(
    model: PlainRecurrent, optimizer: torch.optim.Adam, batch: SequenceMinibatch
) -> None:
    """One minibatch with clip_coef 0.2, vf_coef 1, ent_coef 0.01, gradients cut at 0.5."""
    logits, values = model(batch.obs, batch.states)
    distribution = torch.distributions.Categorical(logits=logits)
    ratio = (distribution.log_prob(batch.actions) - batch.log_probs).exp()
    surrogate = torch.min(ratio * batch.advantages, ratio.clamp(0.8, 1.2) * batch.advantages)
    value_loss = (values - batch.returns).square()
    loss = ((value_loss - surrogate - 0.01 * distribution.entropy()) * batch.weights).sum()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
