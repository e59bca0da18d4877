"""What a search tries first: the defaults, the preset of the task, the middle of other presets."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from fastrl.config.search import Choices, SearchRange, ranges_of
from fastrl.presets import load_presets
from fastrl.sweep.space import Space, defaults_of

_FEWEST_PRESETS = 3


def first_trials(
    algo: str, base: Any, preset_settings: Mapping[str, Any], space: Space, preset_first: bool
) -> list[tuple[str, dict[str, Any]]]:
    """Returns the first trials: their names and the settings that are searched.

    Args:
        algo: module name of the algorithm.
        base: all settings of a run without a trial's own.
        preset_settings: those of them that are of the task's preset.
        space: what is searched.
        preset_first: whether the preset comes before the defaults.
    """
    defaults = defaults_of(type(base), space.ranges)
    named = [("defaults", defaults)]
    if preset_settings:
        known = base.to_dict()
        named.append(("preset", {name: known[name] for name in space.ranges}))
        if preset_first:
            named.reverse()
    if middle := middle_of_presets(load_presets(algo), defaults, base.env_id):
        named.append(("middle of presets", middle))
    own = ranges_of(type(base))
    return [(name, _within_lists(settings, space.ranges, own)) for name, settings in named]


def middle_of_presets(
    presets: Mapping[str, Mapping[str, Any]], defaults: Mapping[str, Any], env_id: str
) -> dict[str, Any]:
    """Returns what most presets have of each setting; the median of those that are numbers.

    Args:
        presets: of an algorithm, by task. Presets that are alike count once.
        defaults: of the settings, for presets that do not set them.
        env_id: a task; what is tuned for it, in whatever version, is left out.

    Returns:
        {} if there are fewer than three presets.
    """
    family = env_id.rpartition("-v")[0] or env_id
    others: list[Mapping[str, Any]] = []
    for task, preset in presets.items():
        if (task.rpartition("-v")[0] or task) != family and preset not in others:
            others.append(preset)
    if len(others) < _FEWEST_PRESETS:
        return {}
    return {
        name: _middle([preset.get(name, default) for preset in others])
        for name, default in defaults.items()
    }


def _middle(values: Iterable[Any]) -> Any:
    values = list(values)
    if all(type(value) in (int, float) for value in values):
        return statistics.median_low(values)
    return max(values, key=values.count)


def _within_lists(
    settings: Mapping[str, Any], ranges: Mapping[str, SearchRange], own: Mapping[str, SearchRange]
) -> dict[str, Any]:
    """Returns settings with those that the user listed as one of the list."""
    within = dict(settings)
    for name, found in ranges.items():
        if isinstance(found, Choices) and found != own.get(name):
            value = within[name]
            value = found.nearest(tuple(value) if isinstance(value, list) else value)
            within[name] = list(value) if isinstance(value, tuple) else value
    return within
