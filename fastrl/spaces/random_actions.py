"""Uniform random actions, for all environments at once. Letters: N envs, M choices."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space, spaces

from fastrl.spaces.actions import choices_of, float32_bounds
from fastrl.spaces.packed import PackedRow


class RandomActions:
    """Draws valid actions; those that a mask forbids never."""

    def __init__(self, observation_space: Space, action_space: Space, seed: int) -> None:
        """Prepares drawing.

        Args:
            observation_space: of rows, as `VectorEnv.single_observation_space`.
            action_space: a supported one.
            seed: of the draws.
        """
        self._space: Any = action_space
        self._row = observation_space
        self._has_mask = isinstance(observation_space, PackedRow) and observation_space.mask_size
        self._generator = np.random.default_rng(seed)

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Returns actions `[N]` or `[N, A]` for observations `[N, *O]`."""
        space, number = self._space, len(obs)
        shape = (number, *(space.shape or ()))
        if self._has_mask:
            return self._allowed(obs).reshape(shape).astype(space.dtype)
        if isinstance(space, spaces.Box):
            low, high = float32_bounds(space)
            drawn = self._generator.uniform(low, high, shape)
            return np.clip(drawn.astype(space.dtype), space.low, space.high)
        if isinstance(space, spaces.MultiBinary):
            return self._generator.integers(0, 2, shape, dtype=np.int8)
        sizes = space.nvec if isinstance(space, spaces.MultiDiscrete) else space.n
        return (space.start + self._generator.integers(0, sizes, shape)).astype(space.dtype)

    def _allowed(self, obs: np.ndarray) -> np.ndarray:
        """Returns `[N, A]`: for each dimension one of the choices that its mask allows."""
        row: Any = self._row
        mask = obs[:, row.values_at :].view(np.float32)[:, row.vector_size :] > 0.5
        keys = np.where(mask, self._generator.random(mask.shape), -1.0)
        ends = np.cumsum(choices_of(self._space))[:-1]
        chosen = np.stack([part.argmax(1) for part in np.split(keys, ends, 1)], 1)
        return chosen + np.ravel(getattr(self._space, "start", 0))
