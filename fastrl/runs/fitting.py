"""Whether a loaded state is one that an agent can take back: the same names, kinds and shapes.

A checkpoint may be whole and still hold something else than it should. It is compared with the
state that the agent has itself, before any of it is taken over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fastrl.processes.errors import one_line

# What a value of a wrong type or shape can raise when it is loaded.
_MISFITS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Context in which a checkpoint's state is taken back: errors are ValueErrors that name it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(error)}") from None  # it says all that is known
    except _MISFITS as error:
        fault = "the checkpoint does not fit this agent"
        raise ValueError(f"{path}: {fault}: {one_line(error)}") from error


def check_fits(state: Any, expected: Any, name: str = "", free: tuple[str, ...] = ()) -> None:
    """Raises ValueError, with the place, if a state does not have the form of another.

    Args:
        state: from a checkpoint.
        expected: what the agent would save itself; lists are as long.
        name: the place of both in the checkpoint, for errors.
        free: names at the top that are not compared, such as what has no fixed size.
    """
    if isinstance(expected, Mapping):
        _check(isinstance(state, Mapping), name, state, "a mapping")
        for key, part in expected.items():
            place = f"{name}.{key}" if name else str(key)
            if key in free:
                continue
            _check(key in state, place, None, _in_words(part))
            check_fits(state[key], part, place)
    elif isinstance(expected, list | tuple):
        is_alike = isinstance(state, list | tuple) and len(state) == len(expected)
        _check(is_alike, name, state, f"a list of {len(expected)}")
        for index, part in enumerate(expected):
            check_fits(state[index], part, f"{name}[{index}]")
    elif isinstance(expected, Tensor):
        is_tensor = isinstance(state, Tensor)
        is_alike = is_tensor and (state.shape, state.dtype) == (expected.shape, expected.dtype)
        _check(is_alike, name, state, _in_words(expected))
    else:
        is_alike = type(state) is type(expected) or (type(expected), type(state)) == (float, int)
        is_alike = is_alike and (type(expected) is not int or 0 <= state < 2**63)  # it counts
        _check(is_alike, name, state, _in_words(expected))


def first_not_finite(state: Any, name: str = "") -> str:
    """Returns the place of the first tensor with a number that is not finite; "" if all are."""
    for place, tensor in _tensors_in(state, name):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return place
    return ""


def _tensors_in(state: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(state, Mapping):
        for key, part in state.items():
            yield from _tensors_in(part, f"{name}.{key}" if name else str(key))
    elif isinstance(state, Tensor):
        yield name, state


def _check(is_right: bool, name: str, found: Any, expected: str) -> None:
    if not is_right:
        what = f"{_in_words(found)}{f' {found}' if type(found) in (int, float) else ''}"
        raise ValueError(
            f"the checkpoint does not fit this agent: its {name} must be {expected}, not {what}"
        )


def _in_words(value: Any) -> str:
    """Describes a value by what is compared."""
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
    return kinds.get(type(value), "nothing" if value is None else f"a {type(value).__name__}")
