"""What a callback sees of the run that calls it, and what it can do to that run."""

from __future__ import annotations

import math
import numbers
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from fastrl.buffers.rollout import MEAN_EPISODES
from fastrl.callbacks.names import check_metric_name
from fastrl.envs.attributes import call_envs, set_envs_attribute
from fastrl.envs.pools import can_be_reopened
from fastrl.envs.vector import VectorEnv
from fastrl.runs.checkpoint import save_checkpoint
from fastrl.runs.folder import expanded


class Trainer:
    """A run, as its callbacks see it; made by `fit` for as long as that lasts.

    Numbers of the run are the same on all ranks, unless said otherwise: what follows from them
    alone is decided alike everywhere.
    """

    def __init__(
        self, agent: Any, rollout: Any, counters: Any, folder: Path | None, is_resumed: bool
    ) -> None:
        """Shows a run.

        Args:
            agent: the agent that learns.
            rollout: the buffer that is played into.
            counters: how far the run is.
            folder: of the run; None except on rank 0.
            is_resumed: whether it goes on with an earlier one.
        """
        self._learner = agent  # of a decoupled run it stands for the trainers, and has the player
        self.agent = getattr(agent, "agent", agent)
        """The agent that learns; of a decoupled run the player, which acts with its weights."""
        self.rollout = rollout
        """The buffer `[T, N]` of this rank's rollout; complete in `on_rollout_end`."""
        self.folder, self.is_resumed = folder, is_resumed
        self.metrics: dict[str, float] = {}
        """The latest row of metrics, without what callbacks log; in `on_fit_end` the last one."""
        self._stops: dict[str, str] = {}  # reasons, by who asked
        self.is_interrupted = False
        """Whether a signal ended the run; known in `on_fit_end`."""
        self.caller = ""
        """Class of the callback whose hook is called."""
        self._counters, self._began_at = counters, perf_counter()
        self._logged: dict[str, float] = {}
        self._env_kwargs: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"Trainer({self.agent!r}, env_steps={self.env_steps})"

    # How far the run is

    @property
    def config(self) -> Any:
        """The settings of the run."""
        return self.agent.config

    @property
    def envs(self) -> list[VectorEnv]:
        """This rank's environments: one pool of them, or two halves."""
        return self._learner.envs

    @property
    def env_steps(self) -> int:
        """Environment steps so far, over all ranks."""
        return self._counters.env_steps

    @property
    def updates(self) -> int:
        """Updates so far."""
        return self._counters.updates

    @property
    def episodes(self) -> int:
        """Training episodes that ended so far, over all ranks."""
        return self._counters.episodes

    @property
    def mean_return(self) -> float:
        """Mean return of the last 100 training episodes of all ranks; NaN if none has ended."""
        return self._counters.mean_return

    @property
    def progress(self) -> float:
        """Share of the run's updates that are done, from 0 to 1."""
        return self._counters.updates / max(1, self.agent.num_updates)

    @property
    def seconds(self) -> float:
        """Seconds since this process began to train; of its own clock on each rank."""
        return perf_counter() - self._began_at

    @property
    def rank(self) -> int:
        """Number of this rank, from 0; of a decoupled run that of the player."""
        return self._learner.devices.global_rank

    @property
    def num_ranks(self) -> int:
        """How many ranks play."""
        return self._learner.devices.world_size

    @property
    def is_global_zero(self) -> bool:
        """Whether this is rank 0, which writes all files."""
        return self._learner.devices.is_global_zero

    # What a callback can do

    def log(self, name: str, value: Any) -> None:
        """Puts a number into the next row of metrics, the one that `on_update_end` is shown.

        Of several values until then the last one counts. What rank 0 logs is written.

        Args:
            name: of letters, digits and `_ . / : -`, and not one of docs/metrics.md.
            value: a number; of a tensor on a GPU, reading it waits for the GPU.

        Raises:
            ValueError: the name is taken or has other characters, or this is not one number.
        """
        if name not in self._logged:
            check_metric_name(name)
        if not isinstance(value, numbers.Real):
            if getattr(value, "size", None) != 1 and getattr(value, "numel", int)() != 1:
                raise ValueError(f"{name} must be one number, not {value!r}")
            value = value.item()
        self._logged[name] = float(value)

    @property
    def should_stop(self) -> bool:
        """Whether a callback of this rank asked to stop; set it to True to ask.

        False takes back what callbacks of the same class asked for, and nothing else.
        """
        return bool(self._stops)

    @should_stop.setter
    def should_stop(self, value: bool) -> None:
        if value:
            self.stop()
        else:
            self._stops.pop(self.caller, None)

    def stop(self, reason: str = "") -> None:
        """Ends the run after this update, as if its last step was reached: tested and saved.

        If one rank asks, all stop after the same update.

        Args:
            reason: stands in the last lines and in summary.json.
        """
        self._stops.setdefault(self.caller, reason or self.caller or "a callback")

    @property
    def stop_reason(self) -> str:
        """Why a callback of this rank stops the run; "" if none does."""
        return next(iter(self._stops.values()), "")

    def call(self, name: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Calls a method of each gymnasium environment of this rank; returns what they return.

        Raises:
            ValueError: the environments run in EnvPool, or have no such method.
        """
        return call_envs(self.envs, name, *args, **kwargs)

    def set_attr(self, name: str, value: Any) -> None:
        """Sets an attribute of each gymnasium environment of this rank.

        Raises:
            ValueError: the environments run in EnvPool, or have no such attribute.
        """
        set_envs_attribute(self.envs, name, value)

    def reopen(self, **env_kwargs: Any) -> None:
        """Makes this rank's environments anew, with these arguments over those of the settings.

        It happens before the next rollout. Episodes under way are cut off and count nowhere. Greedy
        tests and videos go on with the arguments of the settings, and so does a resumed run until a
        callback reopens its environments.

        Raises:
            ValueError: the environments were handed over, not made from an id.
        """
        if not can_be_reopened(self.envs):
            raise ValueError(
                f"{self.envs[0].env_id}: environments that were handed over cannot be made anew; "
                "trainer.call and trainer.set_attr change them"
            )
        self._env_kwargs = env_kwargs

    def save(self, path: str | Path) -> None:
        """Writes the agent to a file that its `load` reads; does nothing except on rank 0.

        The file's folder is made.

        Args:
            path: the file; a relative path is in the run folder.

        Raises:
            ValueError: the training diverged, or this is not a regular file.
            OSError: the file cannot be written.
        """
        if self.folder is None:
            return
        self._learner.finish_pending()
        if place := self._learner.not_finite():
            raise ValueError(f"not saved: {place} is not finite, because the training diverged")
        learner = self._learner.state_dict()
        if "replay" in learner:
            learner["replay"] = None
        labels = self._learner.labels()
        path = self.folder / expanded(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, {"class": labels.pop("agent", ""), **labels, "agent": learner})

    def gather(self, value: float) -> np.ndarray:
        """Returns a number of each rank, float64 `[R]`; all ranks must call it in the same hook."""
        return self._learner.devices.gather(np.array([float(value)])).reshape(-1)

    # What the training loop takes

    def take_logged(self) -> dict[str, float]:
        """Returns what was logged since the last call."""
        logged, self._logged = self._logged, {}
        return logged

    def take_env_kwargs(self) -> dict[str, Any] | None:
        """Returns the arguments to make environments anew with, once; None if nobody asked."""
        env_kwargs, self._env_kwargs = self._env_kwargs, None
        return env_kwargs


def is_settled(trainer: Trainer, episodes_before: int) -> bool:
    """Returns whether the mean return is of 100 episodes, all after the first `episodes_before`."""
    is_full = trainer.episodes - episodes_before >= MEAN_EPISODES
    return is_full and math.isfinite(trainer.mean_return)
