"""Values as environments and users give them: taken if a space can hold them, refused if not."""

from __future__ import annotations

import math
import numbers
import reprlib
from typing import Any

import numpy as np
from gymnasium import Space, spaces


class UnfitValueError(ValueError):
    """A value that does not fit its space; the message says what it is, not where it came from."""


def as_dtype(value: Any, dtype: Any, name: str = "") -> np.ndarray:
    """Returns numbers of any kind as an array of `dtype`.

    Args:
        value: an array, or what numpy makes one of.
        dtype: for integers, each number must be one that it can represent; numbers beyond a
            floating-point type become infinite.
        name: key of the observation that it is, for the error.

    Raises:
        UnfitValueError: these are not numbers, or `dtype` cannot represent one of them.
    """
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], dict):
        raise UnfitValueError(
            f"{_called(name)} that is a pair (obs, info), as `reset` returns it; give obs"
        )
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise UnfitValueError(f"{_called(name)} that is not an array: {error}") from error
    if array.dtype == dtype:
        return array
    dtype = np.dtype(dtype)
    if array.dtype.kind not in "biuf":
        raise UnfitValueError(f"{_called(name)} of dtype {array.dtype}, but its space has {dtype}")
    with np.errstate(all="ignore"):  # an environment may have made some of them errors
        cast = array.astype(dtype)
    if dtype.kind in "iu" and not np.can_cast(array.dtype, dtype):
        is_lost = cast != array  # true for NaN
        if is_lost.any():
            lost = np.atleast_1d(array)[np.atleast_1d(is_lost)][0]
            raise UnfitValueError(
                f"{_called(name)} with {lost}, which the {dtype} of its space cannot represent"
            )
    return cast


def check_choices(values: np.ndarray, space: Space, name: str = "") -> None:
    """Raises UnfitValueError if some of `values` `[*]` are not in a discrete space."""
    if isinstance(space, spaces.Discrete):
        first, number = space.start, space.n
    elif isinstance(space, spaces.MultiDiscrete):
        first, number = space.start, space.nvec
    elif isinstance(space, spaces.MultiBinary):
        first, number = 0, 2
    else:
        return
    is_wrong = (values < first) | (values >= first + number)
    if is_wrong.any():
        wrong = np.atleast_1d(values)[np.atleast_1d(is_wrong)][0]
        raise UnfitValueError(
            f"{_called(name)} with {wrong}, but its space is {on_one_line(space)}"
        )


def as_number(value: Any, what: str) -> float:
    """Returns a number, given as an array of any shape that holds one, or as a tensor.

    Raises:
        UnfitValueError: it is not one number; strings are not converted.
    """
    try:
        item = value.item() if hasattr(value, "item") else np.asarray(value).item()
        if isinstance(item, numbers.Number) and not isinstance(item, complex):
            return float(item)  # pyright: ignore[reportArgumentType]
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf
    except (RuntimeError, TypeError, ValueError):  # each kind of array has its own
        pass
    raise UnfitValueError(f"{what} {shown(value)}, which is not one number")


def as_flag(value: Any, what: str) -> bool:
    """Returns a bool, given as such or as the number 0 or 1, in an array of any shape.

    Raises:
        UnfitValueError: it is none of these; strings are not converted.
    """
    try:
        number = as_number(value, what)
    except UnfitValueError:
        number = -1.0
    if number not in (0, 1):
        raise UnfitValueError(f"{what} {shown(value)}, which is neither true nor false")
    return bool(number)


def on_one_line(spaces: Any) -> str:
    """Returns the text of a space, or of several; that of an array has a line for each row."""
    return " ".join(str(spaces).split())


def shown(value: Any) -> str:
    """Returns a short text for a value of foreign code, on one line."""
    text = " ".join(reprlib.repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _called(name: str) -> str:
    return f"an observation {name!r}" if name else "an observation"
