"""Reads an agent from a file, once everything that the file says has been checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastrl.agents.fine_tuning import begin_parts_anew, take_keeps, with_new_scale
from fastrl.agents.naming import class_to_load, is_loaded
from fastrl.agents.networks import with_classes_of
from fastrl.agents.own_networks import is_gone, is_known
from fastrl.config.effects import check_effects
from fastrl.config.resume import check_beginnings
from fastrl.config.schedules import check_given_together, without_overridden
from fastrl.config.trust import check_named
from fastrl.envs.ids import fault_of
from fastrl.envs.make import is_known_id
from fastrl.envs.rebuild import without_processes
from fastrl.presets import facts_of
from fastrl.processes.errors import one_line
from fastrl.runs.checkpoint import Checkpoints, load_checkpoint
from fastrl.runs.fitting import naming
from fastrl.runs.folder import expanded, open_run_folder


def read_agent(kind: Any, path: str | Path, env: Any, trust: bool, settings: dict[str, Any]) -> Any:
    """Returns the agent in a file; arguments and errors as of `BaseAgent.load`, of class `kind`."""
    path = expanded(path)
    if path.is_dir():
        path = Checkpoints(open_run_folder(path).checkpoints).newest()
    state = load_checkpoint(path)
    if state.get("algo") != kind.algo:
        raise ValueError(f"{path} holds {str(state.get('algo'))!r}, not {kind.algo!r}")
    env = settings.pop("env_id", None) if env is None else env
    if "env_id" in settings:
        raise ValueError(f"give env or env_id, not both: {env!r} and {settings['env_id']!r}")
    said = {name: settings.pop(name) for name in ("eval_env", "verbose") if name in settings}
    network, keeps = settings.pop("network", None), take_keeps(kind, settings)
    given = dict(settings)
    check_given_together(given)
    if env is not None and not isinstance(env, str):
        settings = {**facts_of(env), "env_kwargs": (), **settings}
    learner = state.get("agent")
    saved = learner.get("config") if isinstance(learner, dict) else None
    if not isinstance(saved, dict):
        raise ValueError(f"{path} holds no agent of {kind.algo} with its config")
    try:
        config = before = kind.config_class.from_dict(saved)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {one_line(error)}") from error
    recorded = state.get("class")
    named_again = set(settings) | ({"env_id"} if env is not None else set())
    # The class of a script cannot be imported by its name, so that it names no code.
    if not recorded or is_loaded(recorded) or str(recorded).startswith("__main__:"):
        named_again.add("agent")
    if network is not None or is_known(config.network):
        named_again.add("network")
    named = {**config.to_dict(), "agent": recorded or ""}
    check_named(named, state.get("signature"), path, trust=trust, named_again=named_again)
    make: Any = class_to_load(recorded, kind, str(path))
    if env is None and (state.get("handed_over") or not is_known_id(config.env_id)):
        fault = fault_of(config.env_id, state.get("handed_over"))
        raise ValueError(
            f"{path} was trained on {fault}; give an id, module:Id-v0 or module:callable as env= "
            "of load, or as --env-id of evaluate, export and collect"
        )
    config = kind.config_class.from_dict(without_overridden(vars(config), given))
    # However many processes trained it, one is enough to play.
    change = config.replace if "devices" in settings else config.for_one_process
    played = {} if env is None else without_processes(env, config, settings)
    config = change(**{**played, **settings})
    check_effects(config, given)
    check_beginnings(config, saved, path, "seed", "alpha")
    agent = make(config.env_id if env is None else env, config, network=network, **said)
    if network is not None and is_gone(before.network):
        learner = with_classes_of(agent.networks(), learner)
    if "reward_scaling" in given:
        learner = with_new_scale(agent, learner)
    with naming(path):
        agent.load_state_dict(learner)
        if place := agent.not_finite():
            raise ValueError(f"its {place} is not finite: the training diverged")
    agent.begin_anew(given)
    agent.coefficients.begin_anew(given)
    begin_parts_anew(agent, path, before, env, given, keeps)
    return agent
