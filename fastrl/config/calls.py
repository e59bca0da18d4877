"""Answers to calls as other libraries have them: their arguments and methods, by our names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from fastrl.config.other_names import WORDS, hint_for

P = ParamSpec("P")
R = TypeVar("R")

# Ours, of which each method has only some, and what others call them.
_TABLE = {
    "action_mask": "action_masks mask masks",
    "callbacks": "callback",
    "dataset": "datamodule dataloader train_dataloader train_dataloaders train_dataset",
    "env": "environment envs",
    "episodes": "eval_episodes n_episodes n_eval_episodes num_episodes num_eval_episodes",
    "form": "format kind",
    "loggers": "logger",
    "obs": "observation observations",
    "path": "file file_path filename save_path",
    "resume": "ckpt_path resume_from_checkpoint",
    "state": "hidden_state lstm_states rnn_state states",
    "total_timesteps max_steps": "max_epochs max_iterations max_timesteps num_timesteps steps "
    "total_steps total_timesteps",
}
_OURS = {other: ours.split() for ours, others in _TABLE.items() for other in others.split()}

_WORDS = WORDS | {
    "callback": "a list of callbacks",
    "ckpt_path": "AgentTrainer(resume=RUN) goes on with a run",
    "datamodule": "a DataLoader or Dataset",
    "enable_progress_bar": "verbose=0 prints nothing",
    "episode_start": "set the rows of the state to zero whose environments begin an episode",
    "episode_starts": "set the rows of the state to zero whose environments begin an episode",
    "exclude": "a file holds all that it takes to go on; export writes the policy alone",
    "include": "a file holds all that it takes to go on; export writes the policy alone",
    "log_interval": "a setting, log_every, in environment steps, of SAC and DroQ; PPO and A2C log "
    "every update",
    "num_nodes": "a setting of the agent",
    "render": "python -m fastrl.evaluate RUN --video records an episode",
    "state": "PPORecurrent alone has one, of new_state(n)",
    "strategy": "a setting of the agent",
    "tb_log_name": "the setting exp_name names runs",
    "train_dataloaders": "a DataLoader or Dataset",
}

METHODS = {
    "collect_rollouts": "AgentTrainer().fit(agent) plays and learns",
    "compute_actions": "predict(obs) returns actions",
    "compute_single_action": "predict(obs) returns actions",
    "get_action": "predict(obs) returns actions",
    "get_env": "its environments are envs",
    "get_parameters": "state_dict() returns all; networks() the modules",
    "get_vec_normalize_env": "observations are normalised in the policy: observation_normalization",
    "logger": "callbacks log by trainer.log(name, value); learn(loggers=[...]) takes loggers",
    "num_timesteps": "num_env_steps of SAC and DroQ; result.summary has those of a run",
    "replay_buffer": "the replay of SAC and DroQ is replay",
    "rollout_buffer": "callbacks see it as trainer.rollout",
    "set_env": "load(path, env) and AgentTrainer().fit(agent, env) take other environments",
    "set_logger": "learn(loggers=[...]) takes loggers",
    "set_parameters": "load(path) reads an agent; load_weights(path) its weights alone",
    "set_random_seed": "the setting seed",
    "train": "learn() trains the agent; agent.policy.train() sets the policy's mode",
}
"""Methods and attributes of other libraries' agents, and what to use here."""


def names_checked(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a function answer an unknown keyword argument with those that it has.

    Raises:
        ValueError: by the function; the message names ours where another library's name is known.
    """
    parameters = inspect.signature(function).parameters.keys()
    known = [*parameters][1:]  # the first is what the function is called on
    called = function.__qualname__.removesuffix(".__init__").rpartition(".")[2]

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not kwargs.keys() <= parameters:
            name = next(x for x in kwargs if x not in parameters)
            hint = hint_for(name, known, ours=_OURS, all_words=_WORDS)
            raise ValueError(f"{called} has no {name!r}{hint}")
        return function(*args, **kwargs)

    return call


def missing(owner: Any, name: str) -> Any:
    """Says that an object has no attribute of a name, and what to use in place of others'.

    For `__getattr__`, which Python calls too when a property raises AttributeError: that comes
    through as it is.

    Raises:
        AttributeError: always.
    """
    found = inspect.getattr_static(type(owner), name, None)
    if hasattr(type(found), "__get__"):  # a property, cached or not: raises again what it raised
        return found.__get__(owner, type(owner))
    hint = f"; {METHODS[name]}" if name in METHODS else ""
    words = f"{type(owner).__name__!r} object has no attribute {name!r}{hint}"
    raise AttributeError(words, name=name, obj=owner)
