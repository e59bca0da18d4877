"""The rollout: what T steps of N environments were, in tensors that are allocated once.

One row is one transition. `obs[t]` and `actions[t]` are what the policy saw and did at step t;
`rewards[t]`, `terminated[t]` and `truncated[t]` are what action t caused. Environments reset on the
next step: after a row that ends an episode comes the reset row. Its `obs` is the true last
observation, whose value a time limit bootstraps from; its action was ignored and its reward is 0.
`valid` is False there, and such a row enters no loss, mean, normaliser or episode statistic.

    t            ...   k        k+1 (reset row)   k+2
    obs[t]             s_{T-1}  s_T               s'_0
    actions[t]         a_{T-1}  (ignored)         a'_0
    rewards[t]         r_T      0                 r'_1
    done[t]            True     False             False
    valid[t]           True     False             True

Letters: T steps, N environments, M minibatches of B rows.
"""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

from fastrl.buffers.places import Places
from fastrl.kernels.indexing import Recorder, RowGather, shuffled_minibatches


class Minibatch(NamedTuple):
    """B rows of a rollout: `obs` `[B, *O]`, `actions` `[B, *A]`, the rest float `[B]`.

    `log_probs` and `values` are those of before the update. `weights` are 0 on padding and alike on
    the rows that count; they sum to 1 over the minibatches of all ranks.
    """

    obs: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    weights: Tensor


MEAN_EPISODES = 100
"""Training episodes that the mean return is taken over."""


class Episodes(NamedTuple):
    """The n episodes that ended in a rollout."""

    returns: np.ndarray
    """float64 `[n]`: undiscounted returns."""
    lengths: np.ndarray
    """int64 `[n]`."""
    infos: np.ndarray = np.empty((0, 0))
    """float64 `[n, M]`: the info metrics, if M of them are asked for; NaN where one is missing."""


def shuffle_seed(*key: int) -> int:
    """Returns a seed in `[0, 2**64)` that depends on every bit of the numbers."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class RolloutBuffer:
    """Storage for one rollout on the training device, and the recorder that fills it."""

    varies: ClassVar[bool] = False
    """Whether the number of minibatches differs between rollouts."""

    def __init__(
        self,
        num_steps: int,
        num_envs: int,
        observation_space: gymnasium.Space,
        action_shape: tuple[int, ...],
        action_dtype: torch.dtype,
        noise_size: int,
        batch_size: int,
        device: torch.device,
    ) -> None:
        """Allocates everything that a run will need.

        Args:
            num_steps: T.
            num_envs: N.
            observation_space: shape and type of one observation.
            action_shape: shape of one stored action.
            action_dtype: its type.
            noise_size: noise values a draw of an action takes.
            batch_size: largest number of rows in a minibatch.
            device: where the policy trains.
        """
        self.num_steps, self.num_envs, self.device = num_steps, num_envs, device
        rows = (num_steps, num_envs)
        obs_shape, obs_dtype = observation_space.shape, observation_space.dtype
        assert obs_shape is not None
        obs_dtype = torch.from_numpy(np.empty(0, obs_dtype)).dtype

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.obs = zeros(num_steps + 1, num_envs, *obs_shape, dtype=obs_dtype)
        self.actions = zeros(*rows, *action_shape, dtype=action_dtype)
        self.noise = zeros(*rows, noise_size)
        self.log_probs, self.advantages, self.returns = zeros(*rows), zeros(*rows), zeros(*rows)
        self.values = zeros(num_steps + 1, num_envs)

        # The recorder writes to host memory; on a CPU that is the storage itself.
        on_host = {"device": "cpu", "pin_memory": device.type == "cuda"}
        self.host_obs = (
            self.obs
            if device.type == "cpu"
            else torch.zeros(self.obs.shape, dtype=obs_dtype, **on_host)
        )
        self.host_rewards = torch.zeros(rows, **on_host)
        self.host_terminated = torch.zeros(rows, dtype=torch.bool, **on_host)
        self.host_truncated = torch.zeros(rows, dtype=torch.bool, **on_host)
        self.host_valid = torch.ones(num_steps + 1, num_envs, dtype=torch.bool, **on_host)
        self.episode_returns = torch.zeros(num_envs, dtype=torch.float64)
        self.episode_lengths = torch.zeros(num_envs, dtype=torch.int64)
        self.discounted_returns = torch.zeros(num_envs, dtype=torch.float64)
        self._finished_returns = torch.zeros(num_steps * num_envs, dtype=torch.float64)
        self._finished_lengths = torch.zeros(num_steps * num_envs, dtype=torch.int64)
        self._recorder = Recorder(
            self.host_obs,
            self.host_rewards,
            self.host_terminated,
            self.host_truncated,
            self.host_valid,
            self.episode_returns,
            self.episode_lengths,
            self._finished_returns,
            self._finished_lengths,
        )
        self._copies: dict[str, Tensor] = {}  # on the training device, of what is on the host
        self._allocate_minibatches(batch_size)
        self.places = Places(self, "rollout", self.written)

    @property
    def written(self) -> list[str]:
        """Names of the tensors that are written where they lie, by kernels too."""
        results = ["values", "log_probs", "advantages", "returns"]
        caused = ["host_rewards", "host_terminated", "host_truncated", "host_valid"]
        episodes = ["episode_returns", "episode_lengths", "discounted_returns"]
        return ["obs", "actions", "noise", *results, *caused, *episodes]

    def _allocate_minibatches(self, batch_size: int) -> None:
        num_minibatches = -(-self.num_steps * self.num_envs // batch_size)
        self._indices = torch.zeros(num_minibatches, batch_size, dtype=torch.int64)
        self._weights = torch.zeros(num_minibatches, batch_size)
        self._sources = [x.flatten(0, 1) for x in self.sources()]
        num_rows = num_minibatches * batch_size
        outputs = [x.new_zeros(num_rows, *x.shape[1:]) for x in self._sources]
        self._gather = RowGather(self._sources, outputs) if self.device.type == "cpu" else None
        self._outputs = outputs
        self._device_weights = (
            self._weights
            if self.device.type == "cpu"
            else self.values.new_zeros(num_minibatches, batch_size)
        )
        fields = [x.view(num_minibatches, batch_size, *x.shape[1:]) for x in outputs]
        fields.append(self._device_weights)
        self._fields = self._device_weights, Minibatch(*fields).advantages
        self._minibatches = [Minibatch(*batch) for batch in zip(*fields, strict=True)]

    def sources(self) -> list[Tensor]:
        """What a minibatch's fields are taken from, but for its weights: views `[T, N, *]`."""
        evaluated = [self.log_probs, self.values[:-1], self.advantages, self.returns]
        return [self.obs[:-1], self.actions, *evaluated]

    @property
    def first_minibatch(self) -> Minibatch:
        """The tensors of minibatch 0, whatever they hold: what an update is built for."""
        return self._minibatches[0]

    def record(
        self,
        t: int,
        first_env: int,
        obs: np.ndarray,
        rewards: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
    ) -> int:
        """Takes in what action t caused in n environments from `first_env` on, and what they show.

        Returns:
            The first environment whose reward or observation is not finite, or -1.
        """
        broken = self._recorder.record(t, first_env, obs, rewards, terminated, truncated)
        if self.device.type != "cpu":
            self._copies.clear()
            columns = slice(first_env, first_env + len(rewards))
            self.obs[t + 1, columns].copy_(self.host_obs[t + 1, columns], non_blocking=True)
        return broken

    def start(self, obs: np.ndarray, first_env: int) -> None:
        """Takes in the first observations of n environments from `first_env` on."""
        columns = slice(first_env, first_env + len(obs))
        self.host_obs[0, columns] = torch.from_numpy(obs)
        self.obs[0, columns] = self.host_obs[0, columns].to(self.device)
        self.host_valid[0, columns] = True
        self.episode_returns[columns] = 0
        self.episode_lengths[columns] = 0
        self.discounted_returns[columns] = 0

    def carry_over(self) -> None:
        """Makes the row after the last one the first row of the next rollout."""
        self.obs[0] = self.obs[-1]
        self.host_valid[0] = self.host_valid[-1]

    def state_dict(self) -> dict[str, Tensor]:
        """Returns what the next rollout starts from."""
        return {
            "obs": self.obs[0],
            "valid": self.host_valid[0],
            "episode_returns": self.episode_returns,
            "episode_lengths": self.episode_lengths,
            "discounted_returns": self.discounted_returns,
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes it back."""
        self.obs[0], self.host_valid[0] = state["obs"], state["valid"]
        self.episode_returns.copy_(state["episode_returns"])
        self.episode_lengths.copy_(state["episode_lengths"])
        self.discounted_returns.copy_(state["discounted_returns"])

    def take_episodes(self) -> Episodes:
        """Returns the episodes that ended since the last call."""
        count = self._recorder.num_finished
        episodes = Episodes(
            self._finished_returns[:count].numpy().copy(),
            self._finished_lengths[:count].numpy().copy(),
        )
        self._recorder.clear_finished()
        return episodes

    @property
    def rewards(self) -> Tensor:
        """Float `[T, N]`, on the training device."""
        return self._on_device("rewards", self.host_rewards)

    @property
    def terminated(self) -> Tensor:
        """Bool `[T, N]`, on the training device."""
        return self._on_device("terminated", self.host_terminated)

    @property
    def truncated(self) -> Tensor:
        """Bool `[T, N]`, on the training device."""
        return self._on_device("truncated", self.host_truncated)

    @property
    def valid(self) -> Tensor:
        """Bool `[T, N]`, on the training device: False on reset rows."""
        return self._on_device("valid", self.host_valid[:-1])

    def _on_device(self, name: str, on_host: Tensor) -> Tensor:
        """Returns the same tensor until the next step: a callback may add to the rewards in it."""
        if self.device.type == "cpu":
            return on_host
        if name not in self._copies:
            self._copies[name] = on_host.to(self.device, non_blocking=True)
        return self._copies[name]

    @property
    def num_valid(self) -> int:
        """Rows that count."""
        return int(self.host_valid[:-1].sum())

    def refresh(self) -> int:
        """Takes a new rollout in; returns how many minibatches its rows fill."""
        return len(self._minibatches)

    def fields(self) -> tuple[Tensor, Tensor]:
        """Returns weights and advantages of all minibatches, `[M, B]`."""
        return self._fields

    def minibatches(self, *key: int, num_minibatches: int | None = None) -> Any:
        """Deals all valid rows, shuffled, into minibatches; each row is in exactly one.

        The tensors are the same at every call; their contents are new.

        Args:
            *key: numbers that the shuffle follows from, so that it has no state to save.
            num_minibatches: how many, at least those that there are rows for; by default as many.

        Returns:
            A list of `Minibatch`.
        """
        valid, seed = self.host_valid[:-1].flatten(), shuffle_seed(*key)
        shuffled_minibatches(valid, seed, self._indices, self._weights)
        if self._gather is not None:
            self._gather.gather(self._indices)
        else:
            indices = self._indices.flatten().to(self.device)
            for source, output in zip(self._sources, self._outputs, strict=True):
                torch.index_select(source, 0, indices, out=output)
            self._device_weights.copy_(self._weights)
        last, missing = self._minibatches[-1], (num_minibatches or 0) - len(self._minibatches)
        if missing <= 0:
            return self._minibatches
        return [
            *self._minibatches,
            *[last._replace(weights=torch.zeros_like(last.weights))] * missing,
        ]
