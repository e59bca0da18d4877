"""An env whose infos have numbers, known by hand."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from toy_envs import ToyEnv


class GoalEnv(ToyEnv):
    """Each step pays `gain` plus the action; after 2 + seed % 3 of them the goal is `gain` times as
    many steps away. Even seeds reach it, and get a bonus of 7.
    """

    ended: ClassVar[list[float]] = []
    """Distances at the ends of all episodes of this process."""

    def __init__(
        self, gain: float = 1.0, box: bool = False, render_mode: str | None = None
    ) -> None:
        """Takes Discrete actions, or one number in [-1, 1]."""
        super().__init__(render_mode)
        self.gain = gain
        if box:
            self.action_space = spaces.Box(-1, 1, (1,), np.float32)

    def observation(self) -> np.ndarray:
        """Return small numbers."""
        return np.array([self.seed % 3, self.num_steps], np.float32)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Count."""
        obs, reward, terminated, truncated, _ = super().step(action)
        has_bonus = terminated and self.seed % 2 == 0
        if terminated:
            self.ended.append(self.gain * self.num_steps)
        info: dict[str, Any] = {"bonus": 7} if has_bonus else {}
        info |= {"distance": np.float64(self.gain * self.num_steps), "words": "none"}
        return obs, reward, terminated, truncated, {**info, "is_success": self.seed % 2 == 0}

    def outcome(self, action: Any) -> tuple[float, bool, bool]:
        """Return reward, terminated, truncated of the step just counted."""
        return self.gain + float(np.sum(action)), self.num_steps == 2 + self.seed % 3, False
