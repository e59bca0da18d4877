"""What R ranks do together: sum gradients, weigh rows, merge moments, gather.

A gradient is summed over the ranks between its computation and its application, weights of rows
count the rows of all ranks, and moments are merged. With one rank each of these returns its
argument, and costs nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastrl.ops.moments import Moments, merge


class Ranks:
    """One of R ranks that learn alike."""

    global_rank: int
    world_size: int

    @property
    def is_alone(self) -> bool:
        """Whether there is no other rank."""
        return self.world_size == 1

    def stream_seed(self, seed: int, *stream: int) -> int:
        """Returns the seed of a random stream of this rank's own; rank 0's nameless one is `seed`.

        Args:
            seed: of the run.
            stream: numbers that tell the streams of a rank apart.
        """
        if self.global_rank == 0 and not stream:
            return seed
        key = repr((seed, self.global_rank, *stream))
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1

    def sum(self, gradient: Tensor, metrics: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """Sums a gradient `[P]` and metrics (scalars) over all ranks, in one all-reduce.

        For losses that are sums over rows whose weights count the rows of all ranks: the result is
        the gradient over the global minibatch.
        """
        if self.is_alone:
            return gradient, metrics
        from fastrl.processes.collectives import sum_over_ranks

        with torch.no_grad():
            parts = [gradient, torch.stack(list(metrics))] if metrics else [gradient]
            total = sum_over_ranks(torch.cat(parts))
            return total[: len(gradient)], total[len(gradient) :].unbind()

    def mean(self, gradient: Tensor, metrics: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """Averages a gradient `[P]` and metrics over all ranks, in one all-reduce.

        For losses that are means over as many rows on every rank.
        """
        if self.is_alone:
            return gradient, metrics
        gradient, metrics = self.sum(gradient, metrics)
        return gradient / self.world_size, [metric / self.world_size for metric in metrics]

    def sum_numbers(self, x: Tensor) -> Tensor:
        """Returns the sum of `x` over all ranks."""
        if self.is_alone:
            return x
        from fastrl.processes.collectives import sum_over_ranks

        return sum_over_ranks(x)

    def merge(self, moments: Moments) -> Moments:
        """Returns the moments of the rows of all ranks, merged in one order."""
        if self.is_alone:
            return moments
        from fastrl.processes.collectives import gather

        flat = [moments.count.double().reshape(1), moments.mean.reshape(-1)]
        parts = gather(torch.cat([*flat, moments.variance.reshape(-1)]))
        size, shape = moments.mean.numel(), moments.mean.shape
        merged = None
        for part in parts:
            count, mean = part[0].long(), part[1 : 1 + size].view(shape)
            one = Moments(count, mean, part[1 + size :].view(shape))
            merged = one if merged is None else merge(merged, one)
        assert merged is not None
        return merged

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Returns numbers `[K]` of all ranks, `[R, K]`."""
        if self.is_alone:
            return values[None]
        from fastrl.processes.collectives import gather

        return gather(torch.from_numpy(values)).numpy()

    def gather_rows(self, x: Tensor) -> Tensor:
        """Returns `x` `[*]` of all ranks, `[R, *]`."""
        if self.is_alone:
            return x[None]
        from fastrl.processes.collectives import gather

        return gather(x.view(torch.uint8) if x.dtype == torch.bool else x).view(x.dtype)

    def gather_states(self, state: dict[str, Any]) -> list[dict[str, Any]]:
        """Returns what each rank gave, on rank 0; else, or if there is no other rank, []."""
        if self.is_alone:
            return []
        from fastrl.processes.collectives import gather_states

        return gather_states(state)

    def broadcast(self, x: Tensor) -> None:
        """Overwrites `x` with that of rank 0."""
        if not self.is_alone:
            from fastrl.processes.collectives import broadcast

            broadcast(x)
