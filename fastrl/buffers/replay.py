"""The replay buffer: a ring of transitions on the training device, each observation stored once.

A row is one transition, as in `buffers/rollout.py`, and the next observation of row t is the
observation of row t + 1 of the same environment. Environments reset on the next step, so that is
the true last observation where an episode ends; the reset row after it is never drawn. The row at
`head` holds the observation that the environments show now, so the newest transition, of the row
before it, can be drawn.

    row        oldest   ...   head - 1       head           oldest   (the ring closes)
    obs        s_k            s_t            s_{t+1}        s_k
    actions    a_k            a_t            (to come)      a_k

Letters: C rows of N environments, B rows of a minibatch, G minibatches.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

from fastrl.buffers.rollout import RolloutBuffer
from fastrl.kernels.indexing import RowGather


class Transitions(NamedTuple):
    """B transitions; a target is `rewards + discounts * V(next_obs)`."""

    obs: Tensor
    actions: Tensor
    next_obs: Tensor
    rewards: Tensor
    discounts: Tensor


class StepsBuffer(RolloutBuffer):
    """The latest steps, on their way into the replay buffer; knows when episodes began anew."""

    def __init__(self, *sizes: Any) -> None:
        """Allocates as `RolloutBuffer` does."""
        super().__init__(*sizes)
        self.is_restarted = torch.zeros((), dtype=torch.bool)

    def start(self, obs: np.ndarray, first_env: int) -> None:
        """Takes in first observations: row 0 does not follow from what was collected before."""
        super().start(obs, first_env)
        self.is_restarted.fill_(True)

    def carry_over(self) -> None:
        """Makes the row after the last one the first row of the next steps."""
        super().carry_over()
        self.is_restarted.fill_(False)


def columns_of(states: list[dict[str, Tensor]], columns: slice) -> dict[str, Tensor]:
    """Returns what some environments stored, out of the states of rings that lie side by side.

    Args:
        states: of `ReplayBuffer.state_dict`, of ranks that stepped together.
        columns: which environments, counted over all the rings.

    Raises:
        ValueError: there are not as many environments.
    """
    num_envs = sum(state["valid"].shape[1] for state in states)
    if columns.stop > num_envs:
        raise ValueError(f"the saved replay has {num_envs} environments, not {columns.stop}")
    return {name: torch.cat([state[name] for state in states], 1)[:, columns] for name in states[0]}


class ReplayBuffer:
    """Ring storage, allocated once, and uniform draws from it."""

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        observation_space: gymnasium.Space,
        num_actions: int,
        batch_size: int,
        gamma: float,
        num_return_steps: int,
        device: torch.device,
    ) -> None:
        """Allocates the ring and one minibatch.

        Args:
            capacity: transitions to hold, over all environments; at least two for each.
            num_envs: N.
            observation_space: shape and type of one observation, stored as they are.
            num_actions: A.
            batch_size: B.
            gamma: discount per step.
            num_return_steps: rewards that are summed before a target bootstraps.
            device: where the ring lies.
        """
        self.num_envs, self.device = num_envs, device
        self.gamma, self.num_return_steps = gamma, num_return_steps
        self.num_rows = capacity // num_envs + 1  # C; the row at head is no transition yet
        assert self.num_rows >= 3, "two rows of an environment, of which one may be a reset row"
        self.head = self.size = 0
        ring = (self.num_rows, num_envs)
        assert observation_space.shape is not None
        obs_dtype = torch.from_numpy(np.empty(0, observation_space.dtype)).dtype

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.obs = zeros(*ring, *observation_space.shape, dtype=obs_dtype)
        self.actions, self.rewards = zeros(*ring, num_actions), zeros(*ring)
        # `terminated` cuts the target; `done` ends a sum of rewards.
        self.terminated, self.done = zeros(*ring, dtype=torch.bool), zeros(*ring, dtype=torch.bool)
        # On the host, because the draws are.
        self.valid = torch.zeros(ring, dtype=torch.bool)

        flat = [x.flatten(0, 1) for x in (self.obs, self.actions, self.rewards, self.terminated)]
        self._sources, self._next_sources = flat, flat[:1]
        self._outputs = [zeros(batch_size, *x.shape[1:], dtype=x.dtype) for x in flat]
        self._next_outputs = [torch.zeros_like(self._outputs[0])]
        self._flat_done = self.done.flatten()
        self._discounts = zeros(batch_size)
        on_cpu = device.type == "cpu"
        self._gather = RowGather(self._sources, self._outputs) if on_cpu else None
        self._next_gather = RowGather(self._next_sources, self._next_outputs) if on_cpu else None
        obs, actions, rewards, self._terminated = self._outputs
        (next_obs,) = self._next_outputs
        self.minibatch = Transitions(obs, actions, next_obs, rewards, self._discounts)

    @property
    def num_transitions(self) -> int:
        """Rows that can be drawn, reset rows among them."""
        return self.size * self.num_envs

    def append(self, steps: StepsBuffer) -> None:
        """Takes in a full buffer of T steps; the oldest rows make way."""
        assert steps.num_steps < self.num_rows
        if steps.is_restarted:
            if self.size:
                self._close_seam()
            self.obs[self.head] = steps.obs[0]
            steps.is_restarted.fill_(False)
        start = 0
        while start < steps.num_steps:
            count = min(steps.num_steps - start, self.num_rows - self.head)
            here, there = slice(self.head, self.head + count), slice(start, start + count)
            self.actions[here] = steps.actions[there]
            self.rewards[here] = steps.host_rewards[there].to(self.device)
            terminated, truncated = steps.host_terminated[there], steps.host_truncated[there]
            self.terminated[here] = terminated.to(self.device)
            self.done[here] = (terminated | truncated).to(self.device)
            self.valid[here] = steps.host_valid[there]
            # The observations that these actions led to go one row further on.
            after = self.head + 1
            unwrapped = min(count, self.num_rows - after)
            self.obs[after : after + unwrapped] = steps.obs[start + 1 : start + 1 + unwrapped]
            if unwrapped < count:
                self.obs[0] = steps.obs[start + count]
            self._advance(count)
            start += count

    def _advance(self, count: int) -> None:
        self.head = (self.head + count) % self.num_rows
        self.size = min(self.size + count, self.num_rows - 1)
        self.valid[self.head] = False  # its action is to come

    def _close_seam(self) -> None:
        """Ends the episodes under way: the row at head keeps their last observation, no more."""
        self.done[self.head - 1] = True
        self.done[self.head] = self.terminated[self.head] = self.valid[self.head] = False
        self.actions[self.head] = self.rewards[self.head] = 0
        self._advance(1)

    def draw(self, num_batches: int, batch_size: int, generator: torch.Generator) -> Tensor:
        """Draws transitions uniformly, with replacement; reset rows never.

        Args:
            num_batches: G.
            batch_size: B.
            generator: of the host.

        Returns:
            Flat row numbers `row * N + env`, int64 `[G, B]`, on the host.
        """
        total = self.num_rows * self.num_envs
        oldest = (self.head - self.size) % self.num_rows * self.num_envs

        valid, count = self.valid.flatten(), num_batches * batch_size

        def valid_rows(count: int) -> Tensor:
            drawn = torch.randint(self.num_transitions, (count,), generator=generator)
            drawn.add_(oldest).remainder_(total)
            return drawn[valid[drawn]]

        # Some more than wanted: a reset row follows each episode. One of the newest two rows of an
        # environment is valid, so this comes to an end.
        indices = valid_rows(count + count // 8 + 16)
        while len(indices) < count:
            indices = torch.cat([indices, valid_rows(count)])
        return indices[:count].view(num_batches, batch_size)

    def gather(self, indices: Tensor) -> Transitions:
        """Fetches the transitions of row numbers `[B]`.

        The tensors are the same at every call, so that recorded and captured graphs may read them;
        their contents are new.
        """
        rows = indices if self._gather is not None else indices.to(self.device)
        self._fetch(self._gather, self._sources, self._outputs, rows)
        _, _, _, rewards, discounts = self.minibatch
        torch.mul(~self._terminated, self.gamma, out=discounts)
        last = rows
        if self.num_return_steps > 1:
            last = self._add_rewards(rows, rewards, discounts)
        self._fetch(self._next_gather, self._next_sources, self._next_outputs, self._after(last))
        return self.minibatch

    def _add_rewards(self, rows: Tensor, rewards: Tensor, discounts: Tensor) -> Tensor:
        """Sums up to n rewards of the same episode; returns the rows of the last of them.

        A sum ends early with its episode, and at the newest row.
        """
        total = self.num_rows * self.num_envs
        newest = (self.head - 1) % self.num_rows
        sources = [self.rewards.flatten(), self.terminated.flatten()]
        goes_on = torch.ones_like(rows, dtype=torch.bool)
        for step in range(1, self.num_return_steps):
            goes_on = goes_on & ~self._flat_done[rows] & (rows // self.num_envs != newest)
            rows = torch.where(goes_on, (rows + self.num_envs) % total, rows)
            rewards += torch.where(goes_on, self.gamma**step * sources[0][rows], 0)
            discount = self.gamma ** (step + 1) * ~sources[1][rows]
            torch.where(goes_on, discount, discounts, out=discounts)
        return rows

    def _after(self, rows: Tensor) -> Tensor:
        return (rows + self.num_envs).remainder_(self.num_rows * self.num_envs)

    @staticmethod
    def _fetch(
        gather: RowGather | None, sources: list[Tensor], outputs: list[Tensor], rows: Tensor
    ) -> None:
        if gather is not None:
            gather.gather(rows)
            return
        for source, output in zip(sources, outputs, strict=True):
            torch.index_select(source, 0, rows, out=output)

    def state_dict(self) -> dict[str, Any]:
        """Returns what is stored, oldest row first, and the observation at head."""
        rows = (torch.arange(self.size + 1) + self.head - self.size) % self.num_rows
        device_rows = rows.to(self.device)
        fields = ("obs", "actions", "rewards", "terminated", "done")
        state = {name: getattr(self, name)[device_rows] for name in fields}
        return {**state, "valid": self.valid[rows]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes it back, into a ring of any capacity: the newest rows that fit.

        Raises:
            ValueError: it is of another number of environments.
        """
        saved_envs = state["valid"].shape[1]
        if saved_envs != self.num_envs:
            raise ValueError(f"the saved replay has {saved_envs} environments, not {self.num_envs}")
        count = min(len(state["valid"]), self.num_rows)
        for name in ("obs", "actions", "rewards", "terminated", "done", "valid"):
            getattr(self, name)[:count] = state[name][-count:].to(getattr(self, name).device)
        self.head = self.size = count - 1
