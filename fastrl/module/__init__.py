"""Algorithms of one's own: a `LightningModule` with a loss, trained by the loop of all others."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load_agent(
    path: Path, env: Any = None, trust: bool = False, agent: str = "", **settings: Any
) -> Any:
    """Returns the agent of a module, as a run of it left it.

    A checkpoint has a module's weights, but not how its network was made.

    Args:
        path: checkpoint.
        env: what to play; by default the task that the module was trained on.
        trust: import what the checkpoint names, whoever wrote it.
        agent: `module:callable` that makes the module, without arguments.
        **settings: settings to change, by name.

    Raises:
        ValueError: nothing makes the module, or it does not fit.
    """
    if not agent:
        raise ValueError(
            f"{path} is of a LightningAgentModule, whose network its own code makes: "
            "--agent module:callable names what returns such a module; in Python, "
            "module.restore(RUN) fills one, and AgentTrainer(resume=RUN).fit(module, env) goes on"
        )
    if "network" in settings:
        raise ValueError(f"network has no effect: {agent} makes the module's network")
    from fastrl.module.naming import made

    module = made(agent)
    module.restore(path, env, trust=trust, **settings)
    return module.agent
