"""Environments whose steps take a known time, in a module that imports little: processes do too."""

from __future__ import annotations

import random
import sys
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

SHARED = spaces.Discrete(2, seed=1)


class Counting(gymnasium.Env):
    """Counts what was made, stepped and closed of it in this process."""

    observation_space = spaces.Box(-5, 5, (3,))
    action_space = SHARED
    seconds = 0.0
    made, closed, steps = 0, 0, 0

    def __init__(self, _: Any = None) -> None:
        Counting.made += 1

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.num_steps = 0
        return self._drawn(), {}

    def step(self, action: Any) -> Any:
        Counting.steps += 1
        time.sleep(self.seconds)
        self.num_steps += 1
        return self._drawn(), float(action), False, self.num_steps == 7, {}

    def _drawn(self) -> np.ndarray:
        return self.np_random.normal(size=3).clip(-5, 5).astype(np.float32)

    def close(self) -> None:
        Counting.closed += 1


class Slow(Counting):
    """A step that takes longer than a round through processes."""

    seconds = 2e-3


class Global(Slow):
    """Draws from the generators of its process."""

    def _drawn(self) -> np.ndarray:
        drawn = [random.random(), np.random.rand(), float(sys.modules["torch"].rand(()))]
        return np.array(drawn, np.float32)


class Masked(Slow):
    """Allows one of its actions, which changes, and insists on it."""

    action_space = spaces.Discrete(4)

    def reset(self, **how: Any) -> Any:
        obs, _ = super().reset(**how)
        return obs, self._info()

    def step(self, action: Any) -> Any:
        if action != self.allowed:
            raise ValueError(f"{action} is forbidden")
        return *super().step(action)[:4], self._info()

    def _info(self) -> dict[str, Any]:
        self.allowed = int(self.np_random.integers(4))
        return {"action_mask": np.arange(4) == self.allowed}


class Failing(Slow):
    """Cannot be stepped."""

    def step(self, action: Any) -> Any:
        raise RuntimeError("no step")
