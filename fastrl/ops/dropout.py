"""Dropout masks drawn outside of the graphs that use them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_FEW = 0.1  # up to this rate, drawing the gaps costs less than drawing every value


def draw_dropout(masks: Tensor, rate: float, generator: torch.Generator) -> None:
    """Fills `masks` `[S]` with 0, with probability `rate`, and 1 / (1 - rate) otherwise.

    Independent draws (Srivastava et al. 2014). Where few values are dropped, the gaps between them
    are drawn in their place: they are geometric, that is, exponential ones rounded down (Devroye
    1986, chapter X.2). At 1 % that takes a tenth of the time.

    Args:
        masks: float `[S]`, overwritten.
        rate: in [0, 1).
        generator: on the device of `masks`.
    """
    if rate > _FEW or masks.device.type != "cpu":
        masks.bernoulli_(1 - rate, generator=generator).div_(1 - rate)
        return
    masks.fill_(1 / (1 - rate))
    if rate == 0:
        return
    size, position = len(masks), -1
    while position < size:
        expected = (size - position) * rate
        gaps = torch.empty(int(expected + 4 * math.sqrt(expected)) + 1, dtype=torch.float64)
        gaps.exponential_(-math.log1p(-rate), generator=generator)
        places = gaps.floor_().add_(1).cumsum(0).long().add_(position)
        position = int(places[-1])
        masks[places[places < size]] = 0
