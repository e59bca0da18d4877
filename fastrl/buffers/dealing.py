"""Deals a rollout's rows into minibatches, the rows of all ranks counted as one rollout.

A row's weight is 1/count over the rows that count in its global minibatch, so that sums over ranks
of weighted sums are means over it; advantages are normalised over the same rows. Ranks either deal
their own rows or, with `share_data`, the rows of all: as one rank with all environments would, each
rank taking every R-th row. Letters: T steps, N environments of a rank, M minibatches of B rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fastrl.buffers.rollout import Minibatch, RolloutBuffer, shuffle_seed
from fastrl.kernels.indexing import shuffled_minibatches
from fastrl.processes.ranks import Ranks


class Rows(Protocol):
    """What deals a rollout's rows into minibatches, weighted as if there were no other rank."""

    varies: bool
    """Whether the number of minibatches differs between rollouts."""

    def refresh(self) -> int:
        """Takes a new rollout in; returns how many minibatches its rows fill."""
        ...

    def fields(self) -> tuple[Tensor, Tensor]:
        """Returns weights and advantages `[M, B]` of the minibatches that were dealt last."""
        ...

    def minibatches(self, *key: int, num_minibatches: int | None = None) -> list[Any]:
        """Returns the minibatches, and empty ones up to that number; the shuffle follows `key`."""
        ...


class Dealer:
    """Deals the rows that this rank learns from."""

    def __init__(
        self,
        rows: Rows,
        ranks: Ranks,
        seed: tuple[int, ...],
        normalize_advantages: bool,
        build: Callable[[Any, tuple[Tensor, ...]], Any],
        whole_rollout: bool = False,
    ) -> None:
        """Takes a rollout that is filled again and again.

        Args:
            rows: the rollout, or the rows of all ranks.
            ranks: that learn together.
            seed: what all shuffles follow from.
            normalize_advantages: give the advantages of each global minibatch mean 0 and standard
                deviation 1.
            build: makes a function of tensors fast, see `Engine.build`.
            whole_rollout: the minibatches are pieces of a single one, the rollout.
        """
        self._rows, self._ranks, self._seed = rows, ranks, seed
        self._weigh: Callable[..., Any]
        self._weigh = partial(weigh, ranks, normalize_advantages, whole_rollout)
        self._most = 0
        if not rows.varies:
            # Trainers that get other numbers of environments have other numbers of minibatches.
            self._most = self._over_ranks(len(rows.fields()[0]))
            self._weigh = build(partial(self._weigh, self._most), rows.fields())

    def deal(self, update_index: int, epoch: int = 0, is_new: bool = True) -> list[Any]:
        """Returns the minibatches of one pass over the rollout.

        Args:
            update_index: number of the update, from 0.
            epoch: number of the pass in it.
            is_new: whether rows or advantages changed since the last pass.
        """
        if is_new:
            count = self._rows.refresh()
            if self._rows.varies:
                self._most = self._over_ranks(count)
        key = *self._seed, update_index, epoch
        minibatches = self._rows.minibatches(*key, num_minibatches=self._most)
        if self._rows.varies:
            self._weigh(self._most, *self._rows.fields())
        else:
            self._weigh(*self._rows.fields())
        return minibatches

    def _over_ranks(self, count: int) -> int:
        return int(self._ranks.gather(np.array([count])).max())


@torch.no_grad()
def weigh(
    ranks: Ranks,
    normalizes: bool,
    whole_rollout: bool,
    num_minibatches: int,
    weights: Tensor,
    advantages: Tensor,
) -> Tensor:
    """Makes weights and advantages `[M, B]` those of global minibatches, in place.

    Args:
        ranks: whose rows are counted together.
        normalizes: whether advantages get mean 0 and standard deviation 1.
        whole_rollout: count the rows of all minibatches together.
        num_minibatches: at least M, the same on all ranks.
        weights: above 0 on the rows that count.
        advantages: of all rows.
    """
    rows = (weights > 0).double()
    values = advantages.double()
    masked = values * rows
    sums = torch.stack([rows.sum(1), masked.sum(1), (masked * values).sum(1)])
    if whole_rollout:
        sums = sums.sum(1, keepdim=True)
    elif num_minibatches > len(weights):
        sums = torch.cat([sums, sums.new_zeros(3, num_minibatches - len(weights))], 1)
    count, total, squares = ranks.sum_numbers(sums)[:, : len(weights), None].unbind()
    count = count.clamp(min=1)
    weights.copy_(rows / count)
    if normalizes:
        mean = total / count
        spread = (squares / count - mean * mean).clamp(min=0).sqrt()
        advantages.copy_((values - mean) / (spread + 1e-8))
    return weights


class SharedRows:
    """The rows of R ranks on every rank, in the order of one rank that has all environments."""

    varies = False

    def __init__(
        self,
        rollout: RolloutBuffer,
        batch_size: int,
        ranks: Ranks,
        has_all_rows: bool,
    ) -> None:
        """Allocates the minibatches.

        Args:
            rollout: this rank's own.
            batch_size: B.
            ranks: R of them.
            has_all_rows: whether every rank's rollout holds the rows of all already.
        """
        self._rollout, self._ranks = rollout, ranks
        self._gather = (lambda x: x[None]) if has_all_rows else ranks.gather_rows
        num_rollouts = 1 if has_all_rows else ranks.world_size
        num_rows = rollout.num_steps * rollout.num_envs * num_rollouts
        global_size = batch_size * ranks.world_size
        shape = -(-num_rows // global_size), global_size
        self._indices = torch.zeros(shape, dtype=torch.int64)
        self._weights = torch.zeros(shape)
        self._sources: list[Tensor] = []
        own = torch.zeros(shape[0], batch_size, device=rollout.device)
        self._fields = own, own.clone()

    def refresh(self) -> int:
        """Fetches the rows of all ranks; returns how many minibatches they fill."""
        own = [*self._rollout.sources(), self._rollout.valid]
        # [R, T, N, *] to [T, R, N, *]: the order of one rank that has all environments.
        rows = [self._gather(x).transpose(0, 1).flatten(0, 2) for x in own]
        self._sources, self._valid = rows[:-1], rows[-1].cpu()
        return len(self._indices)

    def fields(self) -> tuple[Tensor, Tensor]:
        """Returns weights and advantages of all minibatches, `[M, B]`."""
        return self._fields

    def minibatches(self, *key: int, num_minibatches: int | None = None) -> list[Minibatch]:
        """Deals all valid rows of all ranks, shuffled; returns this rank's share of each minibatch.

        Args:
            *key: numbers that the shuffle follows from, the same on all ranks.
            num_minibatches: how many; there are always as many.
        """
        assert num_minibatches in (None, len(self._indices))
        shuffled_minibatches(self._valid, shuffle_seed(*key), self._indices, self._weights)
        columns = slice(self._ranks.global_rank, None, self._ranks.world_size)
        indices, weights = self._indices[:, columns], self._weights[:, columns]
        flat = indices.flatten().to(self._rollout.device)
        fields = [x.index_select(0, flat).unflatten(0, indices.shape) for x in self._sources]
        fields.append(weights.contiguous().to(self._rollout.device))
        shared = Minibatch(*fields)
        self._fields[0].copy_(shared.weights)
        self._fields[1].copy_(shared.advantages)
        shared = shared._replace(weights=self._fields[0], advantages=self._fields[1])
        return [Minibatch(*batch) for batch in zip(*shared, strict=True)]
