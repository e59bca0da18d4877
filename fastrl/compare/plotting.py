"""Plots of groups: curves over environment steps and over seconds, with intervals."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastrl.compare.curves import Axis, Curve, curve_of
from fastrl.compare.groups import Group
from fastrl.processes.errors import how_to_install
from fastrl.runs.folder import replaced_file
from fastrl.runs.metrics_table import TRAIN_RETURN

SUFFIXES = (".png", ".svg", ".pdf")
AXES: tuple[Axis, ...] = ("steps", "seconds")
COLORS = (
    "#1f5fbf", "#c8502b", "#3a8a4d", "#8c52a8", "#8a6d1f",
    "#0f8b8d", "#b5345c", "#5b6470", "#6b8e23", "#d08c00",
)  # fmt: skip

_STYLES = ("-", "--", ":", "-.")  # once all colours have been used
_MOST_LABEL = 110  # characters
_WORDS = {TRAIN_RETURN: "mean return of 100 training episodes"}


def check_plotting(path: Path) -> None:
    """Raises ValueError unless a plot can be written as this file, by its name and packages."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: a plot is a file that ends in {', '.join(SUFFIXES)}")
    try:
        import matplotlib  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(f"plots need matplotlib; {how_to_install('plot')}") from error


def draw(
    groups: Sequence[Group],
    path: Path,
    metric: str = TRAIN_RETURN,
    statistic: str = "mean",
    axes: Sequence[Axis] = AXES,
) -> None:
    """Draws a metric of groups: a row of pictures for each task, a line for each group.

    Around the line is its 95 % bootstrap interval, and behind it, faint, is every run. The line
    ends where the shortest run does.

    Args:
        groups: with their tables read, with this metric.
        path: of the picture, which is replaced atomically.
        metric: name of the metric.
        statistic: "mean" or "iqm".
        axes: what lies along, a column of pictures each.

    Raises:
        ValueError: as `check_plotting`.
    """
    check_plotting(path)
    from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]
    from matplotlib.ticker import EngFormatter  # pyright: ignore[reportMissingImports]

    tasks = list(dict.fromkeys(group.env_id for group in groups))
    size = 4.4 * len(axes) + 0.4, 3.1 * len(tasks) + 0.3 + 0.15 * len(groups)
    figure: Any = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(tasks), len(axes), squeeze=False, sharey="row")
    lines: dict[str, Any] = {}
    for row, task in zip(grid, tasks, strict=True):
        for picture, axis in zip(row, axes, strict=True):
            for number, group in enumerate(groups):
                if group.env_id == task:
                    line = _draw_curve(picture, curve_of(group, metric, axis, statistic), number)
                    lines.setdefault(group.label, line)
            picture.set_xlabel(_axis_label(axis, groups))
            if axis == "steps":
                picture.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k
            picture.grid(alpha=0.25, linewidth=0.6)
            picture.spines[["top", "right"]].set_visible(False)
            if len(tasks) > 1:
                picture.set_title(_plain(task), fontsize=9)
        row[0].set_ylabel(_plain(_WORDS.get(metric, metric)))
    shown = {label: line for label, line in lines.items() if line is not None}
    labels = [_plain(label) for label in shown]
    figure.legend(shown.values(), labels, loc="outside lower left", fontsize=8, frameon=False)
    picture_bytes = io.BytesIO()
    # No date, so that the same runs give the same file.
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
    kind = path.suffix.lower().removeprefix(".")
    figure.savefig(picture_bytes, format=kind, dpi=150, metadata=metadata)
    with replaced_file(path) as file:
        file.write(picture_bytes.getvalue())


def _draw_curve(picture: Any, curve: Curve, number: int) -> Any:
    """Draws a group into a picture; returns its line, None if it has no points."""
    color = COLORS[number % len(COLORS)]
    style = _STYLES[number // len(COLORS) % len(_STYLES)]
    if curve.num_runs > 1:
        for x, values in curve.runs:
            picture.plot(x, values, color=color, alpha=0.22, linewidth=0.7)
    if not len(curve.x):
        return None
    picture.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.2, linewidth=0)
    return picture.plot(curve.x, curve.middle, style, color=color, linewidth=1.5)[0]


def _axis_label(axis: Axis, groups: Sequence[Group]) -> str:
    if axis == "steps":
        return "environment steps"
    tables = [measured.table for group in groups for measured in group.runs]
    if all(table.has_wall_seconds for table in tables if table.num_rows):
        return "seconds since the start"
    return "seconds (older runs: of the training loop)"


def _plain(text: str) -> str:
    """Returns a text that matplotlib does not take for a formula, not too long."""
    text = text if len(text) <= _MOST_LABEL else f"{text[: _MOST_LABEL - 3]}..."
    return text.replace("$", r"\$")
