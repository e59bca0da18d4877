"""Layout of an observation's row as plain data, for programs without fastrl."""

from __future__ import annotations

import math
from typing import Any

from gymnasium import Space, spaces

from fastrl.spaces.observations import MASK_KEY, PackedRow
from fastrl.spaces.parts import one_hot_columns, width_of
from fastrl.spaces.pixels import brightest, is_pixels, with_channels


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


def in_words(row: Space) -> str:
    """Returns what the networks get of the rows of a space from `observation_rows`."""
    shape: tuple[int, ...] = ()
    scale, size, mask_size, parts = 255, 0, 0, []
    if isinstance(row, PackedRow):
        shape, scale = row.pixels_shape, row.brightest
        size, mask_size = row.vector_size, row.mask_size
    elif is_pixels(row):
        shape, scale = with_channels(row.shape or ()), brightest(row)
    else:
        size = width_of(row)
    if shape:
        parts.append(f"pixels {' x '.join(map(str, shape))}, divided by {scale}")
    if size:
        one_hot = " (one-hot)" if isinstance(row, spaces.Discrete | spaces.MultiDiscrete) else ""
        parts.append(f"a vector of {size} number{'s' * (size > 1)}{one_hot}")
    if mask_size:
        parts.append(f"an action mask of {mask_size}")
    return ", and ".join(parts)


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
