"""Advantage actor-critic, synchronous (Mnih et al. 2016, arXiv 1602.01783).

    python -m fastrl.a2c --env-id CartPole-v1

One iteration: the policy acts for T steps in N environments and fills a rollout; `update` computes
the advantages of its rows and takes one step along the gradient of `loss` over all of them. The
gradient may be summed up in pieces of B rows; the result is the same. `agents/on_policy.py` has
acting and advantages; `engine/` decides how all of it runs.
"""

from __future__ import annotations

if __name__ == "__main__":  # before torch is imported, so that --help and mistakes answer at once
    from fastrl.cli import main as command_line

    raise SystemExit(command_line("a2c", file=__file__))

from collections.abc import Sequence
from typing import Any, ClassVar, Unpack

from torch import Tensor

from fastrl.agents.on_policy import OnPolicyAgent
from fastrl.agents.signatures import A2CSettings
from fastrl.buffers.rollout import Minibatch, RolloutBuffer
from fastrl.config.a2c import A2CConfig
from fastrl.engine.optimizer import FlatAdam, FlatOptimizer, FlatRMSprop
from fastrl.ops.losses import value_loss, weighted_mean
from fastrl.runs.timer import StageTimer

METRICS = ("Loss/policy_loss", "Loss/value_loss", "Loss/entropy_loss", "Gradients/grad_norm")


class A2C(OnPolicyAgent):
    """An A2C agent: `A2C("CartPole-v1", seed=1).learn(500_000)`."""

    algo = "a2c"
    config_class = A2CConfig
    config: A2CConfig
    metrics: ClassVar[Sequence[str]] = METRICS
    """What `loss` returns beside the loss, and last the norm of the gradient."""

    def __init__(
        self, env: Any, config: A2CConfig | None = None, **settings: Unpack[A2CSettings]
    ) -> None:
        """Makes environments, networks and optimiser; arguments as of `BaseAgent`."""
        super().__init__(env, config, **settings)

    def make_optimizer(self) -> FlatOptimizer:
        """Returns RMSprop or Adam over the policy's parameters."""
        config = self.config
        step = config.learning_rate, config.optimizer_eps, config.max_grad_norm
        if config.optimizer == "adam":
            betas = config.adam_beta1, config.adam_beta2
            return FlatAdam(self.policy, *step, betas=betas, weight_decay=config.weight_decay)
        decays = config.rmsprop_decay, config.weight_decay
        return FlatRMSprop(self.policy, *step, *decays)

    def build(self, rollout: RolloutBuffer) -> None:
        """Builds the gradient step of `loss`, and the dealer of the rollout's pieces."""
        example = rollout.first_minibatch
        self.step = self.engine.gradient_step(
            lambda batch: self.loss(batch),  # found anew each time: a callback may replace it
            self.optimizer,
            self.metrics,
            example,
            accumulates=True,
        )
        self.dealer = self.make_dealer(rollout, whole_rollout=True)

    def loss(self, batch: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Returns these rows' share of what is minimised over the rollout, and of its parts.

        Args:
            batch: a `Minibatch` of B rows. `weights` sum to 1 over the rollouts of all ranks;
                advantages are normalised already, if they are to be.

        Returns:
            A scalar, and one scalar for each of `metrics` but the last.
        """
        log_probs, entropy, values = self.evaluate_actions(batch)
        policy_loss = -weighted_mean(log_probs * batch.advantages, batch.weights)
        critic_loss = value_loss(values, batch.returns, batch.weights)
        entropy_loss = -weighted_mean(entropy, batch.weights)
        loss = policy_loss + self.config.vf_coef * critic_loss + self.ent_coef * entropy_loss
        return loss, (policy_loss, critic_loss, entropy_loss)

    def evaluate_actions(self, batch: Minibatch) -> tuple[Tensor, Tensor, Tensor]:
        """Returns log pi(a|s), the entropy and V(s) of the rows, each `[B]`."""
        return self.policy.evaluate(batch.obs, batch.actions)

    def update(
        self, rollout: RolloutBuffer, update_index: int, timer: StageTimer
    ) -> dict[str, float]:
        """Improves the policy by one step on one rollout; returns its metrics.

        Args:
            rollout: full.
            update_index: this update's number in the run, from 0; schedules follow from it.
            timer: accumulates the time of the stages "advantage" and "update".
        """
        self.anneal(update_index)
        with self.engine.learning():
            with timer.stage("advantage"):
                explained = self.compute_advantages(rollout)
            with timer.stage("update"):
                self.step.clear()
                for piece in self.dealer.deal(update_index):
                    self.step.accumulate(piece)
                self.step.finish()
                self.update_obs_normalizer(rollout)
            metrics = self.step.means()
        return {
            **metrics,
            "Info/explained_variance": float(explained),
            "Info/learning_rate": float(self.optimizer.learning_rate),
            "Info/ent_coef": float(self.ent_coef),
        }


# What `python -m fastrl.a2c`, and what `evaluate` and `export` call.
main, load_agent = A2C.run, A2C.load_anywhere
