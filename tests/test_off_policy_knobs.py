"""Adam's settings and activations of SAC and DroQ, and weight decay of A2C, do what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from quick import quick
from test_sac import make_agent, trained
from torch import nn
from toy_agents import make_a2c, run

from fastrl import SAC, DroQ
from fastrl.config.a2c import A2CConfig
from fastrl.config.networks import Activation
from fastrl.config.sac import SACConfig
from fastrl.engine.optimizer import FlatRMSprop
from fastrl.kernels.extension import HAS_DENSE
from fastrl.models.critics import Critics

CHANGES: dict[str, dict[str, Any]] = {
    "adam_beta1": {"adam_beta1": 0.5},
    "adam_beta2": {"adam_beta2": 0.9},
    "weight_decay": {"weight_decay": 0.3},
    "activation_function": {"activation_function": "elu"},
}


def weights_of(agent: SAC) -> torch.Tensor:
    return torch.cat([agent.actor_optimizer.flat, agent.critic_optimizer.flat])


@pytest.mark.parametrize("kind", quick([SAC, DroQ], SAC))
@pytest.mark.parametrize("name", CHANGES)
def test_setting_changes_what_is_learned(kind: type[SAC], name: str) -> None:
    settings = {"policy_frequency": 1}
    before, after = (
        weights_of(trained(15, kind=kind, **settings, **x)) for x in ({}, CHANGES[name])
    )
    assert not torch.equal(before, after)


@pytest.mark.parametrize("kind", quick([SAC, DroQ], SAC))
@pytest.mark.parametrize("engine", [pytest.param("recorded", marks=pytest.mark.slow), "auto"])
@pytest.mark.parametrize(
    "name", quick(["weight_decay", "activation_function", "SiLU"], "weight_decay", "SiLU")
)
def test_every_engine_learns_with_it_what_eager_learns(
    kind: type[SAC], engine: str, name: str
) -> None:
    settings = CHANGES.get(name, {"activation_function": name})
    expected, actual = (
        weights_of(trained(kind=kind, engine=x, policy_frequency=1, **settings))
        for x in ("eager", engine)
    )
    torch.testing.assert_close(actual, expected, rtol=2e-3, atol=2e-5)


@pytest.mark.skipif(not HAS_DENSE, reason="no extension, or no wide vectors")
@pytest.mark.parametrize("name", quick(["relu", "tanh", "elu"], "tanh", "elu"))
def test_kernels_serve_the_activations_that_they_know(name: str) -> None:
    agent = make_agent(engine="native", activation_function=name)
    agent.make_buffer()
    assert agent.engine.describe() == "engine: native kernels"


@pytest.mark.skipif(not HAS_DENSE, reason="no extension, or no wide vectors")
def test_the_header_says_which_activation_the_kernels_do_not_know() -> None:
    agent = make_agent(engine="auto", activation_function="Mish")
    agent.make_buffer()
    line = agent.engine.describe()
    assert line.startswith("engine: recorded graphs")
    assert line.count("relu, tanh, elu as activations, not Mish") == 1


@pytest.mark.parametrize("name", get_args(Activation))
@pytest.mark.parametrize("layer_norm", [False, True])
def test_critics_have_the_activation_behind_each_hidden_layer(name: str, layer_norm: bool) -> None:
    critics = Critics(3, (4, 5), 2, layer_norm, activation=name)
    x = torch.randn(6, 3)
    kinds = {x.__name__.lower(): x for x in vars(nn).values() if isinstance(x, type)}
    activate = kinds[name.lower()]()
    for index, values in enumerate(critics.values(x)):
        h = x
        for layer, size in enumerate((4, 5)):
            h = h @ critics.weights[layer][index] + critics.biases[layer][index]
            h = nn.functional.layer_norm(h, (size,)) if layer_norm else h
            h = activate(h)
        expected = h @ critics.weights[2][index] + critics.biases[2][index]
        torch.testing.assert_close(values, expected.squeeze(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", [None, lambda space: nn.Linear(space.shape[0], 6)])
def test_the_actor_has_the_activation_behind_each_hidden_layer(network: Any) -> None:
    silu: Any = nn.SiLU
    agent = make_agent(activation_function=silu, **({"network": network} if network else {}))
    assert agent.config.activation_function == "SiLU"
    kinds = [type(layer) for layer in agent.policy.trunk.modules() if not layer._modules]
    assert kinds[-4:] == [nn.Linear, nn.SiLU] * 2


def test_betas_are_those_of_all_three_and_weight_decay_spares_the_temperature() -> None:
    agent = make_agent(adam_beta1=0.5, adam_beta2=0.9, weight_decay=0.2)
    optimizers = agent.actor_optimizer, agent.critic_optimizer, agent.alpha_optimizer
    assert [x.betas for x in optimizers] == [(0.5, 0.9)] * 3
    assert [x.weight_decay for x in optimizers] == [0.2, 0.2, 0.0]


def test_a_policy_with_another_activation_is_saved_loaded_and_exported(tmp_path: Path) -> None:
    agent = trained(activation_function="GELU")
    agent.save(tmp_path / "agent.pt")
    again = SAC.load(tmp_path / "agent.pt", env="toy_agents:BoxWalk", accelerator="cpu")
    assert again.config.activation_function == "GELU"
    obs = agent.observation_space.sample()
    assert (again.predict(obs) == agent.predict(obs)).all()
    agent.export(tmp_path / "policy.pt")
    found = torch.jit.load(tmp_path / "policy.pt")(torch.as_tensor(obs).unsqueeze(0))[0]
    torch.testing.assert_close(found, torch.as_tensor(agent.predict(obs)))


# A2C


def test_rmsprop_takes_the_share_off_before_its_step() -> None:
    network = nn.Linear(4, 3)
    ours = FlatRMSprop(network, 0.05, 1e-5, 0.0, 0.99, weight_decay=0.2)
    plain, square = ours.flat.clone(), torch.ones_like(ours.flat)
    for step in range(5):
        gradient = torch.randn(15, generator=torch.Generator().manual_seed(step))
        plain.mul_(1 - 0.05 * 0.2)
        square.mul_(0.99).add_(0.01 * gradient.square())
        plain.sub_(0.05 * gradient / (square + 1e-5).sqrt())
        ours.apply(gradient)
    torch.testing.assert_close(ours.flat, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", quick(["rmsprop", "adam"], "adam"))
@pytest.mark.parametrize("engine", quick(["recorded", "auto"], "auto"))
def test_a2c_decays_weights_on_every_engine_as_on_eager(optimizer: str, engine: str) -> None:
    found = []
    for name, decay in (("eager", 0.3), (engine, 0.3), ("eager", 0.0)):
        agent = make_a2c("box", engine=name, optimizer=optimizer, weight_decay=decay)
        run(agent)
        found.append(agent.optimizer.flat)
    torch.testing.assert_close(found[1], found[0], rtol=2e-4, atol=2e-5)
    assert not torch.allclose(found[2], found[0], rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (A2CConfig, {"adam_beta1": 0.5}, "adam_beta1 has no effect with optimizer=rmsprop"),
        (A2CConfig, {"adam_beta2": 0.5}, "adam_beta2 has no effect with optimizer=rmsprop"),
        (A2CConfig, {"weight_decay": -1.0}, "weight_decay must be at least 0, not -1.0"),
        (SACConfig, {"adam_beta2": 1.0}, "adam_beta2 must be from 0 to below 1, not 1.0"),
        (SACConfig, {"weight_decay": -1.0}, "weight_decay must be at least 0, not -1.0"),
        (SACConfig, {"activation_function": "Linear"}, "activation_function must be one of relu"),
    ],
)
def test_what_has_no_effect_or_is_out_of_range_is_refused(
    kind: Any, settings: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)
