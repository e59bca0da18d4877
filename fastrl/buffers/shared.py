"""The rollouts of all ranks as one, of which every rank trains on a part (`share_data`).

With R ranks, global minibatches are dealt as one rank with R times the environments would deal
them; each rank takes every R-th row of each. So R ranks learn what that one rank would learn.
Letters: T steps, N environments of a rank, M minibatches of B rows of a rank.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastrl.buffers.rollout import Minibatch, RolloutBuffer, shuffle_seed
from fastrl.kernels.indexing import shuffled_minibatches


class SharedRollout:
    """All rows of R rollouts, on every rank."""

    def __init__(
        self,
        buffer: RolloutBuffer,
        batch_size: int,
        rank: int,
        num_ranks: int,
        gather: Callable[[Tensor], Tensor] | None,
    ) -> None:
        """Allocates R times the memory of the rollout's rows.

        Args:
            buffer: this rank's rollout.
            batch_size: B.
            rank: this one's number.
            num_ranks: R.
            gather: returns a tensor of all ranks, `[R, *]`; None if `buffer` has all their rows.
        """
        self._buffer, self._rank, self._num_ranks = buffer, rank, num_ranks
        self._gather = gather or (lambda x: x[None])
        num_rows = buffer.num_steps * buffer.num_envs * (num_ranks if gather else 1)
        global_size = batch_size * num_ranks
        shape = -(-num_rows // global_size), global_size
        self._indices = torch.zeros(shape, dtype=torch.int64)
        self._weights = torch.zeros(shape)
        self._sources: list[Tensor] = []

    def refresh(self) -> None:
        """Fetches the rows of all ranks, once they are judged."""
        buffer = self._buffer
        own = [*buffer.sources(), buffer.valid]
        # [R, T, N, *] to [T, R, N, *]: the order of one rank that has all environments.
        rows = [self._gather(x).transpose(0, 1).flatten(0, 2) for x in own]
        self._sources, self._valid = rows[:-1], rows[-1].cpu()

    def minibatches(self, *key: int) -> list[Minibatch]:
        """Deals all valid rows of all ranks, shuffled; returns this rank's share of each minibatch.

        Args:
            *key: numbers that the shuffle follows from, the same on all ranks.
        """
        shuffled_minibatches(self._valid, shuffle_seed(*key), self._indices, self._weights)
        columns = slice(self._rank, None, self._num_ranks)
        indices, weights = self._indices[:, columns], self._weights[:, columns]
        device = self._buffer.device
        flat = indices.flatten().to(device)
        fields = [x.index_select(0, flat).unflatten(0, indices.shape) for x in self._sources]
        fields.append(weights.contiguous().to(device))
        return [Minibatch(*batch) for batch in zip(*fields, strict=True)]
