"""What is an image: decided by dtype, shape and bounds, or said by `obs_kind`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from gymnasium import Space, spaces

ObsKind = Literal["auto", "pixels", "vector"]

_SMALLEST_SIDE = 7
"""Smaller arrays of bytes are more likely boards than images."""


class ImageBox(spaces.Box):
    """A Box that holds images whatever its dtype, bounds and size are."""

    def __init__(
        self,
        low: Any,
        high: Any,
        shape: Sequence[int] | None = None,
        dtype: Any = np.uint8,
        is_scaled: bool = True,
        channel_axis: int | None = None,
    ) -> None:
        """Takes the arguments of a Box, and more.

        Args:
            low: as of a Box.
            high: as of a Box.
            shape: as of a Box.
            dtype: as of a Box.
            is_scaled: whether networks get images divided by `brightest`.
            channel_axis: 0 or 2, if it is known; None: as the shape suggests.
        """
        super().__init__(low, high, shape, dtype)
        self.is_scaled, self.channel_axis = is_scaled, channel_axis


def is_pixels(space: Space) -> bool:
    """Returns whether observations are images: uint8 `[H, W]`, `[C, H, W]` or `[H, W, C]`.

    Those have values from 0 to 255 and at least 7 x 7 pixels, unless the space is an `ImageBox`.
    """
    if isinstance(space, ImageBox):
        return True
    if not _may_be_pixels(space):
        return False
    assert isinstance(space, spaces.Box)
    height, width = _height_and_width(space)
    is_large = min(height, width) >= _SMALLEST_SIDE
    return is_large and bool((space.low == 0).all() and (space.high == 255).all())


def of_kind(space: Space, kind: ObsKind, is_scaled: bool = True) -> Space:
    """Returns a space that `is_pixels` takes for what it is meant to be.

    Arrays of bytes that are not images become Boxes of float32, of the same shape. So do images of
    other numbers than bytes, which are not scaled: nothing says what by.

    Args:
        space: of an observation or a part of it.
        kind: what the user calls arrays of bytes; if images are not scaled, those of any numbers.
        is_scaled: whether networks get images divided by `brightest`.
    """
    if not isinstance(space, spaces.Box) or len(space.shape) not in (2, 3):
        return space
    is_bytes = space.dtype == np.uint8
    is_image = kind == "pixels" and (is_bytes or not is_scaled)
    is_image |= kind == "auto" and is_pixels(space)
    if not is_bytes and not is_image:
        return space
    axis = getattr(space, "channel_axis", None)
    if is_bytes and is_image:
        is_so = kind == "auto" and is_scaled
        return space if is_so else ImageBox(space.low, space.high, None, np.uint8, is_scaled, axis)
    with np.errstate(over="ignore"):  # a bound beyond float32 becomes infinite
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    if is_image:
        return ImageBox(low, high, None, np.float32, False, axis)
    return spaces.Box(low, high, dtype=np.float32)


def channel_axis(space: Space) -> int:
    """Returns the dimension of images that holds their channels: 0 or 2.

    Where an `ImageBox` does not know it, two equal neighbouring dimensions are height and width;
    else the smallest one is the channels.
    """
    if (known := getattr(space, "channel_axis", None)) is not None:
        return known
    first, second, third = with_channels(space.shape or ())
    if first == second or second == third:
        return 2 if first == second != third else 0
    return 2 if third < min(first, second) else 0


def with_channels(shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the shape of an image, with a dimension for the channels of a grey one."""
    return (1, *shape) if len(shape) == 2 else tuple(shape)


def brightest(space: Space) -> int:
    """Returns the value of an image that networks get as 1."""
    assert isinstance(space, spaces.Box)
    if isinstance(space, ImageBox) and not space.is_scaled:
        return 1
    return max(1, int(space.high.max()))


def _may_be_pixels(space: Space) -> bool:
    is_bytes = isinstance(space, spaces.Box) and space.dtype == np.uint8
    return is_bytes and len(space.shape or ()) in (2, 3)


def _height_and_width(space: Space) -> tuple[int, int]:
    first, second, third = with_channels(space.shape or ())
    return (first, second) if channel_axis(space) == 2 else (second, third)
