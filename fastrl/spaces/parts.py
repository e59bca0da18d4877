"""Parts of nested spaces and observations, by name, and the columns that numbers become."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gymnasium import Space, spaces


def leaf_spaces(space: Space, name: str = "") -> dict[str, Space]:
    """Returns the parts of nested Dicts and Tuples by dotted name; "" for a single space."""
    if isinstance(space, spaces.Dict):
        inner: list[tuple[str, Space]] = list(space.spaces.items())
    elif isinstance(space, spaces.Tuple):
        inner = [(str(index), part) for index, part in enumerate(space.spaces)]
    else:
        return {name: space}
    leaves: dict[str, Space] = {}
    for key, part in inner:
        new = leaf_spaces(part, f"{name}.{key}" if name else str(key))
        if twice := sorted(leaves.keys() & new):
            raise ValueError(f"observation space {space} has two parts named {twice[0]!r}")
        leaves |= new
    return leaves


def leaf_values(value: Any, name: str = "") -> dict[str, Any]:
    """Returns the parts of an observation, by the names of `leaf_spaces`."""
    if isinstance(value, Mapping):
        inner = list(value.items())
    elif isinstance(value, tuple):
        inner = [(str(index), part) for index, part in enumerate(value)]
    else:
        return {name: value}
    leaves: dict[str, Any] = {}
    for key, part in inner:
        leaves |= leaf_values(part, f"{name}.{key}" if name else str(key))
    return leaves


def one_hot_columns(space: Space) -> tuple[list[int], list[int]]:
    """Returns the dimension and the value that each column of a one-hot row stands for."""
    if isinstance(space, spaces.Discrete):
        sizes, starts = [int(space.n)], [int(space.start)]
    else:
        assert isinstance(space, spaces.MultiDiscrete)
        sizes, starts = space.nvec.ravel().tolist(), space.start.ravel().tolist()
    columns = [dim for dim, size in enumerate(sizes) for _ in range(size)]
    values = [start + k for size, start in zip(sizes, starts, strict=True) for k in range(size)]
    return columns, values


def width_of(space: Space) -> int:
    """Returns how many columns a space of numbers takes: one for each value that is one-hot."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return sum(map(int, space.nvec.flat))
    return math.prod(space.shape or ())
