"""Parts of nested spaces and observations, by name, and the columns that numbers become."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from fastrl.spaces.values import on_one_line


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
            seen = on_one_line(space)
            raise ValueError(f"observation space {seen} has two parts named {twice[0]!r}")
        leaves |= new
    return leaves


def leaf_values(value: Any, names: Collection[str], name: str = "") -> dict[str, Any]:
    """Returns the parts of an observation, by the names of `leaf_spaces`.

    Args:
        value: the observation. A list or an array is taken for a Tuple, as gymnasium takes it.
        names: of the parts that there are to be.
        name: of the part that it is.
    """
    if isinstance(value, Mapping):
        inner = list(value.items())
    elif isinstance(value, tuple) or (
        isinstance(value, list | np.ndarray) and is_tuple(names, name)
    ):
        inner = [(str(index), part) for index, part in enumerate(value)]
    else:
        return {name: value}
    leaves: dict[str, Any] = {}
    for key, part in inner:
        leaves |= leaf_values(part, names, f"{name}.{key}" if name else str(key))
    return leaves


def batch_of_one(value: Any, names: Collection[str]) -> dict[str, np.ndarray]:
    """Returns the parts `[1, ...]` of one observation; arguments as of `leaf_values`."""
    return {name: np.asarray(part)[None] for name, part in leaf_values(value, names).items()}


def is_tuple(names: Collection[str], name: str = "") -> bool:
    """Returns whether the parts of these names are, at `name`, those of a Tuple."""
    start = f"{name}." if name else ""
    inner = [part.removeprefix(start) for part in names if part.startswith(start)]
    return name not in names and any(part.partition(".")[0].isdecimal() for part in inner)


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
