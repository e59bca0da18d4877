"""Observations of several parts, and action masks, as rows of one tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from fastrl.spaces.meaning import inputs_of
from fastrl.spaces.parts import one_hot_columns, width_of
from fastrl.spaces.pixels import brightest, channel_axis, is_pixels, with_channels
from fastrl.spaces.values import UnfitValueError, as_dtype, check_choices

MASK_KEY = "action_mask"


class PackedRow(spaces.Box):
    """Observations of several parts as rows `[n, R]`: pixels, then a vector, then an action mask.

    Vector and mask (1: allowed) are float32. If all images are uint8, a row is bytes: the pixels,
    zeros up to a multiple of four, and the bytes of the float32 values. Otherwise it is float32.
    """

    def __init__(self, parts: Mapping[str, Space], choices: Sequence[int] = ()) -> None:
        """Determines the layout.

        Args:
            parts: spaces by name; if there are `choices`, the one named "action_mask" is the mask.
            choices: of each dimension of the actions, M in all; empty without a mask.
        """
        self.mask_size = sum(choices)
        self._first_choices = np.cumsum([0, *choices[:-1]])
        self._masks = [name for name in parts if choices and name == MASK_KEY]
        self._images = [name for name, part in parts.items() if is_pixels(part)]
        taken = {*self._masks, *self._images}
        self._vectors = {name: part for name, part in parts.items() if name not in taken}
        self.vector_size = sum(width_of(part) for part in self._vectors.values())
        self._one_hot = {
            name: tuple(map(np.array, one_hot_columns(part)))
            for name, part in self._vectors.items()
            if isinstance(part, spaces.Discrete | spaces.MultiDiscrete)
        }
        self.brightest = max((brightest(parts[name]) for name in self._images), default=255)
        shapes = {with_channels(parts[name].shape or ()) for name in self._images}
        assert len(shapes) <= 1, shapes
        self.pixels_shape: tuple[int, ...] = ()
        self.channel_axis = 0
        for shape in map(list, shapes):
            self.channel_axis = channel_axis(parts[self._images[0]])
            shape[self.channel_axis] *= len(self._images)
            self.pixels_shape = tuple(shape)
        self.values_at = math.prod(self.pixels_shape) if self._images else 0
        num_values = self.vector_size + self.mask_size
        self.is_bytes = bool(shapes) and all(parts[x].dtype == np.uint8 for x in self._images)
        if self.is_bytes:
            self.values_at = -(-self.values_at // 4) * 4
            super().__init__(0, 255, (self.values_at + 4 * num_values,), np.uint8)
        else:
            super().__init__(-np.inf, np.inf, (self.values_at + num_values,), np.float32)
        self.parts, self.names = dict(parts), list(parts)
        masks = {name: f"an action mask of {[*choices]}" for name in self._masks}
        told = {name: masks.get(name) or inputs_of(part) for name, part in parts.items()}
        kind = "bytes" if self.is_bytes else "numbers"
        self.meaning = f"{kind} of {', '.join(f'{name!r}: {told[name]}' for name in told)}"
        """What the rows hold, in words."""

    def __eq__(self, other: object) -> bool:
        """Returns whether the rows have the same meaning."""
        return isinstance(other, PackedRow) and self.meaning == other.meaning

    def __repr__(self) -> str:
        """Lists the names of the parts."""
        return f"PackedRow({', '.join(self.names)})"

    def pack(self, parts: Mapping[str, Any]) -> np.ndarray:
        """Packs parts `[n, ...]` into rows `[n, R]`.

        Raises:
            UnfitValueError: a part is missing or has another shape, or a value does not fit its
                space, or is not finite beside images of bytes, in whose rows nobody could see it.
        """
        if missing := [name for name in self.names if name not in parts]:
            has = sorted(map(str, parts)) if list(parts) != [""] else "no keys"
            raise UnfitValueError(f"an observation without {missing[0]!r}; it has {has}")
        values = [
            self._numbers(name, parts[name], width_of(x)) for name, x in self._vectors.items()
        ]
        values += [self._mask(name, parts[name]) for name in self._masks]
        images = [self._image(name, parts[name]) for name in self._images]
        lengths = {len(array) for array in (*values, *images)}
        if len(lengths) > 1:
            raise UnfitValueError(f"an observation whose parts are {sorted(lengths)} rows long")
        numbers = np.ascontiguousarray(np.concatenate(values, 1)) if values else None
        if not self.pixels_shape:
            assert numbers is not None
            return numbers
        n = len(images[0])
        whole = images[0] if len(images) == 1 else np.concatenate(images, 1 + self.channel_axis)
        rows = np.zeros((n, *self.shape), self.dtype)
        pixels = whole.reshape(n, -1)
        rows[:, : pixels.shape[1]] = pixels
        if numbers is not None:
            if not np.isfinite(numbers).all():
                raise UnfitValueError("an observation that is not finite")
            rows[:, self.values_at :] = numbers.view(self.dtype)
        return rows

    def first_without_choice(self, rows: np.ndarray, done: np.ndarray | None = None) -> int:
        """Returns the first of rows `[n, R]` whose mask forbids all choices of a dimension, or -1.

        Where an episode ended, bool `[n]`, no action is taken: such a mask is replaced by one that
        allows all.
        """
        masks = rows[:, self.values_at :].view(np.float32)[:, self.vector_size :]
        has_choice = np.logical_or.reduceat(masks > 0.5, self._first_choices, 1).all(1)
        if done is not None and not has_choice.all():
            masks[done & ~has_choice] = 1
            has_choice |= done
        return -1 if has_choice.all() else int(has_choice.argmin())

    def _numbers(self, name: str, value: Any, width: int) -> np.ndarray:
        """Returns float32 `[n, V]` of observations `[n, ...]` of one part."""
        part = self.parts[name]
        if name in self._one_hot:
            array = as_dtype(value, np.int64, name)
            self._check_shape(name, array)
            check_choices(array, part, name)
            columns, values = self._one_hot[name]
            return (array.reshape(len(array), -1)[:, columns] == values).astype(np.float32)
        array = as_dtype(value, part.dtype, name)  # what its space says, before it becomes float32
        check_choices(array, part, name)
        if array.ndim == 0 or _without_ones(array.shape[1:]) != _without_ones(part.shape or ()):
            raise UnfitValueError(f"{name!r} of shape {array.shape[1:]}, expected {part.shape}")
        return as_dtype(array, np.float32).reshape(len(array), width)

    def _mask(self, name: str, value: Any) -> np.ndarray:
        """Returns an action mask as float32 `[n, M]`."""
        array = np.asarray(value)
        if array.ndim == 0 or array.size != len(array) * self.mask_size:
            raise UnfitValueError(
                f"{name!r} of shape {array.shape[1:]}, expected ({self.mask_size},)"
            )
        is_wrong = (array != 0) & (array != 1)
        if is_wrong.any():
            raise UnfitValueError(f"an action mask with {array[is_wrong][0]}, neither 0 nor 1")
        return array.reshape(len(array), self.mask_size).astype(np.float32)

    def _image(self, name: str, value: Any) -> np.ndarray:
        array = as_dtype(value, self.parts[name].dtype, name)
        self._check_shape(name, array)
        return array.reshape(len(array), *with_channels(array.shape[1:]))

    def _check_shape(self, name: str, array: np.ndarray) -> None:
        if array.shape[1:] != self.parts[name].shape or not array.ndim:
            expected = self.parts[name].shape
            raise UnfitValueError(f"{name!r} of shape {array.shape[1:]}, expected {expected}")


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size != 1]
