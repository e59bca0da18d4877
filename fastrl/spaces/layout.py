"""What the networks get of a space, in words."""

from __future__ import annotations

from gymnasium import Space, spaces

from fastrl.spaces.packed import PackedRow
from fastrl.spaces.parts import width_of
from fastrl.spaces.pixels import brightest, is_pixels, with_channels


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
        how = f"divided by {scale}" if scale > 1 else "as they are"
        parts.append(f"pixels {' x '.join(map(str, shape))}, {how}")
    if size:
        one_hot = " (one-hot)" if isinstance(row, spaces.Discrete | spaces.MultiDiscrete) else ""
        parts.append(f"a vector of {size} number{'s' * (size > 1)}{one_hot}")
    if mask_size:
        parts.append(f"an action mask of {mask_size}")
    return ", and ".join(parts)
