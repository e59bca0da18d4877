"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347).

    python -m fastrl.ppo --env-id LunarLander-v2

One iteration: the player fills a rollout of T steps of N environments (`act`); values,
log-probabilities and advantages of all its rows are worked out at once (`advantage`); then some
epochs over shuffled minibatches of B rows each take a step along the gradient of the clipped
objective (`update`). The three are static functions of tensors that `engine/compiling.py` builds;
the first two are in `agents/on_policy.py`. Letter: P parameters.
"""

from __future__ import annotations

if __name__ == "__main__":  # before torch is imported, so that --help and mistakes answer at once
    from fastrl.cli import main as command_line

    raise SystemExit(command_line("ppo"))

from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from fastrl.agents.on_policy import OnPolicy
from fastrl.buffers.rollout import Minibatch, RolloutBuffer
from fastrl.buffers.shared import SharedRollout
from fastrl.config.ppo import PPOConfig
from fastrl.engine.compiling import build
from fastrl.engine.optimizer import FlatAdam
from fastrl.engine.parts import side_by_side, sum_over_parts
from fastrl.envs.vector import VectorEnv
from fastrl.kernels.objective import clipped_gradient
from fastrl.ops.losses import (
    approximate_kl,
    clip_fraction,
    clipped_surrogate,
    clipped_value_loss,
    normalize,
    value_loss,
    weighted_mean,
)
from fastrl.runs.timer import StageTimer

METRICS = (
    "Loss/policy_loss",
    "Loss/value_loss",
    "Loss/entropy_loss",
    "Info/approx_kl",
    "Info/clip_fraction",
    "Gradients/grad_norm",
)


class PPO(OnPolicy):
    """A PPO agent: `PPO("LunarLander-v2", seed=1).learn(500_000)`."""

    algo = "ppo"
    config_class = PPOConfig
    config: PPOConfig
    minibatch_class: type = Minibatch

    def __init__(
        self,
        env: str | VectorEnv | gymnasium.vector.VectorEnv,
        config: PPOConfig | None = None,
        **settings: Any,
    ) -> None:
        """Makes environments and networks; arguments as of `OnPolicy`."""
        super().__init__(env, config, **settings)
        config = self.config
        # Coefficients are tensors changed in place, so that a schedule rebuilds nothing.
        self.optimizer = FlatAdam(
            self.policy, config.learning_rate, config.adam_eps, config.max_grad_norm
        )
        self.devices.broadcast(self.optimizer.flat)
        self._clip_coef = torch.tensor(config.clip_coef, device=self.device)
        self._ent_coef = torch.tensor(config.ent_coef, device=self.device)
        self._metric_sums = torch.zeros(len(METRICS), device=self.device)

    def make_buffer(self) -> RolloutBuffer:
        """Allocates the rollout and builds `act`, `advantage` and `update` for its shapes."""
        buffer = super().make_buffer()
        example = tuple(buffer.first_minibatch)
        self._minibatch_step = build(self._step, example, self.config.compile)
        if self.config.recompute_advantages:
            judged = [(rows, values) for rows, _, _, values in self._spans]
            self._fill_values = self._build_per_span(self._value_span, judged, self._acting_mode)
        self._shared = self.share(buffer) if self.config.share_data else None
        # Trainers that get other numbers of environments have other numbers of minibatches.
        own = 0 if self._shared else self.config.num_minibatches
        self._most_minibatches = int(self.devices.gather(np.array([own])).max())
        return buffer

    def share(self, buffer: RolloutBuffer) -> SharedRollout:
        """Returns what deals the rows of all ranks."""
        batch_size, devices = self.config.per_rank_batch_size, self.devices
        place = devices.global_rank, devices.world_size
        return SharedRollout(buffer, batch_size, *place, devices.gather_rows)

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

        with self.learning():
            with timer.stage("advantage"):
                explained = self.judge(buffer)

            with timer.stage("update"):
                self._metric_sums.zero_()
                num_minibatches, kl_before = 0, 0.0
                for epoch in range(config.update_epochs):
                    if epoch and config.recompute_advantages:
                        self.judge_again(buffer)
                    minibatches = self._deal(buffer, update_index, epoch)
                    for minibatch in minibatches:
                        self._minibatch_step(*minibatch)
                    num_minibatches += len(minibatches)
                    if config.target_kl is not None:
                        kl_sum = float(self._metric_sums[METRICS.index("Info/approx_kl")])
                        if (kl_sum - kl_before) / len(minibatches) > config.target_kl:
                            break
                        kl_before = kl_sum
                self.take_in_observations(buffer)
            means = dict(zip(METRICS, (self._metric_sums / num_minibatches).tolist(), strict=True))
        return {
            **means,
            "Info/explained_variance": float(explained),
            "Info/learning_rate": float(learning_rate),
            "Info/clip_coef": float(self._clip_coef),
            "Info/ent_coef": float(self._ent_coef),
        }

    def judge_again(self, buffer: RolloutBuffer) -> None:
        """Fills values, advantages and returns anew, by the critic as it has become.

        Log-probabilities stay: they are of the policy that acted. Andrychowicz et al. 2021 (arXiv
        2006.05990) find that old advantages slow learning down.
        """
        rewards = buffer.rewards if self.reward_scale is None else self.reward_scale(buffer.rewards)
        for fill in self._fill_values:
            fill()
        self._advantage(rewards, buffer.terminated, buffer.truncated)

    @torch.no_grad()
    def _value_span(self, rows: Tensor, values: Tensor) -> Tensor:
        """Fills `values` of some chunks of rows, side by side, and returns them."""
        given = [(chunk,) for chunk in rows.split(self._chunk)]
        with self.devices.autocast():
            judged = side_by_side(self.policy.value, given)
        for result, own_values in zip(judged, values.split(self._chunk), strict=True):
            own_values.copy_(result)
        return values

    def _deal(self, buffer: RolloutBuffer, update_index: int, epoch: int) -> list[Minibatch]:
        """Deals the rows that this rank learns from; weights count those of all ranks."""
        config = self.config
        if self._shared is None:
            shuffle = config.seed, self.devices.global_rank, update_index, epoch
            minibatches = buffer.minibatches(*shuffle)
        else:
            if not epoch or config.recompute_advantages:
                self._shared.refresh()
            minibatches = self._shared.minibatches(config.seed, 0, update_index, epoch)
        most = self._most_minibatches
        return self.devices.balance(minibatches, config.normalize_advantages, most)

    def _step(self, *fields: Tensor) -> Tensor:
        """One minibatch: gradient, clipping, Adam. Returns the sums of the metrics so far."""
        batch = self.minibatch_class(*fields)
        if self.config.normalize_advantages and self.devices.is_alone:
            batch = batch._replace(advantages=normalize(batch.advantages, batch.weights))
        gradient, metrics = sum_over_parts(self._gradient, batch, self._num_parts)
        gradient, metrics = self.devices.sum(gradient, metrics.unbind())
        norm = self.optimizer.apply(gradient)
        with torch.no_grad():
            return self._metric_sums.add_(torch.stack([*metrics, norm]))

    def _gradient(self, *fields: Tensor) -> tuple[Tensor, Tensor]:
        """Returns some rows' share of a minibatch's gradient `[P]` and of the metrics before it."""
        config, batch = self.config, self.minibatch_class(*fields)
        is_plain = type(self)._evaluate is PPO._evaluate and self.policy.head.has_clipped_gradient
        if is_plain and self._in_extension:
            return self._gradient_in_extension(batch)
        with self.devices.autocast():
            log_probs, entropy, values = self._evaluate(batch)
        weights, clip_coef = batch.weights, self._clip_coef
        advantages = batch.advantages
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
            return gradient, torch.stack([*losses, kl, clipped])

    def _gradient_in_extension(self, batch: Minibatch) -> tuple[Tensor, Tensor]:
        """The same: the derivatives by what the networks give are formulas, not autograd's."""
        config, head = self.config, self.policy.head
        outputs, values = self.policy.outputs_and_values(batch.obs)
        rows = batch.actions, batch.log_probs, batch.advantages, batch.returns, batch.values
        coefs = self._clip_coef, self._ent_coef, config.vf_coef, config.clip_vloss
        log_std, num_choices = head.log_std, head.num_choices
        by = clipped_gradient(outputs, values, log_std, num_choices, (*rows, batch.weights), *coefs)
        pairs = [(outputs, by.outputs), (values, by.values)]
        if log_std is not None:
            pairs.append((log_std, by.log_std))
        return self.optimizer.gradient_through(*zip(*pairs, strict=True)), by.metrics

    def _evaluate(self, batch: Minibatch) -> tuple[Tensor, Tensor, Tensor]:
        """Returns log pi(a|s), the entropy and V(s) of the rows `[B]`."""
        return self.policy.evaluate(batch.obs, batch.actions)


# What `python -m fastrl.ppo`, and what `evaluate` and `export` call.
main, load_agent = PPO.run, PPO.load_anywhere
