"""What a setting may be, written at its field, where checks, `--describe` and pages find it.

As in `gamma: Annotated[float, Bounds(at_least=0, at_most=1)] = 0.99`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

Note = TypeVar("Note")


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Bounds of a number, or of each number in a list; no more than one at either end."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        """Returns whether a number is within the bounds; NaN is not."""
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """Returns the bounds in words: "between 0 and 1", "above 0", "from 0 to below 1"."""
        if self.at_least is not None and self.at_most is not None:
            return f"between {_spelt(self.at_least)} and {_spelt(self.at_most)}"
        words = {"at least": self.at_least, "above": self.above}
        words |= {"at most": self.at_most, "below": self.below}
        given = [f"{word} {_spelt(bound)}" for word, bound in words.items() if bound is not None]
        if self.at_least is not None and len(given) == 2:
            return f"from {_spelt(self.at_least)} to {given[1]}"
        return " and ".join(given)


@dataclass(frozen=True)
class OneOf:
    """Values of a setting, or of each item in a list, where its type does not name them."""

    values: tuple[Any, ...]

    def holds(self, value: object) -> bool:
        """Returns whether a value is allowed."""
        return value in self.values

    def __str__(self) -> str:
        """Returns the values in words."""
        return f"one of {', '.join(map(str, self.values))}"


def notes_at(config_class: type, kind: type[Note]) -> dict[str, Note]:
    """Returns what `Annotated[...]` says at the fields of a config, by name of the setting.

    A field that a subclass declares again, with another default say, keeps the note of its base
    unless it has one of its own.

    Args:
        config_class: a dataclass.
        kind: class of the notes to return.
    """
    return _notes_at(config_class, kind)


@functools.cache  # apart from `notes_at`, as the type of its result does not outlive a cache
def _notes_at(config_class: type, kind: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed(config_class.__mro__[:-1]):
        for name, hint in inspect.get_annotations(base, eval_str=True).items():
            for note in getattr(hint, "__metadata__", ()):
                if isinstance(note, kind):
                    found[name] = note
    names = [entry.name for entry in dataclasses.fields(config_class)]
    return {name: found[name] for name in names if name in found}


@functools.cache
def choices_of(config_class: type) -> dict[str, OneOf]:
    """Returns the allowed values of the settings that have a list of them, by name."""
    kinds = get_type_hints(config_class)
    found: dict[str, OneOf] = {}
    for entry in dataclasses.fields(config_class):
        kind = kinds[entry.name]
        kind = get_args(kind)[0] if isinstance(kind, types.UnionType) else kind
        if get_origin(kind) is Literal:
            found[entry.name] = OneOf(get_args(kind))
    return found | notes_at(config_class, OneOf)


def check_bounds(config: object) -> None:
    """Raises ValueError for the first setting that is out of range or not among its choices."""
    for name, value in vars(config).items():
        check_bound(type(config), name, value)


def check_bound(config_class: type, name: str, value: object) -> None:
    """Raises ValueError if a setting is out of range or not among its choices.

    Args:
        config_class: the dataclass that has the setting.
        name: of the setting.
        value: of the setting's type.
    """
    for rule in (notes_at(config_class, Bounds).get(name), choices_of(config_class).get(name)):
        if rule is None or value is None:
            continue
        if isinstance(value, tuple):
            if not all(map(rule.holds, value)):
                raise ValueError(f"{name} must each be {rule}, not {list(value)}")
        elif not rule.holds(cast(Any, value)):
            shown = repr(value) if isinstance(rule, OneOf) else value
            none = " or None" if getattr(config_class, name, 0) is None else ""
            raise ValueError(f"{name} must be {rule}{none}, not {shown}")


def _spelt(bound: float) -> str:
    return f"{bound:g}" if isinstance(bound, float) else str(bound)
