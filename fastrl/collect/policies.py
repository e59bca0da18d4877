"""What acts while trajectories are collected: a trained agent, chance, or both."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from fastrl.data.playing import Policy
from fastrl.data.random_actions import RandomActions
from fastrl.training.agent import HasMemory


def trained_policy(agent: Any, num_envs: int, deterministic: bool) -> Policy:
    """Returns the policy of an agent, with its recurrent states if it has any.

    Args:
        agent: that was trained.
        num_envs: environments that it plays side by side.
        deterministic: take the likeliest actions in place of drawing some.
    """
    if not isinstance(agent, HasMemory):
        return Policy(lambda obs: agent.predict(obs, deterministic=deterministic))
    player = cast(HasMemory, agent)  # whose predict takes a state
    state = player.new_state(num_envs)

    def begin(begins: np.ndarray) -> None:
        state[begins.nonzero()] = 0

    return Policy(lambda obs: player.predict(obs, deterministic, state=state), begin)


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
