"""A module as a run left it: its weights, and an agent that plays, tests and exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastrl.agents.load import find_saved
from fastrl.config.trust import check_named
from fastrl.envs.ids import fault_of
from fastrl.envs.make import is_known_id
from fastrl.envs.rebuild import without_processes
from fastrl.presets import facts_of
from fastrl.processes.errors import one_line
from fastrl.runs.checkpoint import load_checkpoint
from fastrl.runs.fitting import naming


def restore(
    module: Any, run: str | Path, env: Any, checkpoint: str | None, trust: bool, **settings: Any
) -> None:
    """Fills a module with the weights of a run, and makes its agent; see `restore` of the module.

    Args:
        module: of the run's class, with its layers.
        run: run folder, or a checkpoint file.
        env: what to play; None: the task of the run.
        checkpoint: of the run folder.
        trust: import what the run names, whoever wrote it.
        **settings: settings to change, by name.

    Raises:
        ValueError: it is no run of such a module.
    """
    path = find_saved(Path(run), checkpoint).checkpoint
    state = load_checkpoint(path)
    learner: Any = state.get("agent")
    saved = learner.get("config") if isinstance(learner, dict) else None
    if state.get("algo") != "module" or not isinstance(saved, dict):
        raise ValueError(f"{path} is of {state.get('algo')!r}, not of a LightningAgentModule")
    try:
        config = type(module.settings).from_dict(saved).for_one_process()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {one_line(error)}") from error
    named_again = {"agent", *settings, *(["env_id"] if env is not None else [])}
    named = {**config.to_dict(), "agent": state.get("class") or ""}
    check_named(named, state.get("signature"), path, trust=trust, named_again=named_again)
    if env is None and (learner.get("handed_over") or not is_known_id(config.env_id)):
        fault = fault_of(config.env_id, learner.get("handed_over"))
        raise ValueError(f"{path} was trained on {fault}; give env=, or --env-id to commands")
    decided = {} if env is None else without_processes(env, config, settings)
    if env is not None and not isinstance(env, str):
        decided = {**decided, **facts_of(env), "env_kwargs": ()}
    of_run = {"accelerator": "auto", **config.unlike_defaults(), "callback": ()}
    given = {**of_run, **decided, **settings}
    given.pop("env_id", None)
    own, module.given = module.given, {}  # those of the run go
    try:
        agent = module.make_agent(config.env_id if env is None else env, given)
    finally:
        module.given = own
    with naming(path):
        # Any task may be played by what was trained on another.
        no_sums = {"metric_sums": [], "metric_names": [], "num_summed": 0}
        anew = {**no_sums, "handed_over": False}
        agent.load_state_dict({**learner, **anew})
        if place := agent.not_finite():
            raise ValueError(f"its {place} is not finite: the training diverged")
    agent.saved_replay = None  # rows are for learning
    module.eval()
