"""Runs beside each other, as a chart: groups of seeds with their mean and its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastrl.compare.curves import Curve
from fastrl.studio.curves import Axis, Point, chart, line, thinned


def comparison(
    curves: Sequence[Curve], colors: Sequence[str], axis: Axis, with_seeds: bool = False
) -> dict[str, Any]:
    """Returns the options of a chart of groups: a line for each, and a band for its interval.

    Args:
        curves: of the groups.
        colors: of the groups in turn.
        axis: what lies along.
        with_seeds: a line for each run in place of line and band.
    """
    series: list[dict[str, Any]] = []
    for number, curve in enumerate(curves):
        color = colors[number % len(colors)]
        if with_seeds or curve.num_runs == 1:
            series += [
                line(curve.label, thinned(list(run[0]), list(run[1])), color) for run in curve.runs
            ]
            continue
        name = f"{curve.label} ({curve.num_runs} seeds)" if curve.num_runs else curve.label
        series.append(line(name, _points(curve.x, curve.middle), color))
        # A band is an invisible line with another one stacked on it, whose area is filled.
        hidden = {"lineStyle": {"opacity": 0}, "showSymbol": False, "silent": True}
        hidden |= {"stack": str(number), "stackStrategy": "all", "tooltip": {"show": False}}
        series.append(line("", _points(curve.x, curve.low), color, **hidden))
        width = _points(curve.x, curve.high - curve.low)
        series.append(line("", width, color, areaStyle={"opacity": 0.18}, **hidden))
    for entry in series:
        entry["data"] = tuple(entry["data"])  # not a list, each of whose values NiceGUI would watch
    options = chart(series, axis, legend=True)
    names = list(dict.fromkeys(x["name"] for x in series if x["name"]))
    options["legend"] |= {"data": names, "icon": "roundRect", "itemHeight": 4}
    return options


def _points(xs: np.ndarray, ys: np.ndarray) -> list[Point]:
    return np.stack([xs, ys], 1).tolist()
