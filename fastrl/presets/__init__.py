"""Presets: tuned settings per task, as data, and the results they achieved.

The settings are in one YAML file per algorithm; `results.yaml` holds the results of `python -m
benchmarks.learning` with them. `python -m fastrl.presets` lists both. `named.yaml` holds presets
that go for any task: the defaults of other projects.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from importlib import resources
from typing import Any

from fastrl.config.checks import check_names
from fastrl.config.command import Command
from fastrl.config.effects import check_effects
from fastrl.config.on_policy import LargeBatchError
from fastrl.config.run import RunConfig
from fastrl.config.schedules import check_given_together, without_overridden
from fastrl.presets.layers import is_file, read_preset

RESULTS_NAME = "results.yaml"
NAMED_NAME = "named.yaml"
FRESH_SEEDS = (100, 101, 102)
"""What presets are measured with; they are tuned on seeds 1 to 5."""


def algorithms() -> list[str]:
    """Returns the module names of the algorithms that have presets."""
    names = [file.name for file in resources.files(__name__).iterdir()]
    own = [name for name in names if name.endswith(".yaml")]
    own = [name for name in own if name not in (RESULTS_NAME, NAMED_NAME)]
    return sorted(name.removesuffix(".yaml") for name in own)


def load_results() -> dict[str, dict[str, dict[str, Any]]]:
    """Returns the results of the presets, by algorithm and task: an id, possibly with flags.

    A result holds `returns` (the mean greedy return for each of the `seeds`), their `return_mean`,
    `return_std` (sample standard deviation), `return_worst`, `return_iqm` (interquartile mean) and
    `return_interval` (its 95 % bootstrap interval), `eval_episodes` per seed, `steps`,
    `wall_seconds` and `cpu_seconds` (medians over whole processes; None if unknown), `machine`,
    `commit` (None if unknown), `versions`, and the `settings` of the preset at that time.
    """
    return _read(RESULTS_NAME)


def load_presets(algo: str) -> dict[str, dict[str, Any]]:
    """Returns the presets of an algorithm, by task id.

    Args:
        algo: module name of the algorithm, for example "ppo".
    """
    return _read(f"{algo}.yaml")


def preset_for(
    algo: str,
    env_id: str,
    preset: str = "auto",
    *,
    trust: bool = False,
    named_again: Collection[str] = (),
) -> dict[str, Any]:
    """Returns the settings of a preset.

    Args:
        algo: module name of the algorithm.
        env_id: a task.
        preset: "auto" for the task's tuned settings, {} if it has none; "none" for {}; or a name in
            `named_presets` or a YAML file, whatever the task.
        trust: as of `read_layers`, for a file.
        named_again: as of `read_layers`, for a file.

    Raises:
        ValueError: an unknown preset, or a file that cannot be used.
        OSError: a file cannot be read.
    """
    if is_file(preset):
        return read_preset(str(preset), algo, trust=trust, named_again=named_again).settings
    if preset == "auto":
        return load_presets(algo).get(env_id, {})
    if preset == "none":
        return {}
    named = named_presets(algo)
    if not isinstance(preset, str) or preset not in named:
        allowed = ", ".join(("auto", "none", *named))
        raise ValueError(f"preset takes one of {allowed}, or a FILE.yaml, not {preset!r}")
    return named[preset]


def named_presets(algo: str) -> dict[str, dict[str, Any]]:
    """Returns the presets of an algorithm that go for any task, by name."""
    every = _read(NAMED_NAME)
    return {name: settings[algo] for name, settings in every.items() if algo in settings}


def lack_of_preset(algo: str, env_id: str) -> str:
    """Returns words to print for a task without a preset; "" if it has one."""
    presets = load_presets(algo)
    if env_id in presets:
        return ""
    name = env_id.rpartition("-v")[0]
    others = [other for other in presets if name and other.rpartition("-v")[0] == name]
    known = f" ({', '.join(others)} has one)" if others else ""
    return f" for {env_id}{known}; the defaults are not tuned for it"


def resolve(
    config_class: type[RunConfig], algo: str, env: object, preset: str, settings: dict[str, Any]
) -> Command:
    """Builds the command of a call from Python: defaults, then the preset, then single settings.

    Args:
        config_class: the algorithm's config.
        algo: module name of the algorithm.
        env: a task's id, or a vector environment, which also sets `num_envs`.
        preset: as of `preset_for`.
        settings: single settings by name.

    Raises:
        ValueError: an unknown setting or a value out of range.
    """
    env_id = id_of(env)
    tuned = preset_for(algo, env_id, preset, named_again={"env_id", *settings})
    given: dict[str, Any] = {"env_id": env_id or type(env).__name__}
    if not isinstance(env, str):
        given = facts_of(env)
    given |= settings
    names = {entry.name for entry in fields(config_class)} - {"network"}  # which may be functions
    if not names <= given.keys():  # all of them are those of another config
        check_given_together(settings)
    tuned = without_overridden({name: x for name, x in tuned.items() if name not in given}, given)
    command = merge(config_class, tuned, given, f"{algo} settings", 'preset="none"')
    explicit = {name: getattr(command.config, name) for name in settings}
    lack = lack_of_preset(algo, command.config.env_id) if preset == "auto" else ""
    return replace(command, explicit=explicit, preset=preset, lack_of_preset=lack)


def facts_of(env: Any) -> dict[str, Any]:
    """Returns the settings that environments which the caller built decide."""
    import gymnasium

    from fastrl.envs.edited import name_of, whole_spec

    of_gymnasium = isinstance(env, gymnasium.Env | gymnasium.vector.VectorEnv)
    facts: dict[str, Any] = {"env_id": id_of(env) or name_of(env)}
    if of_gymnasium or callable(env):
        facts["backend"] = "gymnasium"
    elif (backend := getattr(env, "backend", "")) in ("envpool", "gymnasium"):
        facts["backend"] = backend
    if (num_envs := getattr(env, "num_envs", None)) is not None:
        return {**facts, "num_envs": num_envs}
    if isinstance(env, gymnasium.Env):  # without a spec there can be no second one
        return facts if whole_spec(env) is not None else {**facts, "num_envs": 1}
    if not callable(env):
        raise ValueError(
            f"cannot train on a {type(env).__name__}: give a task's id, 'module:callable', a "
            "function that makes a gymnasium.Env, or environments, single or vectorised"
        )
    return facts


def id_of(env: object) -> str:
    """Returns the id of a task or of a vector environment; "" if it has none."""
    if isinstance(env, str):
        return env
    return getattr(env, "env_id", None) or getattr(getattr(env, "spec", None), "id", "")


def merge(
    config_class: type[RunConfig],
    tuned: dict[str, Any],
    given: dict[str, Any],
    source: str,
    way_out: str,
) -> Command:
    """Merges the user's settings into a preset.

    A batch size of the preset that exceeds the size of the rollout is reduced to that.

    Args:
        config_class: the algorithm's config.
        tuned: settings of the preset, without those in `given`.
        given: settings of the user; all count as explicit.
        source: where these came from, for errors.
        way_out: how to switch the preset off, for errors.

    Raises:
        ValueError: an unknown setting or a value out of range; the message names settings that the
            preset set.
    """
    check_names(given, [entry.name for entry in fields(config_class)], source)
    name, cut, told = "per_rank_batch_size", {}, ""
    with naming_preset(tuned, way_out):
        try:
            config = config_class.from_dict({**tuned, **given}, source)
        except LargeBatchError as error:
            if name not in tuned:
                raise
            cut, more = {name: error.num_rows}, tuned[name]
            told = f"{name}={error.num_rows}, the size of a rollout, instead of the preset's {more}"
            config = config_class.from_dict({**tuned, **cut, **given}, source)
    check_effects(config, given)
    return Command(
        config=config,
        preset_settings={name: getattr(config, name) for name in tuned if name not in cut},
        explicit={name: getattr(config, name) for name in given},
        cut_of_preset=told,
    )


@contextmanager
def naming_preset(tuned: dict[str, Any], way_out: str) -> Iterator[None]:
    """Context in which an error about settings says which of them the preset set.

    Args:
        tuned: settings of the preset.
        way_out: how to switch the preset off.
    """
    try:
        yield
    except ValueError as error:
        guilty = [name for name in tuned if re.search(rf"\b{name}\b", str(error))]
        if not guilty:
            raise
        hint = f" (the preset set {', '.join(guilty)}; {way_out} goes without)"
        raise ValueError(f"{error}{hint}") from None  # else Python shows the same words twice


def _read(name: str) -> dict[str, Any]:
    import yaml

    text = resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
    # Each agent reads its file twice: 12 ms each time in Python, 2 ms in C.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(text, Loader=loader) or {}
