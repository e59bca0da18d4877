"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347).

    python -m fastrl.ppo --env-id LunarLander-v2

One iteration: the player fills a rollout of T steps of N environments (`act`); values,
log-probabilities and advantages of all its rows are worked out at once (`advantage`); then some
epochs over shuffled minibatches of B rows each take a step along the gradient of the clipped
objective (`update`). The three are static functions of tensors that `run/compiling.py` builds.
Letters: O observation dimensions, K noise values a draw, P parameters.
"""

from __future__ import annotations

if __name__ == "__main__":  # before torch is imported, so that --help and mistakes answer at once
    from fastrl.cli import main as command_line

    raise SystemExit(command_line("ppo"))

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from fastrl.buffers.rollout import Minibatch, RolloutBuffer
from fastrl.cli import Command, describe
from fastrl.config.ppo import PPOConfig
from fastrl.envs.pools import open_envs
from fastrl.envs.vector import VectorEnv
from fastrl.face import Face
from fastrl.models.actor_critic import ActorCritic
from fastrl.models.normalization import RewardScale
from fastrl.models.optimizer import FlatAdam
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


class PPO(Face):
    """A PPO agent: `PPO("LunarLander-v2", seed=1).learn(500_000)`."""

    algo = "ppo"
    config_class = PPOConfig
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
            raise ValueError(f"give a config or single settings, not both: {', '.join(settings)}")
        keep_freed_memory()
        self.config = config
        self.devices = devices or make_devices(config)
        self.device = self.devices.device
        self._on_cpu = self.device.type == "cpu"
        self.envs = open_envs(env, config, self.devices.global_rank)
        num_envs = sum(pool.num_envs for pool in self.envs)
        if num_envs != config.num_envs:
            raise ValueError(f"num_envs={config.num_envs}, but {num_envs} environments were given")
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
        self.reward_scale = None
        if config.reward_scaling:
            self.reward_scale = RewardScale(config.gamma).to(self.device)
        seed = config.seed + self.devices.global_rank
        self.noise_generator = torch.Generator(self.device).manual_seed(seed)

        # Coefficients are tensors changed in place, so that a schedule rebuilds nothing.
        self.optimizer = FlatAdam(
            self.policy, config.learning_rate, config.adam_eps, config.max_grad_norm
        )
        self._clip_coef = torch.tensor(config.clip_coef, device=self.device)
        self._ent_coef = torch.tensor(config.ent_coef, device=self.device)
        self._metric_sums = torch.zeros(len(METRICS), device=self.device)
        self._act: dict[int, Callable[..., Tensor]] = {}
        self._predict_generator = torch.Generator(self.device).manual_seed(seed + 2**31)

    @property
    def num_updates(self) -> int:
        """Updates of the whole run."""
        return self.config.num_updates

    # Acting

    def make_buffer(self) -> RolloutBuffer:
        """Allocates the rollout and builds `act`, `advantage` and `update` for its shapes."""
        config, head = self.config, self.policy.head
        buffer = RolloutBuffer(
            config.num_steps,
            config.num_envs,
            self.observation_space,
            head.action_shape,
            head.action_dtype,
            head.noise_size,
            config.per_rank_batch_size,
            self.device,
        )
        self._threads = config.num_threads or update_threads(
            config.per_rank_batch_size, max(config.hidden_sizes)
        )
        mode = config.compile
        # On the CPU torch.compile acts more slowly than eager: what runs once a step is recorded.
        acting = "auto" if mode == "on" and self._on_cpu else mode
        for num_envs in {env.num_envs for env in self.envs}:
            example = tuple(x[0, :num_envs] for x in (buffer.obs, buffer.noise, buffer.actions))
            self._act[num_envs] = build(self._draw_actions, example, acting)
        caused = (buffer.rewards, buffer.terminated, buffer.truncated)
        self._advantage = build(partial(self._compute_advantages, buffer), caused, acting)
        self._minibatch_step = build(self._step, tuple(buffer.first_minibatch), mode)
        return buffer

    def begin_rollout(self, buffer: RolloutBuffer) -> None:
        """Draws the noise of a whole rollout at once."""
        self.policy.head.draw_noise(buffer.noise, self.noise_generator)

    def act(self, obs: Tensor, noise: Tensor, stored: Tensor) -> np.ndarray:
        """Draws actions for `obs` `[n, O]` with `noise` `[n, K]` into `stored`.

        Returns:
            The actions as the environments take them.
        """
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
        rows = torch.as_tensor(np.array(obs, self.observation_space.dtype, ndmin=2)).to(self.device)
        if rows.shape[1:] != self.observation_space.shape:
            raise ValueError(f"expected {self.observation_space.shape} each, not {np.shape(obs)}")
        if deterministic:
            actions = self.policy(rows)
        else:
            noise = torch.empty(len(rows), self.policy.head.noise_size, device=self.device)
            self.policy.head.draw_noise(noise, self._predict_generator)
            actions = self.policy.head.to_env(self.policy.act(rows, noise))
        return actions[0].cpu().numpy() if single else actions.cpu().numpy()

    # Learning

    def update(
        self, buffer: RolloutBuffer, update_index: int, timer: StageTimer
    ) -> dict[str, float]:
        """Improves the policy on one rollout.

        Args:
            buffer: a full rollout.
            update_index: this update's number in the run, from 0; schedules and shuffles follow.
            timer: takes the seconds of the stages "advantage" and "update".
        """
        config, learning_rate = self.config, self.optimizer.learning_rate
        remaining = 1 - update_index / self.num_updates
        learning_rate.fill_(config.learning_rate * (remaining if config.anneal_lr else 1))
        self._clip_coef.fill_(config.clip_coef * (remaining if config.anneal_clip_coef else 1))
        self._ent_coef.fill_(config.ent_coef * (remaining if config.anneal_ent_coef else 1))

        with num_threads(self._threads):
            with timer.stage("advantage"):
                rewards, valid = buffer.rewards, buffer.valid
                terminated, truncated = buffer.terminated, buffer.truncated
                if self.reward_scale is not None:
                    done, running = terminated | truncated, buffer.discounted_returns
                    self.reward_scale.update(rewards, done, valid, running)
                    rewards = self.reward_scale(rewards)
                self._advantage(rewards, terminated, truncated)
                explained = explained_variance(buffer.values[:-1], buffer.returns, valid)

            with timer.stage("update"):
                self._metric_sums.zero_()
                num_minibatches, kl_before = 0, 0.0
                for epoch in range(config.update_epochs):
                    shuffle = (config.seed, self.devices.global_rank, update_index, epoch)
                    minibatches = buffer.minibatches(*shuffle)
                    for minibatch in minibatches:
                        self._minibatch_step(*minibatch)
                    num_minibatches += len(minibatches)
                    if config.target_kl is not None:
                        kl_sum = float(self._metric_sums[METRICS.index("Info/approx_kl")])
                        if (kl_sum - kl_before) / len(minibatches) > config.target_kl:
                            break
                        kl_before = kl_sum
                # After the update, so that its first ratios are those of the policy that acted.
                if self.policy.normalizer is not None:
                    self.policy.normalizer.update(buffer.obs[:-1].flatten(0, 1), valid.flatten())
            means = dict(zip(METRICS, (self._metric_sums / num_minibatches).tolist(), strict=True))
        return {
            **means,
            "Info/explained_variance": float(explained),
            "Info/learning_rate": float(learning_rate),
            "Info/clip_coef": float(self._clip_coef),
            "Info/ent_coef": float(self._ent_coef),
        }

    @torch.no_grad()
    def _compute_advantages(
        self, buffer: RolloutBuffer, rewards: Tensor, terminated: Tensor, truncated: Tensor
    ) -> Tensor:
        """Fills values `[T + 1, N]`, log-probabilities, advantages and returns `[T, N]`.

        Rows go through the networks in chunks that stay in the cache.
        """
        chunk = max(1, 8192 // buffer.num_envs)
        with self.devices.autocast():
            for start in range(0, buffer.num_steps, chunk):
                rows = slice(start, min(start + chunk, buffer.num_steps))
                obs, actions = buffer.obs[rows].flatten(0, 1), buffer.actions[rows].flatten(0, 1)
                log_probs, _, values = self.policy.evaluate(obs, actions)
                buffer.log_probs[rows].copy_(log_probs.view_as(buffer.log_probs[rows]))
                buffer.values[rows].copy_(values.view_as(buffer.log_probs[rows]))
            buffer.values[-1].copy_(self.policy.value(buffer.obs[-1]))
        discounts = (self.config.gamma, self.config.gae_lambda)
        advantages = gae(rewards, buffer.values, terminated, truncated, *discounts)
        buffer.advantages.copy_(advantages)
        return buffer.returns.copy_(advantages + buffer.values[:-1])

    def _step(self, *fields: Tensor) -> Tensor:
        """One minibatch: gradient, clipping, Adam. Returns the sums of the metrics so far."""
        gradient, metrics = self._gradient(Minibatch(*fields))
        norm = self.optimizer.apply(gradient)
        with torch.no_grad():
            return self._metric_sums.add_(torch.stack([*metrics, norm]))

    def _gradient(self, batch: Minibatch) -> tuple[Tensor, list[Tensor]]:
        """Returns the gradient `[P]` over one minibatch, and the metrics but for its norm."""
        config = self.config
        with self.devices.autocast():
            log_probs, entropy, values = self.policy.evaluate(batch.obs, batch.actions)
        weights, clip_coef = batch.weights, self._clip_coef
        advantages = batch.advantages
        if config.normalize_advantages:
            advantages = normalize(advantages, weights)
        log_ratio = log_probs - batch.log_probs
        policy_loss = clipped_surrogate(log_ratio, advantages, weights, clip_coef)
        if config.clip_vloss:
            old_values, returns = batch.values, batch.returns
            critic_loss = clipped_value_loss(values, old_values, returns, weights, clip_coef)
        else:
            critic_loss = value_loss(values, batch.returns, weights)
        entropy_loss = -weighted_mean(entropy, weights)
        loss = policy_loss + config.vf_coef * critic_loss + self._ent_coef * entropy_loss
        gradient = self.optimizer.gradient(loss)
        with torch.no_grad():
            losses = [policy_loss.detach(), critic_loss.detach(), entropy_loss.detach()]
            kl = approximate_kl(log_ratio.detach(), weights)
            clipped = clip_fraction(log_ratio.detach(), weights, clip_coef)
        return gradient, [*losses, kl, clipped]

    # Saving

    def state_dict(self) -> dict[str, Any]:
        """Returns weights, normalisers, optimiser and random states."""
        return {
            "config": self.config.to_dict(),
            "policy": self.policy.state_dict(),
            "reward_scale": None if self.reward_scale is None else self.reward_scale.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "noise_generator": self.noise_generator.get_state(),
            "noise_device": self.device.type,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a state back; raises ValueError if it is another network's."""
        try:
            self.policy.load_state_dict(state["policy"])
            if self.reward_scale is not None:
                self.reward_scale.load_state_dict(state["reward_scale"])
            self.optimizer.load_state_dict(state["optimizer"])
            if state["noise_device"] == self.device.type:  # another's state means nothing here
                self.noise_generator.set_state(state["noise_generator"])
        except (KeyError, RuntimeError, TypeError) as error:
            raise ValueError(f"the checkpoint does not fit this agent: {error}") from error


def load_agent(path: str | Path) -> PPO:
    """Reads an agent from a checkpoint, to be tested on whatever device is here."""
    return PPO.load(path, accelerator="auto")


def main(command: Command) -> int:
    """Trains as the command line says; returns the exit status."""
    devices = make_devices(command.config)
    if command.resume is None and devices.is_global_zero:
        print(describe(command), flush=True)
    agent = PPO(command.config.env_id, command.config, devices=devices)
    return AgentTrainer(resume=command.resume).fit(agent).exit_status
