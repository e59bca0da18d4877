"""Whether environments are stepped in this process or in others: `vector="auto"`, by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import cloudpickle
import numpy as np

from fastrl.envs.async_env import AsyncEnv, default_num_workers
from fastrl.envs.gym_env import GymEnv
from fastrl.envs.vector import EnvError
from fastrl.processes.errors import one_line
from fastrl.processes.generators import ONE_THREAD, restore_generators, state_of_generators
from fastrl.spaces.random_actions import RandomActions

# A round through processes takes some 0.3 ms more than the steps in it. Where the steps of all
# environments take a millisecond one after the other, two processes are surely faster.
_LEAST_SECONDS = 1e-3
_MEASURED_SECONDS = 0.01
_FEWEST_STEPS, _MOST_STEPS = 3, 100
_READING = "obs_keys", "obs_kind", "scale_images", "info_mask"


class Choice(NamedTuple):
    """How environments are stepped."""

    vector: Literal["sync", "async"]
    line: str
    """What the run says of it."""


def choose(
    env_id: str,
    functions: Sequence[Callable[[], Any]],
    seeds: Sequence[int],
    settings: Mapping[str, Any],
) -> Choice:
    """Decides between this process and others, where episodes are the same to the bit.

    An environment more is made, stepped for a hundredth of a second, or for four steps, and closed.
    The global generators are where they were then.

    Args:
        env_id: for messages.
        functions: one for each environment, which makes it.
        seeds: as many.
        settings: `num_workers`, and how observations are read, as `make_env` takes them.
    """
    number, num_workers = len(functions), settings["num_workers"]
    reading = {name: settings[name] for name in _READING}
    count = min(num_workers or default_num_workers(number), number)
    if count < 2:
        return _here("there is one environment" if number == 1 else "there is one process for all")
    with _generators_kept() as have_changed:
        try:
            seconds = seconds_per_step(env_id, functions[-1], seeds[-1], reading)
        except (EnvError, ValueError) as error:
            return _here(f"a step could not be measured: {one_line(error)}")
        if have_changed():
            return _here("they draw from global generators, of which each process has its own")
    words = f"a step takes {_spelled(seconds)}"
    if seconds * number < _LEAST_SECONDS:
        return _here(f"{words}, so processes would gain nothing")
    try:
        cloudpickle.dumps(list(functions))
    except Exception as error:
        return _here(f"{words}, but what makes them cannot be sent: {one_line(error)}")
    return Choice("async", f"environments: in {count} processes (vector=auto: {words})")


def make_chosen(
    env_id: str,
    functions: Sequence[Callable[[], Any]],
    seeds: Sequence[int],
    num_workers: int,
    reading: dict[str, Any],
) -> Any:
    """Makes environments as `choose` says, and notes its choice; arguments as of `AsyncEnv`."""
    choice = choose(env_id, functions, seeds, {**reading, "num_workers": num_workers})
    env: Any = None
    if choice.vector == "async":
        try:
            env = AsyncEnv(env_id, functions, seeds, **reading, num_workers=num_workers)
        except (EnvError, ValueError) as error:
            choice = _here(f"processes cannot begin: {one_line(error)}")
    if env is None:
        env = GymEnv(env_id, functions, seeds, **reading)
    env.choice = choice
    return env


def choice_of(env: Any) -> Choice | None:
    """Returns what was chosen for a vector env; None if there was no choice."""
    while env is not None:
        own = getattr(env, "__dict__", {})
        if "choice" in own:
            return own["choice"]
        env = own.get("env")
    return None


def vector_of(env: Any) -> Literal["sync", "async"]:
    """Returns how the environments of a vector env of `make_env` are stepped."""
    while env is not None and not isinstance(env, AsyncEnv):
        env = getattr(env, "__dict__", {}).get("env")
    return "sync" if env is None else "async"


def seconds_per_step(
    env_id: str, function: Callable[[], Any], seed: int, reading: Mapping[str, Any]
) -> float:
    """Returns the median time of a step of an environment, with random actions.

    The first step does not count, and neither does one that other work of the machine holds up.

    Raises:
        EnvError: it fails.
        ValueError: its spaces are not supported.
    """
    env = GymEnv(env_id, [function], [seed], **reading)
    try:
        draw = RandomActions(env.single_observation_space, env.single_action_space, seed)
        obs, taken = env.reset(), list[float]()
        while len(taken) <= _FEWEST_STEPS or (
            len(taken) <= _MOST_STEPS and sum(taken[1:]) < _MEASURED_SECONDS
        ):
            actions = draw(obs)
            start = time.perf_counter()
            obs = env.step(actions).obs
            taken.append(time.perf_counter() - start)
    finally:
        env.close()
    return float(np.median(taken[1:]))


def _here(why: str) -> Choice:
    return Choice("sync", f"environments: one after the other (vector=auto: {why})")


def _spelled(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.0f} us"


@contextmanager
def _generators_kept() -> Iterator[Callable[[], bool]]:
    """Puts the global generators back after a block, in which it tells whether they changed."""
    with ONE_THREAD:
        before = state_of_generators()
        try:
            yield lambda: _numbers(before) != _numbers(state_of_generators())
        finally:
            restore_generators(before)


def _numbers(state: Any) -> Any:
    """Returns a state of the generators as lists, which can be compared."""
    if isinstance(state, dict):
        return {name: _numbers(part) for name, part in state.items()}
    if isinstance(state, list | tuple):
        return [_numbers(part) for part in state]
    return state.tolist() if hasattr(state, "tolist") else state
