"""Single gymnasium envs in processes of their own, behind the `VectorEnv` interface."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
import gymnasium
import numpy as np

from fastrl.envs.foreign import call
from fastrl.envs.frames import no_frames
from fastrl.envs.vector import EnvError, TimeStep, playable
from fastrl.envs.worker import CALL, RESET, STEP, Facts, Failure, Rows
from fastrl.processes.errors import one_line
from fastrl.processes.machine import available_cores
from fastrl.processes.workers import WorkerError, Workers
from fastrl.spaces.pixels import ObsKind
from fastrl.spaces.values import on_one_line

_log = logging.getLogger("fastrl")


class RemoteError(Exception):
    """What was raised in another process, with the traceback that it had there."""


def default_num_workers(num_envs: int) -> int:
    """Returns the default number of processes: one per core, at most one per environment."""
    return max(1, min(num_envs, available_cores()))


class AsyncEnv:
    """Single `gymnasium.Env`s in a few processes, each of which steps its share in turn.

    In each process they are in a `GymEnv`, so that episodes, checks, errors and states are its own,
    whatever the number of processes. What crosses over are rows of numbers, in shared memory.
    Environments that draw from the global generators of Python, NumPy or torch share those of their
    process, which are seeded.
    """

    backend = "gymnasium"

    def __init__(
        self,
        env_id: str,
        env_fns: Sequence[Callable[[], gymnasium.Env]],
        seeds: Sequence[int],
        obs_keys: Sequence[str] = (),
        info_mask: bool = False,
        obs_kind: ObsKind = "auto",
        *,
        scale_images: bool = True,
        num_workers: int = 0,
    ) -> None:
        """Starts processes and makes one env per function; arguments and errors as of `GymEnv`.

        Args:
            env_id: for messages.
            env_fns: functions that make an env each; cloudpickle must be able to send them.
            seeds: one seed per env, for its first reset.
            obs_keys: keys of a Dict observation to use; all if empty.
            info_mask: whether to use the action mask in the info.
            obs_kind: what arrays of bytes are (see `observation_rows`).
            scale_images: whether pixels are divided (see there).
            num_workers: number of processes; 0: `default_num_workers(num_envs)`.
        """
        self.env_id, self.num_envs = env_id, len(env_fns)
        count = min(num_workers or default_num_workers(self.num_envs), self.num_envs)
        ends = [self.num_envs * (i + 1) // count for i in range(count)]
        self._parts = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
        reading = {
            "obs_keys": tuple(obs_keys),
            "info_mask": info_mask,
            "obs_kind": obs_kind,
            "scale_images": scale_images,
        }
        requests = [
            (env_id, self._sendable(env_fns[part]), part.start, list(seeds[part]), reading)
            for part in self._parts
        ]
        names = [f"{env_id}: {_name(part)}" for part in self._parts]
        self._workers = Workers("fastrl.envs.worker", names, _say)
        self._is_sent = False
        try:
            found: list[Facts] = self._call("open", requests)
            facts = found[0]
            for part, other in zip(self._parts, found, strict=True):
                if other[:3] != facts[:3]:
                    first, second = (
                        on_one_line(f"{x.observation_space} and {x.action_space}")
                        for x in (facts, other)
                    )
                    raise EnvError(
                        f"{env_id}: the envs have different spaces: {first} of env 0, {second} of "
                        f"env {part.start}"
                    )
            os.ftruncate(self._workers.memory, Rows.num_bytes(count, self.num_envs, facts))
            self._call("attach", [(count, self.num_envs, facts)] * count)
            self._rows = Rows(self._workers.memory, count, self.num_envs, facts)
        except BaseException:
            self._workers.close()
            raise
        self.single_observation_space: Any = facts.observation_space
        self.single_action_space = facts.action_space
        self.render_mode, self.metadata = facts.render_mode, {"render_fps": facts.render_fps}
        self.keeps_statistics = any(other.keeps_statistics for other in found)
        if all(other.has_state for other in found):
            self.state_dict, self.load_state_dict = self._state_dict, self._load_state_dict

    def reset(self) -> np.ndarray:
        """Starts new episodes in all envs; returns observations [N, *O]."""
        self._is_sent = False
        self._request("reset", RESET)
        self._answers("reset")
        return self._rows.obs.copy()

    def send(self, actions: np.ndarray) -> None:
        """Starts a step in all processes."""
        assert len(actions) == self.num_envs, f"{len(actions)} actions for {self.num_envs} envs"
        actions = playable(self.env_id, self.single_action_space, actions)
        self._settle("step")
        self._rows.actions[...] = actions
        self._request("step", STEP)
        self._is_sent = True

    def recv(self) -> TimeStep:
        """Waits until all processes have finished the step."""
        assert self._is_sent, "recv without send"
        self._is_sent = False
        self._answers("step")
        rows = self._rows  # which the next step writes to
        return TimeStep(
            rows.obs.copy(), rows.rewards.copy(), rows.terminated.copy(), rows.truncated.copy()
        )

    def step(self, actions: np.ndarray) -> TimeStep:
        """`send`, then `recv`."""
        self.send(actions)
        return self.recv()

    def infos(self, envs: Sequence[int]) -> list[dict[str, Any]]:
        """Returns the info of the last step of each of these envs; cloudpickle sends them."""
        shares = [[i for i in envs if part.start <= i < part.stop] for part in self._parts]
        pairs = zip(shares, self._parts, strict=True)
        answers = self._call("infos", [([i - part.start for i in share],) for share, part in pairs])
        found = {
            i: info
            for share, infos in zip(shares, answers, strict=True)
            for i, info in zip(share, infos, strict=True)
        }
        return [found[i] for i in envs]

    def render(self) -> np.ndarray:
        """Renders env 0; returns uint8 [H, W, 3]."""
        if self.render_mode != "rgb_array":
            raise no_frames(self.env_id, self.render_mode)
        return self._call("render", [()])[0]

    def reseed(self, seeds: Sequence[int]) -> None:
        """Gives each env a seed for its next reset, in place of those of `__init__`."""
        self._call("reseed", [(list(seeds[part]),) for part in self._parts])

    def call(self, name: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Calls a method of each env (see `GymEnv`); cloudpickle sends arguments and answers."""
        answers = self._call("call", [(name, args, kwargs)] * len(self._parts))
        return [value for part in answers for value in part]

    def set_attr(self, name: str, values: Sequence[Any]) -> None:
        """Sets an attribute of each env (see `GymEnv`)."""
        self._call("set_attr", [(name, list(values[part])) for part in self._parts])

    def close(self) -> None:
        """Closes the envs and ends their processes."""
        self._workers.close()

    def _state_dict(self) -> dict[str, Any]:
        """Returns a state that any number of processes can load, or none (`GymEnv`)."""
        states = self._call("state_dict", [()] * len(self._parts))
        return {
            "envs": [env for state in states for env in state["envs"]],
            "needs_reset": [flag for state in states for flag in state["needs_reset"]],
            "generators": [state["generators"] for state in states],
        }

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["envs"]) != self.num_envs:
            raise ValueError(
                f"{self.env_id}: the state of {len(state['envs'])} envs doesn't fit {self.num_envs}"
            )
        states = [
            {"envs": state["envs"][part], "needs_reset": state["needs_reset"][part]}
            for part in self._parts
        ]
        generators = state.get("generators", ())
        if len(generators) == len(states):
            states = [{**x, "generators": y} for x, y in zip(states, generators, strict=True)]
        self._call("load_state_dict", [(part,) for part in states])

    def _sendable(self, functions: Sequence[Any]) -> bytes:
        try:
            return cloudpickle.dumps(list(functions))
        except Exception as error:
            raise ValueError(
                f"{self.env_id}: what makes the environments cannot be sent to a process: "
                f"{one_line(error)}; vector=sync steps them in this one"
            ) from error

    def _call(self, name: str, arguments: list[Any]) -> list[Any]:
        """Calls a method of the first workers, one for each of `arguments`; returns the answers."""
        for index, args in enumerate(arguments):
            self._ask(name, index, CALL, cloudpickle.dumps((name, args)))
        return self._answers(name, len(arguments))

    def _request(self, name: str, kind: int) -> None:
        for index in range(len(self._parts)):
            self._ask(name, index, kind)

    def _ask(self, name: str, index: int, kind: int, request: bytes = b"") -> None:
        try:
            self._workers.ask(index, kind, request)
        except WorkerError as error:
            raise EnvError(f"{error} during {name}") from error

    def _settle(self, name: str) -> None:
        try:
            self._workers.settle()
        except WorkerError as error:
            raise EnvError(f"{error} during {name}") from error

    def _answers(self, name: str, count: int | None = None) -> list[Any]:
        """Returns what the workers answered; raises what the first that failed did."""
        values, failures = [], []
        for index in range(len(self._parts) if count is None else count):
            try:
                status, data = self._workers.answer(index)
            except WorkerError as error:
                raise EnvError(f"{error} during {name}") from error
            what = f"{self.env_id}: reading what {name} returned"
            value = call(what, pickle.loads, data) if data else None
            (failures if status else values).append(value)
        for failure in failures:
            raise _raised(failure)
        return values


def _raised(failure: Failure) -> BaseException:
    """Returns an exception for what another process raised."""
    kinds = {"EnvError": EnvError, "ValueError": ValueError, "KeyboardInterrupt": KeyboardInterrupt}
    if kind := kinds.get(failure.kind):
        error = kind(failure.words)
    else:
        error = RuntimeError(f"{failure.kind}: {failure.words}")
    error.__cause__ = RemoteError(f"\n{failure.trace}")
    return error


def _name(part: slice) -> str:
    if part.stop - part.start == 1:
        return f"the process of environment {part.start}"
    return f"the process of environments {part.start} to {part.stop - 1}"


def _say(line: str) -> None:
    _log.warning("%s", line)
