"""What acts while trajectories are collected, where that is neither the agent nor chance alone."""

from __future__ import annotations

import numpy as np

from fastrl.data.playing import Policy
from fastrl.spaces.random_actions import RandomActions


def mixed_policy(trained: Policy, draw: RandomActions, epsilon: float, seed: int) -> Policy:
    """Returns a policy that takes a random action with probability `epsilon`, else the trained one.

    Args:
        trained: sees every observation, so that its memory is right.
        draw: random actions.
        epsilon: in [0, 1], for each environment at each step.
        seed: of which steps are random.
    """
    generator = np.random.default_rng((seed, 1))

    def act(obs: np.ndarray) -> np.ndarray:
        actions, drawn = trained.act(obs), draw(obs)
        is_random = generator.random(len(obs)) < epsilon
        return np.where(is_random.reshape(-1, *[1] * (actions.ndim - 1)), drawn, actions)

    return Policy(act, trained.begin)
