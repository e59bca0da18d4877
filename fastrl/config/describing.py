"""What there is to set, as data: from it `--describe`, forms and sweeps are made."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Mapping
from importlib import import_module
from typing import Any, get_args, get_type_hints

from fastrl.config.bounds import Bounds, choices_of, notes_at
from fastrl.config.flags import REPEATABLE, SourceFlags, flag_of
from fastrl.config.groups import GROUPS, group_of
from fastrl.config.run import RunConfig, documentation
from fastrl.config.search import ranges_of
from fastrl.config.trust import ARGUMENTS, NAMING_CODE

ALGORITHMS = ("ppo", "a2c", "ppo_recurrent", "sac", "droq")

_KINDS = {bool: "boolean", int: "integer", float: "number"}
_LISTS = {tuple[int, ...]: "list of integers"}


def config_class_of(algo: str) -> type[RunConfig]:
    """Returns the one config class that `fastrl.config.<algo>` defines."""
    module = import_module(f"fastrl.config.{algo}")
    own = [value for value in vars(module).values() if isinstance(value, type)]
    own = [
        kind for kind in own if issubclass(kind, RunConfig) and kind.__module__ == module.__name__
    ]
    assert len(own) == 1, f"{module.__name__} must define one config class, not {own}"
    return own[0]


def title_of(config_class: type[RunConfig]) -> str:
    """Returns what an algorithm's settings are called, in a line.

    Without docstrings, as `python -OO` leaves us, a dataclass writes down its own signature.
    """
    words = (config_class.__doc__ or "").strip().splitlines()
    is_written = bool(words) and sys.flags.optimize < 2
    return words[0] if is_written else f"Settings: {config_class.__name__}"


def description_of(algo: str, preset: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what an algorithm's settings are, as plain values; see docs/settings.md.

    Args:
        algo: module name of the algorithm.
        preset: what a preset sets.
    """
    config_class = config_class_of(algo)
    groups = [{"name": name, "title": title} for name, title in GROUPS.items()]
    return {
        "algorithm": algo,
        "title": title_of(config_class),
        "groups": groups,
        "source_flags": _source_flags(),
        "settings": _settings(config_class, preset),
    }


def _source_flags() -> list[dict[str, Any]]:
    kinds, texts = get_type_hints(SourceFlags), documentation(SourceFlags)
    return [
        {
            "name": entry.name,
            "flag": flag_of(entry.name),
            "kind": _kind(entry.name, kinds[entry.name]),
            "group": "sources",
            "help": texts[entry.name],
            "default": _plain(entry.default),
            "repeatable": entry.name in REPEATABLE,
        }
        for entry in dataclasses.fields(SourceFlags)
    ]


def _settings(config_class: type[RunConfig], preset: Mapping[str, Any]) -> list[dict[str, Any]]:
    kinds, texts = get_type_hints(config_class), documentation(config_class)
    bounds, choices = notes_at(config_class, Bounds), choices_of(config_class)
    searched = ranges_of(config_class)
    settings = []
    for entry in dataclasses.fields(config_class):
        name, kind = entry.name, kinds[entry.name]
        kinds_of_value = get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
        bound = bounds.get(name, Bounds())
        minimum = bound.at_least if bound.above is None else bound.above
        maximum = bound.at_most if bound.below is None else bound.below
        allowed = choices.get(name)
        setting = {
            "name": name,
            "flag": flag_of(name),
            "kind": _kind(name, kinds_of_value[0], has_choices=allowed is not None),
            "group": group_of(name),
            "help": texts[name],
            "default": _plain(entry.default),
            "optional": types.NoneType in kinds_of_value,
            "choices": None if allowed is None else list(allowed.values),
            "minimum": minimum,
            "excludes_minimum": bound.above is not None,
            "maximum": maximum,
            "excludes_maximum": bound.below is not None,
            "search": searched[name].to_dict() if name in searched else None,
            "names_code": name in NAMING_CODE,
            "repeatable": name in REPEATABLE,
        }
        if name in preset:
            setting["preset"] = _plain(preset[name])
        settings.append(setting)
    return settings


def _kind(name: str, kind: Any, has_choices: bool = False) -> str:
    """Returns in a word or three what values of a setting are."""
    if name in ARGUMENTS:
        return "mapping"
    if kind == tuple[str, ...]:
        return "list of choices" if has_choices else "list of texts"
    return "choice" if has_choices else _LISTS.get(kind) or _KINDS.get(kind, "text")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
