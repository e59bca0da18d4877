"""Tells whether an environment is what its id, or its spec, stands for."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import gymnasium
import numpy as np

from fastrl.envs.foreign import ForeignCode
from fastrl.envs.vector import EnvError
from fastrl.processes.generators import generators_seeded
from fastrl.spaces.observations import MASK_KEY

AnyEnv = gymnasium.Env | gymnasium.vector.VectorEnv

_FEWEST_STEPS, _MOST_STEPS, _SECONDS = 3, 1000, 0.1


def is_plain(spec: Any) -> bool:
    """Tells whether a spec is what its id alone stands for."""
    registered = gymnasium.registry.get(spec.id)
    if registered is None:
        return False
    how = {"num_envs", "vectorization_mode", "render_mode"}
    limit = {"max_episode_steps": registered.max_episode_steps}  # it is among those of `make_vec`
    kwargs = {name: value for name, value in spec.kwargs.items() if name not in how}
    try:
        return {**limit, **kwargs} == {**limit, **registered.kwargs} and all(
            getattr(spec, entry.name) == getattr(registered, entry.name)
            for entry in dataclasses.fields(spec)
            if entry.name not in ("kwargs", "disable_env_checker")
        )
    except ValueError:  # arrays
        return False


def whole_spec(env: gymnasium.Env) -> Any:
    """Returns the spec that describes an environment with all its wrappers; None if there is none.

    A wrapper that does not record its arguments (`RecordConstructorArgs`) is described by no spec.
    """
    spec = env.spec
    if spec is None or any(wrapper.kwargs is None for wrapper in spec.additional_wrappers):
        return None
    return spec


def plain_id(env: gymnasium.Env) -> str:
    """Returns the id that says all about an environment.

    "" if it has wrappers or arguments of its own, or was changed after it was made.
    """
    spec = whole_spec(env)
    if spec is None or not is_plain(spec) or edited([env], [maker_of(spec)])():
        return ""
    return spec.id


def name_of(env: Any) -> str:
    """Returns the id of an environment that a caller built; the name of its class if it has none.

    Of a function, its name.
    """
    if isinstance(env, gymnasium.Env | gymnasium.vector.VectorEnv):
        return env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    return getattr(env, "__name__", type(env).__name__)


def maker_of(spec: Any) -> Callable[..., gymnasium.Env]:
    """Returns what makes environments of a spec."""
    if spec.kwargs.get("render_mode") == "human":  # a window is enough
        spec = copy.deepcopy(spec)
        del spec.kwargs["render_mode"]
    return partial(gymnasium.make, spec, disable_env_checker=True)


def edited(given: Sequence[AnyEnv], makers: Sequence[Callable[..., Any]]) -> Callable[[], str]:
    """Returns what tells whether somebody changed environments after they were made.

    It compares numbers and words among the attributes, but for those that playing an episode
    changes.

    Args:
        given: single environments, or vectors of them.
        makers: what made each.
    """

    def check() -> str:
        fresh: dict[int, dict[str, Any]] = {}  # by what made them
        moving: dict[type, set[str]] = {}
        try:
            # How many steps are played is by the clock, so what they draw must not count.
            with generators_seeded(0), ForeignCode("trying a new one"):
                for env, make in zip(given, makers, strict=True):
                    if id(make) not in fresh:
                        made = make()
                        if made is env:
                            return ""  # its maker says so, with better words
                        kind, fresh[id(make)] = type(made.unwrapped), _numbers_of(made)
                        if kind not in moving:
                            moving[kind] = _moved_by_playing(made)
                        made.close()
                    kind, new, mine = type(env.unwrapped), fresh[id(make)], _numbers_of(env)
                    for name in (new.keys() & mine.keys()) - moving.get(kind, set()):
                        if new[name] != mine[name]:
                            return (
                                f"{name} of the {kind.__name__} that was given is "
                                f"{mine[name]!r}, of a new one {new[name]!r}"
                            )
        except EnvError as error:
            return str(error)
        return ""

    return check


def _moved_by_playing(env: AnyEnv) -> set[str]:
    """Returns the names of numbers that random actions change until the next episode begins.

    It is given up after `_MOST_STEPS`, or some time, or at an error.
    """
    before, moved, begun = _numbers_of(env), set[str](), time.perf_counter()

    def look() -> None:
        moved.update(x for x, value in _numbers_of(env).items() if before.get(x) != value)

    space: Any = copy.deepcopy(env.action_space)
    space.seed(0)
    with suppress(Exception):  # what it did until then counts
        obs, info = env.reset(seed=0)
        for step in range(_MOST_STEPS):
            look()
            if step >= _FEWEST_STEPS and time.perf_counter() - begun > _SECONDS:
                break
            obs, _, terminated, truncated, info = env.step(_drawn(space, obs, info))
            if np.any(terminated) or np.any(truncated):
                break
        look()
        env.reset()
    look()
    return moved


def _drawn(space: Any, *shown: Any) -> Any:
    """Returns a random action, one that a mask allows if an observation or an info has one."""
    masks = [x[MASK_KEY] for x in shown if isinstance(x, Mapping) and MASK_KEY in x]
    if not masks or not isinstance(space, gymnasium.spaces.Discrete):
        return space.sample()
    return space.sample((np.ravel(masks[0]) > 0.5).astype(np.int8))


def _numbers_of(env: AnyEnv) -> dict[str, Any]:
    """Returns the attributes of the innermost environment that are numbers or words.

    But for the size of a vector.
    """
    kinds = bool, int, float, str
    found = {name: x for name, x in vars(env.unwrapped).items() if isinstance(x, kinds)}
    found.pop("num_envs", None)
    return found
