"""What a run says about its environments at the start: what is seen, and what may fail."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces
from torch import Tensor, nn

from fastrl.config.checks import num_gradient_steps
from fastrl.engine.optimizer import FlatAdam
from fastrl.envs.choosing import choice_of
from fastrl.models.encoders import Reader
from fastrl.spaces.layout import in_words
from fastrl.spaces.packed import PackedRow
from fastrl.training.agent import Agent

_LARGE_OBSERVATION = 100.0
_UNKNOWN_BOUND = 1e9  # beyond it, a bound says nothing
_DIM_PIXEL = 15
_WIDE, _FAR = 10.0, 3.0  # in standard deviations of the policy as it starts


def lines_about(agent: Agent, rows: Tensor) -> list[str]:
    """Returns a line about the observations, and one for each reason for which learning may fail.

    Args:
        agent: the agent that learns.
        rows: the first observations `[N, *O]`, as the rollout stores them.
    """
    row = agent.envs[0].single_observation_space
    hints = [*_about_observations(agent, rows.cpu()), *_about_actions(agent)]
    hints += _about_length(agent)
    words = [f"observations: {in_words(row)}"]
    if (choice := choice_of(agent.envs[0])) is not None:
        words = [choice.line, *words]
    return [*words, *_about_networks(agent), *[f"hint: {hint}" for hint in hints]]


def check_learns(agent: Agent) -> None:
    """Raises ValueError if all weights are frozen, or the engine cannot see what it runs."""
    for name, network in agent.networks().items():
        for key, module in network.named_modules():
            place = f"{name}.{key}".rstrip(".")
            if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
                kind = type(module).__name__
                raise ValueError(f"{place} is in {kind}: devices=N trains on N devices without it")
            if "_orig_mod" in module._modules or module._compiled_call_impl is not None:
                raise ValueError(
                    f"{place} is compiled by torch.compile: give the network as it is; "
                    "engine='compile' compiles whole updates"
                )
    weights = [x for network in agent.networks().values() for x in network.parameters()]
    if weights and not any(x.requires_grad for x in weights):
        raise ValueError(
            f"nothing learns: all {sum(x.numel() for x in weights):,} weights are frozen "
            "(requires_grad is False)"
        )


def idle_weights(agent: Any) -> str | None:
    """Returns a hint about weights that no gradient has reached, "" if there are none.

    None until every Adam has taken a step. Other optimisers are not looked at.
    """
    names: list[str] = []
    count = 0
    networks = {id(module): name for name, module in agent.networks().items()}
    for parameters, module in agent.trained() if hasattr(agent, "trained") else ():
        if not isinstance(parameters, FlatAdam):
            continue
        if not parameters.steps:
            return None
        for name, size in parameters.unreached():
            whole = f"{networks.get(id(module), '')}.{name}".lstrip(".")
            names.append(whole.removeprefix("agent_module."))  # a module's own names
            count += size
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    words = f"{', '.join(names[:3])}{more} ({count:,} weights) so far"
    return f"no gradient has reached {words}" if names else ""


def _about_length(agent: Agent) -> list[str]:
    every = getattr(agent.config, "policy_frequency", 1)
    if every == 1 or getattr(agent, "num_gradient_steps", 0):  # it learned before, maybe
        return []
    number = num_gradient_steps(agent.config)
    if number >= every:
        return []
    return [
        f"the actor learns nothing: the run takes {number} gradient steps, and the actor has one "
        f"after every {every} (policy_frequency)"
    ]


def _about_networks(agent: Agent) -> list[str]:
    """Returns a line about networks of the user's own and frozen weights, if there are any."""
    config = agent.config
    weights = [x for network in agent.networks().values() for x in network.parameters()]
    num_learning = sum(x.numel() for x in weights if x.requires_grad)
    num_frozen = sum(x.numel() for x in weights) - num_learning
    if not config.network and not num_frozen:
        return []
    is_module = hasattr(agent, "module")
    called = " and ".join(config.network) or ("of the module" if is_module else "built-in")
    if config.network_kwargs:
        called += f" with {', '.join(config.network_kwargs)}"
    kept = f", {num_frozen:,} are frozen" if num_frozen else ""
    return [f"network: {called}; {num_learning:,} weights of the agent learn{kept}"]


def _about_observations(agent: Agent, rows: Tensor) -> list[str]:
    row, hints = agent.envs[0].single_observation_space, []
    reader = Reader(row)
    seen = reader.read(rows)
    if seen.pixels is not None and reader.brightest > _DIM_PIXEL:
        most = int(seen.pixels.max())
        if 0 < most <= _DIM_PIXEL:
            hints.append(
                f"the first pixels are at most {most} of {reader.brightest}: if they are a board, "
                "--obs-kind vector"
            )
    is_normalized = getattr(agent.config, "observation_normalization", None)
    if seen.vector is None or reader.is_one_hot or is_normalized:
        return hints
    largest = float(seen.vector.abs().max())
    if isinstance(row, spaces.Box) and not isinstance(row, PackedRow):  # whose bounds say nothing
        bounds = np.abs(np.array([row.low, row.high], np.float64))
        largest = max(largest, bounds[bounds < _UNKNOWN_BOUND].max(initial=0))
    if largest > _LARGE_OBSERVATION:
        how = "--observation-normalization helps" if is_normalized is False else "scale them"
        hints.append(f"observations reach {largest:,.0f}, where networks learn badly: {how}")
    return hints


def _about_actions(agent: Agent) -> list[str]:
    space, config = agent.envs[0].single_action_space, agent.config
    if not isinstance(space, spaces.Box) or getattr(config, "squash_actions", True):
        return []  # squashed actions fill the range
    if getattr(config, "state_dependent_exploration", False):
        return []  # the deviation is that of the features
    std = math.exp(config.log_std_init)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    half = high / 2 - low / 2
    is_far = (half > _WIDE * std) | (half < std / _WIDE) | (low > _FAR * std) | (high < -_FAR * std)
    if not is_far.any():
        return []
    k = int(is_far.argmax())
    return [
        f"action {k} goes from {low[k]:g} to {high[k]:g}, but the policy starts at 0 with a "
        f"standard deviation of {std:g}: --squash-actions or --log-std-init fits it to the range"
    ]
