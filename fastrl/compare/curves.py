"""Curves of groups: mean or interquartile mean over the runs, with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fastrl.compare.groups import Group
from fastrl.ops.intervals import Statistic, bootstrap_band, interquartile_mean, mean
from fastrl.runs.metrics_table import TRAIN_RETURN

Axis = Literal["steps", "seconds"]
STATISTICS: dict[str, Statistic] = {"mean": mean, "iqm": interquartile_mean}
NUM_POINTS = 200


@dataclass(frozen=True, eq=False)
class Curve:
    """A curve of a group, at `P` points; of no points if no run has any."""

    label: str
    num_runs: int
    """Runs that have the metric."""
    x: np.ndarray
    """float64 `[P]`: environment steps or seconds, as far as all of these runs go."""
    middle: np.ndarray
    """float64 `[P]`: mean or interquartile mean over the runs."""
    low: np.ndarray
    """float64 `[P]`: lower end of the 95 % bootstrap interval; NaN if there is one run."""
    high: np.ndarray
    """float64 `[P]`: upper end."""
    runs: tuple[tuple[np.ndarray, np.ndarray], ...]
    """x and values of each run, up to its own end."""


def curve_of(
    group: Group, metric: str = TRAIN_RETURN, axis: Axis = "steps", statistic: str = "mean"
) -> Curve:
    """Returns the curve of a metric over a group's runs.

    Between its points a run is a straight line. The mean spans what all runs have, so that it does
    not jump where one of them ends.

    Args:
        group: its tables must have been read with this metric.
        metric: name of the metric.
        axis: what lies along: environment steps, or seconds since the start.
        statistic: "mean" or "iqm".
    """
    found = [_points(*measured.table.curve(metric, axis)) for measured in group.runs]
    runs = [(x, values) for x, values in found if len(x)]
    empty = np.empty(0)
    if not runs:
        return Curve(group.label, 0, empty, empty, empty, empty, ())
    first, last = max(x[0] for x, _ in runs), min(x[-1] for x, _ in runs)
    if last < first:  # one had ended before another began to say anything
        return Curve(group.label, len(runs), empty, empty, empty, empty, tuple(runs))
    along = np.linspace(first, last, NUM_POINTS) if last > first else np.array([first])
    every = np.stack([np.interp(along, x, values) for x, values in runs], axis=1)  # [P, E]
    of_rows = STATISTICS[statistic]
    low, high = bootstrap_band(every, statistic=of_rows)
    return Curve(group.label, len(runs), along, of_rows(every), low, high, tuple(runs))


def _points(x: Sequence[float], values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the finite points as float64, with the last one where several share an x."""
    places, heights = np.array(x, np.float64), np.array(values, np.float64)
    is_finite = np.isfinite(places) & np.isfinite(heights)
    places, heights = places[is_finite], heights[is_finite]
    is_last = np.append(np.diff(places) > 0, True)[: len(places)]
    return places[is_last], heights[is_last]
