"""What is changed by hand while an agent trains takes effect, on every engine, or a line is told.

Learning rates and coefficients, the optimiser's settings, and its state.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from quick import quick, slow
from test_resume import (
    STATEFUL,
    StopAfter,
    agent_for,
    assert_equal,
    last_state,
    metrics_of,
)

from fastrl import A2C, PPO, SAC, AgentTrainer
from fastrl.callbacks import Callback
from fastrl.engine.optimizer import FlatOptimizer

Change = Callable[[FlatOptimizer], None]
KINDS = {"ppo": PPO, "a2c": A2C, "sac": SAC}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def optimizers_of(agent: Any) -> list[FlatOptimizer]:
    return [
        parameters for parameters, _ in agent.trained() if isinstance(parameters, FlatOptimizer)
    ]


class ChangesInThird(Callback):
    """Changes something in the middle of a run."""

    def __init__(self, change: Callable[[Any], None]) -> None:
        self.change, self.count = change, 0

    def on_rollout_end(self, trainer: Any) -> None:
        self.count += 1
        if self.count == 3:
            self.change(trainer.agent)


def trained(algo: str, change: Callable[[Any], None], **settings: Any) -> Any:
    """An agent that was changed after the first of some updates."""
    small: dict[str, Any] = {"num_steps": 16, "total_timesteps": 256, "num_envs": 4}
    if algo == "sac":
        small = {"num_steps": 8, "total_timesteps": 64, "num_envs": 1, "learning_starts": 8}
        small["per_rank_batch_size"] = 16
    elif algo == "ppo":
        small |= {"per_rank_batch_size": 32, "update_epochs": 4}
    small |= {"hidden_sizes": (8,), "eval_episodes": 0, "accelerator": "cpu"}
    env = "toy_envs:BoxActionEnv" if algo == "sac" else STATEFUL
    agent = KINDS[algo](env, preset="none", seed=3, verbose=0, **{**small, **settings})
    agent.learn(callbacks=[ChangesInThird(change)])
    return agent


def weights(agent: Any) -> torch.Tensor:
    return torch.cat([optimizer.flat for optimizer in optimizers_of(agent)])


def each(change: Change) -> Callable[[Any], None]:
    """The change, made to all optimisers of an agent."""

    def change_all(agent: Any) -> None:
        for optimizer in optimizers_of(agent):
            change(optimizer)

    return change_all


def unchanged(_: Any) -> None:
    pass


@functools.cache
def weights_unchanged(algo: str) -> torch.Tensor:
    return weights(trained(algo, unchanged))


@each
def no_rate(optimizer: FlatOptimizer) -> None:
    optimizer.learning_rate = 0.0


@each
def rate_in_place(optimizer: FlatOptimizer) -> None:
    optimizer.learning_rate.fill_(0.01)


@each
def rate_as_tensor(optimizer: FlatOptimizer) -> None:
    optimizer.learning_rate = torch.tensor(0.01)


@each
def smaller_steps(optimizer: FlatOptimizer) -> None:
    optimizer.eps = 1.0


@each
def other_bound(optimizer: FlatOptimizer) -> None:
    optimizer.max_grad_norm = 1e-4


@each
def decaying(optimizer: FlatOptimizer) -> None:
    optimizer.weight_decay = 0.5


@each
def no_momentum(optimizer: FlatOptimizer) -> None:
    vars(optimizer).update(
        {"betas": (0.0, 0.99)} if hasattr(optimizer, "betas") else {"decay": 0.5}
    )


@each
def forgetful(optimizer: FlatOptimizer) -> None:
    optimizer.reset()


CHANGES = [
    no_rate,
    rate_in_place,
    rate_as_tensor,
    smaller_steps,
    other_bound,
    decaying,
    no_momentum,
    forgetful,
]
NAMES = [
    "no rate",
    "rate in place",
    "rate as tensor",
    "eps",
    "bound of the norm",
    "weight decay",
    "momentum",
    "reset",
]


QUICK_CHANGES = [
    ("ppo", x) for x in (no_rate, rate_in_place, smaller_steps, other_bound, forgetful)
]
QUICK_CHANGES += [("a2c", no_momentum), ("a2c", decaying), ("sac", rate_as_tensor)]


@pytest.mark.parametrize(
    ("algo", "change"),
    [
        pytest.param(
            *(algo, change),
            id=f"{algo}-{name}",
            marks=[] if (algo, change) in QUICK_CHANGES else [pytest.mark.slow],
        )
        for algo in KINDS
        for change, name in zip(CHANGES, NAMES, strict=True)
    ],
)
def test_what_is_changed_in_an_optimiser_takes_effect_on_every_engine(algo, change) -> None:
    auto, eager = (trained(algo, change, engine=engine) for engine in ("auto", "eager"))
    assert not torch.equal(weights(auto), weights_unchanged(algo))
    torch.testing.assert_close(weights(auto), weights(eager), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", quick(["ent_coef", "clip_coef"], "ent_coef"))
def test_a_constant_coefficient_stays_as_it_was_set(name: str) -> None:
    agent = trained("ppo", lambda agent: getattr(agent, name).fill_(0.03))
    assert float(getattr(agent, name)) == pytest.approx(0.03)


def test_a_coefficient_set_before_learning_is_used() -> None:
    def entropy(coefficient: float) -> float:
        agent = PPO(
            STATEFUL,
            preset="none",
            num_envs=4,
            num_steps=16,
            per_rank_batch_size=32,
            total_timesteps=64,
            verbose=0,
            eval_episodes=0,
        )
        agent.ent_coef.fill_(coefficient)
        agent.learn()
        return float(agent.ent_coef)

    assert entropy(0.25) == 0.25


@pytest.mark.parametrize("algo", ["ppo", "sac"])
def test_a_schedule_that_moves_sets_its_coefficient_anew_and_says_so(algo, caplog) -> None:
    agent = trained(algo, no_rate, lr_schedule="linear")
    assert all(float(optimizer.learning_rate) > 0 for optimizer in optimizers_of(agent))
    told = [
        x.getMessage() for x in caplog.records if "set to 0, but its schedule" in x.getMessage()
    ]
    assert len(told) == len(set(told)) == len(optimizers_of(agent))  # each rate once


class Halves(StopAfter):
    """Sets a coefficient by hand, before it is stopped."""

    def update(self, buffer: Any, update_index: int, timer: Any) -> dict[str, float]:
        if update_index == 1:
            self.ent_coef.fill_(0.02)
            self.optimizer.learning_rate = 1e-4
        return super().update(buffer, update_index, timer)


class HalvesAlone(Halves):
    """Likewise, and goes on."""

    stop = -1


CONSTANT = {"anneal_lr": False, "anneal_clip_coef": False}


def test_what_was_set_by_hand_is_resumed_to_the_bit(tmp_path: Path) -> None:
    straight = AgentTrainer().fit(agent_for(STATEFUL, tmp_path, HalvesAlone, **CONSTANT)).folder
    stopped = AgentTrainer(on_interrupt="return").fit(
        agent_for(STATEFUL, tmp_path, Halves, **CONSTANT)
    )
    assert stopped.exit_status == 143
    resumed = agent_for(STATEFUL, tmp_path, HalvesAlone, **CONSTANT)
    AgentTrainer(resume=stopped.folder).fit(resumed)
    assert float(resumed.ent_coef) == pytest.approx(0.02)
    assert_equal(last_state(stopped.folder), last_state(straight))
    assert metrics_of(stopped.folder) == metrics_of(straight)


def test_another_setting_at_resume_takes_the_place_of_what_was_set_by_hand(tmp_path: Path) -> None:
    stopped = AgentTrainer(on_interrupt="return").fit(
        agent_for(STATEFUL, tmp_path, Halves, **CONSTANT, engine="eager")
    )
    resumed = agent_for(STATEFUL, tmp_path, HalvesAlone, **CONSTANT, engine="eager", ent_coef=0.5)
    AgentTrainer(resume=stopped.folder).fit(resumed)
    assert float(resumed.ent_coef) == 0.5
    assert float(resumed.optimizer.learning_rate) == pytest.approx(1e-4)


def test_parameter_groups_are_answered_with_the_learning_rate() -> None:
    agent = trained("a2c", unchanged, engine="eager", total_timesteps=64)
    assert not hasattr(agent.optimizer, "param_groups")
    with pytest.raises(AttributeError, match=r"assign to optimizer\.learning_rate"):
        print(agent.optimizer.param_groups)


OFF_IN_A_RUN = [
    slow(("ppo", {"normalize_advantages": True})),
    ("ppo", {"per_rank_batch_size": 16}),
    slow(("ppo", {"eval_every": 64})),
    ("ppo", {"recompute_advantages": True}),
    ("a2c", {"optimizer": "adam"}),
    ("sac", {"gamma": 0.5}),
    slow(("sac", {"q_lr": 1e-2})),
    slow(("sac", {"tune_alpha": False})),
]


@pytest.mark.parametrize(("algo", "setting"), OFF_IN_A_RUN, ids=str)
def test_a_config_with_what_the_run_was_built_with_is_refused_in_its_middle(
    algo: str, setting: dict[str, Any]
) -> None:
    def change(agent: Any) -> None:
        with pytest.raises(ValueError, match="cannot take effect in the middle of a run"):
            agent.config = agent.config.replace(**setting)

    agent = trained(algo, change, engine="eager")
    agent.config = agent.config.replace(eval_every=64)  # for the next run


ON_IN_A_RUN = [
    *[slow(("ppo", {name: 0.5})) for name in ("gamma", "vf_coef", "ent_coef")],
    ("ppo", {"clip_coef": 0.5}),
    slow(("ppo", {"update_epochs": 2})),
    ("ppo", {"lr_schedule": "linear"}),
    ("a2c", {"gae_lambda": 0.5}),
    ("sac", {"learning_starts": 40}),
    slow(("sac", {"target_network_frequency": 3})),
]


@pytest.mark.parametrize(("algo", "setting"), ON_IN_A_RUN, ids=str)
def test_a_config_with_what_a_run_reads_again_takes_effect_in_its_middle(
    algo: str, setting: dict[str, Any]
) -> None:
    def change(agent: Any) -> None:
        agent.config = agent.config.replace(**setting)

    assert not torch.equal(weights(trained(algo, change)), weights_unchanged(algo))


class Rates(Callback):
    """Keeps the learning rate of each update."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_update_end(self, trainer: Any, metrics: Any) -> None:
        self.rates.append(round(float(trainer.agent.optimizer.learning_rate), 7))


OF_RATES: dict[str, Any] = {"preset": "none", "num_envs": 4, "num_steps": 16, "verbose": 0}
OF_RATES |= {"per_rank_batch_size": 32, "eval_episodes": 0, "accelerator": "cpu"}


def test_a_coefficient_that_load_is_given_takes_the_place_of_the_file_s() -> None:
    rule: dict[str, Any] = {"learning_rate": 1e-3, "lr_schedule": "adaptive,kl=0.0001"}
    agent = PPO("CartPole-v1", **OF_RATES, **rule, engine="eager", total_timesteps=512).learn()
    assert agent.result is not None and float(agent.optimizer.learning_rate) < 5e-4
    for given in (
        {"learning_rate": 1e-3, "lr_schedule": "constant"},
        {"lr_schedule": "linear"},
    ):
        loaded = PPO.load(agent.result.folder, verbose=0, **given)
        loaded.learn(128, callbacks=[rates := Rates()])
        assert rates.rates[0] == 1e-3
    same = PPO.load(agent.result.folder)  # nothing is said of the rate
    assert float(same.optimizer.learning_rate) == float(agent.optimizer.learning_rate)
    sac = trained("sac", lambda agent: agent.learning_rates["q_lr"].fill_(9e-3), engine="eager")
    assert float(SAC.load(sac.result.folder).learning_rates["q_lr"]) == pytest.approx(9e-3)
    again = SAC.load(sac.result.folder, q_lr=sac.config.q_lr)
    assert float(again.learning_rates["q_lr"]) == pytest.approx(sac.config.q_lr)


def test_a_schedule_that_is_not_constant_sets_its_own_in_every_update(caplog: Any) -> None:
    def by_hand(agent: Any) -> None:
        agent.optimizer.learning_rate = 5e-5

    def steps(progress: float) -> float:
        return 1.0 if progress < 0.5 else 0.1

    agent = PPO("CartPole-v1", **OF_RATES, lr_schedule=steps, total_timesteps=512)
    agent.learn(callbacks=[ChangesInThird(by_hand), rates := Rates()])
    assert rates.rates == [1e-3] * 4 + [1e-4] * 4
    assert sum("its schedule sets it before each update" in x for x in caplog.messages) == 1
