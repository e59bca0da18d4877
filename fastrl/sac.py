"""Soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905).

    python -m fastrl.sac --env-id LunarLanderContinuous-v2

One iteration: the player takes T steps of N environments, most often one (`act`); they go into the
replay buffer; then as many gradient steps as the replay ratio allows, each on a fresh minibatch of
B transitions (`update`). A gradient step moves the critics along their temporal difference, the
actor towards what they value plus entropy, the temperature towards the target entropy, and the
target critics after the critics: one static function of tensors that `engine/compiling.py` builds.
All that is random is drawn before it and handed in.
Letters: O observation dimensions, A action dimensions, E critics, P parameters, R rows of a part.
"""

from __future__ import annotations

if __name__ == "__main__":  # before torch is imported, so that --help and mistakes answer at once
    from fastrl.cli import main as command_line

    raise SystemExit(command_line("sac"))

from typing import Any

import torch
from torch import Tensor, nn

from fastrl.agents.off_policy import OffPolicy
from fastrl.buffers.replay import Transitions
from fastrl.config.sac import SACConfig
from fastrl.engine.compiling import build
from fastrl.engine.optimizer import FlatAdam
from fastrl.engine.parts import sum_over_parts
from fastrl.models.critics import Critics, SquashedGaussianActor
from fastrl.models.layers import flatten_parameters
from fastrl.ops.losses import soft_target, temporal_difference_loss

CRITIC_METRICS = ("Loss/value_loss", "Info/q_value", "Gradients/critic_norm")
ACTOR_METRICS = ("Loss/policy_loss", "Loss/alpha_loss", "Info/entropy", "Gradients/actor_norm")
LEARNERS = (
    "policy",
    "critics",
    "target_critics",
    "temperature",
    "actor_optimizer",
    "critic_optimizer",
    "alpha_optimizer",
)
MOST_DRAWN = 64  # minibatches whose noise and row numbers are drawn at once


class Temperature(nn.Module):
    """The weight of the entropy, as its logarithm."""

    def __init__(self, alpha: float) -> None:
        """Starts at `alpha`; 0 is allowed where it is not tuned."""
        super().__init__()
        self.log_alpha = nn.Parameter(torch.tensor(alpha).log())


class SAC(OffPolicy):
    """A SAC agent: `SAC("LunarLanderContinuous-v2", seed=1).learn(100_000)`."""

    algo = "sac"
    config_class = SACConfig

    def _make_networks(self) -> None:
        config = self.config
        self.policy = SquashedGaussianActor(
            self.observation_space, self.action_space, config.hidden_sizes
        ).to(self.device)
        self.critics = self._make_critics().to(self.device)
        self.target_critics = self._make_critics().to(self.device).requires_grad_(False)
        self.temperature = Temperature(config.alpha).to(self.device)
        wanted = config.target_entropy
        self.target_entropy = -float(self.policy.num_actions) if wanted is None else wanted

        adam = (config.adam_eps, config.max_grad_norm)
        self.actor_optimizer = FlatAdam(self.policy, config.policy_lr, *adam)
        self.critic_optimizer = FlatAdam(self.critics, config.q_lr, *adam)
        self.alpha_optimizer = FlatAdam(self.temperature, config.alpha_lr, config.adam_eps, 0.0)
        for optimizer in (self.actor_optimizer, self.critic_optimizer):
            self.devices.broadcast(optimizer.flat)
        self._target_flat = flatten_parameters(self.target_critics)
        self._target_flat.copy_(self.critic_optimizer.flat)
        # 0 in gradient steps that leave the target critics alone.
        self._tau = torch.tensor(config.tau, device=self.device)
        self._critic_sums = torch.zeros(len(CRITIC_METRICS), device=self.device)
        self._actor_sums = torch.zeros(len(ACTOR_METRICS), device=self.device)
        self._summed_steps = [0, 0]  # of the critics and of the actor, since the last row

    def _make_critics(self) -> Critics:
        num_inputs = self.policy.num_inputs + self.policy.num_actions
        return Critics(num_inputs, self.config.hidden_sizes, self.config.num_critics)

    @property
    def alpha(self) -> float:
        """The temperature."""
        return self.temperature.log_alpha.detach().exp().item()

    def _build_steps(self, minibatch: Transitions) -> None:
        """Builds the gradient steps: of the critics alone, and of all networks at once."""
        config = self.config
        self.policy.in_extension = self._actor_in_extension
        for critics in (self.critics, self.target_critics):
            critics.in_extension = self._critics_in_extension
        noise_shape = (MOST_DRAWN, 2, config.per_rank_batch_size, self.policy.num_actions)
        self._noise = torch.zeros(noise_shape, device=self.device)
        example = (*minibatch, *self._noise[0])
        self._full_step = build(self._learn_all, example, config.compile)
        if config.policy_frequency > 1:
            self._critic_step = build(self._learn_critics, example[:-1], config.compile)

    def _learn(self, num_steps: int) -> None:
        """Takes gradient steps, each on transitions of its own."""
        assert self.replay is not None
        while num_steps > 0:
            count = min(num_steps, MOST_DRAWN)
            num_steps -= count
            indices = self._draw_rows(count)
            self._noise[:count].normal_(generator=self._step_generator)
            for rows, noise in zip(indices, self._noise[:count], strict=True):
                minibatch = self.replay.gather(rows)
                if self._begin_step():
                    self._full_step(*minibatch, *noise)
                else:
                    self._critic_step(*minibatch, noise[0])

    def _begin_step(self) -> bool:
        """Counts a gradient step of the critics; returns whether the actor has one too."""
        config = self.config
        self.num_gradient_steps += 1
        if config.target_network_frequency > 1:
            is_due = self.num_gradient_steps % config.target_network_frequency == 0
            self._tau.fill_(config.tau if is_due else 0)
        has_actor_step = self.num_gradient_steps % config.policy_frequency == 0
        self._summed_steps[0] += 1
        self._summed_steps[1] += has_actor_step
        return has_actor_step

    def _learn_all(self, *fields: Tensor) -> Tensor:
        """One gradient step of all networks, on `Transitions` and two noises `[B, A]`."""
        *critic_fields, actor_noise = fields
        self._learn_critics(*critic_fields)
        return self._learn_actor(fields[0], actor_noise)

    def _learn_critics(self, *fields: Tensor) -> Tensor:
        """One gradient step of the critics, on the arguments of `_critic_gradient`.

        The target critics follow. Returns the sums of the metrics so far.
        """
        shares = sum_over_parts(self._critic_gradient, fields, self._num_parts)
        gradient, metrics = self.devices.mean(shares[0], shares[1].unbind())
        norm = self.critic_optimizer.apply(gradient)
        with torch.no_grad():
            self._target_flat.lerp_(self.critic_optimizer.flat, self._tau)
            return self._critic_sums.add_(torch.stack([*metrics, norm]))

    def _critic_gradient(
        self,
        obs: Tensor,
        actions: Tensor,
        next_obs: Tensor,
        rewards: Tensor,
        discounts: Tensor,
        noise: Tensor,
        target_masks: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns some rows' share of the gradient `[P]`, and of loss and mean value.

        Args:
            obs: `[R, *O]`; this and the next four are `Transitions`.
            actions: `[R, A]`.
            next_obs: `[R, *O]`.
            rewards: `[R]`.
            discounts: `[R]`.
            noise: for the next actions, `[R, A]`.
            target_masks: dropout in the target critics, for a whole minibatch.
            masks: dropout in the critics, for a whole minibatch.
        """
        batch_size = self.config.per_rank_batch_size
        with torch.no_grad(), self.devices.autocast():
            next_actions, next_log_probs = self.policy.sample(next_obs, noise)
            next_inputs = self.policy.read(next_obs)
            next_values = self.target_critics(next_inputs, next_actions, target_masks).amin(0)
            alpha = self.temperature.log_alpha.exp()
            targets = soft_target(rewards, discounts, next_values, next_log_probs, alpha)
        with self.devices.autocast():
            values = self.critics(self.policy.read(obs), actions, masks)
        loss = temporal_difference_loss(values, targets, batch_size)
        gradient = self.critic_optimizer.gradient(loss)
        with torch.no_grad():
            mean_value = values.sum() / (len(values) * batch_size)
            return gradient, torch.stack([loss.detach(), mean_value])

    def _learn_actor(self, *fields: Tensor) -> Tensor:
        """One gradient step of actor and temperature, on the arguments of `_actor_gradient`.

        Returns the sums of the metrics so far.
        """
        shares = sum_over_parts(self._actor_gradient, fields, self._num_parts)
        gradient, (policy_loss, entropy) = self.devices.mean(shares[0], shares[1].unbind())
        norm = self.actor_optimizer.apply(gradient)
        alpha_loss = torch.zeros_like(entropy)
        log_alpha = self.temperature.log_alpha
        if self.config.tune_alpha:
            # The gradient is that of log alpha, as in the authors' code; the entropy that of all
            # ranks, so that all take the same step.
            alpha_loss = log_alpha * (entropy - self.target_entropy)
            self.alpha_optimizer.apply(self.alpha_optimizer.gradient(alpha_loss))
        with torch.no_grad():
            return self._actor_sums.add_(torch.stack([policy_loss, alpha_loss, entropy, norm]))

    def _actor_gradient(
        self, obs: Tensor, noise: Tensor, masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns some rows' share of the gradient `[P]`, and of loss and entropy.

        Args:
            obs: `[R, *O]`.
            noise: for the actions, `[R, A]`.
            masks: dropout in the critics, for a whole minibatch.
        """
        batch_size = self.config.per_rank_batch_size
        with self.devices.autocast():
            actions, log_probs = self.policy.sample(obs, noise)
            inputs = self.policy.read(obs)
            values = self._combine(self.critics(inputs, actions, masks, are_learning=False))
        alpha = self.temperature.log_alpha.detach().exp()
        policy_loss = (alpha * log_probs - values).sum() / batch_size
        gradient = self.actor_optimizer.gradient(policy_loss)
        with torch.no_grad():
            return gradient, torch.stack([policy_loss.detach(), -log_probs.sum() / batch_size])

    def _combine(self, values: Tensor) -> Tensor:
        """Returns what the actor climbs, `[B]`, of the critics' values `[E, B]`."""
        return values.min(0).values

    def _take_metrics(self) -> dict[str, float]:
        """Returns means since the last call."""
        metrics = {"Info/gradient_steps": float(self.num_gradient_steps), "Info/alpha": self.alpha}
        parts = (CRITIC_METRICS, self._critic_sums), (ACTOR_METRICS, self._actor_sums)
        for (names, sums), count in zip(parts, self._summed_steps, strict=True):
            if count:
                metrics.update(zip(names, (sums / count).tolist(), strict=True))
            sums.zero_()
        self._summed_steps = [0, 0]
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Returns weights, optimisers, counters, random states and, during a run, the replay."""
        learners = {name: getattr(self, name).state_dict() for name in LEARNERS}
        sums = {"critic": self._critic_sums, "actor": self._actor_sums}
        return {
            **super().state_dict(),
            **learners,
            "metric_sums": sums,
            "summed_steps": list(self._summed_steps),
        }

    def _load_networks(self, state: dict[str, Any]) -> None:
        for name in LEARNERS:
            getattr(self, name).load_state_dict(state[name])
        self._critic_sums.copy_(state["metric_sums"]["critic"])
        self._actor_sums.copy_(state["metric_sums"]["actor"])
        self._summed_steps = list(state["summed_steps"])


# What `python -m fastrl.sac`, and what `evaluate` and `export` call.
main, load_agent = SAC.run, SAC.load_anywhere
