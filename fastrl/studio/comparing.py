"""Runs beside each other: in groups by their settings, with mean and spread over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrl.runs.run import Run
from fastrl.studio.curves import Axis, Point, chart, line, thinned

NUM_POINTS = 200
"""Points of a mean over seeds."""

_NOT_COMPARED = frozenset({"seed", "log_dir", "exp_name"})
_MOST_NAMED = 3  # settings in the name of a group


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seeds."""

    name: str
    """What tells it from the other groups."""
    members: tuple[int, ...]
    """Places of its runs in what was grouped."""


def groups_of(runs: Sequence[Run]) -> list[Group]:
    """Returns the groups of runs of one algorithm and the same settings, in order."""
    members: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        members.setdefault(repr((run.algo, sorted(_compared(run).items()))), []).append(place)
    firsts = [runs[places[0]] for places in members.values()]
    differing = _differing(firsts)
    return [
        Group(_name_of(first, differing, firsts), tuple(places))
        for first, places in zip(firsts, members.values(), strict=True)
    ]


def mean_and_spread(
    curves: Sequence[tuple[Sequence[float], Sequence[float]]],
) -> tuple[list[Point], list[Point], list[Point]]:
    """Returns the mean of curves, their least and their most, as far as all of them go.

    Args:
        curves: x and y of each; between its points a curve is straight.
    """
    curves = [(xs, ys) for xs, ys in curves if len(xs)]
    if not curves:
        return [], [], []
    start, end = max(xs[0] for xs, _ in curves), min(xs[-1] for xs, _ in curves)
    if end < start:  # one ended before another began to say something
        return [], [], []
    grid = np.linspace(start, end, NUM_POINTS if end > start else 1)
    values = np.stack([np.interp(grid, xs, ys) for xs, ys in curves])
    found = values.mean(0), values.min(0), values.max(0)
    mean, least, most = (np.stack([grid, ys], 1).tolist() for ys in found)
    return mean, least, most


def comparison(
    groups: Sequence[Group],
    curves: Sequence[tuple[Sequence[float], Sequence[float]]],
    colors: Sequence[str],
    axis: Axis,
    with_seeds: bool = False,
) -> dict[str, Any]:
    """Returns the options of a chart of groups: a line for each, and a band over its seeds.

    Args:
        groups: of the runs.
        curves: x and y of each run.
        colors: of the groups in turn.
        axis: what lies along.
        with_seeds: a line for each run in place of mean and band.
    """
    series: list[dict[str, Any]] = []
    for number, group in enumerate(groups):
        color = colors[number % len(colors)]
        own = [curves[place] for place in group.members]
        if with_seeds or len(own) == 1:
            series += [line(group.name, thinned(*curve), color) for curve in own]
            continue
        mean, least, most = mean_and_spread(own)
        width = [[x, high - low] for (x, low), (_, high) in zip(least, most, strict=True)]
        # A band is an invisible line with another one stacked on it, whose area is filled.
        hidden = {"lineStyle": {"opacity": 0}, "showSymbol": False, "silent": True}
        hidden |= {"stack": str(number), "stackStrategy": "all", "tooltip": {"show": False}}
        series.append(line(f"{group.name} ({len(own)} seeds)", mean, color))
        series.append(line("", least, color, **hidden))
        series.append(line("", width, color, areaStyle={"opacity": 0.18}, **hidden))
    for entry in series:
        entry["data"] = tuple(entry["data"])  # not a list, each of whose values NiceGUI would watch
    options = chart(series, axis, legend=True)
    options["legend"] |= {"top": 0, "data": [entry["name"] for entry in series if entry["name"]]}
    return options


def _compared(run: Run) -> Mapping[str, Any]:
    return {name: value for name, value in run.settings.items() if name not in _NOT_COMPARED}


def _differing(runs: Sequence[Run]) -> list[str]:
    """Returns the settings in which runs differ, in the order of the first one's."""
    names = dict.fromkeys(name for run in runs for name in _compared(run))
    values = {name: {repr(run.settings.get(name)) for run in runs} for name in names}
    return [name for name in names if len(values[name]) > 1 and name != "env_id"]


def _name_of(run: Run, differing: Sequence[str], others: Sequence[Run]) -> str:
    parts = []
    if len({other.env_id for other in others}) > 1 or len(others) == 1:
        parts.append(run.env_id)
    if len({other.algo for other in others}) > 1 or not parts:
        parts.append(run.algo)
    same_algo = [other for other in others if other.algo == run.algo]
    own = [name for name in differing if len({repr(x.settings.get(name)) for x in same_algo}) > 1]
    parts += [f"{name}={run.settings.get(name)}" for name in own[:_MOST_NAMED]]
    parts += ["..."] if len(own) > _MOST_NAMED else []
    name = " ".join(parts)
    return name if len(name) <= 120 else f"{name[:117]}..."
