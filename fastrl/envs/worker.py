"""The process of some environments that `async_env.AsyncEnv` steps beside others."""

from __future__ import annotations

import io
import logging
import mmap
import pickle
import random
import signal
import sys
import traceback
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import cloudpickle
import numpy as np

from fastrl.envs.foreign import call
from fastrl.envs.gym_env import GymEnv
from fastrl.envs.sharing import keep_statistics
from fastrl.envs.vector import EnvError, HasState
from fastrl.processes.errors import is_expected, one_line
from fastrl.processes.workers import HEADER_BYTES, serve, tell

STEP, RESET, CALL = range(3)
"""Kinds of a request: STEP and RESET fill `Rows`; a CALL is a pickled name with arguments."""

_LEFT_OUT = object()


class Facts(NamedTuple):
    """What the environments of a worker are."""

    observation_space: Any
    """Of the rows, as `VectorEnv.single_observation_space`."""
    action_space: Any
    action_dtype: Any
    has_state: bool
    render_mode: Any
    render_fps: float | None
    keeps_statistics: bool
    """Whether an environment normalises what it shows by statistics of its own."""


class Failure(NamedTuple):
    """What a request led to in place of an answer."""

    kind: str
    """EnvError, ValueError, KeyboardInterrupt; or the name of what is a fault of fastrl's own."""
    words: str
    trace: str


class Rows:
    """The arrays of all environments in shared memory, which workers fill with their parts."""

    def __init__(self, memory: int, num_workers: int, num_envs: int, facts: Facts) -> None:
        """Maps the memory, which must be long enough (see `num_bytes`)."""
        block = mmap.mmap(memory, 0)
        start, arrays = num_workers * HEADER_BYTES, []
        for shape, dtype in _shapes(num_envs, facts):
            array = np.ndarray(shape, dtype, block, start)
            start += _padded(array.nbytes)
            arrays.append(array)
        self.obs, self.actions, self.rewards, self.terminated, self.truncated = arrays

    @staticmethod
    def num_bytes(num_workers: int, num_envs: int, facts: Facts) -> int:
        """Returns how many bytes of memory these are, with what comes before them."""
        arrays = (np.dtype(x).itemsize * int(np.prod(s)) for s, x in _shapes(num_envs, facts))
        return num_workers * HEADER_BYTES + sum(map(_padded, arrays))


def _shapes(num_envs: int, facts: Facts) -> list[tuple[tuple[int, ...], Any]]:
    obs, action = facts.observation_space, facts.action_space
    return [
        ((num_envs, *obs.shape), obs.dtype),
        ((num_envs, *action.shape), facts.action_dtype),
        ((num_envs,), np.float32),
        ((num_envs,), np.bool_),
        ((num_envs,), np.bool_),
    ]


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // 64) * 64


class _Worker:
    """Some environments, and the part of the rows that is theirs."""

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._env_id = ""
        self._env: Any = None

    def handle(self, kind: int, content: bytes) -> tuple[int, bytes]:
        """Does what is requested; see `serve`."""
        try:
            if kind == STEP:
                self._step()
            elif kind == RESET:
                self._rows.obs[self._own] = self._env.reset()
            else:
                name, args = pickle.loads(content)
                answer = getattr(self, name)(*args)
                if answer is not None:
                    where = f"{self._env_id}: sending what {name} returned"
                    return 0, call(where, cloudpickle.dumps, answer)
        except BaseException as error:
            return 1, pickle.dumps(_failure(error))
        return 0, b""

    def _step(self) -> None:
        rows, own = self._rows, self._own
        self._env.send(rows.actions[own])
        step = self._env.recv()
        rows.obs[own], rows.rewards[own] = step.obs, step.rewards
        rows.terminated[own], rows.truncated[own] = step.terminated, step.truncated

    def open(self, env_id: str, functions: bytes, first: int, seeds: Any, reading: Any) -> Facts:
        """Makes environments; returns what they are."""
        self._env_id = env_id
        makers = call(f"{env_id}: importing what makes environments", pickle.loads, functions)
        random.seed(seeds[0])
        np.random.seed(seeds[0])
        if torch := sys.modules.get("torch"):
            torch.manual_seed(seeds[0])
        self._env = env = GymEnv(env_id, makers, seeds, **reading, first_env=first)
        self._own = slice(first, first + len(makers))
        fps = env.metadata.get("render_fps") if isinstance(env.metadata, dict) else None
        return Facts(
            env.single_observation_space,
            env.single_action_space,
            env.action_dtype,
            isinstance(env, HasState),
            env.render_mode,
            float(fps) if isinstance(fps, int | float) else None,
            keep_statistics([env]),
        )

    def attach(self, num_workers: int, num_envs: int, facts: Facts) -> None:
        """Maps the rows of all environments."""
        self._rows = Rows(self._memory, num_workers, num_envs, facts)

    def reseed(self, seeds: list[int]) -> None:
        """Seeds the next reset."""
        self._env.reseed(seeds)

    def render(self) -> np.ndarray:
        """Returns a frame of the first environment."""
        return self._env.render()

    def call(self, name: str, args: Any, kwargs: Any) -> list[Any]:
        """Calls a method of each environment."""
        return self._env.call(name, *args, **kwargs)

    def set_attr(self, name: str, values: list[Any]) -> None:
        """Sets an attribute of each environment."""
        self._env.set_attr(name, values)

    def infos(self, envs: list[int]) -> list[dict[str, Any]]:
        """Returns the infos of some environments, as far as they are numbers, words or arrays."""
        infos = self._env.infos(envs)
        return call(f"{self._env_id}: reading the info", lambda: [*map(_plain, infos)])

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the environments, and of generators that they may draw from."""
        return {**self._env.state_dict(), "generators": _state_of_generators()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores such a state; generators last, because environments may draw in between."""
        self._env.load_state_dict(state)
        if generators := state.get("generators"):
            call(f"{self._env_id}: its generators", _restore_generators, generators)

    def close(self) -> None:
        """Closes the environments."""
        if self._env is not None:
            self._env.close()


def _plain(info: Mapping[Any, Any]) -> dict[Any, Any]:
    """Returns what any process can read of an info."""
    parts = {name: _portable(value) for name, value in info.items()}
    return {name: part for name, part in parts.items() if part is not _LEFT_OUT}


def _portable(value: Any) -> Any:
    """Returns a value as any process can read it; `_LEFT_OUT` if that cannot be known."""
    if isinstance(value, Mapping):
        return _plain(value)
    if isinstance(value, list | tuple):
        parts = [_portable(part) for part in value]
        return _LEFT_OUT if any(part is _LEFT_OUT for part in parts) else parts
    if type(value).__module__ == "torch":
        return value.detach().cpu().numpy() if hasattr(value, "detach") else _LEFT_OUT
    kinds = bool, int, float, str, Fraction, Decimal, np.generic, np.ndarray
    return value if isinstance(value, kinds) else _LEFT_OUT


def _state_of_generators() -> dict[str, Any]:
    """Returns the states of the global generators, of torch's only if something imported it."""
    version, words, gauss = random.getstate()
    state: Any = np.random.get_state()
    states: dict[str, Any] = {"python": [version, np.array(words), gauss], "numpy": list(state)}
    if torch := sys.modules.get("torch"):
        states["torch"] = torch.get_rng_state().numpy()
    return states


def _restore_generators(states: dict[str, Any]) -> None:
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    name, words, *others = states["numpy"]
    np.random.set_state((name, words.astype(np.uint32), *others))
    if (torch := sys.modules.get("torch")) and "torch" in states:
        torch.set_rng_state(torch.from_numpy(states["torch"]))


def _failure(error: BaseException) -> Failure:
    trace = "".join(traceback.format_exception(error))
    for kind in (EnvError, KeyboardInterrupt):
        if isinstance(error, kind):
            return Failure(kind.__name__, one_line(error), trace)
    kind = "ValueError" if is_expected(error) else type(error).__name__
    return Failure(kind, one_line(error), trace)


class _ToMain(logging.Handler):
    """Sends what is logged to the main process."""

    def __init__(self, bell: int) -> None:
        super().__init__()
        self._bell = bell

    def emit(self, record: logging.LogRecord) -> None:
        """Sends a line."""
        tell(self._bell, record.getMessage())


def main(index: int, parent: int, bell: int, memory: int, request: int, answer: int) -> None:
    """Runs a worker; see `serve` for the arguments."""
    # Whoever ends the run tells the main process, which needs this one until all is saved. Not
    # SIG_IGN, which the programs that environments start would inherit.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: None)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what environments print is not kept back
    log = logging.getLogger("fastrl")
    log.addHandler(_ToMain(bell))
    log.propagate = False
    worker = _Worker(memory)
    serve(index, parent, bell, memory, request, answer, worker.handle)
    worker.close()
