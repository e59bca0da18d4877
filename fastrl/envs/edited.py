"""Tells whether an environment is what its id, or its spec, stands for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import gymnasium

from fastrl.envs.foreign import ForeignCode
from fastrl.envs.vector import EnvError


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


def edited(given: gymnasium.Env, make: Callable[[], Any]) -> Callable[[], str]:
    """Returns what tells whether somebody changed an environment after it was made.

    It compares numbers and words among the attributes, but for those that playing changes.
    """

    def check() -> str:
        try:
            with ForeignCode("trying a new one"):
                made = make()
                if made is given:
                    return ""  # its maker says so, with better words
                fresh, mine = _numbers_of(made), _numbers_of(given)
                made.reset(seed=0)
                for _ in range(3):
                    _, _, terminated, truncated, _ = made.step(made.action_space.sample())
                    if terminated or truncated:
                        break
                played = _numbers_of(made)
                made.close()
        except EnvError as error:
            return str(error)
        for name in fresh.keys() & mine.keys():
            if fresh[name] == played.get(name) and fresh[name] != mine[name]:
                return (
                    f"{name} of the {type(given.unwrapped).__name__} that was given is "
                    f"{mine[name]!r}, of a new one {fresh[name]!r}"
                )
        return ""

    return check


def _numbers_of(env: gymnasium.Env) -> dict[str, Any]:
    """Returns the attributes of the innermost environment that are numbers or words."""
    kinds = bool, int, float, str
    return {name: x for name, x in vars(env.unwrapped).items() if isinstance(x, kinds)}
