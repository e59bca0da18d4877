"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347).

    python -m fastrl.ppo --env-id LunarLander-v2

One iteration: the player fills a rollout of T steps of N environments (`act`); values, log-probabilities and advantages of
all its rows are worked out at once (`advantage`); then some epochs over shuffled minibatches of B rows each take a step along the
gradient of the clipped objective (`update`). The three are static functions of tensors that `run/compiling.py` builds.
"""

from __future__ import annotations

if __name__ == "__main__":  # flags are read before torch is imported: --help and mistakes answer at once
    from fastrl.cli import main as command_line

    raise SystemExit(command_line("ppo"))

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import gymnasium
import numpy as np
import torch
from torch import Tensor

from fastrl.buffers.rollout import Minibatch, RolloutBuffer
from fastrl.cli import Command, describe
from fastrl.config.ppo import PPOConfig
from fastrl.envs.pools import open_envs
from fastrl.envs.vector import VectorEnv
from fastrl.models.actor_critic import ActorCritic
from fastrl.models.layers import flatten_gradients, flatten_parameters
from fastrl.models.normalization import RewardScale
from fastrl.ops.adam import adam_step, clip_by_norm
from fastrl.ops.gae import gae
from fastrl.ops.losses import (
    approximate_kl,
    clip_fraction,
    clipped_surrogate,
    clipped_value_loss,
    explained_variance,
    normalize,
    value_loss,
    weighted_mean,
)
from fastrl.presets import resolve
from fastrl.run.checkpoint import load_checkpoint, save_checkpoint
from fastrl.run.compiling import build, keep_freed_memory, num_threads, update_threads
from fastrl.run.devices import Devices, make_devices
from fastrl.run.timer import StageTimer
from fastrl.trainer import AgentTrainer

METRICS = (
    "Loss/policy_loss",
    "Loss/value_loss",
    "Loss/entropy_loss",
    "Info/approx_kl",
    "Info/clip_fraction",
    "Gradients/grad_norm",
)


class PPO:
    """A PPO agent: `PPO("LunarLander-v2", seed=1).learn(500_000)`."""

    algo = "ppo"
    config: PPOConfig

    def __init__(
        self,
        env: str | VectorEnv | gymnasium.vector.VectorEnv,
        config: PPOConfig | None = None,
        *,
        preset: str = "auto",
        devices: Devices | None = None,
        **settings: Any,
    ) -> None:
        """Makes environments and networks.

        Args:
            env: a task's id, or a vector environment that was built elsewhere.
            config: all settings at once, in place of `preset` and `settings`.
            preset: "auto" starts from the settings tuned for the task, "none" from the defaults.
            devices: where to train, if the caller launched already.
            **settings: fields of `PPOConfig`, by name.

        Raises:
            ValueError: an unknown task or setting, a value out of range, an unsupported space.
        """
        if config is None:
            config = resolve(PPOConfig, self.algo, env, preset, settings)
        elif settings:
            raise ValueError(f"give either a config or single settings, not both: {', '.join(settings)}")
        keep_freed_memory()
        self.config = config
        self.devices = devices or make_devices(config)
        self.device = self.devices.device
        self._on_cpu = self.device.type == "cpu"
        self.envs = open_envs(env, config, self.devices.global_rank)
        self.observation_space = self.envs[0].single_observation_space
        self.action_space = self.envs[0].single_action_space
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.policy = ActorCritic(
                self.observation_space,
                self.action_space,
                hidden_sizes=config.hidden_sizes,
                activation=config.activation_function,
                shared=config.shared_network,
                ortho_init=config.ortho_init,
                squash_actions=config.squash_actions,
                normalize_observations=config.observation_normalization,
            ).to(self.device)
        num_envs = sum(env.num_envs for env in self.envs)
        self.reward_scale = RewardScale(num_envs, config.gamma).to(self.device) if config.reward_scaling else None
        self.noise_generator = torch.Generator(self.device).manual_seed(config.seed + self.devices.global_rank)

        # One vector of all parameters, and Adam's state over it. Coefficients are tensors changed in place, so that a schedule
        # rebuilds nothing.
        self._parameters = list(self.policy.parameters())
        self._flat = flatten_parameters(self.policy)
        self._gradient_mean, self._gradient_square = torch.zeros_like(self._flat), torch.zeros_like(self._flat)
        self._adam_steps = torch.zeros((), device=self.device)
        self._learning_rate = torch.tensor(config.learning_rate, device=self.device)
        self._clip_coef = torch.tensor(config.clip_coef, device=self.device)
        self._ent_coef = torch.tensor(config.ent_coef, device=self.device)
        self._metric_sums = torch.zeros(len(METRICS), device=self.device)
        self._act: dict[int, Callable[..., Tensor]] = {}
        self._predict_generator = torch.Generator(self.device).manual_seed(config.seed)

    @property
    def num_updates(self) -> int:
        """Updates of the whole run."""
        return self.config.num_updates

    # Acting

    def make_buffer(self) -> RolloutBuffer:
        """Allocates the rollout and builds `act`, `advantage` and `update` for its shapes."""
        config, head = self.config, self.policy.head
        shape, dtype = self.observation_space.shape, self.observation_space.dtype
        assert shape is not None
        buffer = RolloutBuffer(
            config.num_steps,
            sum(env.num_envs for env in self.envs),
            shape,
            torch.from_numpy(np.empty(0, dtype)).dtype,
            head.action_shape,
            head.action_dtype,
            head.noise_size,
            config.per_rank_batch_size,
            self.device,
        )
        self._threads = config.num_threads or update_threads(config.per_rank_batch_size, max(config.hidden_sizes))
        mode = config.compile
        # Acting is never worth a compiler on the CPU: torch.compile is slower than eager there.
        acting = "auto" if mode == "on" and self.device.type == "cpu" else mode
        for num_envs in {env.num_envs for env in self.envs}:
            example = (buffer.obs[0, :num_envs], buffer.noise[0, :num_envs], buffer.actions[0, :num_envs])
            self._act[num_envs] = build(self._draw_actions, example, acting)
        self._advantage = build(
            lambda rewards, terminated, truncated: self._compute_advantages(buffer, rewards, terminated, truncated),
            (buffer.rewards, buffer.terminated, buffer.truncated),
            acting,
        )
        self._minibatch_step = build(self._step, tuple(buffer.first_minibatch), mode)
        return buffer

    def begin_rollout(self, buffer: RolloutBuffer) -> None:
        """Draws the noise of a whole rollout at once."""
        self.policy.head.draw_noise(buffer.noise, self.noise_generator)

    def act(self, obs: Tensor, noise: Tensor, stored: Tensor) -> np.ndarray:
        """Draws actions for `obs` `[n, O]` with `noise` `[n, K]`, writes them into `stored`, returns the environments' form."""
        actions = self._act[obs.shape[0]](obs, noise, stored)
        return actions.numpy() if self._on_cpu else actions.cpu().numpy()

    @torch.no_grad()
    def _draw_actions(self, obs: Tensor, noise: Tensor, stored: Tensor) -> Tensor:
        actions = self.policy.act(obs, noise)
        stored.copy_(actions)
        return self.policy.head.to_env(actions)

    @torch.no_grad()
    def predict(self, obs: np.ndarray, deterministic: bool = True) -> np.ndarray:
        """Returns the environments' actions for one observation `[O]` or a batch `[n, O]`."""
        single = np.ndim(obs) == 1
        rows = torch.as_tensor(np.asarray(obs, dtype=self.observation_space.dtype), device=self.device)
        rows = rows.unsqueeze(0) if single else rows
        if deterministic:
            actions = self.policy(rows)
        else:
            noise = torch.empty(len(rows), self.policy.head.noise_size, device=self.device)
            self.policy.head.draw_noise(noise, self._predict_generator)
            actions = self.policy.head.to_env(self.policy.act(rows, noise))
        return actions[0].cpu().numpy() if single else actions.cpu().numpy()

    # Learning

    def update(self, buffer: RolloutBuffer, update_index: int, timer: StageTimer) -> dict[str, float]:
        """Improves the policy on one rollout.

        Args:
            buffer: a full rollout.
            update_index: number of this update in the run, from 0: schedules and shuffles follow from it.
            timer: takes the seconds of the stages "advantage" and "update".
        """
        config = self.config
        remaining = 1 - update_index / self.num_updates
        self._learning_rate.fill_(config.learning_rate * (remaining if config.anneal_lr else 1))
        self._clip_coef.fill_(config.clip_coef * (remaining if config.anneal_clip_coef else 1))
        self._ent_coef.fill_(config.ent_coef * (remaining if config.anneal_ent_coef else 1))

        with num_threads(self._threads):
            with timer.stage("advantage"):
                rewards = buffer.rewards
                if self.reward_scale is not None:
                    self.reward_scale.update(rewards, buffer.terminated | buffer.truncated, buffer.valid)
                    rewards = self.reward_scale(rewards)
                self._advantage(rewards, buffer.terminated, buffer.truncated)
                explained = explained_variance(buffer.values[:-1], buffer.returns, buffer.valid)

            with timer.stage("update"):
                self._metric_sums.zero_()
                num_minibatches, kl_before = 0, 0.0
                for epoch in range(config.update_epochs):
                    minibatches = buffer.minibatches(_shuffle_seed(config.seed, self.devices.global_rank, update_index, epoch))
                    for minibatch in minibatches:
                        self._minibatch_step(*minibatch)
                    num_minibatches += len(minibatches)
                    if config.target_kl is not None:
                        kl_sum = float(self._metric_sums[METRICS.index("Info/approx_kl")])
                        if (kl_sum - kl_before) / len(minibatches) > config.target_kl:
                            break
                        kl_before = kl_sum
                # After the update, so that its first ratios are exactly those of the policy that acted.
                if self.policy.normalizer is not None:
                    self.policy.normalizer.update(buffer.obs[:-1].flatten(0, 1), buffer.valid.flatten())
            means = dict(zip(METRICS, (self._metric_sums / num_minibatches).tolist(), strict=True))
        return {
            **means,
            "Info/explained_variance": float(explained),
            "Info/learning_rate": float(self._learning_rate),
            "Info/clip_coef": float(self._clip_coef),
            "Info/ent_coef": float(self._ent_coef),
        }

    @torch.no_grad()
    def _compute_advantages(self, buffer: RolloutBuffer, rewards: Tensor, terminated: Tensor, truncated: Tensor) -> Tensor:
        """Fills values `[T + 1, N]`, log-probabilities, advantages and returns `[T, N]`; returns the latter.

        Rows go through the networks in chunks that stay in the cache.
        """
        chunk = max(1, 8192 // buffer.num_envs)
        for start in range(0, buffer.num_steps, chunk):
            rows = slice(start, min(start + chunk, buffer.num_steps))
            obs, actions = buffer.obs[rows].flatten(0, 1), buffer.actions[rows].flatten(0, 1)
            with self.devices.autocast():
                log_probs, _, values = self.policy.evaluate(obs, actions)
            buffer.log_probs[rows].copy_(log_probs.view_as(buffer.log_probs[rows]))
            buffer.values[rows].copy_(values.view_as(buffer.log_probs[rows]))
        buffer.values[-1].copy_(self.policy.value(buffer.obs[-1]))
        advantages = gae(rewards, buffer.values, terminated, truncated, self.config.gamma, self.config.gae_lambda)
        buffer.advantages.copy_(advantages)
        return buffer.returns.copy_(advantages + buffer.values[:-1])

    def _step(self, *fields: Tensor) -> Tensor:
        """One minibatch: gradient of the loss, clipping, Adam. Returns the sums of the metrics so far."""
        gradient, metrics = self._gradient(Minibatch(*fields))
        with torch.no_grad():
            norm = clip_by_norm(gradient, self.config.max_grad_norm) if self.config.max_grad_norm else gradient.norm()
            adam_step(
                self._flat,
                gradient,
                self._gradient_mean,
                self._gradient_square,
                self._adam_steps,
                self._learning_rate,
                self.config.adam_eps,
            )
            return self._metric_sums.add_(torch.stack([*metrics, norm]))

    def _gradient(self, batch: Minibatch) -> tuple[Tensor, list[Tensor]]:
        """Returns the gradient of the loss over one minibatch, `[P]`, and all metrics but the gradient's norm."""
        config = self.config
        with self.devices.autocast():
            log_probs, entropy, values = self.policy.evaluate(batch.obs, batch.actions)
        log_ratio = log_probs - batch.log_probs
        advantages = normalize(batch.advantages, batch.weights) if config.normalize_advantages else batch.advantages
        policy_loss = clipped_surrogate(log_ratio, advantages, batch.weights, self._clip_coef)
        if config.clip_vloss:
            critic_loss = clipped_value_loss(values, batch.values, batch.returns, batch.weights, self._clip_coef)
        else:
            critic_loss = value_loss(values, batch.returns, batch.weights)
        entropy_loss = -weighted_mean(entropy, batch.weights)
        loss = policy_loss + config.vf_coef * critic_loss + self._ent_coef * entropy_loss
        gradients = torch.autograd.grad(loss, self._parameters, materialize_grads=True)
        with torch.no_grad():
            log_ratio = log_ratio.detach()
            kl = approximate_kl(log_ratio, batch.weights)
            clipped = clip_fraction(log_ratio, batch.weights, self._clip_coef)
            metrics = [policy_loss.detach(), critic_loss.detach(), entropy_loss.detach(), kl, clipped]
            return flatten_gradients(gradients, self._parameters), metrics

    # Saving

    def state_dict(self) -> dict[str, Any]:
        """Returns weights, normalisers, optimiser and random states."""
        return {
            "config": self.config.to_dict(),
            "policy": self.policy.state_dict(),
            "reward_scale": None if self.reward_scale is None else self.reward_scale.state_dict(),
            "optimizer": {
                "mean": self._gradient_mean,
                "square": self._gradient_square,
                "steps": self._adam_steps,
            },
            "noise_generator": self.noise_generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a state back; raises ValueError if it is another network's."""
        try:
            self.policy.load_state_dict(state["policy"])
            if self.reward_scale is not None:
                self.reward_scale.load_state_dict(state["reward_scale"])
            self._gradient_mean.copy_(state["optimizer"]["mean"])
            self._gradient_square.copy_(state["optimizer"]["square"])
            self._adam_steps.copy_(state["optimizer"]["steps"])
            self.noise_generator.set_state(state["noise_generator"])
        except (KeyError, RuntimeError, TypeError) as error:
            raise ValueError(f"the checkpoint does not fit this agent: {' '.join(str(error).split())}") from error

    def learn(self, total_timesteps: int | None = None) -> Self:
        """Trains in a new run folder, for `total_timesteps` if given, else for what the config says."""
        if total_timesteps is not None:
            self.config = self.config.replace(total_timesteps=total_timesteps)
        AgentTrainer(self.config, self.devices).fit(self)
        return self

    def save(self, path: str | Path) -> None:
        """Writes weights, normalisers, optimiser and random states to one file."""
        save_checkpoint(path, {"algo": self.algo, "agent": self.state_dict()})

    @classmethod
    def load(cls, path: str | Path, env: str | VectorEnv | gymnasium.vector.VectorEnv | None = None, **settings: Any) -> Self:
        """Reads an agent from a file of `save` or a run's checkpoint.

        Args:
            path: the file.
            env: what to play; by default the task that the agent was trained on.
            **settings: settings to change, by name.

        Raises:
            ValueError: the file is damaged, foreign or another algorithm's.
        """
        state = load_checkpoint(path)
        if state.get("algo") != cls.algo:
            raise ValueError(f"{path} holds {state.get('algo')!r}, not {cls.algo!r}")
        config = PPOConfig.from_dict(state["agent"]["config"], str(path)).replace(**settings)
        agent = cls(env or config.env_id, config)
        agent.load_state_dict(state["agent"])
        return agent


def load_agent(path: str | Path) -> PPO:
    """Reads an agent from a checkpoint, to be tested on whatever device is here."""
    return PPO.load(path, accelerator="auto")


def _shuffle_seed(*numbers: int) -> int:
    """A seed of 64 bits that follows from the run's seed, the rank, the update and the epoch: nothing to save or restore."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def main(command: Command) -> int:
    """Trains as the command line says; returns the exit status."""
    devices = make_devices(command.config)
    if command.resume is None and devices.is_global_zero:
        print(describe(command), flush=True)
    assert isinstance(command.config, PPOConfig)
    agent = PPO(command.config.env_id, command.config, devices=devices)
    return AgentTrainer(command.config, devices, resume=command.resume).fit(agent).exit_status
