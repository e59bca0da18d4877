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

from fastrl.buffers.places import Places, check_memory
from fastrl.buffers.rollout import RolloutBuffer
from fastrl.kernels.indexing import RowGather

MOST_RESTARTS = 100  # each takes a row of the ring; with more, the oldest ones make way


class Transitions(NamedTuple):
    """B transitions; a target is `rewards + discounts * V(next_obs)`.

    `obs` and `next_obs` `[B, *O]`, `actions` `[B, A]`, `rewards` `[B]`, sums of n rewards with
    n-step returns; `discounts` `[B]`: gamma to the number of rewards, 0 where the episode
    terminated.
    """

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

    def state_dict(self) -> dict[str, Tensor]:
        """Returns what the next steps start from, and whether the replay knows of it."""
        return {**super().state_dict(), "is_restarted": self.is_restarted}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes it back."""
        super().load_state_dict(state)
        self.is_restarted.copy_(state.get("is_restarted", self.is_restarted))


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
    """Ring storage, and uniform draws from it.

    On a CPU the kernel gives it memory as rows come in. A ring that has room for fewer rows than
    its capacity, because a run has no more, is enlarged by `reserve`.
    """

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
        num_expected: int | None = None,
        choices: tuple[int, ...] | None = None,
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
            num_expected: transitions to have room for at first; None: the capacity.
            choices: shape of one stored action, int64; None: actions are float32 `[A]`.

        Raises:
            ValueError: this machine has less memory than that takes.
        """
        self.num_envs, self.device = num_envs, device
        self.gamma, self.num_return_steps = gamma, num_return_steps
        self.most_rows = capacity // num_envs + 1  # the row at head is no transition yet
        assert self.most_rows >= 3, "two rows of an environment, of which one may be a reset row"
        assert observation_space.shape is not None
        obs_dtype = torch.from_numpy(np.empty(0, observation_space.dtype)).dtype
        action = ((num_actions,), torch.float32) if choices is None else (choices, torch.int64)
        self._fields: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "obs": (observation_space.shape, obs_dtype),
            "actions": action,
            "rewards": ((), torch.float32),
            # `terminated` cuts the target; `done` ends a sum of rewards.
            "terminated": ((), torch.bool),
            "done": ((), torch.bool),
            "valid": ((), torch.bool),
        }

        def zeros(name: str) -> Tensor:
            shape, dtype = self._fields[name]
            return torch.zeros(batch_size, *shape, dtype=dtype, device=device)

        self._outputs = [zeros(name) for name in ("obs", "actions", "rewards", "terminated")]
        self._next_outputs = [zeros("obs")]
        self._discounts = torch.zeros(batch_size, device=device)
        obs, actions, rewards, self._terminated = self._outputs
        (next_obs,) = self._next_outputs
        self.minibatch = Transitions(obs, actions, next_obs, rewards, self._discounts)
        self._allocate(capacity if num_expected is None else num_expected)

    def _allocate(self, num_transitions: int) -> None:
        """Allocates an empty ring of C rows, no more than the capacity takes."""
        self.num_rows = min(self.most_rows, max(3, -(-num_transitions // self.num_envs) + 1))
        self.head = self.size = 0
        check_memory(self.num_rows * self.num_envs, self._fields, self.device)

        def ring(name: str, device: torch.device) -> Tensor:
            # Left as it is: no row is read before it is written, and until then takes no memory.
            shape, dtype = self._fields[name]
            return torch.empty(self.num_rows, self.num_envs, *shape, dtype=dtype, device=device)

        self.obs, self.actions, self.rewards, self.terminated, self.done = (
            ring(name, self.device) for name in list(self._fields)[:-1]
        )
        self.valid = ring("valid", torch.device("cpu"))  # on the host, because the draws are
        self.obs[0] = self.valid[0] = 0
        fields = self.obs, self.actions, self.rewards, self.terminated
        self._sources = [x.flatten(0, 1) for x in fields]
        self._next_sources = self._sources[:1]
        self._flat_done = self.done.flatten()
        self._places = Places(self, "replay", list(self._fields))
        on_cpu = self.device.type == "cpu"
        self._gather = RowGather(self._sources, self._outputs) if on_cpu else None
        self._next_gather = RowGather(self._next_sources, self._next_outputs) if on_cpu else None

    def reserve(self, num_transitions: int) -> None:
        """Makes room for so many transitions, those that are stored among them, up to capacity."""
        num_rows = -(-num_transitions // self.num_envs) + 2  # that at head, and one of a restart
        if self.num_rows < min(self.most_rows, num_rows):
            state = self.state_dict()
            self._allocate(num_transitions + MOST_RESTARTS * self.num_envs)
            self._fill(state)

    @property
    def num_transitions(self) -> int:
        """Rows that can be drawn, reset rows among them."""
        return self.size * self.num_envs

    def append(self, steps: StepsBuffer) -> None:
        """Takes in a full buffer of T steps; the oldest rows make way."""
        assert steps.num_steps < self.num_rows
        self._places.check()
        if steps.is_restarted or not self.size:
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
        self._places.check()
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
        state["valid"] = self.valid[rows]
        for name in state.keys() - {"obs"}:  # the action of the last row is to come
            state[name][-1] = 0
        return state

    def load_state_dict(self, state: dict[str, Any], num_expected: int = 0) -> None:
        """Takes it back, the newest rows that fit, with room for so many more up to capacity.

        Raises:
            ValueError: it is of another number of environments.
        """
        saved_envs = state["valid"].shape[1]
        if saved_envs != self.num_envs:
            raise ValueError(f"the saved replay has {saved_envs} environments, not {self.num_envs}")
        self.reserve(state["valid"].numel() - self.num_envs + num_expected)
        self._fill(state)

    def _fill(self, state: dict[str, Any]) -> None:
        count = min(len(state["valid"]), self.num_rows)
        for name in self._fields:
            getattr(self, name)[:count] = state[name][-count:].to(getattr(self, name).device)
        self.head = self.size = count - 1
