"""One minibatch of recurrent PPO, beside a loop of nn.LSTMCell over its steps."""

from __future__ import annotations

import torch

from benchmarks.plain_recurrent import PlainRecurrent, plain_recurrent_update
from fastrl import PPORecurrent

NUM_SEQUENCES, LENGTH = 16, 32
ROWS = NUM_SEQUENCES * LENGTH


def test_update(compare):
    sizes = {"num_envs": NUM_SEQUENCES, "num_steps": LENGTH, "sequence_length": LENGTH}
    settings = {"per_rank_batch_size": ROWS, "ent_coef": 0.01, "accelerator": "cpu", "rnn": "lstm"}
    agent = PPORecurrent("LunarLander-v2", preset="none", **sizes, **settings)
    batch = agent.make_buffer().first_minibatch
    batch.obs.copy_(torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(1)))
    batch.weights.fill_(1 / ROWS)
    with torch.no_grad():
        log_probs, _, values = agent.evaluate_actions(batch)
    batch.log_probs.copy_(log_probs)
    batch.values.copy_(values)
    batch.returns.copy_(torch.linspace(-1, 1, ROWS))
    batch.advantages.copy_(batch.returns - values)
    model = PlainRecurrent(agent.policy, 8, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-5)

    def plain() -> None:
        plain_recurrent_update(model, optimizer, batch)

    with agent.engine.learning():
        agent.step(batch)
        plain()
        now = PlainRecurrent(agent.policy, 8, 4)
        torch.testing.assert_close(now.state_dict(), model.state_dict(), rtol=1e-3, atol=1e-4)
        work = f"recurrent PPO minibatch of {NUM_SEQUENCES} x {LENGTH} rows"
        compare(work, lambda: agent.step(batch), plain)
