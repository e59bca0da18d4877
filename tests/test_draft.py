"""The snippets of the draft that `AgentTrainer` goes back to run as they are written there.

Imports aside. The draft never assigns some of its names, and those stand for what they can only
mean; its world model is given to `fit(..., dataset=...)`, which Lightning's own trainer lacks.
"""

from __future__ import annotations

import types
from functools import partial
from typing import Any

import gymnasium
import lightning
import pytest
import torch
from own_modules import ActorCritic, PPOAgent, mlp
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fastrl import AgentTrainer, LightningAgentModule, make_random_trajectory

ONLINE = """
actor_critic_network = ActorCriticNetwork()
ppo_agent = PPOAgent(actor_critic_network)

env = gym.make("CartPole-v0")

trainer = AgentTrainer()
trainer.fit(ppo_agent, env)
"""
WORLD_MODEL = """
random_dataset = make_random_trajectory(env, directory=directory)
random_trajectory = DataLoader(random_trajectory)
trainer = Trainer()
trainer.fit(agent, dataset=random_dataloader)
"""
ABSTRACTING = """
if laerning_type.startswith("RL"):  # codespell:ignore
    trainer = AgentTrainer()
    target = env
else:
    trainer = Trainer()
    target = L.Dataloader(mnist_dataset)

model = MLP()

trainer.fit(model, train_dataloader)
"""
MEANT = {
    "random_trajectory": "random_dataset",
    "random_dataloader": "random_trajectory",
    "train_dataloader": "target",
}


class Names(dict[str, Any]):
    """What a snippet assigns, and what it means by a name that it does not."""

    def __missing__(self, name: str) -> Any:
        return self[MEANT[name]] if name in MEANT else super().__missing__(name)  # pyright: ignore


class WorldModel(LightningAgentModule):
    """The next observation of an observation and an action."""

    def __init__(self) -> None:
        super().__init__()
        self.network = mlp(5, 4)

    def training_step(self, batch: Any) -> torch.Tensor:
        inputs = torch.cat([batch.obs, batch.actions.float().reshape(-1, 1)], 1)
        return (batch.obs + self.network(inputs) - batch.next_obs).pow(2).mean()


class MLP(LightningAgentModule):
    """Learns digits from data, and by REINFORCE from an environment."""

    def __init__(self) -> None:
        super().__init__(num_steps=16, total_timesteps=256, eval_episodes=0, accelerator="cpu")
        self.network = mlp(4, 2)

    def training_step(self, batch: Any) -> torch.Tensor:
        if isinstance(batch, list):
            return nn.functional.cross_entropy(self.network(batch[0]), batch[1])
        log_probs, _, _ = self.evaluate_actions(batch.obs, batch.actions)
        return -(batch.weights * log_probs * batch.returns).sum()


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What stands around the snippets; runs are short."""
    monkeypatch.chdir(tmp_path)
    short = {"num_steps": 16, "total_timesteps": 256, "eval_episodes": 2, "accelerator": "cpu"}
    return Names(
        gym=gymnasium,
        AgentTrainer=AgentTrainer,
        ActorCriticNetwork=ActorCritic,
        PPOAgent=partial(PPOAgent, **short),
        env=gymnasium.make("CartPole-v1"),
        directory=str(tmp_path / "data"),
        make_random_trajectory=partial(make_random_trajectory, total_steps=200),
        DataLoader=DataLoader,
        L=types.SimpleNamespace(Dataloader=DataLoader),
        MLP=MLP,
        mnist_dataset=TensorDataset(torch.randn(8, 4), torch.zeros(8, dtype=torch.int64)),
    )


@pytest.mark.filterwarnings("ignore")
def test_the_snippet_of_an_online_agent_runs(names):
    before = ActorCritic().state_dict()["actor.0.weight"]
    exec(ONLINE, {}, names)
    assert names["trainer"].result.summary["total_env_steps"] == 256
    assert not names["actor_critic_network"].state_dict()["actor.0.weight"].equal(before)


@pytest.mark.filterwarnings("ignore")
def test_the_snippet_of_a_world_model_runs(names):
    pytest.importorskip("minari")
    names["agent"] = WorldModel()
    names["Trainer"] = partial(AgentTrainer, max_steps=20, accelerator="cpu")
    before = names["agent"].network[0].weight.detach().clone()
    exec(WORLD_MODEL, {}, names)
    assert not names["agent"].network[0].weight.equal(before)
    assert names["agent"].trainer.global_step == 20


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("learning_type", ["RL", "supervised"])
def test_the_snippet_with_one_fit_for_both_ways_of_learning_runs(names, learning_type):
    names["laerning_type"] = learning_type  # codespell:ignore
    names["Trainer"] = partial(lightning.Trainer, max_steps=5, accelerator="cpu")
    exec(ABSTRACTING, {}, names)
    assert not names["model"].network[0].weight.equal(mlp(4, 2)[0].weight)
