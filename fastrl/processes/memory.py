"""What a run needs of memory at least, so that what cannot fit is refused before it is tried."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from fastrl.config.run import RunConfig
from fastrl.processes.machine import total_memory

# Bytes, each less than what is really needed.
_PROCESS = 50_000_000  # Python and torch
_ENVIRONMENT = 500
_NUMBER = 4
_NUMBERS_OF_A_ROW = 6  # observation, action, reward, value, advantage and the like


def check_memory(config: RunConfig) -> None:
    """Raises ValueError, with the number of bytes, if a run cannot fit into this machine's memory.

    Only sizes that are known without the environments count, so a run that passes may still fail.
    """
    parts = _least_bytes(config)
    needed, available = config.devices * sum(parts.values()), total_memory()
    if needed > available:
        largest = max(parts, key=lambda name: parts[name])
        ranks = f" in each of {config.devices} processes" if config.devices > 1 else ""
        raise ValueError(
            f"{largest}{ranks} cannot fit: at least {needed:,} bytes are needed, "
            f"and this machine has {available:,}"
        )


def _least_bytes(config: Any) -> dict[str, int]:
    """Returns what one process needs at least, by the words for what needs it."""
    num_envs, num_steps = config.num_envs, getattr(config, "num_steps", 1)
    row = _NUMBER * (_NUMBERS_OF_A_ROW + config.frame_stack - 1)
    if getattr(config, "state_dependent_exploration", False) and not config.network:
        row += _NUMBER * config.hidden_sizes[-1]  # the weights that exploration is made by
    rows = f"num_envs={num_envs}, num_steps={num_steps}, frame_stack={config.frame_stack}"
    parts = {"a process": _PROCESS, rows: num_envs * (_ENVIRONMENT + num_steps * row)}
    if hidden := getattr(config, "hidden_sizes", ()):
        # Weights, their gradient and Adam's two moments.
        weights = 4 * sum(a * b for a, b in pairwise((1, *hidden, 1)))
        nets, words = 1, f"hidden_sizes={list(hidden)}"
        if hasattr(config, "num_critics"):
            nets = 1 + 2 * config.num_critics
            words += f", num_critics={config.num_critics}"
        parts[words] = _NUMBER * nets * weights
        batch = config.per_rank_batch_size
        parts[f"per_rank_batch_size={batch}"] = _NUMBER * batch * max(hidden)
    if hasattr(config, "buffer_size"):
        filled = min(config.buffer_size, config.total_timesteps)
        parts[f"buffer_size={config.buffer_size}"] = filled * 3 * _NUMBER
    return parts
