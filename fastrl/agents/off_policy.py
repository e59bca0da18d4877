"""Base class of the agents that learn from a replay buffer: acting, storing, counting, saving.

The player takes T steps of N environments, most often one (`act`); they go into the replay buffer;
then the gradient steps are taken that the replay ratio allows (`update`). What a gradient step is,
is in the algorithm's own file. Letters: O observation dimensions, A action dimensions, K
noise values that an action is drawn with.
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fastrl.agents.base import BaseAgent
from fastrl.agents.coefficients import Coefficients
from fastrl.agents.networks import describe_networks
from fastrl.agents.states import check_spaces, check_state, describe_spaces, load_noise
from fastrl.buffers.replay import MOST_RESTARTS, ReplayBuffer, StepsBuffer, Transitions
from fastrl.config.sac import SACConfig
from fastrl.decoupled.channels import ReplayChannel
from fastrl.models.critics import SquashedGaussianActor
from fastrl.runs.fitting import check_fits
from fastrl.runs.timer import StageTimer

_DUE_BY = ("replay_ratio", "learning_starts")  # settings that say which gradient steps are due


class OffPolicyAgent(BaseAgent):
    """Base of SAC, whose networks and gradient steps finish it."""

    config_class: ClassVar[type[SACConfig]]
    config: SACConfig
    policy: SquashedGaussianActor
    channel = ReplayChannel
    """What players and trainers in processes of their own send each other."""
    rank_state = ("noise_generator", "noise_device", "replay")

    def __init__(self, env: Any, config: SACConfig | None = None, **settings: Any) -> None:
        """Makes environments and networks; arguments as of `BaseAgent`."""
        self.coefficients = Coefficients({}, {})  # those of an algorithm come with its networks
        super().__init__(env, config, **settings)
        # What gradient steps draw depends on their number alone, so its state need not be saved.
        self._row_generator = torch.Generator()  # of the host
        self._step_generator = torch.Generator(self.device)
        self.num_env_steps = 0
        self.num_gradient_steps = 0
        self._steps_before_run = 0  # environment steps that the agent knew when its run began
        # Environment and gradient steps when ratio and warm-up changed last, from where on what is
        # due is counted.
        self._changed_at = [0, 0]
        self._replay_ratio = Fraction(self.config.replay_ratio).limit_denominator(1_000_000)
        self.replay: ReplayBuffer | None = None
        self.saved_replay: dict[str, Any] | None = None
        """What `load_state_dict` found for a replay buffer that is not there yet."""

    def make_steps(self) -> None:
        """Makes the gradient steps that `build` has the engine build."""

    def build(self, minibatch: Transitions) -> None:
        """Has the engine build the gradient steps for minibatches like this one."""
        raise NotImplementedError

    def anneal(self, update_index: int) -> None:
        """Sets the learning rates to where their schedule is."""
        raise NotImplementedError

    def _learn(self, num_steps: int) -> None:
        """Takes gradient steps and counts them."""
        raise NotImplementedError

    def unlogged_metrics(self) -> dict[str, float]:
        """Returns means since the last row of metrics, and leaves their sums for the next row."""
        raise NotImplementedError

    def _clear_metrics(self) -> None:
        """Begins to add metrics up anew."""
        raise NotImplementedError

    def _is_finite(self) -> bool:
        """Returns whether all metrics since the last call are finite, so that the weights are."""
        raise NotImplementedError

    # Acting

    def action_layout(self) -> tuple[tuple[int, ...], torch.dtype, int]:
        """Returns shape and dtype of a stored action, and how many noise values it takes."""
        num_actions = self.policy.num_actions
        return (num_actions,), torch.float32, num_actions

    def work_of_a_step(self) -> tuple[int, int]:
        """Returns the rows of a gradient step's products, and the width of the widest layer."""
        config = self.config
        # The critics' products are one batch.
        return config.per_rank_batch_size * config.num_critics, max(config.hidden_sizes)

    def make_acting(self) -> StepsBuffer:
        """Allocates the buffer of the latest steps, and has the engine build acting."""
        self.engine.prepare(self.trained, *self.work_of_a_step())
        sizes = self.config.num_steps, self.config.num_envs
        layout = self.observation_space, *self.action_layout()
        steps = StepsBuffer(*sizes, *layout, math.prod(sizes), self.device)
        rows = steps.obs[:-1], steps.noise, steps.actions
        self._rows = [
            list(zip(*(x[:, columns].unbind(0) for x in rows), strict=True))
            for columns in self.columns_of_pools()
        ]
        self._act = [
            self.engine.act(lambda *row: self.draw_actions(*row), pool) for pool in self._rows
        ]
        return steps

    def make_learning(self, buffer: StepsBuffer) -> None:
        """Allocates the replay buffer, and has the engine build the gradient steps."""
        config, num_envs = self.config, self.config.num_envs
        self._steps_before_run = self.num_env_steps
        num_expected = self._rows_to_come()
        if self.replay is not None:
            self.replay.reserve(self.replay.num_transitions + num_expected)
        else:
            if self.saved_replay is not None:
                num_expected += self.saved_replay["valid"].numel()
            shape, dtype, _ = self.action_layout()
            self.replay = ReplayBuffer(
                config.buffer_size,
                num_envs,
                self.observation_space,
                math.prod(shape),
                config.per_rank_batch_size,
                config.gamma,
                config.num_return_steps,
                self.device,
                num_expected + MOST_RESTARTS * num_envs,
                None if dtype.is_floating_point else shape,
            )
        if self.saved_replay is not None:
            self.replay.load_state_dict(self.saved_replay)
            self.saved_replay = None
        self.anneal(0)  # a mistake in the schedule is told before the run begins
        self.make_steps()
        self._clear_metrics()  # those of an earlier run; a resumed one loads its own afterwards
        self.build(self.replay.minibatch)

    def _rows_to_come(self) -> int:
        """Returns how many rows of the replay buffer the rest of the run fills in this process."""
        config = self.config
        updates = (self.num_env_steps - self._steps_before_run) // config.steps_per_update
        return (self.num_updates - updates) * config.num_steps * config.num_envs

    @property
    def is_warming_up(self) -> bool:
        """Whether actions are still random."""
        return self.num_env_steps < self.config.learning_starts

    def begin_rollout(self, buffer: StepsBuffer) -> None:
        """Draws the noise of the next steps; during warm-up these are the actions themselves."""
        self.engine.check()
        if self.is_warming_up:
            buffer.noise.uniform_(-1, 1, generator=self.noise_generator)
        else:
            self.draw_noise(buffer.noise, self.noise_generator)

    def act(self, t: int, pool: int) -> np.ndarray:
        """Draws actions for step t of a pool's environments, into the step buffer.

        Returns:
            The actions as the environments take them.
        """
        if not self.is_warming_up:
            return self._act[pool](t)
        obs, noise, stored = self._rows[pool][t]
        return self.policy.to_env(stored.copy_(self.random_actions(obs, noise))).cpu().numpy()

    def random_actions(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Returns the actions `[n, *A]` of the warm-up, for `obs` `[n, *O]`, of noise `[n, K]`."""
        return noise

    def draw_noise(self, noise: Tensor, generator: torch.Generator) -> None:
        """Fills noise `[n, K]` to draw the policy's actions with."""
        noise.normal_(generator=generator)

    @torch.no_grad()
    def draw_actions(self, obs: Tensor, noise: Tensor, actions: Tensor) -> Tensor:
        """Fills `actions` `[n, *A]` for `obs` `[n, *O]` and `noise` `[n, K]`.

        Returns what the environments take.
        """
        actions.copy_(self.policy.act(obs, noise))
        return self.policy.to_env(actions)

    def _sample(self, rows: Tensor) -> Tensor:
        noise = torch.empty(len(rows), self.action_layout()[2], device=self.device)
        self.draw_noise(noise, self._predict_generator)
        return self.policy.to_env(self.policy.act(rows, noise))

    # Learning

    def update(self, buffer: StepsBuffer, update_index: int, timer: StageTimer) -> dict[str, float]:
        """Stores the latest steps and takes the gradient steps that are due.

        Args:
            buffer: a full step buffer.
            update_index: this update's number in the run, from 0.
            timer: accumulates the time of the stages "store" and "update".

        Returns:
            Means over the gradient steps since the last row of metrics, every `log_every` steps;
            nothing in between.
        """
        assert self.replay is not None
        with timer.stage("store"):
            self.replay.append(buffer)
        before = self.num_env_steps
        self.num_env_steps += self.config.steps_per_update
        is_finite = True
        if (num_due := self.num_due) > 0:
            if self.config.lr_schedule != "constant":
                self.anneal(update_index)
            with self.engine.learning(), timer.stage("update"):
                self._learn(num_due)
            is_finite = self._is_finite()
        log_every = self.config.log_every or 1
        is_due = before // log_every != self.num_env_steps // log_every
        # Those of a training that diverged come at once, before the policy acts again.
        if not is_due and is_finite:
            return {}
        metrics = self.unlogged_metrics()
        self._clear_metrics()
        return metrics

    @property
    def num_due(self) -> int:
        """Gradient steps that the replay ratio allows by now and that are not taken yet.

        Counted from `learning_starts` on, in whole numbers: a stopped run goes on with what was
        left over. A ratio or warm-up that changed goes for the steps since then.
        """
        env_steps, gradient_steps = self._changed_at
        learned_steps = max(0, self.num_env_steps - max(self.config.learning_starts, env_steps))
        return int(learned_steps * self._replay_ratio) + gradient_steps - self.num_gradient_steps

    def _draw_rows(self, num_steps: int) -> Tensor:
        """Draws row numbers `[G, B]` for G gradient steps, and seeds the rest of what they draw."""
        assert self.replay is not None
        seed = self.devices.stream_seed(self.config.seed, 0, self.num_gradient_steps)
        self._step_generator.manual_seed(seed)
        self._row_generator.manual_seed(seed ^ 1)
        return self.replay.draw(num_steps, self.config.per_rank_batch_size, self._row_generator)

    # Saving

    def save(self, path: str | Path) -> None:
        """Writes the agent to one file, as `BaseAgent.save`, but for the replay buffer."""
        replay, self.replay = self.replay, None
        try:
            super().save(path)
        finally:
            self.replay = replay

    def state_dict(self) -> dict[str, Any]:
        """Returns counters, random states and, during a run, the replay buffer."""
        return {
            "config": self.config.to_dict(),
            **describe_networks(self.networks()),
            "spaces": describe_spaces(self),
            "num_env_steps": self.num_env_steps,
            "num_gradient_steps": self.num_gradient_steps,
            "steps_before_run": self._steps_before_run,
            "changed_at": list(self._changed_at),
            "noise_generator": self.noise_generator.get_state(),
            "noise_device": self.device.type,
            "coefficients": self.coefficients.state_dict(),
            "replay": None if self.replay is None else self.replay.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a state back; raises ValueError, before it takes any, if it is another agent's."""
        if isinstance(state, dict):  # older files lack these
            lacking = {"steps_before_run": 0, "changed_at": [0, 0]}
            state = {**lacking, "coefficients": self.coefficients.state_dict(), **state}
        check_spaces(self, state)
        self.match(state)
        check_state(self, state, "replay")
        if (replay := state.get("replay")) is not None:
            self._check_replay(replay)
        self._load_networks(state)
        self.coefficients.load_state_dict(state["coefficients"])
        self.num_env_steps = state["num_env_steps"]
        self.num_gradient_steps = state["num_gradient_steps"]
        self._steps_before_run = state["steps_before_run"]
        self._changed_at = list(state["changed_at"])
        saved = config if isinstance(config := state.get("config"), dict) else {}
        if any(x in saved and saved[x] != getattr(self.config, x) for x in _DUE_BY):
            self._changed_at = [self.num_env_steps, self.num_gradient_steps]
        load_noise(self, state)
        if replay is None:  # a file of `save`: rows to learn from are collected anew
            self.forget_replay()
        elif self.replay is None:
            self.saved_replay = replay
        else:
            self.replay.load_state_dict(replay, self._rows_to_come())

    def forget_replay(self) -> None:
        """Begins with an empty replay buffer, in place of that of a loaded checkpoint.

        Its rows would be of another task, or of another number of environments.
        """
        self.saved_replay = None
        self.num_env_steps = self.num_gradient_steps = 0
        self._steps_before_run, self._changed_at = 0, [0, 0]

    def _check_replay(self, state: Any) -> None:
        """Raises ValueError unless this is a ring of rows of the spaces that are played here."""
        valid = state.get("valid") if isinstance(state, dict) else None
        is_ring = isinstance(valid, Tensor) and valid.ndim == 2 and valid.numel() > 0
        size = tuple(valid.shape) if isinstance(valid, Tensor) and is_ring else (1, 1)
        space = self.observation_space
        obs = torch.from_numpy(np.zeros((), space.dtype)).expand(*size, *space.shape)
        number, flag = torch.zeros(()).expand(size), torch.zeros((), dtype=torch.bool).expand(size)
        action = self._stored_action()
        actions = action.expand(*size, *action.shape)
        flags = {"terminated": flag, "done": flag, "valid": flag}
        rows = {"obs": obs, "actions": actions, "rewards": number, **flags}
        check_fits(state, rows, "replay")

    def _stored_action(self) -> Tensor:
        """Returns an action as the replay buffer stores it."""
        shape, dtype, _ = self.action_layout()
        return torch.zeros(shape, dtype=dtype)

    def _load_networks(self, state: dict[str, Any]) -> None:
        """Takes back what `_make_networks` made."""
        raise NotImplementedError
