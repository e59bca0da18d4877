"""Ranges of settings: what a sweep tries, as metadata at the fields of the configs.

A field says `learning_rate: Annotated[float, LogRange(1e-4, 1e-2)]`. Everything else reads such a
field as a plain `float`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Choices:
    """A few values, in no order; a setting of several numbers has tuples."""

    values: tuple[Any, ...]

    def contains(self, value: Any) -> bool:
        """Returns whether this is one of the values."""
        return value in self.values

    def nearest(self, value: Any) -> Any:
        """Returns the value itself, or the first one if it is none of them."""
        return value if self.contains(value) else self.values[0]


@dataclass(frozen=True)
class PowersOfTwo:
    """Whole numbers that are powers of two, tried evenly in their exponent."""

    low: int
    high: int

    @property
    def values(self) -> tuple[int, ...]:
        """All of them, in order."""
        first, last = round(math.log2(self.low)), round(math.log2(self.high))
        return tuple(2**exponent for exponent in range(first, last + 1))

    def contains(self, value: Any) -> bool:
        """Returns whether this is one of the values."""
        return value in self.values

    def nearest(self, value: Any) -> int:
        """Returns the power of two in the range that is closest by ratio."""
        exponent = math.log2(max(value, 1))
        return min(self.values, key=lambda power: abs(math.log2(power) - exponent))


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds, tried evenly; whole ones for a setting that counts."""

    low: float
    high: float

    def contains(self, value: Any) -> bool:
        """Returns whether this lies between the bounds."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    def nearest(self, value: Any) -> Any:
        """Returns the value, or the bound that it lies beyond."""
        return min(max(value, self.low), self.high)


@dataclass(frozen=True)
class LogRange(Range):
    """Numbers between two bounds above zero, tried evenly in their logarithm."""


@dataclass(frozen=True)
class OneMinusLogRange(Range):
    """Numbers below 1, such as a discount, tried evenly in the logarithm of 1 - x.

    From 0.9 to 0.999, as many are tried below 0.99 as above.
    """


SearchRange = Choices | PowersOfTwo | Range


def ranges_of(config_class: type) -> dict[str, SearchRange]:
    """Returns the ranges of a config's settings, by name; settings without a range are left out.

    A class that gives a field of its parent anew gives the range anew, too, or none.
    """
    found: dict[str, SearchRange] = {}
    for name, kind in get_type_hints(config_class, include_extras=True).items():
        for note in getattr(kind, "__metadata__", ()):
            if isinstance(note, SearchRange):
                found[name] = note
    return found


def is_list(kind: Any) -> bool:
    """Returns whether a setting holds several values at once, such as `hidden_sizes`."""
    return get_origin(kind) is tuple and bool(get_args(kind))


def range_as_dict(search_range: SearchRange) -> dict[str, Any]:
    """Returns a range as plain values for files and pages: `kind`, and `values` or the bounds."""
    if isinstance(search_range, Choices):
        values = [list(x) if isinstance(x, tuple) else x for x in search_range.values]
        return {"kind": "choices", "values": values}
    if isinstance(search_range, PowersOfTwo):
        return {"kind": "powers of two", "low": search_range.low, "high": search_range.high}
    kinds = {Range: "linear", LogRange: "log", OneMinusLogRange: "log of 1 - x"}
    bounds = {"low": search_range.low, "high": search_range.high}
    return {"kind": kinds[type(search_range)], **bounds}


def range_from_dict(values: dict[str, Any]) -> SearchRange:
    """Returns the range that `range_as_dict` described.

    Raises:
        ValueError: it describes none.
    """
    kind = values.get("kind")
    try:
        if kind == "choices":
            given = (tuple(x) if isinstance(x, list) else x for x in values["values"])
            return Choices(tuple(given))
        kinds = {"linear": Range, "log": LogRange, "log of 1 - x": OneMinusLogRange}
        kinds["powers of two"] = PowersOfTwo
        return kinds[kind](values["low"], values["high"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{values!r} is no range of a setting") from error
