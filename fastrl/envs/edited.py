"""Tells whether an environment is what its id, or its spec, stands for."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import FunctionType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import AtariPreprocessing, MaxAndSkipObservation, TimeLimit

from fastrl.envs.foreign import ForeignCode
from fastrl.envs.vector import EnvError
from fastrl.processes.generators import generators_seeded
from fastrl.spaces.packed import MASK_KEY
from fastrl.spaces.values import shown

AnyEnv = gymnasium.Env | gymnasium.vector.VectorEnv

_FEWEST_STEPS, _MOST_STEPS, _SECONDS = 3, 1000, 0.1
_MOST_NUMBERS = 4096  # of an array or list that is compared
_SKIPPING = AtariPreprocessing, MaxAndSkipObservation
"""Wrappers of gymnasium's that take several steps for one."""


def is_as_registered(spec: Any) -> bool:
    """Tells whether a spec is what its id alone stands for."""
    registered = gymnasium.registry.get(spec.id)
    if registered is None:
        return False
    how = {"num_envs", "vectorization_mode", "render_mode"}
    limit = {"max_episode_steps": registered.max_episode_steps}  # a kwarg of `make_vec`
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
    if spec is None or not is_as_registered(spec) or difference([env], [maker_of(spec)]):
        return ""
    return spec.id


def name_of(env: Any) -> str:
    """Returns the id of an environment that a caller built; the name of its class if it has none.

    Of a function, its name.
    """
    if isinstance(env, gymnasium.Env | gymnasium.vector.VectorEnv):
        return getattr(env.spec, "id", "") or type(env.unwrapped).__name__
    while isinstance(env, partial):
        env = env.func
    return getattr(env, "__name__", type(env).__name__)


def maker_of(spec: Any) -> Callable[..., gymnasium.Env]:
    """Returns what makes environments of a spec."""
    if spec.kwargs.get("render_mode") == "human":  # one window is enough
        spec = copy.deepcopy(spec)
        del spec.kwargs["render_mode"]
    return partial(gymnasium.make, spec, disable_env_checker=True)


def difference(given: Sequence[AnyEnv], makers: Sequence[Callable[..., Any]]) -> str:
    """Says how environments differ from new ones, if somebody changed them since; "" if they don't.

    It compares attributes that are numbers, words, arrays or containers of such, but for those
    that playing an episode changes or that are others in every new one; what wrappers were made
    with; and limits of steps, with what stands between them and the environment.

    Args:
        given: single environments, or vectors of them.
        makers: what made each.
    """
    fresh: dict[int, tuple[list[Any], dict[str, Any]]] = {}  # by what made them
    moving: dict[type, set[str]] = {}
    try:
        # How many steps are played is by the clock, so what they draw must not count.
        with generators_seeded(0), ForeignCode("trying a new one"):
            for env, make in zip(given, makers, strict=True):
                if id(make) not in fresh:
                    made = _made_new(make)
                    if made is env:
                        return ""  # its maker says so, with better words
                    kind = type(made.unwrapped)
                    fresh[id(make)] = _limits_of(made), _settings_of(made)
                    if kind not in moving:
                        moving[kind] = _moved_by_playing(made)
                    made.close()
                kind, (limits, new) = type(env.unwrapped), fresh[id(make)]
                if limits != (own := _limits_of(env)):
                    return f"limits of steps are {own} where one was given, {limits} in a new one"
                own = _settings_of(env)
                names = sorted((new.keys() & own.keys()) - moving.get(kind, set()))
                if changed := [x for x in names if not _are_same(new[x], own[x])]:
                    new_again = _settings_of(again := _made_new(make))
                    again.close()
                    # The time at which it was made is another in every new one.
                    changed = [x for x in changed if _are_same(new[x], new_again.get(x))]
                if changed:
                    name = changed[0]
                    return (
                        f"{name} of the {kind.__name__} that was given is {shown(own[name])}, of a "
                        f"new one {shown(new[name])}"
                    )
    except EnvError as error:
        return str(error)
    return ""


def _made_new(make: Callable[..., Any]) -> Any:
    """Makes an environment, each time with the same draws: a layout that is drawn is a setting."""
    with generators_seeded(0):
        return make()


def _moved_by_playing(env: AnyEnv) -> set[str]:
    """Returns the names of settings that random actions change until the next episode begins.

    It is given up after `_MOST_STEPS`, or some time, or at an error.
    """
    before, moved, begun = _settings_of(env), set[str](), time.perf_counter()

    def look() -> None:
        now = _settings_of(env)
        moved.update(x for x, value in now.items() if not _are_same(before.get(x), value))

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


def _drawn(space: Any, *answers: Any) -> Any:
    """Returns a random action, one that a mask in an observation or an info allows."""
    masks = [x[MASK_KEY] for x in answers if isinstance(x, Mapping) and MASK_KEY in x]
    if not masks or not isinstance(space, gymnasium.spaces.Discrete):
        return space.sample()
    return space.sample((np.ravel(masks[0]) > 0.5).astype(np.int8))


def _settings_of(env: Any) -> dict[str, Any]:
    """Returns copies of the attributes that say how an environment is, by name.

    Those of the innermost one that are numbers, words, arrays or containers of such, but for the
    size of a vector, and what its wrappers were made with.
    """
    if isinstance(env, gymnasium.vector.SyncVectorEnv):
        settings = {}
        for index, single in enumerate(env.envs):
            settings |= {f"envs[{index}].{x}": y for x, y in _settings_of(single).items()}
        return settings
    inner = {name: x for name, x in vars(env.unwrapped).items() if name != "num_envs"}
    settings = {name: copy.deepcopy(x) for name, x in inner.items() if _is_setting(x)}
    while isinstance(env, gymnasium.Wrapper):
        for name in getattr(env, "_saved_kwargs", {}):
            value = vars(env).get(name)
            if _is_setting(value) or isinstance(value, FunctionType):  # as of `TransformReward`
                settings[f"{type(env).__name__}.{name}"] = copy.deepcopy(value)
        env = env.env
    return settings


def _is_setting(value: Any, depth: int = 3) -> bool:
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        return (
            depth > 0
            and len(value) <= _MOST_NUMBERS
            and all(_is_setting(x, depth - 1) for x in value)
        )
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf" and value.size <= _MOST_NUMBERS
    return value is None or isinstance(value, bool | int | float | str | np.generic)


def _are_same(left: Any, right: Any) -> bool:
    """Returns whether two settings are alike; a list or dict of another length is a history."""
    if left is right:
        return True
    if isinstance(left, FunctionType) and isinstance(right, FunctionType):
        return left.__code__ == right.__code__
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() != right.keys() or all(_are_same(left[x], right[x]) for x in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) != len(right) or all(map(_are_same, left, right))
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(_are_same, left, right))
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return np.array_equal(np.asarray(left), np.asarray(right), equal_nan=True)
    return bool(left == right or (left != left and right != right))  # NaN


def _limits_of(env: Any) -> list[Any]:
    """Returns the limits of steps of an episode, from outside, and the wrappers between them.

    Only wrappers that may take several steps for one, or end episodes of themselves; a limit just
    inside of another counts with it, the smaller one.
    """
    if isinstance(env, gymnasium.vector.SyncVectorEnv):
        return [_limits_of(single) for single in env.envs]
    limits: list[Any] = [math.inf]
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, TimeLimit):
            limits[-1] = min(limits[-1], env._max_episode_steps)
        elif type(env) in _SKIPPING or not type(env).__module__.startswith("gymnasium."):
            limits += [type(env).__name__, math.inf]
        env = env.env
    return limits
