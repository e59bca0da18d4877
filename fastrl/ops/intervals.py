"""Confidence intervals of a mean."""

from __future__ import annotations

import numpy as np

_NUM_RESAMPLES, _FEWER_RESAMPLES = 10_000, 2_000
_MANY = 2_000  # values, from which fewer resamples will do
_MOST_AT_ONCE = 1_000_000  # numbers drawn


def bootstrap_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Returns an interval that covers the mean of what `values` were drawn from.

    It is the percentile bootstrap (Efron 1979, doi 10.1214/aos/1176344552): the middle `level` of
    the means of resamples, each as many values, drawn with replacement. It assumes no distribution
    and never leaves the range of the values; of fewer than about twenty values it is too narrow.
    The same values give the same interval.

    Args:
        values: `[E]`, independent.
        level: the share of such intervals that is to cover the mean, in (0, 1).

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
    num_resamples = _NUM_RESAMPLES if num_values < _MANY else _FEWER_RESAMPLES
    generator = np.random.default_rng(0)
    means = np.empty(num_resamples)
    step = max(1, _MOST_AT_ONCE // num_values)
    for start in range(0, num_resamples, step):
        count = min(step, num_resamples - start)
        rows = generator.integers(num_values, size=(count, num_values))
        means[start : start + count] = values[rows].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
