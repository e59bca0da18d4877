"""Finds a run's checkpoint and the agent in it, whatever its algorithm."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fastrl.runs.folder import expanded, open_run_folder

if TYPE_CHECKING:
    from fastrl.training.agent import Agent


class Saved(NamedTuple):
    """A checkpoint file, the algorithm it is of, and where what is made of it belongs."""

    algo: str
    checkpoint: Path
    folder: Path
    videos: Path


def find_saved(run: Path, checkpoint: str | None = None) -> Saved:
    """Finds a checkpoint.

    Args:
        run: run folder, or a checkpoint file.
        checkpoint: "last" (the default) or "best" of a run folder, or a file.

    Raises:
        ValueError: neither a run folder nor a whole checkpoint of ours.
    """
    run = expanded(run)
    if run.is_file():
        if checkpoint is not None:
            raise ValueError(f"--checkpoint has no effect: {run} is a file, not a run folder")
        from fastrl.runs.checkpoint import (
            load_checkpoint,  # it imports torch: not before it is needed
        )

        return Saved(load_checkpoint(run).get("algo", ""), run, run.parent, run.parent)
    folder = open_run_folder(run)
    from fastrl.runs.checkpoint import Checkpoints, load_checkpoint

    if checkpoint in (None, "last"):
        path = Checkpoints(folder.checkpoints).newest()
    elif checkpoint == "best":
        path = folder.checkpoints / "best.pt"
    else:
        path = expanded(checkpoint)
        path = path if path.exists() else folder.checkpoints / checkpoint
    algo = folder.config.get("algo") or load_checkpoint(path).get("algo", "")
    return Saved(algo, path, folder.path, folder.videos)


def load_agent(saved: Saved, env_id: str | None = None, trust: bool = False) -> Agent:
    """Returns the agent, by the `load_agent(path, env_id, trust)` of its algorithm's module.

    Args:
        saved: from `find_saved`.
        env_id: the task to play; by default that which the agent was trained on.
        trust: import what the checkpoint names, whoever wrote it.

    Raises:
        ValueError: the checkpoint is damaged, foreign or of an unknown algorithm.
    """
    name = f"fastrl.{saved.algo}"
    is_known = str(saved.algo).isidentifier() and find_spec(f"fastrl.config.{saved.algo}")
    module: Any = import_module(name) if is_known and find_spec(name) else None
    if not hasattr(module, "load_agent"):
        raise ValueError(
            f"{saved.checkpoint} is of the algorithm {saved.algo!r}, which fastrl does not have"
        )
    return module.load_agent(saved.checkpoint, env_id, trust)
