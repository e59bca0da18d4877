"""Layout of an observation's row as plain data, for programs without fastrl."""

from __future__ import annotations

import math
from typing import Any

from gymnasium import Space, spaces

from fastrl.spaces.observations import MASK_KEY, PackedRow, is_pixels, one_hot_columns


def layout_of(row: Space) -> dict[str, Any]:
    """Returns the layout of rows `[n, ...]` of a space from `observation_rows`.

    `shape` and `dtype` are those of one row. Without `parts`, the row is the unchanged observation.
    Otherwise each part has its `name`, its `space`, its `shape` and `dtype` in the row, where it is
    flattened in C order, and its `columns` as [first, last + 1]:

    - Numbers are float32. In rows of bytes, each takes four columns, in this machine's byte order.
    - A one-hot part has 1 in column k if its dimension `one_hot.dimensions[k]` has the value
      `one_hot.values[k]`.
    - The action mask has 1 for allowed actions.
    - Images are concatenated along their channels: `channels` are those of each.
    """
    layout: dict[str, Any] = {"shape": list(row.shape or ()), "dtype": str(row.dtype)}
    if isinstance(row, PackedRow):
        layout["parts"] = [*_images(row), *_numbers(row)]
    return layout


def _images(row: PackedRow) -> list[dict[str, Any]]:
    """Returns the images, which come first and share their columns."""
    images = {name: part for name, part in row.parts.items() if is_pixels(part)}
    if not images:
        return []
    shared = {
        "shape": list(row.pixels_shape),
        "dtype": "uint8",
        "columns": [0, math.prod(row.pixels_shape)],
        "channel_axis": row.channel_axis,
    }
    size = row.pixels_shape[row.channel_axis] // len(images)
    return [
        {"name": name, "space": str(part), **shared, "channels": [k * size, (k + 1) * size]}
        for k, (name, part) in enumerate(images.items())
    ]


def _numbers(row: PackedRow) -> list[dict[str, Any]]:
    """Returns the parts after the images, the mask last."""
    masks = [MASK_KEY] if row.mask_size else []
    others = [name for name, part in row.parts.items() if not is_pixels(part)]
    width = 4 if row.pixels_shape else 1  # columns per number
    parts, start = [], row.values_at
    for name in [*(name for name in others if name not in masks), *masks]:
        space = row.parts[name]
        shape, more = list(space.shape or ()), {}
        if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and name not in masks:
            dimensions, values = one_hot_columns(space)
            shape = [len(values)]
            more = {"one_hot": {"dimensions": dimensions, "values": values}}
        stop = start + width * math.prod(shape)
        where = {"shape": shape, "dtype": "float32", "columns": [start, stop]}
        parts.append({"name": name, "space": str(space), **where, **more})
        start = stop
    return parts
