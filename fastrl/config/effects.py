"""Settings that a user gave and that have no effect in combination with the others."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def check_effects(config: Any, given: Collection[str]) -> None:
    """Raises ValueError for a setting that a run would silently ignore.

    Presets, saved runs and defaults may hold such settings; a user who gives one expects something.

    Args:
        config: all settings of the run, a `RunConfig`.
        given: names of those that the user gave.
    """
    is_gymnasium = config.backend == "gymnasium" or ":" in config.env_id
    idle = {
        "rank_timeout": (config.devices * config.num_nodes == 1, "with one rank"),
        "eval_every": (not config.eval_episodes, "with eval_episodes=0"),
        "keep_checkpoints": (not config.checkpoint_every, "with checkpoint_every=0"),
        "num_env_threads": (is_gymnasium, "with gymnasium's environments, which have no threads"),
        "num_workers": (config.vector == "sync", "with vector=sync"),
        "alpha_lr": (not getattr(config, "tune_alpha", True), "with tune_alpha=false"),
    }
    for name, (is_idle, why) in idle.items():
        value = getattr(config, name, None)
        # 0 switches off what is off already.
        if name in given and is_idle and value and value != getattr(type(config), name):
            raise ValueError(f"{name}={value} has no effect {why}")
