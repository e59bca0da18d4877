"""Settings that a user gave and that have no effect in combination with the others."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

_BY_NETWORK = "with network, which makes all layers in front of the heads"
_LAST = " and the memory, whose width alone is asked for"


def check_effects(config: Any, given: Collection[str]) -> None:
    """Raises ValueError for a setting that a run would silently ignore.

    Presets, saved runs and defaults may hold such settings; a user who gives one expects something.

    Args:
        config: all settings of the run, a `RunConfig`.
        given: names of those that the user gave.
    """
    is_own = bool(config.network)
    has_memory, has_critics = hasattr(config, "rnn"), hasattr(config, "num_critics")
    sizes_count = has_critics or (has_memory and len(config.hidden_sizes) == 1)
    is_gymnasium = config.backend == "gymnasium" or ":" in config.env_id
    idle = {
        "rank_timeout": (config.devices * config.num_nodes == 1, "with one rank"),
        "eval_every": (not config.eval_episodes, "with eval_episodes=0"),
        "keep_checkpoints": (not config.checkpoint_every, "with checkpoint_every=0"),
        "num_env_threads": (is_gymnasium, "with gymnasium's environments, which have no threads"),
        "num_workers": (config.vector == "sync", "with vector=sync"),
        "network_kwargs": (not config.network, "without network"),
        "hidden_sizes": (is_own and not sizes_count, _BY_NETWORK + _LAST * has_memory),
        "critic_hidden_sizes": (is_own, _BY_NETWORK),
        "activation_function": (is_own and not has_critics, _BY_NETWORK),
        "encoder": (is_own, _BY_NETWORK),
        "alpha_lr": (not getattr(config, "tune_alpha", True), "with tune_alpha=false"),
    }
    for name, (is_idle, why) in idle.items():
        value = getattr(config, name, None)
        # 0 switches off what is off already.
        if name in given and is_idle and value and value != getattr(type(config), name):
            raise ValueError(f"{name}={value} has no effect {why}")
