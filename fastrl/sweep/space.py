"""The space of a search: settings as the parameters that a sampler moves, and back.

A parameter is a number or a word. Powers of two become their exponents, a discount its distance
from 1, several widths a word; all of them evenly spread on the scale on which they are tried.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args, get_type_hints

from fastrl.config.search import (
    Choices,
    LogRange,
    OneMinusLogRange,
    PowersOfTwo,
    SearchRange,
    ranges_of,
)

_FEWEST_UPDATES = 16  # of a run; a rollout is cut so that there are as many
_BY_NETWORK = ("hidden_sizes", "activation_function")  # without effect on a network of one's own


class Numbers(NamedTuple):
    """A parameter that is a number."""

    low: float
    high: float
    is_log: bool
    is_whole: bool


class Words(NamedTuple):
    """A parameter that is one of a few words, numbers or truth values."""

    choices: tuple[Any, ...]


Parameter = Numbers | Words


@dataclass(frozen=True)
class Space:
    """The settings that are searched, with their ranges."""

    ranges: dict[str, SearchRange]
    whole: frozenset[str]
    """Names of the settings that count something."""

    @classmethod
    def of(
        cls,
        config: Any,
        fixed: Mapping[str, Any] | frozenset[str],
        only: tuple[str, ...] = (),
        listed: Mapping[str, tuple[Any, ...]] | None = None,
    ) -> Space:
        """Returns the space of an algorithm.

        Args:
            config: all settings that the runs have in common.
            fixed: names of those that the user gave.
            only: the settings to search; all that have a range if there are none.
            listed: values that the user gave to choose from, by name.

        Raises:
            ValueError: a setting cannot be searched, or there is none left.
        """
        listed = listed or {}
        known = ranges_of(type(config))
        for name in only:
            if name not in known and name not in listed:
                raise ValueError(
                    f"--search {name}: it has no range; these have one: {', '.join(known)}; "
                    "for others give the values to try, as in --vf-clip-coef 0.1 0.2"
                )
            if name in fixed and name not in listed:
                raise ValueError(f"--search {name}, but its value is given")
        ranges: dict[str, SearchRange] = {
            name: found for name, found in known.items() if name not in fixed
        }
        if only:
            ranges = {name: found for name, found in ranges.items() if name in only}
        if config.network:
            ranges = {name: found for name, found in ranges.items() if name not in _BY_NETWORK}
        ranges |= {name: Choices(values) for name, values in listed.items()}
        if not ranges:
            raise ValueError("nothing is left to search: every setting with a range is given")
        return cls.of_ranges(type(config), ranges)

    @classmethod
    def of_ranges(cls, config_class: type, ranges: dict[str, SearchRange]) -> Space:
        """Returns the space of the given ranges of settings of a config."""
        kinds = get_type_hints(config_class)
        return cls(ranges, frozenset(name for name in ranges if kinds[name] is int))

    def parameters(self) -> dict[str, Parameter]:
        """Returns the parameters of a sampler, by name."""
        return {parameter_name(name, x): self._parameter(name) for name, x in self.ranges.items()}

    def _parameter(self, name: str) -> Parameter:
        found = self.ranges[name]
        if isinstance(found, Choices):
            return Words(tuple(_as_word(value) for value in found.values))
        if isinstance(found, PowersOfTwo):
            return Numbers(math.log2(found.low), math.log2(found.high), False, True)
        if isinstance(found, OneMinusLogRange):
            return Numbers(1 - found.high, 1 - found.low, True, False)
        low, high = found.low, found.high  # pyright: ignore[reportAttributeAccessIssue]
        return Numbers(low, high, isinstance(found, LogRange), name in self.whole)

    def encoded(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Returns settings as parameters; what lies outside a range as the nearest value in it."""
        parameters = {}
        for name, found in self.ranges.items():
            value = settings[name]
            value = found.nearest(tuple(value) if isinstance(value, list) else value)
            if isinstance(found, Choices):
                value = _as_word(value)
            elif isinstance(found, PowersOfTwo):
                value = round(math.log2(value))
            elif isinstance(found, OneMinusLogRange):
                value = min(max(1 - value, 1 - found.high), 1 - found.low)
            parameters[parameter_name(name, found)] = value
        return parameters

    def decoded(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Returns parameters as settings, numbers rounded to what one would write."""
        settings = {}
        for name, found in self.ranges.items():
            value = parameters[parameter_name(name, found)]
            if isinstance(found, Choices):
                value = next(x for x in found.values if _as_word(x) == value)
                value = list(value) if isinstance(value, tuple) else value
            elif isinstance(found, PowersOfTwo):
                value = 2 ** int(value)
            elif isinstance(found, OneMinusLogRange):
                value = found.nearest(round(1 - float(f"{value:.2g}"), 6))
            elif name in self.whole:
                value = int(value)
            else:
                value = found.nearest(float(f"{value:.3g}"))
            settings[name] = value
        return settings

    def fitted(self, settings: Mapping[str, Any], config: Any) -> dict[str, Any]:
        """Returns settings that go together: what one alone may be, two may be too much.

        Rollouts are shortened until a run has 16 updates, minibatches cut to the rollout and
        sequences to its steps. Settings that are not searched stay as they are.

        Args:
            settings: those that are searched.
            config: all settings that the runs have in common.
        """
        fitted = dict(settings)

        def value(name: str) -> Any:
            return fitted.get(name, getattr(config, name, None))

        def may_change(name: str) -> bool:
            return name in fitted

        total = value("total_timesteps")
        most_rows = total // _FEWEST_UPDATES
        for name, least in (("num_steps", 16), ("num_envs", 1)):
            while (
                may_change(name)
                and value(name) > least
                and value("num_envs") * value("num_steps") > most_rows
            ):
                fitted[name] = max(least, value(name) // 2)
        rows = value("num_envs") * value("num_steps")
        is_on_policy = hasattr(config, "gae_lambda")
        if is_on_policy and may_change("per_rank_batch_size"):
            fitted["per_rank_batch_size"] = min(value("per_rank_batch_size"), rows)
        if may_change("sequence_length"):
            fitted["sequence_length"] = min(value("sequence_length"), value("num_steps"))
        if may_change("learning_starts"):
            starts = min(value("learning_starts"), total // 4)
            fitted["learning_starts"] = starts
        return fitted


def parameter_name(name: str, search_range: SearchRange) -> str:
    """Returns the name of the parameter of a setting, which says on what scale it is."""
    if isinstance(search_range, PowersOfTwo):
        return f"log2 {name}"
    return f"1 - {name}" if isinstance(search_range, OneMinusLogRange) else name


def _as_word(value: Any) -> Any:
    """Returns a value as samplers take it: several numbers as a word."""
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else value


def defaults_of(config_class: Any, names: Any) -> dict[str, Any]:
    """Returns the defaults of settings, by name."""
    config = config_class()
    return {name: list(x) if isinstance(x := getattr(config, name), tuple) else x for name in names}


def is_list(kind: Any) -> bool:
    """Returns whether a setting holds several values at once, such as `hidden_sizes`."""
    return bool(get_args(kind)) and getattr(kind, "__origin__", None) is tuple
