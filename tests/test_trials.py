"""What is tried before a run begins leaves nothing behind: every engine learns the same."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from quick import quick
from torch import Tensor, nn

from fastrl import A2C, PPO, AgentTrainer, LightningAgentModule
from fastrl.engine.rehearsal import tried

SMALL: dict[str, Any] = {"preset": "none", "num_envs": 4, "num_steps": 16, "seed": 3}
SMALL |= {"total_timesteps": 256, "eval_episodes": 0, "verbose": 0, "accelerator": "cpu"}
# Neither the bound of gradients nor Adam's division may hide a factor of the loss.
SCALED = {**SMALL, "max_grad_norm": 0.0, "adam_eps": 0.1, "update_epochs": 4}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Scaled(PPO):
    """Divides its loss by what its first minibatch was like, kept in one of some ways."""

    how, in_class = "", None
    scale: Any

    def __init__(self, *given: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self.in_init: Any = None
        self.mean, self.count, self.holder = torch.zeros(()), 0, {}
        self.tensors: dict[str, Tensor] = {"n": torch.zeros(())}
        self.history = [torch.ones(())]

    def keep(self, returns: Tensor) -> Any:
        new = returns.std()
        if self.how == "class":
            if self.in_class is None:
                self.in_class = new
            return self.in_class
        if self.how == "init":
            if self.in_init is None:
                self.in_init = new
            return self.in_init
        if self.how == "hasattr":
            if not hasattr(self, "scale"):
                self.scale = new
            return self.scale
        if self.how == "getattr":
            if getattr(self, "scale", None) is None:
                self.scale = new
            return self.scale
        if self.how == "number":
            self.count += 1
            if self.in_init is None:
                self.in_init = float(new)
            return self.in_init + 0 * self.count
        if self.how == "dictionary":
            return self.holder.setdefault("scale", new)
        if self.how == "dictionary of tensors":
            return self.tensors.setdefault("scale", new)
        if self.how == "list of tensors":
            self.history.append(new)
            return self.history[1]
        if self.how == "setattr":
            if not hasattr(self, "scale"):
                setattr(self, "scale", new)  # noqa: B010
            return self.scale
        if self.how == "memory":
            self.mean.data = 0.9 * self.mean.data + 0.1 * new
            return self.mean
        self.mean = 0.9 * self.mean + 0.1 * new
        return self.mean

    def loss(self, batch: Any) -> Any:
        scale = self.keep(batch.returns)
        self.last = float(scale)
        loss, metrics = super().loss(batch)
        return loss / (scale + 1e-3), metrics


HOW = [
    *("class", "init", "hasattr", "getattr", "number", "dictionary", "mean", "memory"),
    *("dictionary of tensors", "list of tensors", "setattr"),
]
QUICK_HOW = [(False, x) for x in ("init", "dictionary", "memory")]
QUICK_HOW += [(True, "mean")]


@pytest.mark.parametrize(
    ("reads_values", "how"), quick(itertools.product([False, True], HOW), *QUICK_HOW)
)
def test_what_a_loss_keeps_of_its_first_batch_is_not_the_trial_s(
    reads_values: bool, how: str
) -> None:
    class Own(Scaled):
        def loss(self, batch: Any) -> Any:
            if reads_values:
                return super().loss(batch)
            loss, metrics = PPO.loss(self, batch)
            return loss / (self.keep(batch.returns) + 1e-3), metrics

    Own.how = how
    learned = {x: Own("CartPole-v1", engine=x, **SCALED).learn() for x in ("auto", "eager")}
    auto, eager = learned["auto"], learned["eager"]
    assert auto.count == eager.count
    torch.testing.assert_close(auto.optimizer.flat, eager.optimizer.flat, rtol=0, atol=1e-4)


class Centred(nn.Module):
    """Takes the mean of the first rows that it learns from off all others."""

    mean = None

    def __init__(self, space: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(space.shape[0], 8)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            if self.mean is None:
                self.mean = x.mean(0).detach()
            self.count = self.count + 1
        return torch.tanh(self.layer(x - (0 if self.mean is None else self.mean)))


def test_what_a_network_keeps_of_its_first_rows_is_not_the_trial_s() -> None:
    found = {}
    for engine in ("auto", "eager"):
        agent = A2C("CartPole-v1", network=Centred, engine=engine, **SMALL)
        assert agent.policy.actor.mean is None and agent.policy.actor.count == 0
        agent.learn()
        found[engine] = agent.policy.actor.mean, agent.policy.actor.count
    assert found["auto"][0].abs().sum() > 0
    torch.testing.assert_close(found["auto"], found["eager"])


class Keeps(LightningAgentModule):
    """Keeps much of what its steps see."""

    scale = None

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.network = nn.Linear(4, 2)
        self.seen, self.calls = {"batches": torch.zeros(())}, 0
        self.draws = torch.Generator().manual_seed(0)

    def training_step(self, batch: Any) -> Tensor:
        self.calls += 1
        self.seen["batches"] += 1
        self.noise = torch.rand(1, generator=self.draws)
        if self.scale is None:
            self.scale = batch.returns.std()
        log_probs, _, _ = self.evaluate_actions(batch.obs, batch.actions)
        return -(batch.weights * log_probs * batch.returns).sum() / (self.scale + 1e-3)


def test_the_trial_of_a_training_step_leaves_nothing_behind() -> None:
    module = Keeps(num_envs=4, num_steps=16, eval_episodes=0, engine="eager")
    AgentTrainer(max_steps=64, verbose=0).fit(module, "CartPole-v1")
    assert (module.calls, module.seen["batches"].item()) == (1, 1)
    assert module.scale is not None and module.scale > 0
    assert module.noise == torch.rand(1, generator=torch.Generator().manual_seed(0))


def test_a_buffer_and_other_memory_that_a_trial_gave_are_taken_back() -> None:
    network, target = nn.Linear(2, 1), nn.Linear(2, 1)
    before, memory = target.weight.detach().clone(), target.weight.data_ptr()

    def run() -> None:
        if not hasattr(network, "mean"):
            network.register_buffer("mean", torch.ones(2))
        target.weight.data = 0.9 * target.weight.data + 0.1 * network.weight.data

    with tried(run):
        run()
    assert not hasattr(network, "mean") and torch.equal(target.weight, before)
    assert target.weight.data_ptr() == memory


def test_a_trial_may_read_values_and_draw_and_all_is_as_before() -> None:
    tensors, generator = [torch.ones(2)], torch.Generator().manual_seed(1)
    before = generator.get_state()

    def run() -> float:
        tensors[0] += torch.rand(2, generator=generator)
        return tensors[0].sum().item() + torch.rand(1).item()

    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    with tried(run):
        run()
    assert tensors[0].tolist() == [1, 1] and torch.equal(generator.get_state(), before)
    assert torch.rand(1) == wanted
