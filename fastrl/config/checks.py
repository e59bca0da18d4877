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
    """Raises ValueError if a run would end during its warm-up, before the first gradient step.

    Args:
        config: all settings of the run.
        num_taken: environment steps that the agent took before the run.
    """
    starts = getattr(config, "learning_starts", 0)
    if num_taken + config.total_timesteps <= starts:
        taken = f", of which {num_taken} are taken" if num_taken else ""
        raise ValueError(
            f"total_timesteps={config.total_timesteps} ends before the first gradient step: "
            f"learning_starts={starts}{taken}"
        )
