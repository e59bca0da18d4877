"""The plot of a grid: a curve per combination, with its interval over the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastrl.ops.intervals import bootstrap_band
from fastrl.runs.metrics_table import TRAIN_RETURN, MetricsTable

_NUM_POINTS = 60
_MOST_GROUPS = 12


def draw_groups(groups: Mapping[str, Sequence[Path]], path: Path) -> Path | None:
    """Draws the mean return of 100 training episodes over the steps, with a 95 % interval.

    Args:
        groups: run folders by name; more than twelve would not be told apart and are left out.
        path: of the picture.

    Returns:
        The path; None if matplotlib is not installed.
    """
    try:
        import matplotlib  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # pyright: ignore[reportMissingImports]

    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    for name, folders in list(groups.items())[:_MOST_GROUPS]:
        band = band_of([curve_of(folder) for folder in folders])
        if band is not None:
            steps, mean, low, high = band
            line: Any = axes.plot(steps, mean, linewidth=1.4, label=name)[0]
            axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of training episodes, mean of 100")
    if axes.lines:
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def curve_of(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the steps and the mean training returns of a run, `[K]` each."""
    table = MetricsTable(folder / "metrics.csv", {TRAIN_RETURN})
    table.update()
    steps, values = table.curve(TRAIN_RETURN)
    return np.array(steps, np.float64), np.array(values, np.float64)


def band_of(
    curves: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Returns steps, mean, lower and upper end of the interval over runs, `[K]` each.

    Between its points a run is a straight line. The band spans the steps that all runs have.

    Args:
        curves: steps and values of each run.

    Returns:
        None if there is no run with two points.
    """
    curves = [(steps, values) for steps, values in curves if len(steps) > 1]
    if not curves:
        return None
    first = max(steps[0] for steps, _ in curves)
    last = min(steps[-1] for steps, _ in curves)
    if first >= last:
        return None
    along = np.linspace(first, last, _NUM_POINTS)
    every = np.stack([np.interp(along, steps, values) for steps, values in curves])  # [R, K]
    mean = every.mean(0)
    if len(every) == 1:
        return along, mean, mean, mean
    return along, mean, *bootstrap_band(every.T)
