"""What a sweep tries of a setting, as metadata at the fields of the configs.

A field says `learning_rate: Annotated[float, LogRange(1e-4, 1e-2)]`. Everything else reads such a
field as a plain `float`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, get_type_hints


class SearchRange(ABC):
    """The values that a sweep tries of a setting."""

    @abstractmethod
    def contains(self, value: Any) -> bool:
        """Returns whether a value is one of them."""

    @abstractmethod
    def nearest(self, value: Any) -> Any:
        """Returns a value of the range in place of one that may lie outside."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for files and pages: `kind`, and `values` or `low` and `high`."""


@dataclass(frozen=True)
class Choices(SearchRange):
    """A few values, in no order; a setting of several numbers has tuples."""

    values: tuple[Any, ...]

    def contains(self, value: Any) -> bool:
        """Returns whether this is one of the values."""
        return value in self.values

    def nearest(self, value: Any) -> Any:
        """Returns the value itself, or the first one if it is none of them."""
        return value if self.contains(value) else self.values[0]

    def to_dict(self) -> dict[str, Any]:
        """Returns the values, tuples as lists."""
        values = [list(x) if isinstance(x, tuple) else x for x in self.values]
        return {"kind": "choices", "values": values}


@dataclass(frozen=True)
class PowersOfTwo(SearchRange):
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

    def to_dict(self) -> dict[str, Any]:
        """Returns the bounds."""
        return {"kind": "powers of two", "low": self.low, "high": self.high}


@dataclass(frozen=True)
class _Bounded(SearchRange):
    low: float
    high: float

    def contains(self, value: Any) -> bool:
        """Returns whether this lies between the bounds."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    def nearest(self, value: Any) -> Any:
        """Returns the value, or the bound that it lies beyond."""
        return min(max(value, self.low), self.high)

    def to_dict(self) -> dict[str, Any]:
        """Returns the bounds."""
        kind = next(name for name, of_kind in _BOUNDED.items() if type(self) is of_kind)
        return {"kind": kind, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class LinearRange(_Bounded):
    """Numbers between two bounds, tried evenly; whole ones for a setting that counts."""


@dataclass(frozen=True)
class LogRange(_Bounded):
    """Numbers between two bounds above zero, tried evenly in their logarithm."""


@dataclass(frozen=True)
class OneMinusLogRange(_Bounded):
    """Numbers below 1, such as a discount, tried evenly in the logarithm of 1 - x.

    From 0.9 to 0.999, as many are tried below 0.99 as above.
    """


_BOUNDED = {"linear": LinearRange, "log": LogRange, "log of 1 - x": OneMinusLogRange}


def range_from_dict(values: dict[str, Any]) -> SearchRange:
    """Returns the range that `SearchRange.to_dict` described.

    Raises:
        ValueError: it describes none.
    """
    kind = values.get("kind")
    try:
        if kind == "choices":
            given = (tuple(x) if isinstance(x, list) else x for x in values["values"])
            return Choices(tuple(given))
        kinds = {**_BOUNDED, "powers of two": PowersOfTwo}
        return kinds[str(kind)](values["low"], values["high"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{values!r} is no range of a setting") from error


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
