"""What a dataset holds of an observation: its parts by name, each in the dtype of its space.

Letters: n rows, R numbers of a packed row.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from fastrl.spaces.packed import MASK_KEY, PackedRow
from fastrl.spaces.parts import width_of
from fastrl.spaces.pixels import is_pixels

WHOLE_KEY = "observation"
"""The name of an observation that is no Dict, beside its action mask."""


def recorded_space(row: Space) -> Space:
    """Returns the space of what `recorded` returns: a Dict by dotted name, if there are parts.

    Numbers are recorded as the networks get them: float64 as float32.

    Args:
        row: space of the rows, from `observation_rows`.

    Raises:
        ValueError: the name of a part holds a "/", which HDF5 takes for the end of a group's name.
    """
    if not isinstance(row, PackedRow):
        return row
    if wrong := [name for name in row.names if "/" in name]:
        raise ValueError(f"an observation's key may hold no '/' in a dataset: {wrong[0]!r}")
    return spaces.Dict({name or WHOLE_KEY: _as_float32(x) for name, x in row.parts.items()})


def recorded(row: Space, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the parts of rows `[n, *]`, each `[n, *part]`; a whole one has the name "".

    Args:
        row: space of the rows, from `observation_rows`.
        rows: as a `VectorEnv` returns them.
    """
    if not isinstance(row, PackedRow):
        return {"": rows}
    parts, number = {}, len(rows)
    images = [name for name, part in row.parts.items() if is_pixels(part)]
    if images:
        size = math.prod(row.pixels_shape)
        pixels = rows[:, :size].reshape(number, *row.pixels_shape)
        split = np.split(pixels, len(images), 1 + row.channel_axis)
        for name, image in zip(images, split, strict=True):
            parts[name] = image.reshape(number, *(row.parts[name].shape or ()))
    masks = [name for name in row.names if row.mask_size and name == MASK_KEY]
    vectors = [name for name in row.names if name not in (*images, *masks)]
    numbers, start = rows[:, row.values_at :].view(np.float32), 0
    for name in (*vectors, *masks):
        width = row.mask_size if name in masks else width_of(row.parts[name])
        values, start = numbers[:, start : start + width], start + width
        parts[name] = _values(row.parts[name], values, name in masks)
    return {name or WHOLE_KEY: parts[name] for name in row.names}


def _values(part: Space, values: np.ndarray, is_mask: bool) -> np.ndarray:
    """Returns `[n, *part]` of the columns that a part takes in packed rows."""
    shape = (len(values), *(part.shape or ()))
    if not is_mask and isinstance(part, spaces.Discrete):
        return int(part.start) + values.argmax(1)
    if not is_mask and isinstance(part, spaces.MultiDiscrete):
        ends = np.cumsum(part.nvec.ravel())[:-1]
        chosen = [x.argmax(1) for x in np.split(values, ends, 1)]
        return (np.stack(chosen, 1) + part.start.ravel()).reshape(shape)
    return values.reshape(shape).astype(_as_float32(part).dtype)


def _as_float32(part: Any) -> Any:
    if not isinstance(part, spaces.Box) or part.dtype != np.float64:
        return part
    with np.errstate(over="ignore"):
        low, high = part.low.astype(np.float32), part.high.astype(np.float32)
    return spaces.Box(low, high, dtype=np.float32)
