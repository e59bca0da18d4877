"""Means over seeds or episodes, and intervals of them.

Letters: `E` values (episodes, or runs of different seeds), `K` resamples, `P` points of a curve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

Statistic = Callable[[np.ndarray], np.ndarray]
"""A function of `[..., E]` to `[...]`, such as `mean` and `interquartile_mean`."""

_NUM_RESAMPLES, _FEWER_RESAMPLES = 10_000, 2_000
_MANY = 2_000  # values, from which fewer resamples will do
_MOST_AT_ONCE = 1_000_000  # numbers drawn


def mean(values: np.ndarray) -> np.ndarray:
    """Returns the mean of each row: `[..., E]` to `[...]`."""
    return values.mean(-1)


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Returns the mean of the middle half of each row: `[..., E]` to `[...]`.

    A quarter of the values, rounded down, is left out at either end (Agarwal et al. 2021, arXiv
    2108.13264, section 4.3). Of fewer than four values it is the mean.
    """
    cut = values.shape[-1] // 4
    return np.sort(values, -1)[..., cut : values.shape[-1] - cut].mean(-1)


def bootstrap_interval(
    values: np.ndarray, level: float = 0.95, statistic: Statistic = mean
) -> tuple[float, float]:
    """Returns an interval that covers the mean of what `values` were drawn from.

    It is the percentile bootstrap (Efron 1979, doi 10.1214/aos/1176344552): the middle `level` of
    the means of resamples, each as many values, drawn with replacement. It assumes no distribution
    and never leaves the range of the values; of fewer than about twenty values it is too narrow.
    The same values give the same interval.

    Args:
        values: `[E]`, independent.
        level: the share of such intervals that is to cover the mean, in (0, 1).
        statistic: what the interval is of, in place of the mean.

    Returns:
        Lower and upper end; two NaN for a single value, which says nothing of the spread.

    Raises:
        ValueError: there are no values, or `level` is not between 0 and 1.
    """
    num_values = len(values)
    if values.ndim != 1 or not num_values or not 0 < level < 1:
        raise ValueError(f"values of shape {values.shape} and level {level}; expected [E], (0, 1)")
    if num_values == 1:
        return np.nan, np.nan
    drawn = [statistic(values[rows]) for rows in _resamples(num_values)]
    low, high = np.quantile(np.concatenate(drawn), _ends(level))
    return float(low), float(high)


def stratified_interval(
    groups: Sequence[np.ndarray], level: float = 0.95, statistic: Statistic = interquartile_mean
) -> tuple[float, float]:
    """Returns an interval of a statistic over several tasks, each with seeds of its own.

    The bootstrap is stratified: a resample has as many values of each task as there are, so that
    only seeds are drawn, not tasks (Agarwal et al. 2021, arXiv 2108.13264, section 4.1). Returns
    of different tasks must have been brought to one scale before.

    Args:
        groups: for each task, `[E]`; their numbers of seeds may differ.
        level: the share of such intervals that is to cover the statistic, in (0, 1).
        statistic: of the values of all tasks together.

    Returns:
        Lower and upper end; two NaN if no task has two seeds.

    Raises:
        ValueError: there is no task, or one without values; `level` is not between 0 and 1.
    """
    if not groups or not all(group.ndim == 1 and len(group) for group in groups):
        raise ValueError("expected at least one task, and at least one value of each")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected a number in (0, 1)")
    if max(map(len, groups)) == 1:
        return np.nan, np.nan
    generator = np.random.default_rng(0)
    num_values = sum(map(len, groups))
    drawn = []
    for count in _counts(num_values):
        rows = [group[generator.integers(len(group), size=(count, len(group)))] for group in groups]
        drawn.append(statistic(np.concatenate(rows, axis=1)))
    low, high = np.quantile(np.concatenate(drawn), _ends(level))
    return float(low), float(high)


def bootstrap_band(
    values: np.ndarray, level: float = 0.95, statistic: Statistic = mean
) -> tuple[np.ndarray, np.ndarray]:
    """Returns `bootstrap_interval` at each point of curves, with the same resamples everywhere.

    Whole runs are drawn, so the band covers each point, not the curve as a whole.

    Args:
        values: `[P, E]`: E runs at P points.
        level: as for `bootstrap_interval`.
        statistic: as for `bootstrap_interval`.

    Returns:
        Lower and upper ends, `[P]` each; NaN if there is one run.

    Raises:
        ValueError: there are no runs, or `level` is not between 0 and 1.
    """
    if values.ndim != 2 or not values.shape[1] or not 0 < level < 1:
        raise ValueError(f"values of shape {values.shape} and level {level}; expected [P, E]")
    num_points, num_values = values.shape
    if num_values == 1 or not num_points:
        return np.full(num_points, np.nan), np.full(num_points, np.nan)
    rows = np.concatenate(list(_resamples(num_values, _FEWER_RESAMPLES)))
    ends = np.empty((2, num_points))
    step = max(1, _MOST_AT_ONCE // rows.size)
    for start in range(0, num_points, step):
        drawn = statistic(values[start : start + step][:, rows])  # [step, K]
        ends[:, start : start + step] = np.quantile(drawn, _ends(level), axis=-1)
    return ends[0], ends[1]


def _resamples(num_values: int, most: int = _NUM_RESAMPLES) -> Iterator[np.ndarray]:
    """Yields the numbers of the values in resamples, `[k, E]` at a time; the same each time."""
    generator = np.random.default_rng(0)
    for count in _counts(num_values, most):
        yield generator.integers(num_values, size=(count, num_values))


def _counts(num_values: int, most: int = _NUM_RESAMPLES) -> Iterator[int]:
    """Yields how many resamples to draw at once."""
    left = min(most, _NUM_RESAMPLES if num_values < _MANY else _FEWER_RESAMPLES)
    step = max(1, _MOST_AT_ONCE // num_values)
    while left:
        count = min(step, left)
        yield count
        left -= count


def _ends(level: float) -> list[float]:
    return [(1 - level) / 2, (1 + level) / 2]
