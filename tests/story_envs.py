"""Environments whose observations, actions' effects and images say where they come from."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

FIRST_ACTIONS = {
    "discrete": spaces.Discrete(3, start=2),
    "several": spaces.MultiDiscrete([2, 3]),
    "binary": spaces.MultiBinary(4),
    "box": spaces.Box(-2.0, 1.0, (2,), np.float32),
    "box64": spaces.Box(-2.0, 1.0, (2,), np.float64),
    "whole": spaces.Box(-3, 3, (2,), np.int64),
}


class StoryEnv(gymnasium.Env[Any, Any]):
    """Observes [seed % 1000, episode, step]; episodes of 1 to 7 steps end by turns in both ways."""

    observation_space: Any = spaces.Box(-np.inf, np.inf, (3,), np.float64)

    def __init__(self, actions: str = "discrete") -> None:
        self.action_space = FIRST_ACTIONS[actions]
        self.seed, self.episode, self.step_number = 0, -1, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.seed = self.seed if seed is None else seed
        self.episode, self.step_number = self.episode + 1, 0
        self.length = length_of(self.seed, self.episode)
        return self.observation(), {}

    def observation(self) -> Any:
        return np.array([self.seed % 1000, self.episode, self.step_number], np.float64)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action), action
        self.step_number += 1
        is_last, is_cut = self.step_number == self.length, self.episode % 2 == 1
        reward = 100.0 * self.episode + self.step_number
        return self.observation(), reward, is_last and not is_cut, is_last and is_cut, {}


def length_of(seed: int, episode: int) -> int:
    """Returns the steps of an episode."""
    return 1 + (seed + 3 * episode) % 7


class ImageEnv(StoryEnv):
    """Shows noise that only the same image has, beside a vector, a choice and an action mask."""

    observation_space: Any = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (40, 48, 3), np.uint8),
            "inner": spaces.Dict({"where": spaces.Discrete(5, start=1)}),
            "numbers": spaces.Box(-1e9, 1e9, (2, 2), np.float32),
            "signs": spaces.MultiDiscrete([3, 2]),
            "action_mask": spaces.MultiBinary(3),
        }
    )

    def observation(self) -> Any:
        generator = np.random.default_rng([self.seed % 1000, self.episode, self.step_number])
        allowed = self.step_number % 3
        return {
            "camera": generator.integers(0, 256, (40, 48, 3), dtype=np.uint8),
            "inner": {"where": np.int64(1 + self.step_number % 5)},
            "numbers": np.full((2, 2), 10 * self.episode + self.step_number, np.float32),
            "signs": np.array([self.step_number % 3, self.episode % 2]),
            "action_mask": np.arange(3) == allowed,
        }

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert action - 2 == self.step_number % 3, "the mask forbids this action"
        return super().step(action)


class ScreenEnv(ImageEnv):
    """Shows the noise alone."""

    observation_space: Any = spaces.Box(0, 255, (40, 48, 3), np.uint8)

    def observation(self) -> Any:
        return super().observation()["camera"]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        return StoryEnv.step(self, action)


class SlowEnv(StoryEnv):
    """Never ends by itself soon, and takes its time."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        import time

        time.sleep(0.001)
        return super().step(action)


class NeverEnv(StoryEnv):
    """Has no end."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        return *super().step(action)[:2], False, False, {}
