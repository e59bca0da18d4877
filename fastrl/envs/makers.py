"""Functions that make more environments of an id, of a vector's spec, or of a caller's functions.

Each is a `Maker`, called as often as a run needs environments for tests and videos.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from weakref import WeakSet

import gymnasium

from fastrl.config.run import RunConfig
from fastrl.envs.choosing import choose
from fastrl.envs.edited import name_of
from fastrl.envs.foreign import call
from fastrl.envs.given import opened
from fastrl.envs.ids import unknown_id
from fastrl.envs.make import (
    check_no_kwargs,
    is_known_id,
    make_env,
    settings_of_made,
    uses_envpool,
    vector_env_of,
    wrap_vector_env,
)
from fastrl.envs.sharing import all_of
from fastrl.envs.vector import VectorEnv

Maker = Callable[..., VectorEnv]
"""Called with the number of environments, `seed`, `render` and `num_threads`; `env_kwargs` are
keyword arguments of the environment to change."""

NO_PROCESSES: dict[str, Any] = {"vector": "sync", "num_workers": 0}


def maker_of_tested(
    eval_env: Any, config: RunConfig, trained_on: Sequence[VectorEnv], called: str = "eval_env"
) -> Maker:
    """Returns a maker of the environments to test in; `called` names the argument, for errors."""
    if isinstance(eval_env, str):
        if not is_known_id(eval_env):
            raise ValueError(f"{called}: {unknown_id(eval_env, config.backend)}")
        settings = {"backend": config.backend, "testing": True, **config.env_settings}
        return partial(from_id, eval_env, settings)
    if isinstance(eval_env, gymnasium.vector.VectorEnv | gymnasium.Env):
        return partial(_as_it_is, eval_env, config.replace(env_kwargs=(), **NO_PROCESSES))
    if settings_of_made(eval_env) is not None:
        raise ValueError(f"{called} takes the id that make_env takes, in place of what it returns")
    if not callable(eval_env):
        raise ValueError(
            f"{called} must be a function that returns a gymnasium.Env, an environment, an id or "
            f"None, not {eval_env!r}"
        )
    # The run's env_kwargs belong to the id that is trained on.
    return from_functions(name_of(eval_env), eval_env, config.replace(env_kwargs=()), trained_on)


def from_id(
    env_id: str, settings: dict[str, Any], num_envs: int, *, env_kwargs: Any = None, **how: Any
) -> VectorEnv:
    """Makes environments by `make_env`, with these settings but for some keyword arguments."""
    if uses_envpool(env_id, settings["backend"], settings["info_mask"]):
        settings = {**settings, **NO_PROCESSES}  # those of what is trained on, maybe another id
    kwargs = {**settings["env_kwargs"], **(env_kwargs or {})}
    return make_env(env_id, num_envs, **{**settings, "env_kwargs": kwargs}, **how)


def from_vector_spec(
    spec: Any,
    config: RunConfig,
    num_envs: int,
    *,
    seed: int,
    render: bool = False,
    env_kwargs: Any = None,
    **_: Any,
) -> VectorEnv:
    """Makes environments as `gymnasium.make_vec` made those that are trained on."""
    spec = copy.deepcopy(spec)
    if spec.kwargs.get("render_mode") == "human":  # one window is enough
        del spec.kwargs["render_mode"]
    drawn = {"render_mode": "rgb_array"} if render else {}
    spec.kwargs = {**spec.kwargs, "num_envs": num_envs, **drawn, **(env_kwargs or {})}
    made = call(f"{spec.id}: making environments", gymnasium.make_vec, spec)
    return wrap_vector_env(made, seed=seed, **config.env_settings)


def from_functions(
    env_id: str, functions: Any, config: RunConfig, played: Sequence[Any] = ()
) -> Maker:
    """Returns a maker that calls the caller's functions, in turn.

    Args:
        env_id: for messages.
        functions: one that makes environments, or some, each of its own.
        config: settings of the run.
        played: environments that are trained on, which no function may return again.
    """
    makers = [functions] if callable(functions) else list(functions)
    seen = WeakSet(x for x in all_of(played) if isinstance(x, gymnasium.Env))

    def make_new(make: Callable[..., Any], **more: Any) -> Any:
        env = make(**more)
        if isinstance(env, gymnasium.Env):
            if any(part in seen for part in all_of([env])):
                raise ValueError(
                    f"{env_id}: its function returns an environment that is in use already; it "
                    "must make a new one at every call"
                )
            seen.update(part for part in all_of([env]) if isinstance(part, gymnasium.Env))
        return env

    def make(
        num_envs: int, *, seed: int, render: bool = False, env_kwargs: Any = None, **_: Any
    ) -> VectorEnv:
        how = config.env_settings
        kwargs = {**how.pop("env_kwargs"), **(env_kwargs or {})}
        new: list[Any] = [partial(makers[i % len(makers)], **kwargs) for i in range(num_envs)]
        seeds = [(seed + i) % 2**31 for i in range(num_envs)]
        if how["vector"] == "auto":
            how["vector"] = choose(env_id, new, seeds, how).vector
        if how["vector"] == "sync":  # else each is made in a process, where no other is
            new = [partial(make_new, function) for function in new]
        if render and _takes_render_mode(makers[0]):
            new[0] = partial(new[0], render_mode="rgb_array")
        return vector_env_of(env_id, new, seeds, **how)

    return make


def _takes_render_mode(function: Any) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # of C
        return False
    kinds = [parameter.kind for parameter in parameters.values()]
    return "render_mode" in parameters or inspect.Parameter.VAR_KEYWORD in kinds


def _as_it_is(
    env: Any, config: RunConfig, _: int, *, seed: int, env_kwargs: Any = None, **how: Any
) -> VectorEnv:
    """Returns the environments that a caller built, which the caller closes."""
    check_no_kwargs(name_of(env), env_kwargs)
    wrapped: Any = opened(env, [seed], config)
    wrapped.close = lambda: None
    return wrapped
