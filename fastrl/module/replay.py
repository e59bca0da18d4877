"""The agent of a module that learns from a replay buffer: acting, storing, gradient steps.

Letters: T steps, N environments, B rows of a minibatch, K noise values a draw.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastrl.agents.off_policy import MOST_RESTARTS, OffPolicyAgent
from fastrl.buffers.replay import ReplayBuffer, StepsBuffer, Transitions
from fastrl.config.module import ReplayConfig
from fastrl.engine.optimizer import FlatOptimizer
from fastrl.models.distributions import Bounds, CategoricalHead
from fastrl.module.learning import (
    ModuleLearner,
    learning_environment,
    optimizer_of,
    widest_layer,
)
from fastrl.module.policy import ModulePolicy
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
        self.module.bind_spaces(self.observation_space, self.action_space)
        self.module.to(self.device)
        self.policy = ModulePolicy(self.module)
        for tensor in self.policy.state_dict().values():
            self.devices.broadcast(tensor)

    def trained(self) -> list[tuple[FlatOptimizer, Any]]:
        """Returns the module, with the vector that its parameters are part of."""
        return [(self.optimizer, self.policy)]

    # Acting

    def make_acting(self) -> StepsBuffer:
        """Allocates the buffer of the latest steps, and has the engine build acting."""
        config, head = self.config, self.policy.head
        widest = widest_layer(self.module)
        self.engine.prepare(self.trained, config.per_rank_batch_size, widest)
        sizes = config.num_steps, config.num_envs
        action = head.action_shape, head.action_dtype, head.noise_size
        steps = StepsBuffer(*sizes, self.observation_space, *action, math.prod(sizes), self.device)
        rows = steps.obs[:-1], steps.noise, steps.actions
        self._rows = [
            list(zip(*(x[:, columns].unbind(0) for x in rows), strict=True))
            for columns in self.columns_of_pools()
        ]
        self._act = [self.engine.act(self.draw_actions, pool) for pool in self._rows]
        return steps

    def begin_rollout(self, buffer: StepsBuffer) -> None:
        """Draws the noise of the next steps."""
        self.engine.check()
        self.policy.head.draw_noise(buffer.noise, self.noise_generator)

    def act(self, t: int, pool: int) -> np.ndarray:
        """Draws actions for step t of a pool's environments: during warm-up at random.

        Returns:
            The actions as the environments take them.
        """
        if not self.is_warming_up:
            return self._act[pool](t)
        _, noise, stored = self._rows[pool][t]
        return self.policy.head.to_env(stored.copy_(self.random_actions(noise))).cpu().numpy()

    def random_actions(self, noise: Tensor) -> Tensor:
        """Returns actions `[n, *A]`, uniform over choices and over the interior of bounds."""
        head = self.policy.head
        if isinstance(head, CategoricalHead):
            return head.mode(noise)
        bounded = torch.isfinite(head.low) & torch.isfinite(head.high)
        uniform = Bounds(head.low, head.high)(torch.erf(noise / math.sqrt(2)))
        return torch.where(bounded, uniform, noise)

    @torch.no_grad()
    def draw_actions(self, obs: Tensor, noise: Tensor, actions: Tensor) -> Tensor:
        """Fills `actions` `[n, *A]` for `obs` `[n, *O]` and `noise` `[n, K]`.

        Returns what the environments take.
        """
        actions.copy_(self.policy.act(obs, noise))
        return self.policy.head.to_env(actions)

    def _sample(self, rows: Tensor) -> Tensor:
        noise = torch.empty(len(rows), self.policy.head.noise_size, device=self.device)
        self.policy.head.draw_noise(noise, self._predict_generator)
        return self.policy.head.to_env(self.policy.act(rows, noise))

    # Learning

    def make_learning(self, buffer: StepsBuffer) -> None:
        """Allocates the replay buffer, and has the engine build the gradient step."""
        config, head = self.config, self.policy.head
        num_steps = self.num_updates * config.num_steps * config.num_envs
        num_expected = num_steps + MOST_RESTARTS * config.num_envs
        choices = head.action_shape if isinstance(head, CategoricalHead) else None
        num_actions = math.prod(head.action_shape)
        ring = config.num_envs, self.observation_space, num_actions, config.per_rank_batch_size
        returns = config.gamma, config.num_return_steps
        self.replay = ReplayBuffer(
            config.buffer_size, *ring, *returns, self.device, num_expected, choices
        )
        if self.saved_replay is not None:
            self.replay.load_state_dict(self.saved_replay)
            self.saved_replay = None
        self.build(self.replay.minibatch)

    def build(self, minibatch: Transitions) -> None:
        """Makes of the module's loss a gradient step."""
        self.learner.build_step(minibatch)

    def _learn(self, num_steps: int) -> None:
        """Takes gradient steps, each on transitions of its own."""
        assert self.replay is not None
        while num_steps > 0:
            count = min(num_steps, _MOST_DRAWN)
            num_steps -= count
            for rows in self._draw_rows(count):
                PULSE.count += 1
                self.num_gradient_steps += 1
                self.learner.take_step(self.replay.gather(rows))
        self.schedule.advance(self.optimizer)
        self.learner.count_steps(self.num_env_steps)

    def _take_metrics(self) -> dict[str, float]:
        """Returns means since the last call."""
        metrics = {"Info/gradient_steps": float(self.num_gradient_steps)}
        metrics["Info/learning_rate"] = self.schedule.rate
        return metrics | self.learner.take_metrics()

    def _is_finite(self) -> bool:
        """Returns whether all metrics since the last call are finite, so that the weights are."""
        return self.learner.is_finite()

    # Saving

    def _stored_action(self) -> Tensor:
        head = self.policy.head
        return torch.zeros(head.action_shape, dtype=head.action_dtype)

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
