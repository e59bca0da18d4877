"""A policy that acts in one call draws what its own operations draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from fastrl.engine.native_acting import NativeActing
from fastrl.kernels.extension import HAS_DENSE
from fastrl.models.actor_critic import ActorCritic

pytestmark = pytest.mark.skipif(not HAS_DENSE, reason="no extension, or no wide vectors")

OBSERVATIONS = spaces.Box(-np.inf, np.inf, (5,))


def make_policy(action_space: spaces.Space, **changes: Any) -> ActorCritic:
    """Return a policy that has seen something."""
    settings: dict[str, Any] = {
        "hidden_sizes": (64, 48),
        "activation": "tanh",
        "shared": False,
        "ortho_init": False,
        "squash_actions": False,
        "log_std_init": 0.0,
        "normalize_observations": False,
    }
    torch.manual_seed(0)
    policy = ActorCritic(OBSERVATIONS, action_space, **{**settings, **changes})
    if policy.normalizer is not None:
        policy.normalizer.update(3 + 2 * torch.randn(100, 5), torch.ones(100, dtype=torch.bool))
    return policy


@pytest.mark.parametrize("changes", [{}, {"normalize_observations": True, "activation": "elu"}])
@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.Box(-0.5, 0.5, (3,))])
@pytest.mark.parametrize("num_rows", [1, 64, 70])
def test_it_draws_what_the_policy_draws(space, changes, num_rows):
    policy = make_policy(space, **changes)
    assert not NativeActing.why_not(policy)
    obs, noise = 4 * torch.randn(num_rows, 5), torch.zeros(num_rows, policy.head.noise_size)
    policy.head.draw_noise(noise, torch.Generator().manual_seed(0))
    with torch.no_grad():
        drawn = policy.act(obs, noise)
        taken = policy.head.to_env(drawn)
    stored = torch.zeros(drawn.shape, dtype=drawn.dtype)
    found = NativeActing(policy, num_rows)(obs, noise, stored)
    torch.testing.assert_close(stored, drawn)
    torch.testing.assert_close(found, taken)
    assert found.data_ptr() != stored.data_ptr()


def test_it_follows_the_weights():
    policy = make_policy(spaces.Box(-9, 9, (3,)))
    acting, obs, noise = NativeActing(policy, 2), torch.ones(2, 5), torch.zeros(2, 3)
    before = acting(obs, noise, torch.zeros(2, 3))
    with torch.no_grad():
        policy.head.layer.bias.add_(1)
    torch.testing.assert_close(acting(obs, noise, torch.zeros(2, 3)), before + 1)


@pytest.mark.parametrize(
    "policy",
    [
        make_policy(spaces.Discrete(4, start=1)),
        make_policy(spaces.MultiDiscrete([3, 2])),
        make_policy(spaces.Box(-1, 1, (2,)), squash_actions=True),
    ],
)
def test_other_distributions_are_left_to_the_policy(policy):
    assert NativeActing.why_not(policy)


def test_an_observation_that_is_not_a_number_draws_nothing_silently():
    policy = make_policy(spaces.Box(-1, 1, (2,)))
    stored = torch.zeros(1, 2)
    found = NativeActing(policy, 1)(torch.full((1, 5), torch.nan), torch.zeros(1, 2), stored)
    assert found.isnan().all() and stored.isnan().all()
