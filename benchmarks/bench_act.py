"""Choosing actions for 64 environments, beside torch.distributions."""

from __future__ import annotations

import torch

from benchmarks.plain import PlainActorCritic
from fastrl import PPO

NUM_ENVS = 64


def test_act(compare):
    settings = {"num_envs": NUM_ENVS, "num_pools": 1, "num_steps": 2, "accelerator": "cpu"}
    agent = PPO("LunarLander-v2", preset="none", **settings)
    buffer = agent.make_buffer()
    buffer.start(agent.envs[0].reset(), 0)
    agent.begin_rollout(buffer)
    obs, model = buffer.obs[0], PlainActorCritic(agent.policy, 8, 4)

    @torch.no_grad()
    def plain():
        distribution, values = model(obs)
        actions = distribution.sample()
        return actions.numpy(), distribution.log_prob(actions), values

    with torch.no_grad():
        expected = agent.policy.act(obs, buffer.noise[0])
    assert torch.from_numpy(agent.act(0, 0)).equal(expected)
    torch.testing.assert_close(agent.policy.value(obs), model(obs)[1])
    compare(f"act for {NUM_ENVS} environments", lambda: agent.act(0, 0), plain, "steps", NUM_ENVS)
