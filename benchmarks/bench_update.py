"""One minibatch of an update: native, recorded, eager, and plainly.

Plainly: as nn.Linear, autograd and torch.optim.Adam do it.
"""

from __future__ import annotations

import pytest
import torch
from plain import PlainActorCritic, plain_update

from fastrl import PPO
from fastrl.buffers.rollout import Minibatch
from fastrl.engine.threads import num_threads, update_threads
from fastrl.kernels.extension import HAS_DENSE

ENGINES = ["native", "recorded", "eager"] if HAS_DENSE else ["recorded", "eager"]


@pytest.fixture(params=[64, 2048])
def num_rows(request):
    return request.param


@pytest.fixture
def make_agent(num_rows):
    """Returns a function that makes an agent and a minibatch of random rows."""

    def make(engine):
        settings = {"num_envs": 32, "num_steps": num_rows // 32, "per_rank_batch_size": num_rows}
        settings |= {"ent_coef": 0.01, "normalize_advantages": True, "accelerator": "cpu"}
        agent = PPO("LunarLander-v2", preset="none", engine=engine, **settings)
        buffer = agent.make_buffer()
        obs = torch.randn(num_rows, 8, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            actions = agent.policy(obs)
            log_probs, _, values = agent.policy.evaluate(obs, actions)
        returns = torch.linspace(-1, 1, num_rows)
        weights = torch.full((num_rows,), 1 / num_rows)
        advantages = returns - values
        advantages = (advantages - advantages.mean()) / advantages.std(correction=0)
        fields = obs, actions, log_probs, values, advantages, returns, weights
        batch = buffer.first_minibatch
        for target, source in zip(batch, fields, strict=True):
            target.copy_(source)
        return agent, batch

    return make


def plain_twin(agent: PPO, batch: Minibatch):
    model = PlainActorCritic(agent.policy, 8, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-5)
    return model, lambda: plain_update(model, optimizer, batch)


@pytest.mark.parametrize("engine", ENGINES)
def test_update(benchmark, make_agent, num_rows, engine):
    benchmark.group = f"update on {num_rows} rows"
    agent, batch = make_agent(engine)
    twin, twin_step = plain_twin(agent, batch)
    with agent.engine.learning():
        agent.step(batch)
        twin_step()
        after_one_step = PlainActorCritic(agent.policy, 8, 4)
        torch.testing.assert_close(
            after_one_step.state_dict(), twin.state_dict(), rtol=1e-3, atol=1e-5
        )
        benchmark.pedantic(agent.step, (batch,), rounds=100, warmup_rounds=10)


def test_update_with_adam_and_linear(benchmark, make_agent, num_rows):
    benchmark.group = f"update on {num_rows} rows"
    agent, batch = make_agent("eager")
    model, step = plain_twin(agent, batch)
    before = (model.critic(batch.obs).squeeze(-1) - batch.returns).square().mean()
    with num_threads(update_threads(num_rows, 64)):
        benchmark.pedantic(step, rounds=100, warmup_rounds=10)
    assert (model.critic(batch.obs).squeeze(-1) - batch.returns).square().mean() < before
