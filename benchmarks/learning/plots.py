"""Learning curves as small multiples: one picture a task, one line an algorithm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning.records import Curve

NUM_COLUMNS = 3
COLOURS = ("#1f5fbf", "#c8502b", "#3a8a4d", "#8c52a8", "#8a6d1f")


def draw(
    curves: Mapping[tuple[str, str, int], Curve],
    tasks: Sequence[str],
    anchors: Mapping[str, Mapping[str, list[list[Any]]]],
    path: Path,
) -> None:
    """Draws the mean over the seeds, the range between them, and the best published figure.

    Args:
        curves: by algorithm, task and seed.
        tasks: the pictures to draw, in this order.
        anchors: published figures by task and algorithm; mean first, source last.
        path: of the picture, which is written anew.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn: dict[str, dict[str, list[Curve]]] = {env_id: {} for env_id in tasks}
    for (algo, env_id, _), curve in sorted(curves.items()):
        if curve and env_id in drawn:
            drawn[env_id].setdefault(algo, []).append(curve)
    num_columns = min(NUM_COLUMNS, max(1, len(tasks)))
    num_rows = max(1, math.ceil(len(tasks) / num_columns))
    size = (3.2 * num_columns, 2.3 * num_rows)
    figure, grid = plt.subplots(
        num_rows, num_columns, figsize=size, layout="constrained", squeeze=False
    )
    for axes in grid.flat[len(tasks) :]:
        axes.set_visible(False)
    for axes, (env_id, algos) in zip(grid.flat, drawn.items(), strict=False):
        for (algo, seeds), colour in zip(algos.items(), COLOURS, strict=False):
            steps, low, middle, high = band(seeds)
            millions = steps / 1e6
            axes.fill_between(millions, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(millions, middle, color=colour, linewidth=1.2, label=algo)
            published = anchors.get(env_id, {}).get(algo, [])
            if published:
                mean, *_, source = max(published, key=lambda anchor: anchor[0])
                style = {"color": colour, "linewidth": 0.8, "linestyle": "--"}
                axes.axhline(mean, label=f"{algo}, {source}", **style)
        axes.set_title(env_id, fontsize=8)
        axes.tick_params(labelsize=6)
        axes.legend(fontsize=6, frameon=False, loc="lower right")
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("million environment steps", fontsize=7)
    figure.supylabel("mean return, 100 training episodes", fontsize=7)
    # Without the date and the version of the drawer, the same data are the same file.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def band(seeds: list[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns steps, least, mean and greatest return over the seeds, where all have a value."""
    first = max(curve[0][0] for curve in seeds)
    last = min(curve[-1][0] for curve in seeds)
    steps = np.array([step for step, _ in seeds[0] if first <= step <= last])
    values = np.array([np.interp(steps, *zip(*curve, strict=True)) for curve in seeds])
    return steps, values.min(0), values.mean(0), values.max(0)
