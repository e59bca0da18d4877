"""One minibatch of recurrent PPO: native, recorded, eager, and a step at a time by nn.LSTMCell."""

from __future__ import annotations

import pytest
import torch

from fastrl import PPORecurrent
from fastrl.kernels.extension import HAS_DENSE

NUM_SEQUENCES, LENGTH = 16, 32
ROWS = NUM_SEQUENCES * LENGTH
FORMS = [*(["native"] if HAS_DENSE else []), "recorded", "eager", "step by step"]


def make_agent(engine, rnn):
    """Returns an agent and a minibatch of random rows."""
    sizes = {"num_envs": NUM_SEQUENCES, "num_steps": LENGTH, "sequence_length": LENGTH}
    settings = {"per_rank_batch_size": ROWS, "ent_coef": 0.01, "accelerator": "cpu", "rnn": rnn}
    agent = PPORecurrent("LunarLander-v2", preset="none", engine=engine, **sizes, **settings)
    buffer = agent.make_buffer()
    batch = buffer.first_minibatch
    batch.obs.copy_(torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(1)))
    batch.weights.fill_(1 / ROWS)
    with torch.no_grad():
        log_probs, _, values = agent.evaluate(batch)
    batch.log_probs.copy_(log_probs)
    batch.values.copy_(values)
    batch.returns.copy_(torch.linspace(-1, 1, ROWS))
    batch.advantages.copy_(batch.returns - values)
    return agent, batch


def step_by_step(agent):
    """Makes the agent evaluate sequences by a plain loop of cells."""

    def evaluate(batch):
        state, parts = batch.states, []
        width = len(state)
        for obs, actions in zip(batch.obs.split(width), batch.actions.split(width), strict=True):
            features, state = agent.policy.step(obs, state)
            parts.append(agent.policy.evaluate_features(features, actions))
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))

    agent.evaluate = evaluate


@pytest.mark.parametrize("rnn", ["lstm", "gru"])
@pytest.mark.parametrize("form", FORMS)
def test_update(benchmark, form, rnn):
    benchmark.group = f"recurrent update, {rnn}, {NUM_SEQUENCES} sequences of {LENGTH} steps"
    agent, batch = make_agent("eager" if form == "step by step" else form, rnn)
    twin, twin_batch = make_agent("eager", rnn)
    step_by_step(twin)
    if form == "step by step":
        step_by_step(agent)
    agent.step(batch)
    twin.step(twin_batch)
    torch.testing.assert_close(agent.optimizer.flat, twin.optimizer.flat, rtol=1e-3, atol=1e-4)
    benchmark.pedantic(agent.step, (batch,), rounds=30, warmup_rounds=3)
