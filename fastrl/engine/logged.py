"""What a loss logs by name while it runs, so that it leaves a recorded graph as numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_COLLECTED: list[dict[str, Tensor]] = []  # of the runs under way, the innermost last


@contextmanager
def logged_metrics() -> Iterator[dict[str, Tensor]]:
    """Context in which `take_metric` takes metrics; returns them by name, as they come."""
    _COLLECTED.append({})
    try:
        yield _COLLECTED[-1]
    finally:
        _COLLECTED.pop()


def take_metric(name: str, value: Any) -> bool:
    """Takes a metric, if anybody collects some; returns whether somebody does.

    Args:
        name: its name in metrics.csv.
        value: a number, or a tensor with one.

    Raises:
        ValueError: the value is something else, or the name was logged before.
    """
    if not _COLLECTED:
        return False
    metrics = _COLLECTED[-1]
    if name in metrics:
        raise ValueError(f"{name} is logged twice in one training_step")
    if not isinstance(value, Tensor):
        try:
            value = torch.tensor(float(value))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} is logged as {value!r}, which is no number") from error
    if value.numel() != 1:
        raise ValueError(f"{name} is logged as a tensor {list(value.shape)}; it must be one number")
    metrics[name] = value.detach().reshape(()).float()
    return True
