"""Stable-Baselines3 on a standard work, with its DummyVecEnv over gymnasium, as users run it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from benchmarks.peers.stopwatch import Stopwatch, read_work

# gymnasium refuses the older version. EnvPool has only that; the physics differ in details.
NEWER_IDS = {"LunarLander-v2": "LunarLander-v3"}
ACTIVATIONS = {"tanh": nn.Tanh, "elu": nn.ELU}


class Ticks(BaseCallback):
    """Ticks at the start of every rollout."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        super().__init__()
        self._stopwatch = stopwatch

    def _on_rollout_start(self) -> None:
        self._stopwatch.tick()

    def _on_step(self) -> bool:
        return True


class SharedLayers(BaseFeaturesExtractor):
    """Hidden layers that actor and critic have in common; this library shares none by itself."""

    def __init__(
        self, observation_space: Any, hidden_sizes: list[int], activation: type[nn.Module]
    ) -> None:
        super().__init__(observation_space, hidden_sizes[-1])
        widths = [observation_space.shape[0], *hidden_sizes]
        layers = [(nn.Linear(*pair), activation()) for pair in pairwise(widths)]
        self._layers = nn.Sequential(*(module for layer in layers for module in layer))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self._layers(observations)


def policy_settings(work: dict[str, Any]) -> dict[str, Any]:
    """Translates the network of the work."""
    sizes, activation = work["hidden_sizes"], ACTIVATIONS[work["activation"]]
    if not work["shared_network"]:
        return {"net_arch": {"pi": sizes, "vf": sizes}, "activation_fn": activation}
    layers = {"hidden_sizes": sizes, "activation": activation}
    return {
        "net_arch": [],
        "features_extractor_class": SharedLayers,
        "features_extractor_kwargs": layers,
    }


def main() -> None:
    """Trains and answers."""
    work = read_work()
    torch.set_num_threads(work["threads"])
    stopwatch = Stopwatch(work)
    env_id = NEWER_IDS.get(work["env_id"], work["env_id"])
    envs = make_vec_env(env_id, work["num_envs"], seed=work["seed"])
    if work["normalize_observations"]:
        envs = VecNormalize(envs, norm_reward=False)
    model = PPO(
        "MlpPolicy",
        envs,
        n_steps=work["num_steps"],
        n_epochs=work["update_epochs"],
        batch_size=work["minibatch_size"],
        learning_rate=work["learning_rate"],
        gamma=work["gamma"],
        gae_lambda=work["gae_lambda"],
        clip_range=work["clip_coef"],
        vf_coef=work["vf_coef"],
        ent_coef=work["ent_coef"],
        max_grad_norm=work["max_grad_norm"],
        normalize_advantage=work["normalize_advantages"],
        policy_kwargs=policy_settings(work),
        seed=work["seed"],
        device="cpu",
        verbose=0,
    )
    model.learn(work["total_steps"], callback=Ticks(stopwatch), log_interval=None)
    assert model.num_timesteps == work["total_steps"], model.num_timesteps
    episodes = model.ep_info_buffer or []
    stopwatch.answer(
        ["stable-baselines3", "gymnasium"],
        {"environment": f"{env_id}, DummyVecEnv", "threads": torch.get_num_threads()},
        sum(parameter.numel() for parameter in model.policy.parameters()),
        float(np.mean([episode["r"] for episode in episodes])) if episodes else None,
    )


if __name__ == "__main__":
    main()
