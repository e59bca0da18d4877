"""The plain twin of training with PPO: EnvPool's Python step, autograd, torch.optim.Adam."""

from __future__ import annotations

from typing import Any

import envpool
import torch
from torch import nn

from benchmarks.plain import PlainGaussian, plain_advantages, plain_update
from fastrl.buffers.rollout import Minibatch


class PlainTraining:
    """PPO on an EnvPool task, one iteration a call.

    Rollouts of T steps of N environments, advantages, and epochs of shuffled minibatches.
    """

    def __init__(
        self,
        model: nn.Module,
        env_id: str,
        sizes: tuple[int, int],
        num_epochs: int,
        batch_size: int,
        num_threads: int,
    ) -> None:
        self.model, (self.num_steps, num_envs) = model, sizes
        self.num_epochs, self.batch_size = num_epochs, batch_size
        seeds = list(range(num_envs))
        self.pool = envpool.make_gymnasium(
            env_id, num_envs=num_envs, num_threads=num_threads, seed=seeds
        )
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-5)
        obs = torch.from_numpy(self.pool.reset()[0]).float()
        self.obs = obs.expand(self.num_steps + 1, *obs.shape).clone()
        actions = self.model(obs)[0].sample()
        self.actions = actions.new_zeros(self.num_steps, *actions.shape)
        self.log_probs, self.rewards = torch.zeros(sizes), torch.zeros(sizes)
        self.values = torch.zeros(self.num_steps + 1, num_envs)
        self.ends = torch.zeros(2, *sizes, dtype=torch.bool)
        self.is_reset_row = torch.zeros(self.num_steps + 1, num_envs, dtype=torch.bool)

    def __call__(self) -> None:
        """Plays a rollout and learns from it."""
        self._collect()
        advantages = plain_advantages(self.rewards, self.values, *self.ends)
        fields = [self.obs[:-1], self.actions, self.log_probs, self.values[:-1], advantages]
        fields = [x.flatten(0, 1) for x in (*fields, advantages + self.values[:-1])]
        rows = (~self.is_reset_row[:-1]).flatten().nonzero()[:, 0]
        for _ in range(self.num_epochs):
            for part in rows[torch.randperm(len(rows))].split(self.batch_size):
                weights = torch.full((len(part),), 1 / len(part))
                batch = Minibatch._make([*(field[part] for field in fields), weights])
                plain_update(self.model, self.optimizer, batch)
        if isinstance(self.model, PlainGaussian):
            self.model.take_in(fields[0][rows])

    @torch.no_grad()
    def _collect(self) -> None:
        self.obs[0], self.is_reset_row[0] = self.obs[-1], self.is_reset_row[-1]
        for t in range(self.num_steps):
            distribution, self.values[t] = self.model(self.obs[t])
            actions = self.actions[t] = distribution.sample()
            self.log_probs[t] = distribution.log_prob(actions)
            if actions.is_floating_point():
                actions = actions.double().clamp(-1, 1)
            answer: Any = self.pool.step(actions.numpy())
            obs, rewards, terminated, truncated, _ = answer
            self.obs[t + 1] = torch.from_numpy(obs)
            self.rewards[t] = torch.from_numpy(rewards)
            self.ends[0, t], self.ends[1, t] = map(torch.from_numpy, (terminated, truncated))
            self.is_reset_row[t + 1] = self.ends[:, t].any(0)
        self.values[-1] = self.model(self.obs[-1])[1]

    def close(self) -> None:
        """Ends EnvPool's threads."""
        self.pool.close()
