"""Names of the actions of well-known tasks, which no environment tells."""

from __future__ import annotations

import re

import gymnasium

_SIDES = ("left", "nothing", "right")
_COMPASS = ("left", "down", "right", "up")
_CHOICES = {
    "CartPole": ("left", "right"),
    "MountainCar": _SIDES,
    "Acrobot": ("torque -1", "no torque", "torque +1"),
    "LunarLander": ("nothing", "left engine", "main engine", "right engine"),
    "FrozenLake": _COMPASS,
    "CliffWalking": ("up", "right", "down", "left"),
    "Taxi": ("south", "north", "east", "west", "pick up", "drop off"),
    "Blackjack": ("stick", "hit"),
    "Catch": _SIDES,
    "Breakout": ("nothing", "fire", "right", "left"),
    "Pong": ("nothing", "fire", "right", "left", "right and fire", "left and fire"),
}
_NUMBERS = {
    "Pendulum": ("torque",),
    "MountainCarContinuous": ("force",),
    "LunarLander": ("main engine", "side engines"),
    "LunarLanderContinuous": ("main engine", "side engines"),
    "BipedalWalker": ("hip 1", "knee 1", "hip 2", "knee 2"),
    "CarRacing": ("steering", "gas", "brake"),
}


def choice_names(env_id: str, space: gymnasium.Space) -> list[list[str]]:
    """Returns a name for each choice of each dimension of a space of choices; none for others.

    Args:
        env_id: the task; names of an unknown one are the environment's numbers.
        space: of the actions.
    """
    if isinstance(space, gymnasium.spaces.Discrete):
        known = _CHOICES.get(_task(env_id), ())
        if len(known) == space.n:
            return [list(known)]
        return [[str(space.start + choice) for choice in range(int(space.n))]]
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        sizes, starts = space.nvec.ravel(), space.start.ravel()
        return [
            [str(start + choice) for choice in range(int(size))]
            for size, start in zip(sizes, starts, strict=True)
        ]
    if isinstance(space, gymnasium.spaces.MultiBinary):
        return [["0", "1"] for _ in range(int(space.shape[0]))]
    return []


def dimension_names(env_id: str, num_dimensions: int) -> list[str]:
    """Returns a name for each of the numbers that an action is made of."""
    known = _NUMBERS.get(_task(env_id), ())
    if len(known) == num_dimensions:
        return list(known)
    return [f"action {number}" for number in range(1, num_dimensions + 1)]


def _task(env_id: str) -> str:
    """Returns `Pong` of `ALE/Pong-v5`."""
    return re.sub(r"-v\d+$", "", env_id.rpartition("/")[2])
