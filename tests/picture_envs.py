"""An environment of random pictures, in a module that imports little: processes import it too."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

FLOATS = spaces.Box(-2, 2, (10, 10, 3), np.float64)


class PictureEnv(gymnasium.Env):
    """Shows random pictures of a space; which half is bright says which action is right."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: spaces.Space = FLOATS) -> None:
        self.observation_space = space

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.num_steps = 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        reward, self.num_steps = float(action == self.half), self.num_steps + 1
        return self._seen(), reward, False, self.num_steps == 10, {}

    def _seen(self) -> Any:
        self.half = int(self.np_random.integers(2))
        return self._part(self.observation_space)

    def _part(self, space: Any) -> Any:
        if isinstance(space, spaces.Dict):
            return {name: self._part(part) for name, part in space.spaces.items()}
        values = self.np_random.uniform(0, 0.5, space.shape)
        if len(space.shape) == 3:
            values[..., 5 * self.half : 5 * (self.half + 1), :] += 1
        scale = 100 if space.dtype == np.uint8 else 1
        return (scale * values).astype(space.dtype)
