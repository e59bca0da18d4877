"""Which head a policy has over an action space."""

from __future__ import annotations

import gymnasium

from fastrl.models.distributions import (
    CategoricalHead,
    GaussianHead,
    StateDependentGaussianHead,
)
from fastrl.models.exploring import ExploringGaussianHead
from fastrl.spaces.actions import check_action_space, float32_bounds
from fastrl.spaces.values import on_one_line


def make_action_head(
    space: gymnasium.Space,
    num_features: int,
    squash: bool,
    log_std_init: float,
    gain: float | None,
    state_dependent_std: bool = False,
    state_dependent_exploration: bool = False,
    exploration_resample_steps: int = 0,
) -> CategoricalHead | GaussianHead:
    """Returns the head for an action space.

    Args:
        space: of the actions.
        num_features: of the last layer in front of it.
        squash: squash Box actions by tanh in place of clipping them.
        log_std_init: initial logarithm of the standard deviation of Box actions.
        gain: gain of orthogonal initial weights, None for torch's default.
        state_dependent_std: the network gives that of each state.
        state_dependent_exploration: noise is a function of the state.
        exploration_resample_steps: steps after which it is another one; 0: a whole rollout.

    Raises:
        ValueError: the space is not supported, or what is for Box was asked for elsewhere.
    """
    check_action_space(space)
    for name, is_set in (
        ("squash_actions", squash),
        ("log_std_init", log_std_init),
        ("state_dependent_std", state_dependent_std),
        ("state_dependent_exploration", state_dependent_exploration),
    ):
        if is_set and not isinstance(space, gymnasium.spaces.Box):
            raise ValueError(f"{name} has no effect on {on_one_line(space)}; it is for Box actions")
    if isinstance(space, gymnasium.spaces.Discrete):
        return CategoricalHead(num_features, [int(space.n)], [int(space.start)], True, gain)
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        starts = [int(start) for start in space.start]
        return CategoricalHead(num_features, [int(n) for n in space.nvec], starts, False, gain)
    if isinstance(space, gymnasium.spaces.MultiBinary):
        (num_dims,) = space.shape
        return CategoricalHead(num_features, [2] * num_dims, [0] * num_dims, False, gain)
    assert isinstance(space, gymnasium.spaces.Box)
    given = num_features, *float32_bounds(space), squash, log_std_init, gain
    if state_dependent_exploration:
        return ExploringGaussianHead(*given, exploration_resample_steps)
    kind = StateDependentGaussianHead if state_dependent_std else GaussianHead
    return kind(*given)
