"""Advantage actor-critic, synchronous (Mnih et al. 2016, arXiv 1602.01783).

    python -m fastrl.a2c --env-id CartPole-v1

One iteration: the player fills a rollout of T steps of N environments (`act`); values and
advantages of all its rows are worked out at once (`advantage`); their gradient, over the rollout as
a whole, makes one step (`update`). The gradient may be summed up in pieces of B rows: the result is
the same. The functions are static ones of tensors that `engine/compiling.py` builds; the first two
are in `agents/on_policy.py`. Letter: P parameters.
"""

from __future__ import annotations

if __name__ == "__main__":  # before torch is imported, so that --help and mistakes answer at once
    from fastrl.cli import main as command_line

    raise SystemExit(command_line("a2c"))

from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from fastrl.agents.on_policy import OnPolicy
from fastrl.buffers.rollout import Minibatch, RolloutBuffer
from fastrl.config.a2c import A2CConfig
from fastrl.engine.compiling import build
from fastrl.engine.optimizer import FlatAdam, FlatRMSprop
from fastrl.engine.parts import sum_over_parts
from fastrl.envs.vector import VectorEnv
from fastrl.ops.losses import value_loss, weighted_mean
from fastrl.ops.moments import moments_of
from fastrl.runs.timer import StageTimer

LOSSES = ("Loss/policy_loss", "Loss/value_loss", "Loss/entropy_loss")


class A2C(OnPolicy):
    """An A2C agent: `A2C("CartPole-v1", seed=1).learn(500_000)`."""

    algo = "a2c"
    config_class = A2CConfig
    config: A2CConfig

    def __init__(
        self,
        env: str | VectorEnv | gymnasium.vector.VectorEnv,
        config: A2CConfig | None = None,
        **settings: Any,
    ) -> None:
        """Makes environments and networks; arguments as of `OnPolicy`."""
        super().__init__(env, config, **settings)
        config = self.config
        step_size = config.learning_rate, config.optimizer_eps, config.max_grad_norm
        if config.optimizer == "adam":
            self.optimizer = FlatAdam(self.policy, *step_size)
        else:
            self.optimizer = FlatRMSprop(self.policy, *step_size, config.rmsprop_decay)
        # Coefficients are tensors changed in place, so that a schedule rebuilds nothing.
        self._ent_coef = torch.tensor(config.ent_coef, device=self.device)
        self._row_weight = torch.zeros((), device=self.device)
        self.devices.broadcast(self.optimizer.flat)
        self._gradient_sum = torch.zeros_like(self.optimizer.flat)
        self._loss_sums = torch.zeros(len(LOSSES), device=self.device)

    def make_buffer(self) -> RolloutBuffer:
        """Allocates the rollout and builds `act`, `advantage` and `update` for its shapes."""
        buffer, mode = super().make_buffer(), self.config.compile
        self._accumulate = build(self._add_gradient, tuple(buffer.first_minibatch), mode)
        self._apply = build(self.optimizer.apply, (self._gradient_sum,), mode)
        return buffer

    # Learning

    def update(
        self, buffer: RolloutBuffer, update_index: int, timer: StageTimer
    ) -> dict[str, float]:
        """Improves the policy by one step on one rollout.

        Args:
            buffer: a full rollout.
            update_index: this update's number in the run, from 0; schedules follow from it.
            timer: takes the seconds of the stages "advantage" and "update".
        """
        config, learning_rate = self.config, self.optimizer.learning_rate
        remaining = 1 - update_index / self.num_updates
        learning_rate.fill_(config.learning_rate * (remaining if config.anneal_lr else 1))
        self._ent_coef.fill_(config.ent_coef * (remaining if config.anneal_ent_coef else 1))

        with self.learning():
            with timer.stage("advantage"):
                explained = self.judge(buffer)
                num_valid = self.devices.gather(np.array([buffer.num_valid])).sum()
                self._row_weight.fill_(1 / num_valid)
                if config.normalize_advantages:
                    rows = moments_of(buffer.advantages.flatten(), buffer.valid.flatten())
                    _, mean, variance = self.devices.merge(rows)
                    buffer.advantages.sub_(mean).div_(variance.sqrt() + 1e-8)

            with timer.stage("update"):
                self._gradient_sum.zero_()
                self._loss_sums.zero_()
                for minibatch in buffer.minibatches(config.seed, update_index):
                    self._accumulate(*minibatch)
                gradient, sums = self.devices.sum(self._gradient_sum, self._loss_sums.unbind())
                norm = self._apply(gradient)
                self.take_in_observations(buffer)
            losses = dict(zip(LOSSES, map(float, sums), strict=True))
        return {
            **losses,
            "Gradients/grad_norm": float(norm),
            "Info/explained_variance": float(explained),
            "Info/learning_rate": float(learning_rate),
            "Info/ent_coef": float(self._ent_coef),
        }

    def _add_gradient(self, *fields: Tensor) -> Tensor:
        """Adds what some rows contribute to the rollout's gradient `[P]` and to its mean losses."""
        gradient, losses = sum_over_parts(self._gradient, fields, self._num_parts)
        with torch.no_grad():
            self._gradient_sum.add_(gradient)
            return self._loss_sums.add_(losses)

    def _gradient(self, *fields: Tensor) -> tuple[Tensor, Tensor]:
        """Returns some rows' share of the rollout's gradient `[P]` and of its mean losses."""
        config, batch = self.config, Minibatch(*fields)
        # A row weighs the same whichever piece it is in; padding weighs nothing.
        weights = (batch.weights > 0) * self._row_weight
        with self.devices.autocast():
            log_probs, entropy, values = self.policy.evaluate(batch.obs, batch.actions)
        policy_loss = -weighted_mean(log_probs * batch.advantages, weights)
        critic_loss = value_loss(values, batch.returns, weights)
        entropy_loss = -weighted_mean(entropy, weights)
        loss = policy_loss + config.vf_coef * critic_loss + self._ent_coef * entropy_loss
        gradient = self.optimizer.gradient(loss)
        with torch.no_grad():
            losses = [policy_loss.detach(), critic_loss.detach(), entropy_loss.detach()]
            return gradient, torch.stack(losses)


# What `python -m fastrl.a2c`, and what `evaluate` and `export` call.
main, load_agent = A2C.run, A2C.load_anywhere
