"""Checks of settings that several configs share; each raises ValueError with the wrong value."""

from __future__ import annotations

from typing import Any

from fastrl.config.other_names import hint_for

_STEPS = ("total_timesteps", "eval_every", "checkpoint_every", "log_every", "learning_starts")


def check_names(values: dict[str, Any], known: list[str], source: str) -> None:
    """Raises ValueError for an unknown name, with the closest known ones."""
    for name in values:
        if name not in known:
            raise ValueError(f"{source}: unknown setting {name!r}{hint_for(str(name), known)}")


def check_info_metrics(names: tuple[str, ...]) -> None:
    """Raises ValueError for names that no metric can have, or that are given twice."""
    for index, name in enumerate(names):
        if not name or not name.isprintable():
            raise ValueError(f"info_metrics: {name!r} is no name")
        if name in ("cumulative_reward", "return_std"):
            raise ValueError(f"info_metrics: Test/{name} is the name of another metric")
        if name in names[:index]:
            raise ValueError(f"info_metrics: {name!r} is given twice")


def check_magnitude(name: str, value: object) -> None:
    """Raises ValueError for numbers beyond float32, and for absurdly large sizes."""
    if isinstance(value, float) and not abs(value) < 3e38:
        raise ValueError(f"{name} must be finite and below 3e38, not {value}")
    bits = 63 if name in ("seed", *_STEPS) else 31
    if isinstance(value, int) and value >= 2**bits:
        raise ValueError(f"{name} must be below 2**{bits}, not {value}")


def check_length(config: Any, num_taken: int = 0) -> None:
    """Raises ValueError if a run would end before the first gradient step.

    Args:
        config: all settings of the run.
        num_taken: environment steps that the agent took before the run.
    """
    if not hasattr(config, "learning_starts"):
        return
    starts, length = config.learning_starts, config.num_updates * config.steps_per_update
    asked = f"total_timesteps={config.total_timesteps}"
    if num_taken + length <= starts:
        taken = f", of which {num_taken} are taken" if num_taken else ""
        if num_taken + config.total_timesteps > starts:  # but for the rest of a rollout
            asked += f", {length} in whole rollouts of {config.steps_per_update},"
        raise ValueError(
            f"{asked} ends before the first gradient step: learning_starts={starts}{taken}"
        )
    if not num_taken and not num_gradient_steps(config):
        raise ValueError(
            f"replay_ratio={config.replay_ratio} allows no gradient step in the "
            f"{length - starts} steps after learning_starts={starts}; {asked}"
        )


def num_gradient_steps(config: Any) -> int:
    """Returns how many gradient steps a run with a replay buffer takes."""
    length = config.num_updates * config.steps_per_update
    return int(max(0, length - config.learning_starts) * config.replay_ratio)
