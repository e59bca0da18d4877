"""What the inputs and outputs of a network stand for, as text; equal texts mean equal meaning.

Networks of one shape may be of spaces that mean something else: `MultiDiscrete([2, 4])` and
`MultiDiscrete([3, 3])` both have six outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space, spaces

from fastrl.spaces.pixels import brightest, channel_axis, is_pixels


def inputs_of(space: Space) -> str:
    """Returns what an observation's numbers are: of one space, or of a part of it.

    Bounds are left out: networks do not see them. Those of images are what these are divided by.
    """
    if meaning := getattr(space, "meaning", ""):  # of several parts
        return meaning
    if is_pixels(space):
        axis = channel_axis(space)
        return f"images {space.shape}, channels at {axis}, divided by {brightest(space)}"
    return _choices(space) or f"numbers {space.shape}"


def outputs_of(space: Space, is_scaled: bool) -> str:
    """Returns what a policy's outputs are.

    Args:
        space: of the actions.
        is_scaled: whether actions are stretched to the bounds of a Box.
    """
    if isinstance(space, spaces.MultiBinary):
        space = spaces.MultiDiscrete([2] * space.shape[0])
    if choices := _choices(space):
        return choices
    assert isinstance(space, spaces.Box)
    bounds = f" from {_short(space.low)} to {_short(space.high)}" if is_scaled else ""
    return f"numbers {space.shape}{bounds}"


def _choices(space: Space) -> str:
    if isinstance(space, spaces.Discrete):
        return f"Discrete({space.n}{_start(space.start)})"
    if isinstance(space, spaces.MultiDiscrete):
        return f"MultiDiscrete({space.nvec.tolist()}{_start(space.start)})"
    return ""


def _start(start: Any) -> str:
    return f", start={np.asarray(start).tolist()}" if np.any(start) else ""


def _short(bounds: np.ndarray) -> str:
    """Returns bounds in full, or as one number if they are all the same."""
    numbers = sorted(set(bounds.ravel().tolist()))
    return str(numbers[0]) if len(numbers) == 1 else str(bounds.tolist())
