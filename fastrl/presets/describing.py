"""`--describe`: what there is to set of an algorithm, and what presets set of it."""

from __future__ import annotations

from typing import Any

from fastrl.config.describing import config_class_of, description_of
from fastrl.presets import load_presets, named_presets, preset_for


def describe(algo: str, env_id: str = "", preset: str = "auto") -> dict[str, Any]:
    """Returns what there is to set of an algorithm, as plain values; see docs/settings.md.

    torch is not imported.

    Args:
        algo: module name of the algorithm, for example "ppo".
        env_id: the task whose preset is shown; "" for the algorithm's default task.
        preset: as of `preset_for`.

    Raises:
        ValueError: an unknown preset.
    """
    config_class = config_class_of(algo)
    task = env_id or config_class.env_id
    settings = config_class.typed(preset_for(algo, task, preset), f"preset {preset}")
    described = description_of(algo, settings)
    facts = {
        "env_id": task,
        "preset": preset,
        "tasks_with_preset": list(load_presets(algo)),
        "named_presets": list(named_presets(algo)),
    }
    return {"algorithm": algo, "title": described["title"], **facts, **described}
