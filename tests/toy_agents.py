"""Small agents over random walks, and the training loop without a run folder."""

from typing import Any, TypeVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from toy_envs import StatefulEnv

from fastrl.a2c import A2C
from fastrl.agents.on_policy import OnPolicyAgent
from fastrl.buffers.rollout import RolloutBuffer
from fastrl.ppo import PPO
from fastrl.ppo_recurrent import PPORecurrent
from fastrl.runs.timer import StageTimer
from fastrl.training.player import Player


class WalkEnv(StatefulEnv):
    """A random walk that ends at a bound or after 9 steps; large actions are rewarded."""

    def reset(self, **arguments: Any) -> tuple[np.ndarray, dict]:
        super().reset(**arguments)
        self.position *= 0.1
        return self.observation(), {}

    def outcome(self, action: Any) -> tuple[float, bool, bool]:
        assert self.action_space.contains(np.asarray(action, self.action_space.dtype))
        reward = float(np.sum(action)) + 0.1 * self.position
        return reward, abs(self.position) > self.bound, self.num_steps == 9


class DiscreteWalk(WalkEnv):
    """One choice of three."""

    action_space = spaces.Discrete(3)


class MultiWalk(WalkEnv):
    """Two choices at once."""

    action_space = spaces.MultiDiscrete([2, 3])


class BoxWalk(WalkEnv):
    """Two numbers, of different bounds."""

    action_space = spaces.Box(np.array([-1, -0.5], np.float32), np.array([1, 2], np.float32))


WALKS: dict[str, type[WalkEnv]] = {
    "discrete": DiscreteWalk,
    "multidiscrete": MultiWalk,
    "box": BoxWalk,
}


def make_agent(env: str | gymnasium.vector.VectorEnv | Any = "discrete", **settings: Any) -> PPO:
    """Return a small agent on a walk, on a task or in an environment that was built elsewhere."""
    return make_agent_of(PPO, env, **{"update_epochs": 2, **settings})


def make_a2c(env: str | gymnasium.vector.VectorEnv | Any = "discrete", **settings: Any) -> A2C:
    """Return a small A2C agent likewise."""
    return make_agent_of(A2C, env, **settings)


def make_recurrent(
    env: str | gymnasium.vector.VectorEnv | Any = "discrete", **settings: Any
) -> PPORecurrent:
    """Return a small recurrent PPO agent likewise: minibatches of four sequences of eight rows."""
    small = {"update_epochs": 2, "sequence_length": 8, "per_rank_batch_size": 32}
    return make_agent_of(PPORecurrent, env, **{**small, **settings})


Kind = TypeVar("Kind", bound=OnPolicyAgent)


def make_agent_of(
    kind: type[Kind], env: str | gymnasium.vector.VectorEnv | Any, **settings: Any
) -> Kind:
    """Return a small agent of an algorithm."""
    if isinstance(env, str) and env in WALKS:
        env = f"{__name__}:{WALKS[env].__name__}"
    small: dict[str, Any] = {
        "num_envs": 4,
        "num_steps": 16,
        "per_rank_batch_size": 24,
        "hidden_sizes": (8, 8),
        "total_timesteps": 16 * 4 * 3,
        "eval_episodes": 0,
        "accelerator": "cpu",
        "num_threads": 1,
        "engine": "eager",
    }
    if not isinstance(env, str):
        small["num_envs"] = env.num_envs
    return kind(env, preset="none", **{**small, **settings})


class Loop:
    """Rollouts and updates of an agent, in turn."""

    def __init__(self, agent: Any) -> None:
        self.agent, self.timer = agent, StageTimer()
        self.buffer: RolloutBuffer = agent.make_buffer()
        self.player = Player(agent, agent.envs, self.buffer, self.timer)
        self.player.reset()
        self.num_updates = 0

    def collect(self) -> None:
        """Fill the buffer."""
        if self.num_updates:
            self.buffer.carry_over()
        self.player.collect()

    def update(self) -> dict[str, float]:
        """Learn from what the buffer holds."""
        self.num_updates += 1
        return self.agent.update(self.buffer, self.num_updates - 1, self.timer)

    def run(self, num_updates: int) -> list[dict[str, float]]:
        """Collect and learn; metrics of all updates."""
        metrics = []
        for _ in range(num_updates):
            self.collect()
            metrics.append(self.update())
        return metrics


def run(agent: OnPolicyAgent, num_updates: int = 3) -> list[dict[str, float]]:
    """Train for some updates; metrics of all of them."""
    return Loop(agent).run(num_updates)


def tensors_of(agent: OnPolicyAgent) -> dict[str, Tensor]:
    """Return copies of everything that learning changes, by name."""
    state = agent.state_dict()
    parts = {"policy": state["policy"], "optimizer": state["optimizer"]}
    parts["reward_scale"] = state["reward_scale"] or {}
    tensors = {f"{part}.{name}": x for part, named in parts.items() for name, x in named.items()}
    tensors["noise_generator"] = state["noise_generator"]
    return {name: tensor.clone() for name, tensor in tensors.items()}


def differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    """Return the names of the tensors that are not the same to the bit."""
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]
