"""What is an image: decided by dtype, shape and bounds, or said by `obs_kind`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from gymnasium import Space, spaces

ObsKind = Literal["auto", "pixels", "vector"]

_SMALLEST_SIDE = 7
"""Smaller arrays of bytes are more likely boards than images."""


class ImageBox(spaces.Box):
    """A Box of uint8 that holds images whatever its bounds and size are."""


def is_pixels(space: Space) -> bool:
    """Returns whether observations are images: uint8 `[H, W]`, `[C, H, W]` or `[H, W, C]`.

    Those have values from 0 to 255 and at least 7 x 7 pixels, unless the space is an `ImageBox`.
    """
    if isinstance(space, ImageBox):
        return True
    if not _may_be_pixels(space):
        return False
    assert isinstance(space, spaces.Box)
    height, width = _height_and_width(space.shape)
    is_large = min(height, width) >= _SMALLEST_SIDE
    return is_large and bool((space.low == 0).all() and (space.high == 255).all())


def of_kind(space: Space, kind: ObsKind) -> Space:
    """Returns a space that `is_pixels` takes for what it is meant to be.

    Arrays of bytes that are not images become Boxes of float32, of the same shape.
    """
    if not _may_be_pixels(space):
        return space
    assert isinstance(space, spaces.Box)
    if kind == "pixels":
        return ImageBox(space.low, space.high, dtype=np.uint8)
    if kind == "auto" and is_pixels(space):
        return space
    low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    return spaces.Box(low, high, dtype=np.float32)


def channel_axis(shape: Sequence[int]) -> int:
    """Returns the dimension of an image that holds its channels: 0 or 2.

    Two equal neighbouring dimensions are height and width; else the smallest one is the channels.
    """
    first, second, third = shape
    if first == second or second == third:
        return 2 if first == second != third else 0
    return 2 if third < min(first, second) else 0


def with_channels(shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the shape of an image, with a dimension for the channels of a grey one."""
    return (1, *shape) if len(shape) == 2 else tuple(shape)


def brightest(space: Space) -> int:
    """Returns the value of an image that is scaled to 1."""
    assert isinstance(space, spaces.Box)
    return max(1, int(space.high.max()))


def _may_be_pixels(space: Space) -> bool:
    is_bytes = isinstance(space, spaces.Box) and space.dtype == np.uint8
    return is_bytes and len(space.shape or ()) in (2, 3)


def _height_and_width(shape: Sequence[int]) -> tuple[int, int]:
    first, second, third = with_channels(shape)
    return (first, second) if channel_axis((first, second, third)) == 2 else (second, third)
