"""More environments of the task that is trained on: for greedy tests, videos and resumed runs.

An id says which task it is, together with the settings of the run. Of environments that the caller
built, the functions or the whole spec that made them say so: keyword arguments, time limit and
wrappers included. Where neither is known, nothing is guessed, and `Task.why_not` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import gymnasium
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from fastrl.config.run import RunConfig
from fastrl.envs.choosing import vector_of
from fastrl.envs.edited import difference, is_as_registered, maker_of, name_of, whole_spec
from fastrl.envs.ids import is_registered_anew
from fastrl.envs.make import Backend, settings_of_made, uses_envpool
from fastrl.envs.makers import (
    NO_PROCESSES,
    Maker,
    from_functions,
    from_id,
    from_vector_spec,
    maker_of_tested,
)
from fastrl.envs.sharing import note_on_statistics, share
from fastrl.envs.vector import VectorEnv


class Task(NamedTuple):
    """What an agent is trained on, and how more environments of it are made."""

    env_id: str
    make: Maker | None
    why_not: str = ""
    """Why none can be made."""
    is_named: bool = True
    """Whether id and settings of the run say all, so that another process can make them."""
    is_own: bool = False
    """Whether the caller said what is tested, by `eval_env`."""
    note: str = ""
    """What the user should know of the environments that are trained on."""
    check: Callable[[], str] | None = None
    """Makes one and says how it differs from those that are trained on; "" if it does not."""

    def checked(self) -> Task:
        """Returns the task after its check: if new environments differ, `why_not` says how."""
        if self.make is None or self.check is None:
            return self
        if not (why_not := self.check()):
            return self._replace(check=None)
        return self._replace(check=None, make=None, why_not=why_not, is_named=False)


def task_of(env: Any, envs: Sequence[VectorEnv], config: RunConfig, eval_env: Any = "auto") -> Task:
    """Returns the task of environments.

    Args:
        env: what the caller gave: an id, or environments.
        envs: the pools that were made of it.
        config: settings of the run.
        eval_env: what is tested, where that is not `env`: a function that returns a
            `gymnasium.Env`, an environment, or an id. None: nothing is tested.

    Raises:
        ValueError: `eval_env` is none of these.
    """
    trained = _trained(env, envs, config)
    notes = [note for note in (trained.note, note_on_statistics(envs)) if note]
    trained = trained._replace(note="\n".join(notes))
    if not isinstance(env, str) and trained.is_named:
        trained = trained._replace(is_named=_is_named(trained, envs, config))
        if trained.is_named:  # the check makes and plays one: where nothing cheaper says no
            trained = trained.checked()
    if isinstance(eval_env, str) and eval_env == "auto":
        return trained
    own = trained._replace(is_own=True, make=None, check=None)
    if share(eval_env, envs):
        raise ValueError("eval_env is the environment that is trained on, which a test would reset")
    if eval_env is None:
        return own._replace(why_not="eval_env=None")
    return own._replace(make=maker_of_tested(eval_env, config, envs), why_not="")


def _is_named(trained: Task, envs: Sequence[VectorEnv], config: RunConfig) -> bool:
    """Returns whether what the caller built is what id and settings of the run stand for."""
    if trained.env_id != config.env_id:
        return False
    backend = config.backend
    if backend == "auto":
        is_envpool = uses_envpool(config.env_id, backend, config.info_action_mask)
        backend = "envpool" if is_envpool else "gymnasium"
    return backend == envs[0].backend


def without_processes(env: Any, config: RunConfig, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings that switch processes off if none can play `env`; else none.

    Args:
        env: an id, environments, or a function that makes one.
        config: of a run on other environments.
        settings: what the caller sets otherwise.
    """
    names = "backend", "info_action_mask", "num_envs"
    config = config.replace(**{name: settings[name] for name in names if name in settings})
    if isinstance(env, str):
        is_apart = not uses_envpool(env, config.backend, config.info_action_mask)
    else:
        is_copied = isinstance(env, gymnasium.Env) and config.num_envs > 1
        is_apart = callable(env) or is_copied
    return {} if is_apart else NO_PROCESSES


def _without_maker(env_id: str, why_not: str) -> Task:
    return Task(env_id, None, why_not, is_named=False)


def _trained(env: Any, envs: Sequence[VectorEnv], config: RunConfig) -> Task:
    if isinstance(env, str):
        backend = cast(Backend, envs[0].backend)
        settings = {"backend": backend, "testing": True, **config.env_settings}
        settings["vector"] = vector_of(envs[0])  # "auto" chooses once
        return Task(env, partial(from_id, env, settings), is_named=not is_registered_anew(env))
    env_id, kind = envs[0].env_id, type(env).__name__
    if isinstance(env, gymnasium.vector.VectorEnv):
        return _trained_vector(env, envs, config)
    if isinstance(env, gymnasium.Env):
        spec = whole_spec(env)
        if spec is None:
            return Task(
                env_id, None, f"no spec describes the {kind} that was given", is_named=False
            )
        count = config.num_envs
        note = f"{env_id}: {count} environments, made from the spec of the one that was given"
        make, told = maker_of(spec), note if count > 1 else ""
        maker = from_functions(env_id, make, config)
        # Of several, `opened` made sure.
        check = partial(difference, [env], [make]) if count == 1 else None
        return Task(env_id, maker, is_named=is_as_registered(spec), note=told, check=check)
    made = settings_of_made(env)
    if made is None and callable(env):
        if vector_of(envs[0]) == "sync":  # "auto" chooses once
            config = config.replace(**NO_PROCESSES)
        else:
            config = config.replace(vector="async")
        return Task(env_id, from_functions(env_id, env, config, envs), is_named=False)
    if made is None:
        return Task(
            env_id, None, f"nothing says how the {kind} that was given was made", is_named=False
        )
    name, settings = made
    is_named = settings == {**settings, **config.env_settings, "testing": False}
    settings = {**settings, "backend": envs[0].backend, "testing": True}
    return Task(env_id, partial(from_id, name, settings), is_named=is_named)


def _trained_vector(env: Any, envs: Sequence[VectorEnv], config: RunConfig) -> Task:
    env_id, kind = envs[0].env_id, type(env).__name__
    while type(env) is RecordEpisodeStatistics:  # it changes nothing
        env = env.env
    if isinstance(env, gymnasium.vector.VectorWrapper):
        return Task(
            env_id, None, f"no spec describes the wrapper {type(env).__name__}", is_named=False
        )
    spec, check = env.spec, None
    is_of_singles = type(env) in (SyncVectorEnv, AsyncVectorEnv)
    is_of_singles &= isinstance(getattr(env, "env_fns", None), Sequence)
    if is_of_singles and type(env) is SyncVectorEnv:  # of processes, nothing can be looked at
        check = partial(difference, env.envs, env.env_fns)
    if spec is not None and "vectorization_mode" in spec.kwargs:  # `gymnasium.make_vec` was here
        if not is_of_singles:
            check = partial(difference, [env], [partial(gymnasium.make_vec, spec)])
        maker = partial(from_vector_spec, spec, config)
        return Task(env_id, maker, is_named=is_as_registered(spec), check=check)
    if is_of_singles:
        maker = from_functions(env_id, env.env_fns, config, envs)
        return Task(env_id, maker, is_named=False, check=check)
    return Task(
        env_id, None, f"nothing says how the {kind} that was given was made", is_named=False
    )


def task_to_play(env: Any, trained_on: Sequence[VectorEnv], config: RunConfig) -> Task:
    """Returns the task of environments to evaluate an agent on, other than those it is trained on.

    Args:
        env: an id, a function that makes a `gymnasium.Env`, or an environment.
        trained_on: the pools that are trained on.
        config: settings of the run.

    Raises:
        ValueError: it is none of these, or trained on.
    """
    if share(env, trained_on):
        raise ValueError(
            "env is an environment that is trained on, which an evaluation would reset"
        )
    name = env if isinstance(env, str) else name_of(env)
    maker = maker_of_tested(env, config, trained_on, "env")
    return Task(name, maker, is_named=isinstance(env, str), is_own=True)
