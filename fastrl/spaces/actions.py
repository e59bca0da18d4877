"""Supported action spaces, and actions brought within their bounds. `A`: action dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space, spaces

from fastrl.spaces.values import on_one_line

SUPPORTED_ACTIONS = (
    "Discrete, MultiDiscrete and MultiBinary with one dimension, bounded Box with one dimension"
)
MOST_CHOICES = 2**20
"""Of all dimensions of a discrete space together: a network has an output or input for each."""


def check_action_space(space: Space, name: str = "") -> None:
    """Raises ValueError if fastrl does not support an action space."""
    where, advice, seen = f"{name}: " if name else "", "", on_one_line(space)
    match space:
        case spaces.Discrete():
            supported = True
        case spaces.MultiDiscrete():
            supported = space.nvec.ndim == 1
        case spaces.MultiBinary():
            supported = len(space.shape) == 1
        case spaces.Box():
            supported = len(space.shape) == 1 and space.is_bounded("both")
            if not space.is_bounded("both"):
                advice = ". Give it finite bounds, for example those beyond which actions change "
                advice += "nothing: gymnasium.wrappers.TransformAction takes a new space"
        case _:
            supported = False
    if not supported:
        raise ValueError(
            f"{where}action space {seen} is not supported; supported: {SUPPORTED_ACTIONS}{advice}"
        )
    if 0 in (space.shape or ()):
        raise ValueError(f"{where}action space {seen} leaves nothing to choose")
    if isinstance(space, spaces.Box) and not _holds_integers(space):
        return
    if (number := sum(choices_of(space))) > MOST_CHOICES:
        raise ValueError(
            f"{where}action space {seen} has {number:,} choices, each of which needs an output of "
            f"the network; at most {MOST_CHOICES:,}. A MultiDiscrete names a number by its digits"
        )
    if isinstance(space, spaces.Box) and max(map(int, space.high)) >= 2**63:
        raise ValueError(f"{where}action space {seen} reaches beyond the whole numbers of int64")


class BoxOfChoices(spaces.MultiDiscrete):
    """A bounded Box of integers `[A]`, as the choices that it has in each dimension."""

    def __init__(self, box: spaces.Box) -> None:
        """Keeps the dtype of the Box beside its choices: uint8 cannot hold that it has 256."""
        super().__init__(choices_of(box), start=box.low.astype(np.int64))
        self.box_dtype, self.box = box.dtype, box

    def __repr__(self) -> str:
        """As the Box that it is of: users know that one."""
        return repr(self.box)


def action_space_of(space: Space) -> Space:
    """Returns the choices of a bounded Box of integers; else `space` itself."""
    if not isinstance(space, spaces.Box) or not _holds_integers(space):
        return space
    if len(space.shape) != 1 or not space.is_bounded():
        return space
    return BoxOfChoices(space)


def choices_of(space: Space) -> list[int]:
    """Returns the number of choices of each dimension of a discrete space, or Box of integers."""
    match space:
        case spaces.Discrete():
            return [int(space.n)]
        case spaces.MultiDiscrete():
            return [int(n) for n in space.nvec]
        case spaces.MultiBinary():
            return [2] * int(space.shape[0])
    assert isinstance(space, spaces.Box)
    pairs = zip(space.low, space.high, strict=True)
    return [int(high) - int(low) + 1 for low, high in pairs]  # Python's integers do not overflow


def float32_bounds(space: spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """Returns the least and the greatest float32 `[A]` within the bounds of a Box of numbers.

    0.1 as float32 is greater than as float64. Where no float32 lies between two bounds, both are
    the one nearest to them: `within_bounds` does the rest.
    """
    largest = np.finfo(np.float32).max
    with np.errstate(over="ignore"):
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    nearest = np.clip(low, -largest, largest)
    low = np.where(low < space.low, np.nextafter(low, np.float32(np.inf)), low)
    high = np.where(high > space.high, np.nextafter(high, np.float32(-np.inf)), high)
    is_empty = low > high
    return np.where(is_empty, nearest, low), np.where(is_empty, nearest, high)


def within_bounds(space: Space, actions: Any) -> np.ndarray:
    """Returns actions `[*, A]` in the dtype of their space; those of a Box are within bounds."""
    if not isinstance(space, spaces.Box):
        return np.asarray(actions, getattr(space, "box_dtype", space.dtype))
    with np.errstate(over="ignore"):  # of float16: infinite, and clipped
        return np.clip(np.asarray(actions, space.dtype), space.low, space.high)


class Outside:
    """Finds actions that are not in their space: what a policy of somebody's own may draw."""

    def __init__(self, space: Space) -> None:
        """Notes the least and the greatest action."""
        match space:
            case spaces.Discrete():
                self._low, self._high = space.start, space.start + space.n - 1
            case spaces.MultiDiscrete():
                self._low, self._high = space.start, space.start + space.nvec - 1
            case spaces.MultiBinary():
                self._low, self._high = 0, 1
            case _:
                assert isinstance(space, spaces.Box)
                self._low, self._high = space.low, space.high

    def first(self, actions: np.ndarray) -> int | None:
        """Returns the row of the first of actions `[n, *A]` that is outside; None if none is."""
        inside = (actions >= self._low) & (actions <= self._high)  # NaN is outside
        if inside.all():
            return None
        return int(inside.reshape(len(actions), -1).all(1).argmin())


def _holds_integers(space: spaces.Box) -> bool:
    """Returns whether a Box holds whole numbers, or truths, which are chosen from."""
    return np.dtype(space.dtype or np.float32).kind in "iub"
