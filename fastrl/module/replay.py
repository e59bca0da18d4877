"""The agent of a module that learns from a replay buffer: acting, storing, gradient steps.

Letters: T steps, N environments, B rows of a minibatch, K noise values a draw.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fastrl.agents.off_policy import OffPolicyAgent
from fastrl.buffers.replay import StepsBuffer, Transitions
from fastrl.config.module import ReplayConfig
from fastrl.engine.optimizer import FlatOptimizer
from fastrl.models.actor_critic import ActorCritic
from fastrl.models.distributions import Bounds, CategoricalHead
from fastrl.models.encoders import Inputs
from fastrl.module.learning import (
    ModuleLearner,
    learning_environment,
    optimizer_of,
    widest_layer,
)
from fastrl.module.policy import bound_policy
from fastrl.processes.pulse import PULSE

_MOST_DRAWN = 64  # minibatches whose row numbers are drawn at once


class ReplayAgent(OffPolicyAgent):
    """Plays and learns for a `LightningAgentModule`."""

    algo = "module"
    config_class = ReplayConfig  # pyright: ignore[reportAssignmentType]
    config: Any
    policy: Any

    def __init__(self, module: Any, env: Any, settings: dict[str, Any]) -> None:
        """Makes environments for a module; `settings` are those of its config."""
        self.module = module
        super().__init__(learning_environment(env), preset="none", **settings)
        parts = optimizer_of(module, self.policy, self.config)
        self.optimizer, self.schedule = parts
        self.learner = ModuleLearner(self, module)
        self.make_player = self.learner.player

    def networks(self) -> dict[str, nn.Module]:
        """Returns the module, whose layers go by its own names."""
        return {"policy": self.module}

    def _make_networks(self) -> None:
        self.policy = bound_policy(self, self.module)

    def trained(self) -> list[tuple[FlatOptimizer, Any]]:
        """Returns the module, with the vector that its parameters are part of."""
        return [(self.optimizer, self.policy)]

    # Acting

    def action_layout(self) -> tuple[tuple[int, ...], torch.dtype, int]:
        """Returns shape and dtype of a stored action, and how many noise values it takes."""
        head = self.policy.head
        return head.action_shape, head.action_dtype, head.noise_size

    def work_of_a_step(self) -> tuple[int, int]:
        """Returns the rows of a gradient step's products, and the width of the widest layer."""
        return self.config.per_rank_batch_size, widest_layer(self.module)

    def begin_rollout(self, buffer: StepsBuffer) -> None:
        """Draws the noise of the next steps, the same kind during warm-up."""
        self.engine.check()
        self.draw_noise(buffer.noise, self.noise_generator)

    def draw_noise(self, noise: Tensor, generator: torch.Generator) -> None:
        """Fills noise `[n, K]` to draw the policy's actions with."""
        self.policy.head.draw_noise(noise, generator)

    def random_actions(self, obs: Any, noise: Tensor) -> Tensor:
        """Returns actions `[n, *A]`, uniform over allowed choices and the interior of bounds."""
        head, observations = self.policy.head, self.module._observations
        if isinstance(head, CategoricalHead):
            mask = observations.mask_of(observations.seen(obs))
            return head.mode(ActorCritic.allowed(noise, Inputs(None, None, mask)))
        bounded = torch.isfinite(head.low) & torch.isfinite(head.high)
        uniform = Bounds(head.low, head.high)(torch.erf(noise / math.sqrt(2)))
        return torch.where(bounded, uniform, noise)

    # Learning

    def anneal(self, update_index: int) -> None:
        """Leaves the learning rate to the scheduler that `configure_optimizers` returns."""

    def build(self, minibatch: Transitions) -> None:
        """Makes of the module's loss a gradient step."""
        self.learner.build_step(minibatch)

    def _learn(self, num_steps: int) -> None:
        """Takes gradient steps, each on transitions of its own."""
        assert self.replay is not None
        self.schedule.follow(self.optimizer)
        while num_steps > 0:
            count = min(num_steps, _MOST_DRAWN)
            num_steps -= count
            for rows in self._draw_rows(count):
                PULSE.count += 1
                self.num_gradient_steps += 1
                self.learner.take_step(self.replay.gather(rows))
        self.schedule.advance(self.optimizer)
        self.learner.count_steps(self.num_env_steps)

    def unlogged_metrics(self) -> dict[str, float]:
        """Returns means since the last row of metrics, and leaves their sums for the next row."""
        metrics = {"Info/gradient_steps": float(self.num_gradient_steps)}
        metrics["Info/learning_rate"] = self.schedule.rate_of(self.optimizer)
        return metrics | self.learner.metrics()

    def _clear_metrics(self) -> None:
        """Begins to add metrics up anew."""
        self.learner.clear_metrics()

    def _is_finite(self) -> bool:
        """Returns whether all metrics since the last call are finite, so that the weights are."""
        return self.learner.is_finite()

    # Saving

    def export(self, *arguments: Any, **how: Any) -> dict[str, Any]:
        """Writes the policy to a file; arguments as of `BaseAgent.export`."""
        with self.learner.traceable():
            return super().export(*arguments, **how)

    def labels(self) -> dict[str, Any]:
        """Returns what config.yaml says of the agent: `runs.folder.LABELS`."""
        return self.learner.labels(super().labels())

    def state_dict(self) -> dict[str, Any]:
        """Returns weights, optimiser, counters, random states and, during a run, the replay."""
        return {
            **super().state_dict(),
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **self.learner.state_dict(self.schedule),
        }

    def match(self, state: dict[str, Any]) -> None:
        """Freezes what was frozen when a state was saved; ValueError if it is another module's."""
        self.learner.check(state)
        super().match(state)

    def _load_networks(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.learner.load_state_dict(state, self.schedule, self.optimizer)
