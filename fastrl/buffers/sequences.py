"""A rollout for policies that remember: states at every row, minibatches of whole sequences.

A sequence is a piece of one episode. It ends with its episode's reset row, which weighs nothing,
after L rows, or with the rollout; it begins in the state that the policy was in when it acted
there: zeros where an episode begins, so nothing is reset within a sequence.

    t            k                  k+1 (reset row)        k+2
    states[t]    of the episode     of the same episode    zeros
    values[t]    V(s_{T-1})         V(s_T), for limits     V(s'_0)

Letters: T steps, N environments, M minibatches of B sequences of at most L steps, S numbers of a
state, E of a previous action, F features of the policy.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastrl.buffers.rollout import RolloutBuffer, shuffle_seed
from fastrl.kernels.indexing import RowGather, cut_sequences, sequence_grid, shuffled_minibatches


class SequenceMinibatch(NamedTuple):
    """B sequences side by side, the longest first, padded to L steps: rows `[L * B]`, step by step.

    `weights` are 1/count on the rows that count and 0 on padding and reset rows, so that they sum
    to 1. `states` `[B, S]` are from before each sequence's first row.
    """

    obs: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    weights: Tensor
    previous: Tensor
    states: Tensor


class SequenceRollout(RolloutBuffer):
    """A rollout buffer with the policy's states `[T + 1, N, S]` and features `[T, N, F]`."""

    varies = True

    def __init__(
        self,
        *sizes: Any,
        sequence_length: int,
        state_size: int,
        previous_size: int,
        num_features: int,
    ) -> None:
        """Allocates the rollout; minibatches are allocated as episodes make them necessary.

        Args:
            *sizes: as of `RolloutBuffer`; `batch_size` is a multiple of `sequence_length`.
            sequence_length: L.
            state_size: S.
            previous_size: E, the last numbers of a state.
            num_features: F.
        """
        self.sequence_length, self._previous_size = sequence_length, previous_size
        self._sizes = state_size, num_features
        super().__init__(*sizes)

    @property
    def written(self) -> list[str]:
        """Names of the tensors that are written where they lie."""
        return [*super().written, "states", "features"]

    def _allocate_minibatches(self, batch_size: int) -> None:
        rows, (state_size, num_features) = (self.num_steps, self.num_envs), self._sizes
        self._batch_size = batch_size
        self.states = torch.zeros(rows[0] + 1, rows[1], state_size, device=self.device)
        self.features = torch.zeros(*rows, num_features, device=self.device)
        self._previous = torch.zeros(*rows, self._previous_size, device=self.device)
        sources = [*self.sources(), *([self._previous] if self._previous_size else [])]
        self._sources = [x.flatten(0, 1) for x in sources]
        self._sequence_batches: list[SequenceMinibatch] = []
        self._gathers: list[tuple[RowGather, RowGather]] = []
        self._grow(1)

    def _grow(self, num_minibatches: int) -> None:
        """Allocates anew, twice as much as is wanted, if there are not as many minibatches yet."""
        if len(self._sequence_batches) >= num_minibatches:
            return
        count, num_rows = 2 * num_minibatches, self._batch_size
        num_sequences = num_rows // self.sequence_length
        rows = [x.new_zeros(count, num_rows, *x.shape[1:]) for x in self._sources]
        states = self.states.new_zeros(count, num_sequences, self.states.shape[2])
        nothing = self._previous.new_zeros(count, num_rows, 0)
        previous = rows.pop() if self._previous_size else nothing
        weights = self.states.new_ones(count, num_rows)  # an update is built with rows that count
        whole = SequenceMinibatch._make([*rows, weights, previous, states])
        self._whole = whole.weights, whole.advantages
        self._sequence_batches = [SequenceMinibatch(*x) for x in zip(*whole, strict=True)]
        self._gathers = []
        for batch in self._sequence_batches if self.device.type == "cpu" else ():
            outputs = [*batch[:6], *([batch.previous] if self._previous_size else [])]
            gather_states = RowGather([self.states.flatten(0, 1)], [batch.states])
            self._gathers.append((RowGather(self._sources, outputs), gather_states))

    @property
    def first_minibatch(self) -> Any:
        """The tensors of minibatch 0, whatever they hold: what an update is built for."""
        return self._sequence_batches[0]

    def start(self, obs: Any, first_env: int) -> None:
        """Takes in the first observations of n environments from `first_env` on."""
        super().start(obs, first_env)
        self.states[0, first_env : first_env + len(obs)] = 0

    def carry_over(self) -> None:
        """Makes the row after the last one the first row of the next rollout."""
        super().carry_over()
        self.states[0] = self.states[-1]

    def state_dict(self) -> dict[str, Tensor]:
        """Returns what the next rollout starts from."""
        return {**super().state_dict(), "states": self.states[0]}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes it back."""
        super().load_state_dict(state)
        self.states[0] = state["states"]

    def fields(self) -> tuple[Tensor, Tensor]:
        """Returns weights and advantages `[M, L * B]` of the minibatches that were dealt last."""
        weights, advantages = self._whole
        return weights[: self._num_dealt], advantages[: self._num_dealt]

    def refresh(self) -> int:
        """Cuts the rollout into sequences; returns how many minibatches they fill."""
        valid = self.host_valid[:-1]
        env, start, length = cut_sequences(~valid, self.sequence_length)
        has_rows = valid[start, env]  # not so where a reset row stands alone
        env, start, length = env[has_rows], start[has_rows], length[has_rows]
        self._sequences = env, start, length
        self._num_valid = length - (~valid[start + length - 1, env]).long()
        num_columns = self._batch_size // self.sequence_length
        return -(-len(self._sequences[0]) // num_columns)

    def minibatches(self, *key: int, num_minibatches: int | None = None) -> Any:
        """Deals all sequences, shuffled, into minibatches; each valid row is in exactly one.

        Their number depends on how many episodes ended; their shapes do not.

        Args:
            *key: numbers that the shuffle follows from, so that it has no state to save.
            num_minibatches: how many, at least what `refresh` said; by default as many.

        Returns:
            A list of `SequenceMinibatch`.
        """
        num_minibatches = num_minibatches or self.refresh()
        env, start, length = self._sequences
        valid, num_columns = self.host_valid[:-1], self._batch_size // self.sequence_length
        places = torch.zeros((num_minibatches, num_columns), dtype=torch.int64)
        shares = torch.zeros(num_minibatches, num_columns)
        everyone = torch.ones(len(env), dtype=torch.bool)
        shuffled_minibatches(everyone, shuffle_seed(*key), places, shares)
        places, shares = self._by_length(places, shares)
        columns = places.flatten()
        env, start, length = env[columns], start[columns], length[columns]
        grid, mask = sequence_grid(env, start, length, self.num_envs, self.sequence_length)
        grid = self._by_minibatch(grid)
        mask = self._by_minibatch(mask & (shares.flatten() > 0))
        counts = (mask & valid.flatten()[grid]).float()
        weights = counts / counts.sum(1, keepdim=True).clamp(min=1)
        first_rows = (start * self.num_envs + env).view(num_minibatches, num_columns)
        if self._previous_size:
            self._previous.copy_(self.states[:-1, :, -self._previous_size :])
        self._grow(num_minibatches)
        self._num_dealt = num_minibatches
        for index in range(num_minibatches):
            self._fill(index, grid[index], first_rows[index])
            self._sequence_batches[index].weights.copy_(weights[index])
        return self._sequence_batches[:num_minibatches]

    def _by_length(self, places: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Brings the sequences of each minibatch `[M, B]` into the order of falling length."""
        num_valid = self._num_valid[places] * (shares > 0)
        order = num_valid.argsort(dim=1, descending=True, stable=True)
        return places.gather(1, order), shares.gather(1, order)

    def _by_minibatch(self, grid: Tensor) -> Tensor:
        """Brings `[L, M * B]` into the order of the minibatches' rows, `[M, L * B]`."""
        num_columns = self._batch_size // self.sequence_length
        return grid.unflatten(1, (-1, num_columns)).transpose(0, 1).flatten(1).contiguous()

    def _fill(self, index: int, rows: Tensor, first_rows: Tensor) -> None:
        if self._gathers:
            gather, gather_states = self._gathers[index]
            gather.gather(rows)
            gather_states.gather(first_rows)
            return
        batch = self._sequence_batches[index]
        outputs = [*batch[:6], batch.previous]
        rows, first_rows = rows.to(self.device), first_rows.to(self.device)
        for source, output in zip(self._sources, outputs, strict=False):
            torch.index_select(source, 0, rows, out=output)
        torch.index_select(self.states.flatten(0, 1), 0, first_rows, out=batch.states)
