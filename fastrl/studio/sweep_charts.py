"""Charts of a sweep as options of echarts: trials as they come, importance, parallel coordinates.

Pure functions. Names and settings are values of options, never keys.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastrl.studio.curves import COLORS, chart, line
from fastrl.sweep.trial import Trial

_LOGARITHMIC = ("log", "powers of two")
_MOST_SETTINGS = 12  # axes side by side; the most important ones
_GRAY = "#8a8a8a"
_LOW, _HIGH = "#9ecae1", "#d55e00"  # of the value, readable on light and on dark


def progress_chart(trials: Sequence[Trial], ranked: Sequence[Trial]) -> dict[str, Any]:
    """Returns the value of each trial by its number, and that of the best one so far.

    Args:
        trials: all of a sweep, by number.
        ranked: the complete ones, the best first.
    """
    of_state = {
        state: [[t.number, t.value] for t in trials if t.state == state and _is_value(t.value)]
        for state in ("complete", "pruned", "running")
    }
    dots = {"type": "scatter", "symbolSize": 8, "showSymbol": True}
    steps = best_so_far(trials, ranked)
    series = [
        line("best so far", steps, COLORS[1], step="end", showSymbol=len(steps) < 2),
        {**line("complete", of_state["complete"], COLORS[0]), **dots},
        {**line("pruned", of_state["pruned"], _GRAY), **dots},
        {**line("running", of_state["running"], COLORS[2]), **dots},
    ]
    options = chart(series, "steps", legend=True)
    options["xAxis"] |= {"name": "trial", "minInterval": 1}
    return options


def best_so_far(trials: Sequence[Trial], ranked: Sequence[Trial]) -> list[list[float]]:
    """Returns for each trial its number and the value of the best one up to it, once there is one.

    Args:
        trials: all of a sweep, by number.
        ranked: the complete ones, the best first.
    """
    place = {trial.number: index for index, trial in enumerate(ranked)}
    points: list[list[float]] = []
    best: Trial | None = None
    for trial in trials:
        is_complete = trial.number in place
        if is_complete and (best is None or place[trial.number] < place[best.number]):
            best = trial
        if best is not None and best.value is not None:
            points.append([trial.number, best.value])
    return points


def importance_chart(shares: Mapping[str, float]) -> dict[str, Any]:
    """Returns bars of how much of the differences each setting explains, the largest on top.

    Args:
        shares: in [0, 1] by setting, the largest first.
    """
    if not shares:
        style = {"color": _GRAY, "fontSize": 13, "fontWeight": "normal"}
        place = {"left": "center", "top": "middle", "textStyle": style}
        return {"title": {"text": "not known before eight trials", **place}, "series": []}
    names = list(shares)[:_MOST_SETTINGS]
    options = chart([], "steps")
    category = {"type": "category", "data": names, "inverse": True, "axisLabel": {"color": _GRAY}}
    values = tuple(round(100 * shares[name], 1) for name in names)
    return {
        **options,
        "tooltip": {"show": False},
        "xAxis": {**options["xAxis"], "name": "share of the differences, %", "min": 0},
        "yAxis": category,
        "series": [
            {
                "type": "bar",
                "data": values,
                "color": COLORS[0],
                "barMaxWidth": 18,
                "label": {"show": True, "position": "right", "color": _GRAY},
            }
        ],
    }


def parallel_chart(
    trials: Sequence[Trial], space: Mapping[str, Mapping[str, Any]], order: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns one line per trial over its settings, coloured by its value.

    Args:
        trials: those without a value are left out.
        space: the ranges of the sweep's settings, as `SearchRange.to_dict` has them.
        order: settings that come first, such as the most important ones.
    """
    shown = [trial for trial in trials if _is_value(trial.value) and trial.state != "failed"]
    present = {name for trial in shown for name in trial.settings}
    names = [name for name in order if name in present]
    names += sorted(present - set(names))
    names = names[:_MOST_SETTINGS]
    axes = [
        _axis(place, name, [trial.settings.get(name) for trial in shown], space.get(name, {}))
        for place, name in enumerate(names)
    ]
    axes.append({"dim": len(names), "name": "return", "type": "value", "scale": True})
    is_word = ["data" in axis for axis in axes]
    rows = []
    for trial in shown:
        cells = [trial.settings.get(name) for name in names]
        row = [in_word(x) if word else _cell(x) for x, word in zip(cells, is_word, strict=False)]
        rows.append([*row, trial.value])
    values = [trial.value for trial in shown if trial.value is not None]
    return {
        "animation": False,
        "backgroundColor": "transparent",
        "parallel": {"left": 40, "right": 60, "top": 40, "bottom": 20},
        "parallelAxis": [
            {
                **axis,
                "nameTextStyle": {"color": _GRAY, "fontSize": 11},
                "axisLabel": {"color": _GRAY, "fontSize": 10},
                "axisLine": {"lineStyle": {"color": _GRAY}},
            }
            for axis in axes
        ],
        "visualMap": {
            "show": False,
            "dimension": len(names),
            "min": min(values, default=0),
            "max": max(values, default=1),
            "inRange": {"color": [_LOW, _HIGH]},
        },
        "series": [
            {"type": "parallel", "data": tuple(rows), "lineStyle": {"width": 1.5, "opacity": 0.7}}
        ],
    }


def _axis(place: int, name: str, values: Sequence[Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an axis of a setting: numbers, on the scale on which they are tried, or words."""
    numbers = [x for x in values if _is_value(x)]
    axis: dict[str, Any] = {"dim": place, "name": name}
    if len(numbers) < len(values) or found.get("kind") == "choices":
        words = sorted({in_word(x) for x in values})
        return {**axis, "type": "category", "data": words}
    if found.get("kind") in _LOGARITHMIC and min(numbers, default=0) > 0:
        return {**axis, "type": "log", "logBase": 2 if found["kind"] == "powers of two" else 10}
    return {**axis, "type": "value", "scale": True}


def in_word(value: Any) -> str:
    """Returns a setting's value as an axis of words names it."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def _cell(value: Any) -> Any:
    return value if _is_value(value) else "-"  # how echarts leaves a gap


def _is_value(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
