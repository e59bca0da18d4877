"""The interface between agents and trainer, player and evaluation, for all algorithms."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from fastrl.buffers.rollout import RolloutBuffer
from fastrl.engine.engine import Engine
from fastrl.envs.rebuild import Task
from fastrl.envs.vector import VectorEnv
from fastrl.processes.devices import Devices
from fastrl.runs.timer import StageTimer

# Settings that a trainer's own config overrides; the others were fixed when the agent was built.
TRAINER_SETTINGS = (
    "total_timesteps",
    "eval_every",
    "eval_episodes",
    "info_metrics",
    "target_return",
    "checkpoint_every",
    "keep_checkpoints",
    "capture_video",
    "log_dir",
    "exp_name",
    "callback",
    "logger",
)


class Agent(Protocol):
    """A policy and the way it learns, as the trainer uses it."""

    algo: str
    config: Any  # the algorithm's subclass of RunConfig
    start_folder: Path  # base of relative paths, even if an environment changes the current folder
    envs: list[VectorEnv]
    task: Task  # what these environments are of
    devices: Devices
    engine: Engine

    @property
    def rank_state(self) -> tuple[str, ...]:
        """Names in `state_dict` of what each rank has for itself."""
        ...

    @property
    def num_updates(self) -> int:
        """Number of updates in the whole run."""
        ...

    def make_buffer(self) -> RolloutBuffer:
        """Allocates the storage for `act` and `update`, and builds both for its shapes."""
        ...

    def begin_rollout(self, buffer: RolloutBuffer) -> None:
        """Prepares acting for a whole rollout, for example by drawing noise."""
        ...

    def act(self, t: int, pool: int) -> np.ndarray:
        """Samples a pool's actions at step t into the buffer; returns the environments' actions."""
        ...

    def update(
        self, buffer: RolloutBuffer, update_index: int, timer: StageTimer
    ) -> dict[str, float]:
        """Learns from a full buffer; returns metrics by their names in docs/metrics.md.

        An empty dict means that no row of metrics is due after this update.
        """
        ...

    def finish_pending(self) -> dict[str, float]:
        """Blocks until all submitted rollouts are learned from.

        Returns:
            Metrics that no `update` has returned yet; the next one, if there is one, returns them
            too.
        """
        ...

    def unlogged_metrics(self) -> dict[str, float]:
        """Returns the metrics since the last row, and goes on adding them up.

        Empty for an agent that returns a row of metrics after every update.
        """
        ...

    def not_finite(self) -> str:
        """Returns where the first number is in networks or optimisers that is not finite; or ""."""
        ...

    def predict(self, obs: Any, deterministic: bool = True) -> np.ndarray:
        """Returns actions for the environments, for one observation or a batch."""
        ...

    def labels(self) -> dict[str, Any]:
        """Returns what config.yaml says of the agent: `runs.folder.LABELS`."""
        ...

    def networks(self) -> dict[str, nn.Module]:
        """Returns the networks that learn, by name."""
        ...

    def match(self, state: dict[str, Any]) -> None:
        """Freezes what was frozen when a state was saved; ValueError if its layers differ."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Returns the learner's complete state, as tensors, numbers and strings."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state from `state_dict`."""
        ...


@runtime_checkable
class HasMemory(Protocol):
    """An agent with a recurrent policy, whose `predict` takes a recurrent state."""

    def new_state(self, num_envs: int) -> Tensor:
        """Returns zeros `[n, S]`: the initial state of n environments."""
        ...

    def predict(
        self, obs: np.ndarray, deterministic: bool = True, state: Tensor | None = None
    ) -> np.ndarray:
        """Returns actions as `Agent.predict` does; updates `state` in place."""
        ...
