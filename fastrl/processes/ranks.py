"""Operations over R ranks: sums of gradients, merged moments, gathered rows and states.

A gradient is summed over the ranks after it is computed and before it is applied; the weights of
rows count the rows of all ranks. With a single rank each operation returns its argument at no cost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastrl.ops.moments import Moments, merge

_REASON_BYTES = 1024  # of the words in which ranks tell each other why they cannot do something


class Ranks:
    """One of R ranks that learn from the same global minibatches."""

    global_rank: int
    world_size: int

    @property
    def is_alone(self) -> bool:
        """Whether this is the only rank."""
        return self.world_size == 1

    def stream_seed(self, seed: int, *stream: int) -> int:
        """Returns the seed of a random stream of this rank; the unnamed one of rank 0 is `seed`.

        Args:
            seed: seed of the run.
            stream: numbers that name a stream of this rank.
        """
        if self.global_rank == 0 and not stream:
            return seed
        key = repr((seed, self.global_rank, *stream))
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1

    def sum(self, gradient: Tensor, metrics: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """Sums a gradient `[P]` and metrics (scalars) over all ranks, in one all-reduce.

        For losses that are sums over rows, with weights that count the rows of all ranks: the
        result is the gradient of the global minibatch.
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

        For losses that are means over the same number of rows on every rank.
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
        """Returns the moments of the rows of all ranks, merged in the same order on each."""
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
        """Returns `values` `[K]` of all ranks as `[R, K]`."""
        if self.is_alone:
            return values[None]
        from fastrl.processes.collectives import gather

        return gather(torch.from_numpy(values)).numpy()

    def gather_rows(self, x: Tensor) -> Tensor:
        """Returns `x` `[*]` of all ranks as `[R, *]`."""
        if self.is_alone:
            return x[None]
        from fastrl.processes.collectives import gather

        return gather(x.view(torch.uint8) if x.dtype == torch.bool else x).view(x.dtype)

    def gather_states(self, state: dict[str, Any]) -> list[dict[str, Any]]:
        """Returns the states of all ranks on rank 0; [] elsewhere, or if this is the only rank."""
        if self.is_alone:
            return []
        from fastrl.processes.collectives import gather_states

        return gather_states(state)

    def agree(self, reason: str) -> str:
        """Returns the first rank's reason against something; "" if no rank has one."""
        if self.is_alone:
            return reason
        from fastrl.processes.collectives import gather

        own = torch.zeros(_REASON_BYTES, dtype=torch.uint8)
        text = reason.encode()[:_REASON_BYTES]
        own[: len(text)] = torch.tensor(list(text), dtype=torch.uint8)
        texts = [bytes(x.tolist()).rstrip(b"\0").decode(errors="ignore") for x in gather(own)]
        return next(filter(None, texts), "")

    def apart(self) -> AbstractContextManager[None]:
        """Returns a context in which sums over ranks wait for no other: each is this rank's own."""
        if self.is_alone:
            return nullcontext()
        from fastrl.processes.collectives import apart

        return apart()

    def broadcast(self, x: Tensor) -> None:
        """Overwrites `x` with that of rank 0."""
        if not self.is_alone:
            from fastrl.processes.collectives import broadcast

            broadcast(x)
