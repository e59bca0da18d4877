"""Running mean and variance, exact under merging (Chan, Golub and LeVeque 1983)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Count (int64 scalar), mean and variance (float64 `[*]`) of the rows seen so far."""

    count: Tensor
    mean: Tensor
    variance: Tensor


def moments_of(rows: Tensor, valid: Tensor) -> Moments:
    """Moments of the valid rows.

    Args:
        rows: `[R, *]`.
        valid: bool `[R]`.
    """
    kept = rows[valid].double()
    if len(kept) == 0:
        zeros = torch.zeros(rows.shape[1:], dtype=torch.float64, device=rows.device)
        return Moments(torch.zeros((), dtype=torch.int64, device=rows.device), zeros, zeros)
    count = torch.tensor(len(kept), dtype=torch.int64, device=rows.device)
    return Moments(count, kept.mean(0), kept.var(0, correction=0))


def merge(first: Moments, second: Moments) -> Moments:
    """Moments of both sets of rows together; either may be empty."""
    count = first.count + second.count
    share = second.count.double() / count.clamp(min=1)  # two integers would divide in float32
    difference = second.mean - first.mean
    mean = first.mean + difference * share
    variance = (
        first.variance * (1 - share) + second.variance * share + difference**2 * share * (1 - share)
    )
    return Moments(count, mean, variance)
