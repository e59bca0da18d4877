"""The agent of a module that learns from rollouts: acting, advantages, gradient steps of its loss.

Letters: T steps, N environments, B rows of a minibatch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fastrl.agents.on_policy import OnPolicyAgent
from fastrl.buffers.dealing import weigh
from fastrl.buffers.rollout import RolloutBuffer
from fastrl.config.module import RolloutConfig
from fastrl.engine.optimizer import FlatOptimizer
from fastrl.module.batches import Rollout
from fastrl.module.learning import (
    ModuleLearner,
    learning_environment,
    optimizer_of,
    widest_layer,
)
from fastrl.module.policy import bound_policy
from fastrl.runs.timer import StageTimer

_log = logging.getLogger("fastrl")


class RolloutAgent(OnPolicyAgent):
    """Plays and learns for a `LightningAgentModule`."""

    algo = "module"
    config_class = RolloutConfig  # pyright: ignore[reportAssignmentType]
    config: Any

    def __init__(self, module: Any, env: Any, settings: dict[str, Any]) -> None:
        """Makes environments for a module; `settings` are those of its config."""
        self.module = module
        super().__init__(learning_environment(env), preset="none", **settings)
        self.scheduled.clear()  # the learning rate's schedule is `configure_optimizers`'s
        self.learner = ModuleLearner(self, module)
        self.make_player = self.learner.player

    def networks(self) -> dict[str, nn.Module]:
        """Returns the module, whose layers go by its own names."""
        return {"policy": self.module}

    def _make_networks(self) -> None:
        self.policy = bound_policy(self, self.module)
        self._has_values = self.policy.has_values
        if not self._has_values:
            if "gae_lambda" in self._command.explicit and self.config.gae_lambda != 1:
                raise ValueError("gae_lambda has no effect: the network returns no values")
            self.config = self.config.replace(gae_lambda=1.0)

    def make_optimizer(self) -> FlatOptimizer:
        """Returns what `configure_optimizers` made, over the module's parameters."""
        optimizer, self.schedule = optimizer_of(self.module, self.policy, self.config)
        return optimizer

    def widest_layer(self) -> int:
        """Returns the numbers that the widest layer takes or makes of a row."""
        return widest_layer(self.module)

    def build(self, rollout: RolloutBuffer) -> None:
        """Makes of the module's loss a gradient step."""
        self._weights = torch.zeros_like(rollout.advantages)
        self._deals = self.module.learns_from == "minibatches"
        if self._deals:
            self.dealer = self.make_dealer(rollout)
        example = rollout.first_minibatch if self._deals else self.whole(rollout)
        self.learner.build_step(example)
        learner = self.learner
        if learner.samples_itself or learner.hooks_after_step:
            return
        self._tell_of_effects(learner.fields_read)
        if not (self._has_values or "log_probs" in learner.fields_read):
            self._evaluate_rows = lambda: None  # a pass over all rows whose results nobody sees

    def _tell_of_effects(self, fields_read: set[str]) -> None:
        """Says which settings are of fields that `training_step` does not read."""
        judged, asked = {"advantages", "returns"}, self._command.explicit
        needs = {
            "normalize_advantages": {"advantages"},
            "gae_lambda": judged,
            "reward_scaling": judged | {"rewards"},
        }
        for name, fields in needs.items():
            if asked.get(name) not in (None, False) and not fields & fields_read:
                words = " or ".join(f"batch.{field}" for field in sorted(fields))
                _log.warning("%s has no effect: training_step does not read %s", name, words)

    def whole(self, rollout: RolloutBuffer) -> Rollout:
        """Returns a rollout as one batch: views of its rows, but for rewards that are scaled."""
        rewards = rollout.rewards
        if self.reward_scale is not None:
            rewards = self.reward_scale(rewards)
        caused = rewards, rollout.terminated, rollout.truncated
        judged = rollout.values[:-1], rollout.advantages, rollout.returns
        rows = rollout.obs[:-1], rollout.actions, rollout.obs[1:]
        return Rollout(*rows, *caused, rollout.log_probs, *judged, self._weights)

    def batches(self, rollout: RolloutBuffer, update_index: int) -> Iterator[Any]:
        """Yields the batches of an update."""
        for epoch in range(self.config.update_epochs):
            if not self._deals:
                if epoch == 0:
                    self._weigh(rollout)
                yield self.whole(rollout)
                continue
            for batch in self.dealer.deal(update_index, epoch, epoch == 0):
                # Losses are averaged over ranks, and these weights count the rows of all.
                yield batch._replace(weights=batch.weights * self.devices.world_size)

    @torch.no_grad()
    def _weigh(self, rollout: RolloutBuffer) -> None:
        self._weights.copy_(rollout.valid)
        fields = self._weights.view(1, -1), rollout.advantages.view(1, -1)
        weigh(self.devices, self.config.normalize_advantages, True, 1, *fields)
        self._weights.mul_(self.devices.world_size)

    def update(
        self, rollout: RolloutBuffer, update_index: int, timer: StageTimer
    ) -> dict[str, float]:
        """Takes the gradient steps of one rollout; returns the means of what the module logged.

        Args:
            rollout: full.
            update_index: this update's number in the run, from 0; shuffles follow from it.
            timer: accumulates the time of the stages "advantage" and "update".
        """
        self.schedule.follow(self.optimizer)
        with self.engine.learning():
            with timer.stage("advantage"):
                explained = self.compute_advantages(rollout)
            with timer.stage("update"):
                for batch in self.batches(rollout, update_index):
                    self.learner.take_step(batch)
            metrics = self.learner.take_metrics()
        metrics["Info/learning_rate"] = self.schedule.rate_of(self.optimizer)
        if self._has_values:
            metrics["Info/explained_variance"] = float(explained)
        self.schedule.advance(self.optimizer)
        self.learner.count_steps((update_index + 1) * self.config.steps_per_update)
        return metrics

    def export(self, *arguments: Any, **how: Any) -> dict[str, Any]:
        """Writes the policy to a file; arguments as of `BaseAgent.export`."""
        with self.learner.traceable():
            return super().export(*arguments, **how)

    def labels(self) -> dict[str, Any]:
        """Returns what config.yaml says of the agent: `runs.folder.LABELS`."""
        return self.learner.labels(super().labels())

    def state_dict(self) -> dict[str, Any]:
        """Returns weights, optimiser, schedule and random states."""
        return {**super().state_dict(), **self.learner.state_dict(self.schedule)}

    def match(self, state: dict[str, Any]) -> None:
        """Freezes what was frozen when a state was saved; ValueError if it is another module's."""
        self.learner.check(state)
        super().match(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a state back; raises ValueError, before it takes any, if it is another module's."""
        super().load_state_dict(state)
        self.learner.load_state_dict(state, self.schedule, self.optimizer)
