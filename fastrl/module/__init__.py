"""Algorithms of one's own: a `LightningModule` with a loss, trained by the loop of all others."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn


def load_agent(path: Path, env: Any = None, trust: bool = False, **settings: Any) -> NoReturn:
    """Refuses: a checkpoint has a module's weights, but not how its network was made."""
    raise ValueError(
        f"{path} is of a LightningAgentModule, whose network only its own script makes; there, "
        'module.load_state_dict(load_checkpoint(path)["agent"]["policy"]) takes the weights, and '
        "AgentTrainer(resume=RUN).fit(module, env) goes on"
    )
