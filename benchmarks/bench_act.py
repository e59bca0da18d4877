"""Choosing 64 actions: native, recorded, eager, and as torch.distributions does it."""

from __future__ import annotations

import pytest
import torch
from plain import PlainActorCritic

from fastrl import PPO
from fastrl.kernels.extension import HAS_DENSE

NUM_ENVS = 64
ENGINES = ["native", "recorded", "eager"] if HAS_DENSE else ["recorded", "eager"]


@pytest.fixture
def make_agent():
    def make(engine):
        settings = {"num_envs": NUM_ENVS, "num_pools": 1, "num_steps": 2, "accelerator": "cpu"}
        agent = PPO("LunarLander-v2", preset="none", engine=engine, **settings)
        buffer = agent.make_buffer()
        buffer.start(agent.envs[0].reset(), 0)
        agent.begin_rollout(buffer)
        return agent, (buffer.obs[0], buffer.noise[0], buffer.actions[0])

    return make


@pytest.mark.benchmark(group="act for 64 environments")
@pytest.mark.parametrize("engine", ENGINES)
def test_act(benchmark, make_agent, engine):
    agent, (obs, noise, stored) = make_agent(engine)
    actions = benchmark(agent.act, 0, 0)
    with torch.no_grad():
        expected = agent.policy.act(obs, noise)
    assert torch.from_numpy(actions).equal(expected) and stored.equal(expected)


@pytest.mark.benchmark(group="act for 64 environments")
def test_act_with_distributions(benchmark, make_agent):
    agent, (obs, _, _) = make_agent("eager")
    model = PlainActorCritic(agent.policy, obs.shape[1], int(agent.action_space.n))
    with torch.no_grad():
        actions, log_probs, values = benchmark(model.act, obs)
        expected_log_probs, _, expected_values = agent.policy.evaluate(obs, actions)
    torch.testing.assert_close(log_probs, expected_log_probs)
    torch.testing.assert_close(values, expected_values)
