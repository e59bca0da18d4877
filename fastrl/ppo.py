"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347).

    python -m fastrl.ppo --env-id LunarLander-v2

One iteration: the policy acts for T steps in N environments and fills a rollout; `update` computes
the advantages of its rows and makes some passes over them in shuffled minibatches of B rows; each
minibatch is a step of Adam along the gradient of `loss`. `agents/on_policy.py` has acting and
advantages; `engine/` decides how all of it runs, and runs what is written here.
"""

from __future__ import annotations

if __name__ == "__main__":  # before torch is imported, so that --help and mistakes answer at once
    from fastrl.cli import main as command_line

    raise SystemExit(command_line("ppo", file=__file__))

from collections.abc import Sequence
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from fastrl.agents.on_policy import OnPolicyAgent
from fastrl.agents.signatures import PPOSettings
from fastrl.buffers.rollout import Minibatch, RolloutBuffer
from fastrl.config.ppo import PPOConfig
from fastrl.config.schedules import adaptive_of
from fastrl.engine.objective import ClippedObjective
from fastrl.engine.optimizer import FlatAdam
from fastrl.ops.losses import (
    approximate_kl,
    clip_fraction,
    clipped_surrogate,
    clipped_value_loss,
    value_loss,
    weighted_mean,
)
from fastrl.ops.schedules import adapted_to_kl
from fastrl.runs.timer import StageTimer

METRICS = (
    "Loss/policy_loss",
    "Loss/value_loss",
    "Loss/entropy_loss",
    "Info/approx_kl",
    "Info/clip_fraction",
    "Gradients/grad_norm",
)


class PPO(OnPolicyAgent):
    """A PPO agent: `PPO("LunarLander-v2", seed=1).learn(500_000)`."""

    algo = "ppo"
    config_class = PPOConfig
    config: PPOConfig
    metrics: ClassVar[Sequence[str]] = METRICS
    """What `loss` returns beside the loss, and last the norm of the gradient."""

    def __init__(
        self, env: Any, config: PPOConfig | None = None, **settings: Unpack[PPOSettings]
    ) -> None:
        """Makes environments, networks and optimiser; arguments as of `BaseAgent`."""
        super().__init__(env, config, **settings)

    def make_optimizer(self) -> FlatAdam:
        """Returns Adam over the policy's parameters."""
        config = self.config
        step = config.learning_rate, config.adam_eps, config.max_grad_norm
        betas = config.adam_beta1, config.adam_beta2
        return FlatAdam(self.policy, *step, betas=betas, weight_decay=config.weight_decay)

    def build(self, rollout: RolloutBuffer) -> None:
        """Builds the gradient step of `loss`, and the dealer of minibatches."""
        config = self.config
        self.clip_coef = self.vf_clip_coef = self.scheduled["clip_coef"]
        if config.vf_clip_coef is not None:
            self.vf_clip_coef = torch.tensor(config.vf_clip_coef, device=self.device)
        coefs = self.clip_coef, self.ent_coef, config.vf_coef, config.clip_vloss
        self.step = self.engine.gradient_step(
            lambda batch: self.loss(batch),  # found anew each time: a callback may replace it
            self.optimizer,
            self.metrics,
            rollout.first_minibatch,
            twin=ClippedObjective(self.policy, *coefs),
            metric_limits=config.step_metric_limits,
        )
        self.dealer = self.make_dealer(rollout, share_data=config.share_data)

    def loss(self, batch: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Returns what is minimised over a minibatch, and the metrics that are logged.

        The engine may work it out in another form, but only one that gives the same numbers.

        Args:
            batch: a `Minibatch` of B rows. `weights` sum to 1 over the minibatches of all ranks;
                advantages are normalised already, if they are to be.

        Returns:
            A scalar, and one scalar for each of `metrics` but the last.
        """
        config, weights = self.config, batch.weights
        log_probs, entropy, values = self.evaluate_actions(batch)
        log_ratio = log_probs - batch.log_probs
        policy_loss = clipped_surrogate(log_ratio, batch.advantages, weights, self.clip_coef)
        if config.clip_vloss:
            old = batch.values, batch.returns
            how = self.vf_clip_coef, config.vf_clip_rule
            critic_loss = clipped_value_loss(values, *old, weights, *how)
        else:
            critic_loss = value_loss(values, batch.returns, weights)
        entropy_loss = -weighted_mean(entropy, weights)
        loss = policy_loss + config.vf_coef * critic_loss + self.ent_coef * entropy_loss
        with torch.no_grad():
            kl = approximate_kl(log_ratio, weights)
            clipped = clip_fraction(log_ratio, weights, self.clip_coef)
        return loss, (policy_loss, critic_loss, entropy_loss, kl, clipped)

    def evaluate_actions(self, batch: Minibatch) -> tuple[Tensor, Tensor, Tensor]:
        """Returns log pi(a|s), the entropy and V(s) of the rows, each `[B]`."""
        return self.policy.evaluate(batch.obs, batch.actions)

    def update(
        self, rollout: RolloutBuffer, update_index: int, timer: StageTimer
    ) -> dict[str, float]:
        """Improves the policy on one rollout; returns the metrics' means over all minibatches.

        Args:
            rollout: full.
            update_index: this update's number in the run, from 0; schedules and shuffles follow.
            timer: accumulates the time of the stages "advantage" and "update".
        """
        config = self.config
        self.anneal(update_index)
        with self.engine.learning():
            with timer.stage("advantage"):
                explained = self.compute_advantages(rollout)
            with timer.stage("update"):
                self.step.clear()
                kl_before, count_before = 0.0, 0
                for epoch in range(config.update_epochs):
                    if recompute := epoch > 0 and config.recompute_advantages:
                        self.recompute_advantages(rollout)
                    minibatches = self.dealer.deal(update_index, epoch, epoch == 0 or recompute)
                    # Ends at the first step refused for its minibatch's KL (kl_stop=minibatch).
                    took_all = all(self.step(minibatch) for minibatch in minibatches)
                    if config.follows_kl:
                        kl, count = self.step.sum_of("Info/approx_kl"), self.step.num_steps
                        kl_of_epoch = (kl - kl_before) / (count - count_before)
                        # The KL is measured before each step: of an update's first one it is 0.
                        goes_far = count > 1 and self.follow_kl(kl_of_epoch)
                        if goes_far or not took_all:
                            break
                        kl_before, count_before = kl, count
                self.update_obs_normalizer(rollout)
            metrics = self.step.means()
        return {
            **metrics,
            "Info/explained_variance": float(explained),
            "Info/learning_rate": float(self.optimizer.learning_rate),
            "Info/clip_coef": float(self.clip_coef),
            "Info/ent_coef": float(self.ent_coef),
        }

    def follow_kl(self, kl: float) -> bool:
        """Adapts the learning rate, if it is adaptive, to an epoch's mean KL.

        That is the divergence from the policy that acted. In the first epoch the first minibatch
        counts with 0, since no step comes before it.

        Returns:
            Whether the update ends here, because the policy moved further than `target_kl`.
        """
        if (rule := adaptive_of(self.config)) is not None:
            rate = self.optimizer.learning_rate
            rate.fill_(adapted_to_kl(float(rate), kl, *rule))
        return kl > self.config.max_epoch_kl


# What `python -m fastrl.ppo`, and what `evaluate` and `export` call.
main, load_agent = PPO.run, PPO.load_anywhere
