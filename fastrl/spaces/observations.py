"""Supported spaces, and the conversion of their observations to rows of numbers.

A rollout stores an observation of any space as one row of a single tensor. `observation_rows`
returns the space of the rows:

    space of the environment           row                       input of the network
    Box, uint8, 2 or 3 dimensions      unchanged                 pixels, scaled to [0, 1]
    other Box; MultiBinary             float32 (uint8, int32,    a flat vector
                                       int64 unchanged)
    Discrete, MultiDiscrete            int64                     one-hot
    Dict, Tuple, or an action mask     a `PackedRow`             pixels, a flat vector, a mask

Letters: n rows, V values of a vector, M actions under a mask, C x H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import Space, spaces

SUPPORTED_OBSERVATIONS = (
    "Box with at least one dimension, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple of these"
)
SUPPORTED_ACTIONS = (
    "Discrete, MultiDiscrete and MultiBinary with one dimension, bounded Box with one dimension"
)
MASK_KEY = "action_mask"

# Dtypes that a rollout stores unchanged; any other (float64, bool, int8 ...) becomes float32.
_KEPT_DTYPES = (np.dtype(np.uint8), np.dtype(np.int32), np.dtype(np.int64))


def is_pixels(space: Space) -> bool:
    """Returns whether observations are images: uint8 `[H, W]`, `[C, H, W]` or `[H, W, C]`."""
    if not isinstance(space, spaces.Box) or isinstance(space, PackedRow):
        return False
    return space.dtype == np.uint8 and len(space.shape) in (2, 3)


def channel_axis(shape: Sequence[int]) -> int:
    """Returns the dimension of an image that holds its channels: 0 or 2.

    Two equal neighbouring dimensions are height and width; else the smallest one is the channels.
    """
    first, second, third = shape
    if first == second or second == third:
        return 2 if first == second != third else 0
    return 2 if third < min(first, second) else 0


class PackedRow(spaces.Box):
    """Observations of several parts as rows `[n, R]`: pixels, then a vector, then an action mask.

    Vector and mask (1: allowed) are float32. Without pixels, so are the rows. With pixels they are
    bytes: the pixels', some zeros up to a multiple of four, and those of the float32 values.
    """

    def __init__(self, parts: Mapping[str, Space], mask_size: int) -> None:
        """Determines the layout.

        Args:
            parts: spaces by name; if `mask_size` is not 0, the one named "action_mask" is the mask.
            mask_size: M; 0 without a mask.

        Raises:
            ValueError: the images have different shapes.
        """
        self.mask_size = mask_size
        self._masks = [name for name in parts if mask_size and name == MASK_KEY]
        self._images = [name for name, part in parts.items() if is_pixels(part)]
        taken = {*self._masks, *self._images}
        self._vectors = {name: part for name, part in parts.items() if name not in taken}
        self.vector_size = sum(_width(part) for part in self._vectors.values())
        shapes = {_with_channels(parts[name].shape or ()) for name in self._images}
        if len(shapes) > 1:
            raise ValueError(f"images of one observation must have one shape, not {shapes}")
        self.pixels_shape: tuple[int, ...] = ()
        self.channel_axis = 0
        for shape in map(list, shapes):
            self.channel_axis = channel_axis(shape)
            shape[self.channel_axis] *= len(self._images)
            self.pixels_shape = tuple(shape)
        num_bytes = math.prod(self.pixels_shape) if self._images else 0
        self.values_at = -(-num_bytes // 4) * 4
        num_values = self.vector_size + mask_size
        if self.pixels_shape:
            super().__init__(0, 255, (self.values_at + 4 * num_values,), np.uint8)
        else:
            super().__init__(-np.inf, np.inf, (num_values,), np.float32)
        self.parts, self.names = dict(parts), list(parts)

    def __eq__(self, other: object) -> bool:
        """Returns whether the rows have the same meaning."""
        mine = (self.names, self.pixels_shape, self.vector_size, self.mask_size)
        return isinstance(other, PackedRow) and mine == (
            other.names,
            other.pixels_shape,
            other.vector_size,
            other.mask_size,
        )

    def __repr__(self) -> str:
        """Lists the names of the parts."""
        return f"PackedRow({', '.join(self.names)})"

    def pack(self, parts: Mapping[str, Any]) -> np.ndarray:
        """Packs parts `[n, ...]` into rows `[n, R]`.

        Raises:
            ValueError: a part is missing or has another shape, or a value is not finite.
        """
        if missing := [name for name in self.names if name not in parts]:
            raise ValueError(f"the observation has no {missing[0]!r}; it has {sorted(parts)}")
        values = [_numbers(parts[name], part) for name, part in self._vectors.items()]
        values += [
            _numbers(parts[name], spaces.MultiBinary(self.mask_size)) for name in self._masks
        ]
        numbers = np.ascontiguousarray(np.concatenate(values, 1)) if values else None
        if not self.pixels_shape:
            assert numbers is not None
            return numbers
        images = [np.asarray(parts[name], np.uint8) for name in self._images]
        n = len(images[0])
        images = [image.reshape(n, *_with_channels(image.shape[1:])) for image in images]
        whole = images[0] if len(images) == 1 else np.concatenate(images, 1 + self.channel_axis)
        if whole.shape[1:] != self.pixels_shape:
            raise ValueError(f"images of shape {whole.shape[1:]}, expected {self.pixels_shape}")
        rows = np.zeros((n, *self.shape), np.uint8)
        pixels = whole.reshape(n, -1)
        rows[:, : pixels.shape[1]] = pixels
        if numbers is not None:
            if not np.isfinite(numbers).all():
                raise ValueError("an observation is not finite")
            rows[:, self.values_at :] = numbers.view(np.uint8)
        return rows


def observation_rows(
    env_id: str,
    space: Space,
    action_space: Space,
    obs_keys: Sequence[str] = (),
    mask_size: int = 0,
) -> Any:
    """Returns the space of the rows to which observations of `space` are converted.

    Args:
        env_id: for errors.
        space: observation space of the environment.
        action_space: action space, to which a mask must fit.
        obs_keys: keys of a Dict to use; all if empty. A mask is always used.
        mask_size: M of a mask that does not come from the observation, but from the info.

    Returns:
        A Box (a `PackedRow` for several parts), Discrete or MultiDiscrete.

    Raises:
        ValueError: the space is not supported, or lacks a key.
    """
    parts = leaf_spaces(space)
    is_whole = list(parts) == [""]
    if obs_keys:
        if unknown := [key for key in obs_keys if key not in parts]:
            has = "no keys" if is_whole else f"{sorted(parts)}"
            raise ValueError(f"{env_id}: no observation key {unknown[0]!r}; it has {has}")
        parts = {name: part for name, part in parts.items() if name in (*obs_keys, MASK_KEY)}
    for name, part in parts.items():
        is_box = isinstance(part, spaces.Box) and (part.shape or not is_whole)
        is_other = isinstance(part, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)
        if not is_box and not is_other:
            where = f" of {name!r}" if name else ""
            raise ValueError(
                f"{env_id}: observation space {part}{where} is not supported; supported: "
                f"{SUPPORTED_OBSERVATIONS}. --obs-keys selects keys of a Dict."
            )
    if not parts or any(0 in (part.shape or ()) for part in parts.values()):
        raise ValueError(f"{env_id}: observation space {space} holds no numbers to learn from")
    if mask_size:
        parts[MASK_KEY] = spaces.MultiBinary(mask_size)
    elif MASK_KEY in parts and not isinstance(action_space, spaces.Box):
        mask_size = num_choices(action_space)
        size = int(np.prod(parts[MASK_KEY].shape or ()))
        if size != mask_size:
            raise ValueError(
                f"{env_id}: an action mask of {size} values does not fit {action_space}, "
                f"which needs {mask_size}: one for each choice of each dimension"
            )
    if not is_whole or mask_size:
        return PackedRow(parts, mask_size)
    return _plain_rows(space)


def pack_observation(row: Space, observation: Any, mask: Any = None) -> np.ndarray:
    """Packs a batch of observations from an environment into rows `[n, ...]`.

    Args:
        row: space of the rows, from `observation_rows`.
        observation: arrays `[n, ...]`, in dicts or tuples as in the space.
        mask: `[n, M]`, if it is not part of the observation.
    """
    if not isinstance(row, PackedRow):
        return np.array(observation, row.dtype, order="C")
    parts = leaf_values(observation)
    return row.pack(parts if mask is None else {**parts, MASK_KEY: mask})


def rows_of(row: Space, observation: Any) -> tuple[np.ndarray, bool]:
    """Returns rows `[n, ...]` of one observation or a batch, and whether it was a single one.

    Raises:
        ValueError: the observation does not fit the space.
    """
    shape = row.shape or ()
    if isinstance(row, PackedRow) and isinstance(observation, Mapping | tuple):
        parts = leaf_values(observation)
        name, part = row.names[0], row.parts[row.names[0]]
        single = np.ndim(parts.get(name, 0)) == len(part.shape or ())
        if single:
            parts = {name: np.asarray(value)[None] for name, value in parts.items()}
        return row.pack(parts), single
    array = np.array(observation, row.dtype)
    single = array.ndim == len(shape)
    array = array[None] if single else array
    if array.shape[1:] != shape or array.ndim == len(shape):
        raise ValueError(f"expected {shape} each, not {np.shape(observation)}")
    return array, single


def action_space_of(space: Space) -> Space:
    """Returns the equivalent MultiDiscrete of a bounded Box of integers; else `space` itself."""
    is_box = isinstance(space, spaces.Box) and len(space.shape) == 1 and space.is_bounded()
    if not is_box or not np.issubdtype(space.dtype or np.float32, np.integer):
        return space
    assert isinstance(space, spaces.Box)
    low = space.low.astype(np.int64)
    return spaces.MultiDiscrete(space.high.astype(np.int64) - low + 1, start=low)


def check_action_space(space: Space, name: str = "") -> None:
    """Raises ValueError if fastrl does not support an action space."""
    match space:
        case spaces.Discrete():
            supported = True
        case spaces.MultiDiscrete():
            supported = space.nvec.ndim == 1
        case spaces.MultiBinary():
            supported = len(space.shape) == 1
        case spaces.Box():
            supported = len(space.shape) == 1 and space.is_bounded("both")
        case _:
            supported = False
    if not supported:
        where = f"{name}: " if name else ""
        raise ValueError(
            f"{where}action space {space} is not supported; supported: {SUPPORTED_ACTIONS}"
        )


def num_choices(space: Space) -> int:
    """Returns the size of a mask over a discrete action space: the choices of all dimensions."""
    match space:
        case spaces.Discrete():
            return int(space.n)
        case spaces.MultiDiscrete():
            return int(space.nvec.sum())
        case spaces.MultiBinary():
            return 2 * int(space.shape[0])
    raise ValueError(f"an action mask is for discrete actions, not {space}")


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
        leaves |= leaf_spaces(part, f"{name}.{key}" if name else key)
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
        leaves |= leaf_values(part, f"{name}.{key}" if name else key)
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


def _plain_rows(space: Space) -> Space:
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return space
    if isinstance(space, spaces.MultiBinary):
        return spaces.Box(0, 1, space.shape, np.float32)
    assert isinstance(space, spaces.Box)
    if space.dtype == np.float32 or space.dtype in _KEPT_DTYPES:
        return space
    # A float64 bound beyond float32 becomes infinite, as intended.
    with np.errstate(over="ignore"):
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    return spaces.Box(low, high, dtype=np.float32)


def _with_channels(shape: Sequence[int]) -> tuple[int, ...]:
    return (1, *shape) if len(shape) == 2 else tuple(shape)


def _width(space: Space) -> int:
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return len(one_hot_columns(space)[0])
    return int(np.prod(space.shape or ()))


def _numbers(array: Any, space: Space) -> np.ndarray:
    """Returns float32 `[n, V]` of observations `[n, ...]` of one part."""
    array = np.asarray(array)
    n = len(array)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        columns, values = one_hot_columns(space)
        return (array.reshape(n, -1)[:, columns] == values).astype(np.float32)
    numbers = array.reshape(n, -1).astype(np.float32)
    if numbers.shape[1] != _width(space):
        raise ValueError(f"values of shape {array.shape[1:]}, expected {space.shape}")
    return numbers
