"""Whether the networks of all ranks are still the same, which gradients alone cannot tell."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import nn

from fastrl.processes.ranks import Ranks


def check_buffers(ranks: Ranks, networks: Mapping[str, nn.Module], num_updates: int) -> None:
    """Raises ValueError, on all ranks, if buffers differ between them: statistics of batch norm.

    It looks after the first, second, fourth, eighth ... update, which costs nothing.

    Args:
        ranks: all that learn together.
        networks: those that learn, by name.
        num_updates: taken so far, the same on all ranks.
    """
    if ranks.is_alone or num_updates & (num_updates - 1):
        return
    places = [
        (f"{network}.{name}", type(module.get_submodule(name.rpartition(".")[0])).__name__, buffer)
        for network, module in networks.items()
        for name, buffer in module.named_buffers()
    ]
    sums = np.array([0.0, *(float(buffer.double().sum()) for _, _, buffer in places)])
    differ = (ranks.gather(sums).view(np.int64) != sums.view(np.int64)).any(0)  # bits, as of nan
    found = ranks.gather(differ.astype(np.float64)).max(0)[1:]  # alike on all
    if found.any():
        name, kind, _ = places[int(found.argmax())]
        raise ValueError(
            f"{name} of {kind} differs between ranks, each of which gathers its own: several "
            "ranks cannot train statistics such as those of batch norm; LayerNorm and GroupNorm "
            "have none"
        )
