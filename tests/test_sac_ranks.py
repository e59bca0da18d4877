"""SAC and DroQ on two ranks learn what one rank with both minibatches learns."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from quick import quick
from ranks import run_ranks
from test_sac import make_agent
from toy_agents import Loop

from fastrl import SAC, DroQ

ROWS = 16  # of a minibatch, over all ranks
KINDS: dict[str, type[SAC]] = {"sac": SAC, "droq": DroQ}
SETTINGS: dict[str, Any] = {"policy_frequency": 1, "policy_lr": 0.01, "alpha_lr": 0.01}
NUM_UPDATES, RATIO = 12, 0.5


def learners(agent: SAC) -> dict[str, np.ndarray]:
    """Returns copies of all that gradient steps change."""
    parts = {
        "policy": agent.actor_optimizer.flat,
        "critics": agent.critic_optimizer.flat,
        "targets": agent.target.flat,
        "alpha": agent.temperature.log_alpha.detach(),
        "critic_metrics": agent.critic_step.sums,
        "actor_metrics": agent.actor_step.sums,
    }
    return {name: tensor.clone().numpy() for name, tensor in parts.items()}


def steps_on_given_rows(name: str, num_ranks: int) -> dict[str, np.ndarray]:
    """Takes three gradient steps on this rank's share of given rows."""
    num_rows = ROWS // num_ranks
    settings = {"per_rank_batch_size": num_rows, "devices": num_ranks, **SETTINGS}
    agent = make_agent(kind=KINDS[name], **settings)
    agent.make_buffer()
    generator = torch.Generator().manual_seed(3)
    rank = agent.devices.global_rank
    share = slice(rank * num_rows, (rank + 1) * num_rows)
    num_obs, num_actions = agent.policy.num_inputs, agent.policy.num_actions
    for _ in range(3):
        obs, next_obs = torch.randn(2, ROWS, num_obs, generator=generator)
        actions, *noise = torch.randn(3, ROWS, num_actions, generator=generator)
        rewards, discounts = torch.rand(2, ROWS, generator=generator)
        batch = (obs, actions.tanh(), next_obs, rewards, discounts)
        mine = [x[share] for x in (*batch, *noise)]
        if isinstance(agent, DroQ):
            agent._masks.fill_(1)
            agent._take_critic_step(*mine, agent._target_masks, agent._online_masks)
            agent._take_actor_step(*mine, agent._target_masks, agent._online_masks)
        else:
            agent._take_full_step(*mine)
    return learners(agent)


def trained(name: str) -> dict[str, Any]:
    """Trains one of two ranks for some updates."""
    settings = {"devices": 2, "replay_ratio": RATIO, **SETTINGS}
    agent = make_agent(kind=KINDS[name], **settings)
    Loop(agent).run(NUM_UPDATES)
    assert agent.replay is not None
    counters = agent.num_env_steps, agent.num_gradient_steps
    obs = agent.replay.state_dict()["obs"].numpy()
    return {"learned": learners(agent), "obs": obs, "counters": counters}


@functools.cache
def two_ranks(name: str) -> list[dict[str, Any]]:
    return run_ranks(2, trained, name)


@pytest.mark.parametrize("name", quick(KINDS, "sac"))
def test_two_ranks_take_the_gradient_step_of_one_with_all_rows(name):
    alone = steps_on_given_rows(name, 1)
    for rank in run_ranks(2, steps_on_given_rows, name, 2):
        for part, values in alone.items():
            np.testing.assert_allclose(rank[part], values, rtol=1e-4, atol=1e-5, err_msg=part)


@pytest.mark.parametrize("name", quick(KINDS, "sac"))
def test_two_ranks_stay_equal_to_the_bit_on_data_of_their_own(name):
    first, second = two_ranks(name)
    for part, values in first["learned"].items():
        np.testing.assert_array_equal(second["learned"][part], values, err_msg=part)
    assert not np.array_equal(first["obs"], second["obs"])


@pytest.mark.parametrize("name", KINDS)
def test_ratio_counts_the_steps_of_all_ranks(name):
    num_env_steps = NUM_UPDATES * 2 * 4
    for rank in two_ranks(name):
        assert rank["counters"] == (num_env_steps, (num_env_steps - 20) * RATIO)
