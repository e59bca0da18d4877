"""What trainer, player and evaluation ask of an agent, whatever its algorithm."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from fastrl.buffers.rollout import RolloutBuffer
from fastrl.engine.engine import Engine
from fastrl.envs.vector import VectorEnv
from fastrl.processes.devices import Devices
from fastrl.runs.timer import StageTimer


class Agent(Protocol):
    """A policy and the way it learns. The trainer drives it by these verbs, whatever it is."""

    algo: str
    config: Any  # the algorithm's own kind of RunConfig
    start_folder: Path  # where relative paths begin, even if an environment changes folders
    envs: list[VectorEnv]
    devices: Devices
    engine: Engine

    @property
    def rank_state(self) -> tuple[str, ...]:
        """Names in `state_dict` of what each rank has for itself."""
        ...

    @property
    def num_updates(self) -> int:
        """Updates of the whole run."""
        ...

    def make_buffer(self) -> RolloutBuffer:
        """Allocates the storage that `act` and `update` work on, and builds both for its shapes."""
        ...

    def begin_rollout(self, buffer: RolloutBuffer) -> None:
        """Prepares what acting needs, such as noise, for a whole rollout."""
        ...

    def act(self, t: int, pool: int) -> np.ndarray:
        """Draws a pool's actions for step t into the buffer; returns what the environments take."""
        ...

    def update(
        self, buffer: RolloutBuffer, update_index: int, timer: StageTimer
    ) -> dict[str, float]:
        """Learns from a full buffer; returns metrics by their names in the README's glossary.

        No metrics at all mean that there is nothing to write down yet: rows are then fewer than
        updates.
        """
        ...

    def finish_pending(self) -> dict[str, float]:
        """Blocks until all submitted rollouts are learned from; returns metrics that came late."""
        ...

    def predict(self, obs: Any, deterministic: bool = True) -> np.ndarray:
        """Returns the actions that the environments take, for one observation or a batch."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Returns all that the learner needs to go on exactly, as tensors, numbers and strings."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a state back."""
        ...


@runtime_checkable
class HasMemory(Protocol):
    """An agent that acts by all it saw in an episode. `predict` then takes a state along."""

    def new_state(self, num_envs: int) -> Tensor:
        """Returns zeros `[n, S]`: the state of n environments in which episodes begin."""
        ...

    def predict(
        self, obs: np.ndarray, deterministic: bool = True, state: Tensor | None = None
    ) -> np.ndarray:
        """As `Agent.predict`; brings `state` up to date in place."""
        ...
