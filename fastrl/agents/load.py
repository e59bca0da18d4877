"""Finds a run's checkpoint and the agent in it, whatever its algorithm."""

from __future__ import annotations

from argparse import Namespace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from fastrl.config.run import RunConfig
from fastrl.processes.errors import Parser
from fastrl.runs.folder import expanded, open_run_folder


class Saved(NamedTuple):
    """A checkpoint file, the algorithm it is of, and where what is made of it belongs."""

    algo: str
    checkpoint: Path
    folder: Path
    videos: Path


def parser_of(prog: str, description: str, env_id: str, needs_run: bool = True) -> Parser:
    """Returns a parser of what commands take to find and load an agent.

    Args:
        prog: how the command is called.
        description: what it does.
        env_id: what the task is for.
        needs_run: whether there must be an agent.
    """
    parser = Parser(prog=prog, description=description)
    count: Any = None if needs_run else "?"
    words = "run folder or checkpoint file"
    parser.add_argument("run", metavar="RUN", type=Path, nargs=count, help=words)
    parser.add_argument(
        "--checkpoint", metavar="last|best|PATH", help="checkpoint of the run (default: last)"
    )
    parser.add_argument(
        "--agent",
        default="",
        help="module:Class of the run, if it is a class of your own; of a LightningAgentModule, "
        "module:callable that returns it",
    )
    parser.add_argument(
        "--network",
        nargs="+",
        metavar="MODULE:CALLABLE",
        help="where the run's own network is to be found now, if it is yours, was renamed or moved",
    )
    parser.add_argument("--env-id", help=f"{env_id} (default: the run's)")
    parser.add_argument(
        "--trust", action="store_true", help="import code that the files name, whoever wrote them"
    )
    return parser


def find_saved(run: str | Path, checkpoint: str | None = None) -> Saved:
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


def named_again(arguments: Namespace) -> dict[str, Any]:
    """Returns what of a run's code the user names, or trusts: arguments of `load_agent`.

    Raises:
        ValueError: a network that is not named as it must be.
    """
    named = {"trust": arguments.trust, "agent": arguments.agent}
    if arguments.network:
        named["network"] = RunConfig(network=tuple(arguments.network)).network  # which checks it
    return named


def load_agent(
    saved: Saved, env: Any = None, *, trust: bool = False, agent: str = "", **settings: Any
) -> Any:
    """Returns the agent, by the `load_agent` of its algorithm's module.

    Args:
        saved: from `find_saved`.
        env: what to play; by default the task that the agent was trained on.
        trust: import what the checkpoint names, whoever wrote it.
        agent: that class, if the user names it again; or what makes a `LightningAgentModule`.
        **settings: settings to change, by name; `network` names that of the run again.

    Raises:
        ValueError: the checkpoint is damaged, foreign, of an unknown algorithm or of a class that
            may not be imported.
    """
    if agent and saved.algo != "module":
        from fastrl.agents.naming import class_of

        return class_of(agent).load_anywhere(saved.checkpoint, env, trust, **settings)
    name = f"fastrl.{saved.algo}"
    is_known = str(saved.algo).isidentifier() and find_spec(f"fastrl.config.{saved.algo}")
    module: Any = import_module(name) if is_known and find_spec(name) else None
    if not hasattr(module, "load_agent"):
        raise ValueError(
            f"{saved.checkpoint} is of the algorithm {saved.algo!r}, which fastrl does not have"
        )
    named = {"agent": agent} if saved.algo == "module" else {}
    return module.load_agent(saved.checkpoint, env, trust, **named, **settings)


def load(
    run: str | Path,
    env: Any = None,
    *,
    checkpoint: str | None = None,
    trust: bool = False,
    **settings: Any,
) -> Any:
    """Reads an agent of any algorithm and class: `fastrl.load("logs/ppo/...")`.

    Args:
        run: run folder, or a checkpoint file.
        env: what to play; by default the task that the agent was trained on.
        checkpoint: "last" (the default) or "best" of a run folder, or a file.
        trust: import what the run names, whoever wrote it.
        **settings: settings to change, by name.

    Raises:
        ValueError: as `load` of the algorithm's class.
    """
    saved = find_saved(run, checkpoint)
    return load_agent(saved, env, trust=trust, **settings)
