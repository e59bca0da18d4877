"""What a loaded agent keeps of its file, what begins anew, and the line that says so."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from fastrl.config.command import Command
from fastrl.config.resume import spell, task_settings
from fastrl.engine.optimizer import FlatOptimizer
from fastrl.envs.edited import name_of
from fastrl.models.normalization import RewardScale, RunningNorm

# Where a run writes and what it runs on, which the lines about settings show.
_OF_THE_RUN = ("accelerator", "devices", "log_dir", "exp_name")


def take_keeps(kind: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Removes from the settings of `load` what says which parts are kept, and returns that."""
    names = ["keep_optimizer", "keep_normalizer"]
    names += ["keep_replay"] * hasattr(kind.config_class, "buffer_size")
    keeps = {name: settings.pop(name) for name in names if name in settings}
    for name, value in keeps.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, not {value!r}")
    return keeps


def with_new_scale(agent: Any, learner: Any) -> dict[str, Any]:
    """Returns a saved state with the agent's own statistics of rewards, or none if it has none."""
    scale = getattr(agent, "reward_scale", None)
    return {**learner, "reward_scale": None if scale is None else scale.state_dict()}


def begin_parts_anew(
    agent: Any, path: Path, saved: Any, env: Any, given: Collection[str], keeps: dict[str, Any]
) -> None:
    """Begins the parts anew that are not to be kept, and notes what the run then says.

    Args:
        agent: just loaded.
        path: its file.
        saved: the config in it.
        env: another environment or task; None: that of the file.
        given: settings that the user changed.
        keeps: from `take_keeps`.

    Raises:
        ValueError: a part that is to begin anew is not there.
    """
    kept, new = ["weights"], []
    has_optimizer = keeps.get("keep_optimizer", True)
    (kept if has_optimizer else new).append("optimiser")
    if not has_optimizer:
        for parameters, _ in agent.trained():
            if isinstance(parameters, FlatOptimizer):
                parameters.reset()
    scales = [x for x in (getattr(agent, "reward_scale", None), _normalizer(agent)) if x]
    if scales:
        has_scales = keeps.get("keep_normalizer", True)
        (kept if has_scales else new).append("normaliser")
        for scale in () if has_scales else scales:
            _forget(scale)
        normalizer, eps = _normalizer(agent), "observation_epsilon"
        is_ours = has_scales and type(normalizer) is RunningNorm
        if is_ours and getattr(saved, eps) != getattr(agent.config, eps):
            normalizer.rescale()
    elif "keep_normalizer" in keeps:
        raise ValueError("keep_normalizer has no effect: observations and rewards have none")
    if getattr(agent, "saved_replay", None) is not None:
        is_same = env is None and "num_envs" not in given
        is_same = is_same and task_settings(agent.config) == task_settings(saved)
        has_replay = keeps.get("keep_replay", is_same)
        (kept if has_replay else new).append("replay buffer")
        if not has_replay:
            agent.forget_replay()
        _check_warm_up(agent, path, saved)
    elif keeps.get("keep_replay"):
        raise ValueError(f"keep_replay has no effect: {path} holds no replay buffer")
    config = agent.config
    told = {*given, "num_envs", "env_id"}
    if env is not None and not isinstance(env, str):
        new.append(f"env={name_of(env)} (was {saved.env_id})")
        told.remove("env_id")
    differ = {x: y for x, y in vars(config).items() if y != getattr(saved, x)}
    shown = {x: y for x, y in differ.items() if x in told}
    new += [
        f"{x}={spell(y)} (was {spell(getattr(saved, x))})"
        for x, y in shown.items()
        if x not in _OF_THE_RUN
    ]
    words = f"from {path}: kept {', '.join(kept)}"
    explicit = {name: getattr(config, name) for name in given if hasattr(config, name)}
    line = f"{words}; new: {', '.join(new)}" if new else words
    agent._command = Command(config=config, explicit=explicit, origin=line)


def _check_warm_up(agent: Any, path: Path, saved: Any) -> None:
    """Raises ValueError for another warm-up than that of the file if both are over."""
    now, before = agent.config.learning_starts, saved.learning_starts
    if now != before and max(now, before) <= agent.num_env_steps:
        raise ValueError(
            f"learning_starts={now} has no effect: {path} has a replay buffer of "
            f"{agent.num_env_steps} steps; keep_replay=False begins with an empty one"
        )


def _normalizer(agent: Any) -> Any:
    return getattr(agent.policy, "normalizer", None)


def _forget(scale: Any) -> None:
    """Brings a normaliser to where it begins."""
    if isinstance(scale, RewardScale):
        fresh: Any = RewardScale(scale.gamma)
    else:
        fresh = RunningNorm(tuple(scale.mean.shape), scale.clip, scale.eps)
    scale.load_state_dict(fresh.state_dict())
