"""Curves as a page draws them: thinned points, and the options of a chart.

Pure functions and classes, without a browser. Names of runs and metrics become values of options,
never keys: NiceGUI runs what follows a colon at the start of a key.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastrl.runs.metrics_table import MetricsTable

Axis = Literal["steps", "seconds"]
Point = list[float]  # x and y

MOST_POINTS = 400
"""Points of a curve, at most; a page with ten of them still draws at once."""

AXES: dict[Axis, str] = {"steps": "environment steps", "seconds": "seconds"}
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f")
"""Of curves in turn; told apart by colour-blind people, on light and on dark (Okabe and Ito)."""

_GRAY, _FAINT = "#8a8a8a", "rgba(128, 128, 128, 0.22)"  # readable on light and on dark


@dataclass(frozen=True)
class Change:
    """What became new of a curve."""

    points: list[Point]
    is_all: bool
    """Whether these are all points, to be drawn in place of the earlier ones."""


class Curve:
    """The points of one metric of a run that grows, each a mean over `stride` rows.

    The stride doubles whenever there would be too many points.

    Args:
        name: of the metric.
        axis: what lies along.
        most: points, at most.
    """

    def __init__(self, name: str, axis: Axis = "steps", most: int = MOST_POINTS) -> None:
        assert most >= 2
        self.name, self.axis, self._most = name, axis, most
        self._generation: int | None = None
        self._clear()

    def take(self, table: MetricsTable, along: Sequence[float]) -> Change | None:
        """Returns what is new in a table since the last call; None if nothing is.

        Args:
            table: of the run; up to date.
            along: x of each of its rows.
        """
        must_redraw = False
        if self._generation != table.generation:
            must_redraw = self._generation is not None
            self._generation = table.generation
            self._clear()
        before = len(self.points)
        column = table.column(self.name)
        for row in range(self._num_rows, table.num_rows):
            if math.isfinite(column[row]):
                must_redraw |= self._add(along[row], column[row])
        self._num_rows = table.num_rows
        if must_redraw:
            return Change(list(self.points), is_all=True)
        new = self.points[before:]
        return Change(new, is_all=False) if new else None

    def _clear(self) -> None:
        self.points: list[Point] = []
        self._num_rows, self._stride = 0, 1
        self._part, self._count = 0.0, 0  # of the point that the rows which wait will become

    def _add(self, x: float, y: float) -> bool:
        """Adds a row; returns whether earlier points changed."""
        # Divided first: a sum of numbers such as 1e308 is infinite, their mean is not.
        self._part, self._count = self._part + y / self._stride, self._count + 1
        if self._count < self._stride:
            return False
        self.points.append([x, self._part])
        self._part, self._count = 0.0, 0
        if len(self.points) <= self._most:
            return False
        if len(self.points) % 2:  # the last one has no other to join
            self._part, self._count = self.points.pop()[1] / 2, self._stride
        self._stride *= 2
        pairs = zip(self.points[::2], self.points[1::2], strict=True)
        self.points = [_mean([a, b]) for a, b in pairs]
        return True


def _mean(points: list[Point]) -> Point:
    """Returns the point at the last x, with the mean of y: curves end where the run is."""
    return [points[-1][0], math.fsum(y / len(points) for _, y in points)]


def thinned(xs: Sequence[float], ys: Sequence[float], most: int = MOST_POINTS) -> list[Point]:
    """Returns at most so many points of a whole curve, means over equally many; finite ones."""
    points = [[x, y] for x, y in zip(xs, ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
    stride = math.ceil(len(points) / most) if points else 1
    return [_mean(points[start : start + stride]) for start in range(0, len(points), stride)]


def line(name: str, points: list[Point], color: str, **more: Any) -> dict[str, Any]:
    """Returns a series of echarts.

    Args:
        name: as the legend shows it.
        points: x and y.
        color: of the line.
        **more: further options of the series.
    """
    return {
        "type": "line",
        "name": name,
        "data": tuple(points),  # not a list: NiceGUI would watch each point of it for changes
        "color": color,
        "showSymbol": len(points) < 2,  # a single point would not be seen
        "symbolSize": 4,
        "lineStyle": {"width": 1.6},
        "emphasis": {"disabled": True},
        **more,
    }


def chart(series: list[dict[str, Any]], axis: Axis, legend: bool = False) -> dict[str, Any]:
    """Returns the options of a chart of curves, in colours for light and dark.

    Args:
        series: from `line`.
        axis: what lies along.
        legend: show the names of the series.
    """
    scale = {
        "type": "value",
        "scale": True,
        "axisLabel": {"color": _GRAY, "hideOverlap": True},
        "axisLine": {"lineStyle": {"color": _GRAY}},
        "splitLine": {"lineStyle": {"color": _FAINT}},
    }
    names = {"name": AXES[axis], "nameLocation": "middle", "nameGap": 26, "splitNumber": 4}
    return {
        "animation": False,
        "backgroundColor": "transparent",
        "grid": {"left": 8, "right": 28, "top": 30 if legend else 12, "bottom": 30}
        | {"containLabel": True},
        "legend": {"show": legend, "type": "scroll", "top": 0, "textStyle": {"color": _GRAY}},
        "tooltip": {
            "trigger": "axis",
            "renderMode": "richText",  # names are text: nothing of them becomes HTML
            "confine": True,
            "order": "valueDesc",
        },
        "xAxis": {**scale, **names, "nameTextStyle": {"color": _GRAY}},
        "yAxis": dict(scale),
        "series": series,
    }
