"""Supported spaces, and the conversion of their observations to rows of numbers.

A rollout stores an observation of any space as one row of a single tensor. `observation_rows`
returns the space of the rows:

    space of the environment           row                       input of the network
    Box of images (`is_pixels`)        unchanged                 pixels, scaled to [0, 1] or, if
                                       (uint8 or float32)        that is wished, as they are
    other Box; MultiBinary             float32 (uint8 with one   a flat vector
                                       dimension, int32, int64
                                       unchanged)
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

from fastrl.spaces.actions import choices_of
from fastrl.spaces.packed import MASK_KEY, PackedRow
from fastrl.spaces.parts import is_tuple, leaf_spaces, leaf_values, width_of
from fastrl.spaces.pixels import ObsKind, brightest, is_pixels, of_kind, with_channels
from fastrl.spaces.values import UnfitValueError, as_dtype, check_choices, on_one_line

SUPPORTED_OBSERVATIONS = (
    "Box with at least one dimension, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple of these"
)

# Columns that are one-hot. With 100,000, what is tried before the first step takes half a minute,
# and PPO then takes ten steps a second: a network multiplies the zeros, too.
_MOST_ONE_HOT = 2**16

# Dtypes that a rollout stores unchanged; any other (float64, bool, int8 ...) becomes float32.
_KEPT_DTYPES = (np.dtype(np.uint8), np.dtype(np.int32), np.dtype(np.int64))


class ConvertedRow(spaces.Box):
    """Observations of a space of other numbers as rows of float32 `[n, ...]`."""

    def __init__(self, source: Space) -> None:
        """Takes the bounds of a Box or MultiBinary space."""
        low, high = np.zeros(source.shape or ()), np.ones(source.shape or ())
        if isinstance(source, spaces.Box):
            low, high = source.low, source.high
        # A float64 bound beyond float32 becomes infinite, as intended.
        with np.errstate(over="ignore"):
            super().__init__(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        self.source = source


def observation_rows(
    env_id: str,
    space: Space,
    action_space: Space,
    obs_keys: Sequence[str] = (),
    info_mask: bool = False,
    obs_kind: ObsKind = "auto",
    scale_images: bool = True,
) -> Any:
    """Returns the space of the rows to which observations of `space` are converted.

    Args:
        env_id: for errors.
        space: observation space of the environment.
        action_space: action space, to which a mask must fit.
        obs_keys: keys of a Dict to use; all if empty. A mask is always used.
        info_mask: whether a mask comes from the info.
        obs_kind: what arrays of bytes with two or three dimensions are: "pixels", a "vector", or
            "auto", whatever `is_pixels` says.
        scale_images: whether networks get pixels divided by the largest; if not, arrays of any
            numbers may be "pixels".

    Returns:
        A Box (a `PackedRow` for several parts), Discrete or MultiDiscrete.

    Raises:
        ValueError: the space is not supported, or lacks a key.
    """
    try:
        parts = leaf_spaces(space)
    except ValueError as error:
        raise ValueError(f"{env_id}: {error}") from error
    is_whole, seen_space = list(parts) == [""], on_one_line(space)
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
                f"{env_id}: observation space {on_one_line(part)}{where} is not supported; "
                f"supported: {SUPPORTED_OBSERVATIONS}. --obs-keys selects keys of a Dict."
            )
    one_hot = [x for x in parts.values() if isinstance(x, spaces.Discrete | spaces.MultiDiscrete)]
    if (number := sum(map(width_of, one_hot))) > _MOST_ONE_HOT:
        seen = on_one_line(one_hot[0]) if len(one_hot) == 1 else seen_space
        raise ValueError(
            f"{env_id}: observation space {seen} has {number:,} values, each of which is an input "
            f"of the network; at most {_MOST_ONE_HOT:,}. A MultiDiscrete of its digits or a Box "
            "has fewer"
        )
    has_choices = not isinstance(action_space, spaces.Box)
    has_mask = has_choices and (info_mask or MASK_KEY in parts)
    if info_mask and MASK_KEY in parts:
        raise ValueError(
            f"{env_id}: observations have an action mask already; leave out info_action_mask"
        )
    inner = [name for name in parts if name.endswith(f".{MASK_KEY}") and name not in obs_keys]
    if inner and has_choices:
        raise ValueError(
            f"{env_id}: the action mask {inner[0]!r} is inside of another part, where it would be "
            f"taken for numbers; move it to the top as {MASK_KEY!r}, or select with --obs-keys"
        )
    seen = [part for name, part in parts.items() if not (has_mask and name == MASK_KEY)]
    if not seen or any(0 in (part.shape or ()) for part in parts.values()):
        beside = " beside the action mask; a constant will do" if has_mask and not seen else ""
        raise ValueError(
            f"{env_id}: observation space {seen_space} holds no numbers to learn from{beside}"
        )
    parts = {
        name: part if has_mask and name == MASK_KEY else of_kind(part, obs_kind, scale_images)
        for name, part in parts.items()
    }
    images = {name: part.shape or () for name, part in parts.items() if is_pixels(part)}
    if len(set(map(with_channels, images.values()))) > 1:
        raise ValueError(
            f"{env_id}: images of one observation must have one shape, not {images}; --resize "
            "gives them one size, and --obs-keys selects some"
        )
    brightness = {name: brightest(parts[name]) for name in images}
    if len({*brightness.values()}) > 1:
        raise ValueError(
            f"{env_id}: images of one observation are divided by one number, not by those of "
            f"{brightness}; --obs-keys selects some, and one of classes may be a vector or one-hot"
        )
    has_images = bool(images)
    if obs_kind == "pixels" and not has_images:
        raise ValueError(
            f"{env_id}: obs_kind=pixels has no effect on {seen_space}; images are Boxes of uint8 "
            "or, with scale_images=false, of any numbers, with two or three dimensions"
        )
    if not scale_images and not has_images:
        raise ValueError(
            f"{env_id}: scale_images=false has no effect on {seen_space}, which holds no images; "
            "with obs_kind=pixels arrays of any numbers with two or three dimensions are images"
        )
    if info_mask and isinstance(action_space, spaces.Box):
        seen = on_one_line(action_space)
        raise ValueError(f"{env_id}: an action mask is for discrete actions, not {seen}")
    if info_mask:
        choices = choices_of(action_space)
        return PackedRow({**parts, MASK_KEY: spaces.MultiBinary(sum(choices))}, choices)
    if not has_mask:
        return _plain_rows(parts[""]) if is_whole else PackedRow(parts)
    choices, size = choices_of(action_space), math.prod(parts[MASK_KEY].shape or ())
    if size != sum(choices):
        raise ValueError(
            f"{env_id}: an action mask of {size} values does not fit "
            f"{on_one_line(action_space)}, which needs {sum(choices)}: one for each choice of "
            "each dimension"
        )
    return PackedRow(parts, choices)


def pack_observation(row: Space, observation: Any, mask: Any = None) -> np.ndarray:
    """Packs a batch of observations from an environment into rows `[n, ...]`.

    Args:
        row: space of the rows, from `observation_rows`.
        observation: arrays `[n, ...]`, in dicts or tuples as in the space.
        mask: `[n, M]`, if it is not part of the observation.

    Raises:
        UnfitValueError: a value does not fit its space.
    """
    if not isinstance(row, PackedRow):
        return np.array(plain_row(row, observation), order="C")
    parts = leaf_values(observation, row.names)
    return row.pack(parts if mask is None else {**parts, MASK_KEY: mask})


def plain_row(row: Space, observation: Any) -> np.ndarray:
    """Returns observations `[*]` of a space that is not packed, in its dtype; maybe uncopied.

    Raises:
        UnfitValueError: a value does not fit the space.
    """
    space = row.source if isinstance(row, ConvertedRow) else row
    array = as_dtype(observation, space.dtype)
    check_choices(array, space)
    return as_dtype(array, row.dtype)


def rows_of(row: Space, observation: Any) -> tuple[np.ndarray, bool]:
    """Returns rows `[n, ...]` of one observation or a batch, and whether it was a single one.

    Raises:
        ValueError: the observation does not fit the space, or its mask forbids every action.
    """
    shape = row.shape or ()
    if isinstance(row, PackedRow) and isinstance(observation, list) and is_tuple(row.names):
        observation = tuple(observation)
    if isinstance(row, PackedRow) and isinstance(observation, Mapping | tuple):
        parts = leaf_values(observation, row.names)
        name, part = row.names[0], row.parts[row.names[0]]
        single = np.ndim(parts.get(name, 0)) == len(part.shape or ())
        if single:
            parts = {name: np.asarray(value)[None] for name, value in parts.items()}
        array = row.pack(parts)
    else:
        array = np.array(plain_row(row, observation))
        single = array.ndim == len(shape)
        array = array[None] if single else array
        if array.shape[1:] != shape or array.ndim == len(shape):
            raise ValueError(
                f"an observation has the shape {shape}, and a batch one dimension more in front; "
                f"this has {np.shape(observation)}"
            )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UnfitValueError("an observation that is not finite")
    if isinstance(row, PackedRow) and row.mask_size:
        index = row.first_without_choice(array)
        if index >= 0:
            raise ValueError(f"the action mask of observation {index} forbids every action")
    return array, single


def _plain_rows(space: Space) -> Space:
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return space
    if isinstance(space, spaces.Box) and (space.dtype == np.float32 or space.dtype in _KEPT_DTYPES):
        return space
    return ConvertedRow(space)
