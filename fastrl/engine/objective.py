"""PPO's loss and its derivatives as one operation of the C++ extension, as a twin of `PPO.loss`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastrl.engine.optimizer import FlatOptimizer
from fastrl.engine.probe import NUM_ROWS, random_rows
from fastrl.kernels.objective import clipped_gradient
from fastrl.models.actor_critic import ActorCritic
from fastrl.models.distributions import CategoricalHead, GaussianHead


class ClippedObjective:
    """The clipped objective with its value loss and entropy bonus (arXiv 1707.06347)."""

    def __init__(
        self, policy: Any, clip_coef: Tensor, ent_coef: Tensor, vf_coef: float, clip_vloss: bool
    ) -> None:
        """Takes what the loss is made of.

        Args:
            policy: an `ActorCritic`.
            clip_coef: half width of the interval of ratios, a scalar that schedules change.
            ent_coef: weight of the entropy, likewise.
            vf_coef: weight of the value loss.
            clip_vloss: take `clipped_value_loss` in place of `value_loss`.
        """
        self._policy = policy
        self.coefficients = clip_coef, ent_coef
        self._constants = vf_coef, clip_vloss

    @property
    def fits(self) -> bool:
        """Whether the policy is of a kind whose loss a kernel may compute."""
        return isinstance(self._policy, ActorCritic)

    def why_not(self) -> list[str]:
        """Says why the kernel does not know this distribution."""
        head = self._policy.head
        is_normal = isinstance(head, GaussianHead) and head.log_std is not None
        if not isinstance(head, CategoricalHead) and not (is_normal and not head.squash):
            return ["loss by autograd: no kernel knows such actions"]
        return []

    def gradient(self, batch: Any, optimizer: FlatOptimizer) -> tuple[Tensor, Tensor]:
        """Returns the loss's gradient `[P]` and its five metrics, in the order of `PPO.loss`."""
        outputs, values = self._policy.outputs_and_values(batch.obs)
        rows = batch.actions, batch.log_probs, batch.advantages, batch.returns, batch.values
        log_std, num_choices = self._policy.head.log_std, self._policy.head.num_choices
        given = outputs, values, log_std, num_choices, (*rows, batch.weights)
        by = clipped_gradient(*given, *self.coefficients, *self._constants)
        reached, gradients = [outputs, values], [by.outputs, by.values]
        if log_std is not None and log_std.requires_grad:
            reached.append(log_std)
            gradients.append(by.log_std)
        return optimizer.gradient_through(reached, gradients), by.metrics

    @torch.no_grad()
    def draw(self, example: Any, generator: torch.Generator, is_far: bool) -> tuple[Tensor, ...]:
        """Returns a minibatch of random rows, on both sides of every clip, some of them padding.

        `is_far` makes ratios and advantages that training hardly meets.
        """
        policy, num_rows = self._policy, NUM_ROWS
        obs = random_rows(example.obs, num_rows, generator)
        noise = torch.empty(num_rows, policy.head.noise_size)
        policy.head.draw_noise(noise, generator)
        actions = policy.act(obs, noise)
        log_probs, _, values = policy.evaluate(obs, actions)

        def normal(width: float = 1.0) -> Tensor:
            return torch.randn(num_rows, generator=generator) * width

        def wide() -> Tensor:
            if not is_far:
                return normal()
            return normal() * 10 ** (4 * torch.rand(num_rows, generator=generator) - 2)

        old_values = values + normal(0.3)
        weights = (torch.rand(num_rows, generator=generator) > 0.1).float()
        log_ratios = normal(3.0 if is_far else 0.3)
        fields = log_probs + log_ratios, old_values, wide(), old_values + wide()
        return obs, actions, *fields, weights / weights.sum()
