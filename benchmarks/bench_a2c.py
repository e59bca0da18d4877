"""One update of A2C: native, recorded, eager, and as torch.optim and nn.Linear do it."""

from __future__ import annotations

import pytest
import torch
from plain import PlainActorCritic
from torch import nn

from fastrl import A2C
from fastrl.kernels.extension import HAS_DENSE

NUM_ENVS, NUM_STEPS = 16, 16
ROWS = NUM_ENVS * NUM_STEPS
ENGINES = ["native", "recorded", "eager"] if HAS_DENSE else ["recorded", "eager"]


@pytest.fixture
def make_agent():
    """Returns a function that makes an agent and a minibatch of random rows: one whole rollout."""

    def make(engine):
        sizes = {"num_envs": NUM_ENVS, "num_steps": NUM_STEPS, "optimizer": "adam"}
        settings = {"ent_coef": 0.01, "vf_coef": 0.5, "learning_rate": 1e-3, "accelerator": "cpu"}
        agent = A2C("LunarLander-v2", preset="none", engine=engine, **sizes, **settings)
        buffer = agent.make_buffer()
        obs = torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            actions = agent.policy(obs)
            log_probs, _, values = agent.policy.evaluate(obs, actions)
        returns = torch.linspace(-1, 1, ROWS)
        weights = torch.full((ROWS,), 1 / ROWS)
        fields = obs, actions, log_probs, values, returns - values, returns, weights
        for target, source in zip(buffer.first_minibatch, fields, strict=True):
            target.copy_(source)
        return agent, buffer.first_minibatch

    return make


def plain_step(model, optimizer, batch):
    distribution = torch.distributions.Categorical(logits=model.actor(batch.obs))
    policy_loss = -(distribution.log_prob(batch.actions) * batch.advantages).mean()
    value_loss = (model.critic(batch.obs).squeeze(-1) - batch.returns).square().mean()
    loss = policy_loss + 0.5 * value_loss - 0.01 * distribution.entropy().mean()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()


def plain_twin(agent, batch):
    model = PlainActorCritic(agent.policy, 8, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-5)
    return model, lambda: plain_step(model, optimizer, batch)


@pytest.mark.parametrize("engine", ENGINES)
def test_update(benchmark, make_agent, engine):
    benchmark.group = f"A2C update on {ROWS} rows"
    agent, batch = make_agent(engine)
    twin, twin_step = plain_twin(agent, batch)

    def step():
        agent.step.accumulate(batch)
        agent.step.finish()

    step()
    twin_step()
    after_one_step = PlainActorCritic(agent.policy, 8, 4)
    torch.testing.assert_close(after_one_step.state_dict(), twin.state_dict(), rtol=1e-3, atol=1e-5)
    benchmark.pedantic(step, rounds=100, warmup_rounds=10)


def test_update_with_adam_and_linear(benchmark, make_agent):
    benchmark.group = f"A2C update on {ROWS} rows"
    agent, batch = make_agent("eager")
    model, step = plain_twin(agent, batch)
    before = (model.critic(batch.obs).squeeze(-1) - batch.returns).square().mean()
    benchmark.pedantic(step, rounds=100, warmup_rounds=10)
    assert (model.critic(batch.obs).squeeze(-1) - batch.returns).square().mean() < before
