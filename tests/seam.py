"""What somebody may change in an agent, and short runs of it on every engine, to be compared."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from toy_agents import Loop, make_agent_of

from fastrl import A2C, PPO, SAC, DroQ, PPORecurrent

ON_POLICY: dict[str, Any] = {"ppo": PPO, "a2c": A2C, "ppo_recurrent": PPORecurrent}
OFF_POLICY: dict[str, Any] = {"sac": SAC, "droq": DroQ}
KINDS = {**ON_POLICY, **OFF_POLICY}
FAST = ("auto", "recorded")
"""What is compared with eager; compile is, in a test of its own."""

_ON_POLICY = {"learning_rate": 0.01, "ent_coef": 0.01, "observation_normalization": True}
_A2C = {"learning_rate": 0.1, "rmsprop_decay": 0.3}
_OFF_POLICY = {
    "num_steps": 4,
    "learning_starts": 16,
    "replay_ratio": 0.25,
    "per_rank_batch_size": 16,
    "buffer_size": 400,
    "total_timesteps": 400,
    "policy_frequency": 2,
    "log_every": 0,
    "policy_lr": 0.01,
    "q_lr": 0.01,
    "alpha_lr": 0.01,
}
_SEQUENCES = {"sequence_length": 8, "per_rank_batch_size": 32}


class Ran(NamedTuple):
    """An agent after some updates."""

    agent: Any
    before: dict[str, Tensor]
    weights: dict[str, Tensor]


def weights_of(agent: Any) -> dict[str, Tensor]:
    """Returns copies of all weights, by name."""
    parts = {name: getattr(agent, name, None) for name in ("policy", "critics", "temperature")}
    return {
        f"{part}.{name}": x.detach().clone()
        for part, module in parts.items()
        if module is not None
        for name, x in module.named_parameters()
    }


def make(kind: Any, engine: str, env: str = "box", **settings: Any) -> Any:
    """Returns a small agent."""
    if issubclass(kind, SAC):
        settings = {**_OFF_POLICY, **settings}
    elif issubclass(kind, PPORecurrent):
        settings = {"update_epochs": 2, **_SEQUENCES, **_ON_POLICY, **settings}
    elif issubclass(kind, PPO):
        settings = {"update_epochs": 2, **_ON_POLICY, **settings}
    else:
        settings = {**_ON_POLICY, **_A2C, **settings}
    return make_agent_of(kind, env, engine=engine, **settings)


def nothing(agent: Any) -> None:
    """Leaves an agent as it is."""


def ran(
    kind: Any,
    engine: str,
    change: Callable[[Any], Any] = nothing,
    between: Callable[[Any], Any] = nothing,
    **settings: Any,
) -> Ran:
    """Trains an agent for three updates that learn.

    Args:
        kind: the algorithm.
        engine: how it runs.
        change: what somebody does to the agent before it learns.
        between: what somebody does after every update.
        **settings: of the agent.
    """
    agent = make(kind, engine, **settings)
    change(agent)
    before, loop = weights_of(agent), Loop(agent)
    for _ in range(4 if issubclass(kind, SAC) else 3):
        loop.run(1)
        between(agent)
    return Ran(agent, before, weights_of(agent))


@functools.cache
def on_eager(kind: Any, change: Any = None, between: Any = None, env: str = "box") -> Ran:
    """As `ran` on eager; remembered, so what it is given must say all."""
    return ran(kind, "eager", change or nothing, between or nothing, env=env)


class Put(NamedTuple):
    """A change that takes something to put in place."""

    function: Callable[[Any, Any], None]
    what: Any

    def __call__(self, agent: Any) -> None:
        self.function(self.what, agent)


def assert_same(found: Ran, expected: Ran) -> None:
    """Asserts that two runs learned the same, but for rounding."""
    assert found.weights.keys() == expected.weights.keys()
    for name, value in expected.weights.items():
        torch.testing.assert_close(
            found.weights[name],
            value,
            rtol=2e-3,
            atol=2e-4,
            msg=lambda text, n=name: f"{n}: {text}",
        )


def differ(one: Ran, other: Ran) -> bool:
    """Tells whether two runs learned something else, by far more than rounding."""
    return any(
        x.shape != other.weights[name].shape or (x - other.weights[name]).abs().max() > 2e-3
        for name, x in one.weights.items()
    )
