"""Which settings may change when a run is resumed: those that do not affect learning."""

from __future__ import annotations

import math
from typing import Any, TypeVar

from fastrl.config.run import RunConfig
from fastrl.config.sac import SACConfig
from fastrl.config.schedules import name_of

# Length of the run, what it writes, how it uses the machine: none of these affects learning, but
# for statistics that stay as they are from here on, and for what callbacks do.
CHANGEABLE = (
    *("total_timesteps", "eval_every", "eval_episodes", "info_metrics", "checkpoint_every"),
    *("keep_checkpoints", "capture_video", "target_return", "num_threads", "num_env_threads"),
    *("vector", "num_workers", "engine", "devices", "num_nodes", "rank_timeout", "callback"),
    *("logger", "freeze_normalization"),
)

# How training begins: a checkpoint's weights, temperature and random state come in their place.
BEGINNINGS = ("seed", "ortho_init", "log_std_init", "alpha")

# What is played, where environments are made by id.
TASK = (
    *("env_id", "env_kwargs", "mask_vel", "obs_keys", "obs_kind", "scale_images", "gray_scale"),
    *("resize", "action_repeat", "frame_stack", "info_action_mask"),
)

# Where a run is written, and which device it is on; what follows from the number of ranks, and
# names of networks, which may have moved.
_LOCAL = (
    *("log_dir", "exp_name", "accelerator", "strategy", "share_data"),
    *("network", "network_kwargs", "backend"),
)

Config = TypeVar("Config", bound=RunConfig)


def resumed(saved: Config, changes: dict[str, Any], run: str) -> Config:
    """Returns the settings that a saved run resumes with.

    With another number of ranks the global sizes stay the same, and are divided among the ranks.

    Args:
        saved: settings that the run was started with.
        changes: new values, by name of the setting.
        run: name of the run, for errors.

    Raises:
        ValueError: a setting that may not change, or sizes that cannot be divided evenly.
    """
    for name, value in changes.items():
        if name not in CHANGEABLE and value != getattr(saved, name):
            may_change = ", ".join(map(_flag, CHANGEABLE))
            raise ValueError(
                f"{_flag(name)} cannot change in a resumed run, where it is "
                f"{spell(getattr(saved, name))}; what may change: {may_change}"
            )
    before = saved.devices * saved.num_nodes
    now = changes.get("devices", saved.devices) * changes.get("num_nodes", saved.num_nodes)
    shares: dict[str, Any] = {}
    if now == 1 and hasattr(saved, "share_data"):
        shares["share_data"] = False
    for name in saved.per_rank_sizes() if now != before else ():
        total = getattr(saved, name) * before
        if total % now:
            raise ValueError(
                f"{run} has {name} {total} over all ranks, which {now} ranks cannot share evenly"
            )
        shares[name] = total // now
    if now != before and isinstance(saved, SACConfig):
        shares["buffer_size"] = saved.buffer_size * before // now
    for name in shares.keys() & changes.keys() - {"share_data"}:  # which the config refuses itself
        if changes[name] != shares[name]:
            raise ValueError(
                f"{_flag(name)} {changes[name]} has no effect: {now} ranks share what "
                f"the run has, {shares[name]} each"
            )
    return saved.replace(**{**shares, **changes})


def changed_settings(config: RunConfig, saved: Any) -> str:
    """Returns the settings that differ from those that a run learned with, as text; "" if none do.

    Sizes of one rank are compared as sizes of all ranks. `check_beginnings` and `check_task` look
    at other settings.

    Args:
        config: the settings that are asked for, from Python or in a run's `config.yaml`.
        saved: those in the checkpoint, plain.

    Raises:
        ValueError: rollouts would be of another size, so that updates already made count otherwise.
    """
    if not isinstance(saved, dict):
        return ""
    free = {*CHANGEABLE, *BEGINNINGS, *TASK, *_LOCAL}
    now, was = config.to_dict(), dict(saved)
    sizes = [*config.per_rank_sizes(), *(["buffer_size"] if "buffer_size" in now else [])]
    for settings in (now, was):
        ranks = [settings.get(name, 1) for name in ("devices", "num_nodes")]
        if all(type(x) is int for x in ranks):
            for name in sizes:
                if type(settings.get(name)) is int:
                    settings[name] *= math.prod(ranks)
    others = [x for x in now if x in was and x not in free and now[x] != was[x]]
    told = ", ".join(f"{x}={spell(now[x])} (before: {spell(was[x])})" for x in others)
    if {"num_envs", "num_steps"} & {*others}:
        raise ValueError(
            f"a resumed run keeps the size of its rollouts, but would have {told}; load() takes "
            "its weights to a new run"
        )
    return told


def check_beginnings(config: RunConfig, saved: Any, source: object, *allowed: str) -> None:
    """Raises ValueError for a setting that a checkpoint's state would silently override.

    Args:
        config: the settings that are asked for.
        saved: those in the checkpoint, plain.
        source: the checkpoint, for errors.
        *allowed: settings that take effect nevertheless.
    """
    before = saved if isinstance(saved, dict) else {}
    for name in BEGINNINGS:
        now = getattr(config, name, None)
        if name not in allowed and now is not None and before.get(name, now) != now:
            raise ValueError(
                f"{name}={spell(now)} has no effect: {source} began with {spell(before[name])} and "
                "goes on from there"
            )


def task_settings(config: RunConfig) -> dict[str, Any]:
    """Returns the settings that say what is played, not how it is stepped."""
    arguments = config.env_settings["env_kwargs"]  # in any order
    return {name: getattr(config, name) for name in TASK} | {"env_kwargs": arguments}


def check_task(config: RunConfig, saved: Any, handed_over: Any) -> None:
    """Raises ValueError if a run is to go on with another task than it was trained on.

    Args:
        config: the settings that are asked for, with environments made by id.
        saved: those in the checkpoint, plain.
        handed_over: whether the run's environments were handed over, so that no id makes them.
    """
    before = saved if isinstance(saved, dict) else {}
    if handed_over:
        raise ValueError(
            f"the run played environments of {before.get('env_id')} that were handed over; "
            "give the agent such environments to go on"
        )
    now = task_settings(config)
    was = task_settings(config.replace(**{name: before[name] for name in TASK if name in before}))
    for name in TASK:
        if now[name] != was[name]:
            raise ValueError(
                f"{name} is {now[name]!r}, but the run was trained with {was[name]!r}; a run is "
                "resumed with the task that it has, and load() takes its weights to another one"
            )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def spell(value: object) -> str:
    """Returns a value written without spaces, as for a flag."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if callable(value):
        return name_of(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
