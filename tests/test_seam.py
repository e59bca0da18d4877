"""What is written is what runs: on every engine an edited agent learns what it learns on eager."""

from __future__ import annotations

import copy
import itertools
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from quick import quick, slow
from seam import (
    FAST,
    KINDS,
    OFF_POLICY,
    ON_POLICY,
    Put,
    Ran,
    assert_same,
    differ,
    make,
    on_eager,
    ran,
)
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, prune, vector_to_parameters
from toy_agents import Loop

import fastrl
from fastrl import A2C, PPO, SAC, DroQ, PPORecurrent
from fastrl.kernels.extension import HAS_DENSE
from fastrl.models.distributions import CategoricalHead, GaussianHead
from fastrl.models.normalization import RunningNorm
from fastrl.ops import losses

# `auto` is what people run; recorded graphs without kernels are compared in the longer runs.
ENGINES = [pytest.param(x, marks=[pytest.mark.slow] if x == "recorded" else []) for x in FAST]
on_fast = on_native = pytest.mark.parametrize("engine", ENGINES)
of_all = pytest.mark.parametrize("name", KINDS)
of_two = pytest.mark.parametrize("name", quick(KINDS, "ppo", "sac"))


def of_each(kinds: Any, name: str, values: Any, *kept: Any) -> Any:
    """Gives the first algorithm some or all values, and SAC or the memory the last one.

    The others add time to the quick tests, and the slow ones have them.
    """
    kept = kept or tuple(values)
    first, other = next(iter(kinds)), "sac" if "sac" in kinds else "ppo_recurrent"
    return pytest.mark.parametrize(
        ("name", name),
        [
            pytest.param(
                x,
                y,
                marks=[]
                if (x == first and y in kept) or (x, y) == (other, values[-1])
                else [pytest.mark.slow],
            )
            for x in kinds
            for y in values
        ],
    )


def stock(name: str, env: str = "box") -> Ran:
    return on_eager(KINDS[name], env=env)


# Nothing changed


@of_two
@on_fast
def test_an_agent_as_it_comes_learns_what_it_learns_on_eager(name, engine):
    found = ran(KINDS[name], engine)
    assert_same(found, stock(name))
    assert any((found.weights[x] - value).abs().max() > 2e-3 for x, value in found.before.items())


@pytest.mark.skipif(not HAS_DENSE, reason="no extension, or no wide vectors")
@pytest.mark.parametrize("env", quick(["discrete", "multidiscrete", "box"], "box"))
@pytest.mark.parametrize("name", quick(ON_POLICY, "ppo", "ppo_recurrent"))
def test_an_agent_as_it_comes_runs_natively_without_a_note(name, env):
    agent = make(KINDS[name], "auto", env)
    agent.make_buffer()
    assert agent.engine.describe().startswith("engine: native kernels")
    assert agent.engine.notes == []


# (a) a name in the algorithm's file is another function

PATCHES = {
    "ppo": ("fastrl.ppo.clipped_surrogate", losses.clipped_surrogate, 0),
    "ppo_recurrent": ("fastrl.ppo.clipped_surrogate", losses.clipped_surrogate, 0),
    "a2c": ("fastrl.a2c.value_loss", losses.value_loss, 0),
    "sac": ("fastrl.sac.soft_target", losses.soft_target, -1),
    "droq": ("fastrl.sac.soft_target", losses.soft_target, -1),
}


@of_two
@on_fast
def test_a_function_put_in_place_of_an_imported_one_is_run(name, engine, monkeypatch):
    (target, function, factor), unpatched = PATCHES[name], stock(name)
    monkeypatch.setattr(target, lambda *given: factor * function(*given))
    found, expected = ran(KINDS[name], engine), ran(KINDS[name], "eager")
    assert_same(found, expected)
    assert differ(found, unpatched)


# (b) another loss


def cloned(agent: Any, batch: Any) -> Tensor:
    """Behaviour cloning of one action, for any policy."""
    wanted = torch.full_like(batch.actions, 0.3 if batch.actions.is_floating_point() else 1)
    log_probs, _, _ = agent.evaluate_actions(batch._replace(actions=wanted))
    return -losses.weighted_mean(log_probs, batch.weights)


class CloningPPO(PPO):
    def loss(self, batch: Any) -> Any:
        loss, metrics = super().loss(batch)
        return loss + 0.5 * cloned(self, batch), metrics


class CloningRecurrent(PPORecurrent):
    def loss(self, batch: Any) -> Any:
        loss, metrics = super().loss(batch)
        return loss + 0.5 * cloned(self, batch), metrics


class CloningA2C(A2C):
    def loss(self, batch: Any) -> Any:
        loss, metrics = super().loss(batch)
        wanted = torch.full_like(batch.actions, 0.3)
        log_probs, _, _ = self.policy.evaluate(batch.obs, wanted)
        return loss - losses.weighted_mean(log_probs, batch.weights), metrics


class _CloningActor:
    def actor_loss(self: Any, batch: Any) -> Any:
        loss, metrics = super().actor_loss(batch)  # pyright: ignore
        actions, _ = self.policy.sample(batch.obs, batch.noise)
        return loss + (actions - batch.actions).square().mean(), metrics


class CloningSAC(_CloningActor, SAC):
    pass


class CloningDroQ(_CloningActor, DroQ):
    pass


class KLPPO(PPO):
    """Stays near the policy that acted, in nats."""

    def loss(self, batch: Any) -> Any:
        loss, metrics = super().loss(batch)
        log_probs, _, _ = self.evaluate_actions(batch)
        return loss + 3 * losses.approximate_kl(log_probs - batch.log_probs, batch.weights), metrics


def symlog(x: Tensor) -> Tensor:
    return x.sign() * x.abs().log1p()


class SymlogPPO(PPO):
    """Squares errors of symlogs."""

    def loss(self, batch: Any) -> Any:
        loss, metrics = super().loss(batch)
        _, _, values = self.evaluate_actions(batch)
        error = symlog(values) - symlog(batch.returns)
        return loss + 2 * losses.weighted_mean(error * error, batch.weights), metrics


class SymlogSAC(SAC):
    """Squares errors of symlogs, too."""

    def critic_loss(self, batch: Any) -> Any:
        _, metrics = super().critic_loss(batch)
        values = self.critics(self.policy.read(batch.obs), batch.actions, batch.masks)
        error = symlog(values) - symlog(batch.rewards)
        return error.square().mean(), metrics


class EvaluatingPPO(PPO):
    """Has values of its own, times 3."""

    def evaluate_actions(self, batch: Any) -> Any:
        log_probs, entropy, values = super().evaluate_actions(batch)
        return log_probs, entropy, 3 * values


class ActingPPO(PPO):
    """Acts on other observations than it learns from."""

    @torch.no_grad()
    def draw_actions(self, obs: Tensor, noise: Tensor, actions: Tensor) -> Tensor:
        return super().draw_actions(obs + 0.5, noise, actions)


class BootstrappingPPO(PPO):
    """Takes the last values for zero."""

    def last_values(self, rollout: Any) -> Tensor:
        return 0 * super().last_values(rollout) - 5


DERIVED = {
    CloningPPO: "ppo",
    KLPPO: "ppo",
    SymlogPPO: "ppo",
    EvaluatingPPO: "ppo",
    ActingPPO: "ppo",
    BootstrappingPPO: "ppo",
    CloningRecurrent: "ppo_recurrent",
    CloningA2C: "a2c",
    CloningSAC: "sac",
    SymlogSAC: "sac",
    CloningDroQ: "droq",
}


@pytest.mark.parametrize(
    "kind", quick(DERIVED, CloningPPO, ActingPPO, BootstrappingPPO, CloningSAC)
)
@on_fast
def test_what_a_subclass_overrides_is_run(kind, engine):
    found, expected = ran(kind, engine), on_eager(kind)
    assert_same(found, expected)
    assert differ(found, stock(DERIVED[kind]))


@pytest.mark.skipif(not HAS_DENSE, reason="no extension, or no wide vectors")
@pytest.mark.parametrize(
    "kind",
    quick([CloningPPO, KLPPO, SymlogPPO, CloningA2C, CloningRecurrent], CloningPPO),
)
def test_another_loss_leaves_the_networks_in_the_kernels(kind):
    agent = make(kind, "auto")
    agent.make_buffer()
    assert agent.engine.describe().startswith("engine: native kernels")


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [CloningPPO, CloningA2C, CloningRecurrent, CloningSAC, CloningDroQ]
)
def test_what_a_subclass_overrides_is_compiled(kind):
    assert_same(ran(kind, "compile"), ran(kind, "eager"))


# (c) another head


class Warm(CategoricalHead):
    """Draws at twice the temperature."""

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        return self.mode(outputs + 0.2 * noise)


class Smoothed(CategoricalHead):
    """Mixes a uniform choice in."""

    def log_prob_and_entropy(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        log_prob, entropy = super().log_prob_and_entropy(outputs, actions)
        return 0.5 * log_prob, 3 * entropy


class Sharpened(CategoricalHead):
    """Has logits of its own."""

    def forward(self, features: Tensor) -> Tensor:
        return 3 * super().forward(features) + features[:, :1]


class Renamed(CategoricalHead):
    """Takes other names of choices to the environment."""

    def to_env(self, actions: Tensor) -> Tensor:
        return 2 - actions


class Small(GaussianHead):
    """Draws a tenth of the noise."""

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        return super().sample(outputs, 0.1 * noise)


class Wide(GaussianHead):
    """Has an entropy of its own."""

    def log_prob_and_entropy(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        log_prob, entropy = super().log_prob_and_entropy(outputs, actions)
        return log_prob + outputs.sum(1), entropy + outputs.square().sum(1)


class Bent(GaussianHead):
    """Has means of its own."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).tanh() + 0.3


class Turned(GaussianHead):
    """Takes other numbers to the environment."""

    def to_env(self, actions: Tensor) -> Tensor:
        return super().to_env(-actions)


HEADS: dict[Any, str] = dict.fromkeys((Warm, Smoothed, Sharpened, Renamed), "discrete")
HEADS |= dict.fromkeys((Small, Wide, Bent, Turned), "box")


def put_head(kind: Any, agent: Any) -> None:
    """Puts a head of another class, with new weights, into a policy."""
    old, num_features = agent.policy.head, agent.policy.head.layer.in_features
    if issubclass(kind, CategoricalHead):
        arguments = num_features, old.num_choices, [0], True, 0.5
    else:
        arguments = num_features, old.low.numpy(), old.high.numpy(), False, 0.0, 0.5
    torch.manual_seed(3)
    agent.policy.head = kind(*arguments)


@of_each(ON_POLICY, "head", list(HEADS), Smoothed, Sharpened, Small)
@on_fast
def test_a_head_of_another_class_is_used_as_it_is(name, engine, head):
    env, base = HEADS[head], head.__mro__[1]
    put = Put(put_head, head)
    found, expected = ran(KINDS[name], engine, put, env=env), on_eager(KINDS[name], put, env=env)
    assert_same(found, expected)
    plain = on_eager(KINDS[name], Put(put_head, base), env=env)
    assert differ(found, plain)


# (d) another normaliser


class Halved(RunningNorm):
    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations) / 2 - 0.1


class Tight(RunningNorm):
    """Clips."""

    def __init__(self, shape: Any) -> None:
        super().__init__(shape, clip=0.2)


class Frozen(RunningNorm):
    """Learns nothing."""

    def update(self, *given: Any, **more: Any) -> None:
        self.scale.fill_(3.0)


def put_normalizer(kind: Any, agent: Any) -> None:
    agent.policy.normalizer = kind(agent.policy.normalizer.mean.shape)


@of_each(ON_POLICY, "normalizer", [Halved, Tight, Frozen], Halved, Tight)
@on_fast
def test_a_normaliser_of_another_class_is_used_as_it_is(name, engine, normalizer):
    put = Put(put_normalizer, normalizer)
    found, expected = ran(KINDS[name], engine, put), on_eager(KINDS[name], put)
    assert_same(found, expected)
    assert differ(found, stock(name))


# (e) hooks


def first_linear(agent: Any) -> nn.Linear:
    return next(x for x in agent.policy.modules() if isinstance(x, nn.Linear))


def double_the_output(agent: Any) -> None:
    first_linear(agent).register_forward_hook(lambda module, given, made: 2 * made)


def double_the_input(agent: Any) -> None:
    first_linear(agent).register_forward_pre_hook(lambda module, given: (2 * given[0],))


def zero_the_gradient(agent: Any) -> None:
    first_linear(agent).weight.register_hook(torch.zeros_like)


HOOKS = {"output": double_the_output, "input": double_the_input, "gradient": zero_the_gradient}


@of_each(KINDS, "hook", list(HOOKS))
def test_a_hook_that_changes_something_is_called(name, hook):
    found, expected = ran(KINDS[name], "auto", HOOKS[hook]), on_eager(KINDS[name], HOOKS[hook])
    assert_same(found, expected)
    assert differ(found, stock(name))
    assert found.agent.engine.describe().startswith("engine: eager")
    assert "has a hook" in found.agent.engine.describe()


@of_two
def test_a_hook_that_counts_is_called_as_often_as_on_eager(name):
    counts = {}
    for engine in ("auto", "eager"):
        calls: list[None] = []

        def count(agent: Any, calls: list[None] = calls) -> None:
            first_linear(agent).register_forward_hook(lambda *_, c=calls: c.append(None))

        ran(KINDS[name], engine, count)
        counts[engine] = len(calls)
    assert counts["auto"] == counts["eager"] > 10


@pytest.mark.parametrize("engine", ["native", "recorded", "compile"])
def test_an_engine_asked_for_by_name_refuses_a_hook(engine):
    agent = make(PPO, engine)
    double_the_output(agent)
    with pytest.raises(ValueError, match="has a hook"):
        agent.make_buffer()


@pytest.mark.parametrize("engine", [*ENGINES, "eager"])
def test_a_hook_that_comes_while_the_agent_trains_is_refused(engine):
    with pytest.raises(ValueError, match="replaced while the agent trains"):
        ran(PPO, engine, between=double_the_output)


# (f) other layers


class Normed(nn.Module):
    """A layer norm between two layers."""

    def __init__(self, num_inputs: int, num_features: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(num_inputs, 12), nn.LayerNorm(12)
        self.last = nn.Linear(12, num_features)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.last(torch.tanh(self.norm(self.first(x)))))


def with_gelu(num_inputs: int, num_features: int) -> nn.Module:
    layers = nn.Linear(num_inputs, 12), nn.GELU(), nn.Linear(12, num_features), nn.GELU()
    return nn.Sequential(*layers)


class Skip(nn.Sequential):
    """Looks like the layers that the kernels know, and adds its input."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + input.sum(1, keepdim=True)


def with_skip(num_inputs: int, num_features: int) -> nn.Module:
    return Skip(nn.Linear(num_inputs, num_features), nn.Tanh())


def put_layers(make_layers: Any, agent: Any) -> None:
    """Puts other layers in place of the policy's first ones."""
    torch.manual_seed(5)
    policy = agent.policy
    if isinstance(agent, PPORecurrent):
        first = policy.encoders[0]
        policy.encoders[0] = make_layers(first[0].in_features, first[-2].out_features)
    elif isinstance(agent, SAC):
        policy.trunk = make_layers(policy.num_inputs, policy.head.in_features)
    else:
        policy.actor = make_layers(policy.actor[0].in_features, policy.head.layer.in_features)


@of_each(KINDS, "layers", [Normed, with_gelu, with_skip], with_skip)
@on_fast
def test_other_layers_put_in_place_are_used_and_trained(name, engine, layers):
    put = Put(put_layers, layers)
    found, expected = ran(KINDS[name], engine, put), on_eager(KINDS[name], put)
    assert_same(found, expected)
    assert found.weights.keys() == found.before.keys()
    changed = [x for x, value in found.before.items() if not torch.equal(value, found.weights[x])]
    assert set(changed) == set(found.before)


# (g) weights put in place


def set_data(agent: Any) -> None:
    for parameter in agent.policy.parameters():
        parameter.data = 0.5 * parameter.data


def set_vector(agent: Any) -> None:
    parameters = list(agent.policy.parameters())
    vector_to_parameters(0.5 * parameters_to_vector(parameters), parameters)


def assign_state(agent: Any) -> None:
    state = {
        name: 0.5 * x if x.is_floating_point() else x
        for name, x in agent.policy.state_dict().items()
    }
    agent.policy.load_state_dict(state, assign=True)


def copy_policy(agent: Any) -> None:
    agent.policy = copy.deepcopy(agent.policy)
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter.mul_(0.5)


def copy_critics(agent: Any) -> None:
    for name in ("critics", "target_critics"):
        setattr(agent, name, copy.deepcopy(getattr(agent, name)))
        for parameter in getattr(agent, name).parameters():
            parameter.data = 0.5 * parameter.data


def prune_weights(agent: Any) -> None:
    layers = [x for x in agent.policy.modules() if isinstance(x, nn.Linear)]
    prune.l1_unstructured(layers[0], "weight", 0.5)


WAYS = [set_data, set_vector, assign_state, copy_policy]


@of_each(KINDS, "put", WAYS, set_data, assign_state)
@on_fast
def test_weights_put_in_place_are_trained(name, engine, put):
    found, expected = ran(KINDS[name], engine, put), on_eager(KINDS[name], put)
    assert_same(found, expected)
    for weight, before in found.before.items():
        if weight.startswith("policy."):
            assert not torch.equal(found.weights[weight], before), weight
    assert differ(found, stock(name))


def test_pruned_weights_stay_as_they_are_and_others_are_trained():
    found, expected = ran(PPO, "auto", prune_weights), on_eager(PPO, prune_weights)
    assert_same(found, expected)
    name = next(x for x in found.weights if x.endswith("weight_orig"))
    before, is_as_before = found.before[name], found.weights[name] == found.before[name]
    assert torch.equal(is_as_before, before.abs() <= before.abs().median())


@pytest.mark.parametrize("name", quick(OFF_POLICY, "sac"))
@on_fast
def test_critics_put_in_place_are_trained(name, engine):
    found = ran(KINDS[name], engine, copy_critics)
    expected = on_eager(KINDS[name], copy_critics)
    assert_same(found, expected)
    assert differ(found, stock(name))
    for part in ("critics", "target_critics"):
        optimizer = {"critics": "critic_optimizer", "target_critics": "target"}[part]
        assert getattr(found.agent, optimizer).holds(getattr(found.agent, part))


@pytest.mark.parametrize(
    ("engine", "put"),
    quick(
        itertools.product([*FAST, "eager"], WAYS),
        ("auto", set_data),
        ("eager", set_data),
        ("eager", copy_policy),
    ),
)
def test_weights_replaced_while_the_agent_trains_are_refused(engine, put):
    with pytest.raises(ValueError, match="replaced while the agent trains"):
        ran(PPO, engine, between=put)


@of_all
def test_weights_of_another_dtype_are_refused(name):
    agent = make(KINDS[name], "auto")
    agent.policy.double()
    with pytest.raises(ValueError, match="and only float32 is trained"):
        Loop(agent).run(1)


@of_two
@on_fast
def test_weights_copied_while_the_agent_trains_are_used(name, engine):
    @torch.no_grad()
    def halve(agent: Any) -> None:
        for parameter in agent.policy.parameters():
            parameter.mul_(0.5)

    found, expected = (ran(KINDS[name], x, between=halve) for x in (engine, "eager"))
    assert_same(found, expected)
    assert differ(found, stock(name))


@on_fast
def test_layers_may_be_replaced_between_two_runs(engine):
    learned = []
    for name in (engine, "eager"):
        agent = make(PPO, name)
        Loop(agent).run(2)
        put_layers(with_gelu, agent)
        Loop(agent).run(2)
        learned.append(agent.optimizer.flat.clone())
    torch.testing.assert_close(*learned, rtol=2e-3, atol=2e-4)


# (h) numbers in Python

BETA = 0.0


class Other:
    """Something that has a number."""

    beta = 0.0

    @property
    def twice(self) -> float:
        return 2 * self.beta


class WithBeta(PPO):
    """Pulls the values towards 2 by a coefficient that is read in many ways."""

    how = "attribute"

    def __init__(self, *given: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self.beta, self.coefs, self.other = 0.0, {"beta": 0.0}, Other()
        self.deep = {"coefs": {"beta": 0.0}}
        self.items, self.tensor = [0.0], torch.zeros(())
        self.read = make_closure()

    def number(self) -> Any:
        return {
            "attribute": lambda: self.beta,
            "dictionary": lambda: self.coefs["beta"],
            "nested dictionary": lambda: self.deep["coefs"]["beta"],
            "list": lambda: self.items[0],
            "other object": lambda: self.other.beta,
            "property": lambda: self.other.twice,
            "getattr": lambda: getattr(self, "beta"),  # noqa: B009
            "computed name": lambda: getattr(self, f"be{self.ending}"),
            "vars": lambda: vars(self)["be" + self.ending],
            "__dict__ of another": lambda: self.other.__dict__.get("be" + self.ending, 0.0),
            "global": lambda: BETA,
            "class": lambda: type(self).class_beta,
            "module": lambda: fastrl.ppo.beta_of_tests,  # pyright: ignore
            "closure": lambda: self.read[0](),
            "new tensor": lambda: self.tensor,
        }[self.how]()

    class_beta, ending = 0.0, "ta"

    def loss(self, batch: Any) -> Any:
        loss, metrics = super().loss(batch)
        _, _, values = self.evaluate_actions(batch)
        return loss + self.number() * losses.value_loss(
            values, 2 + 0 * values, batch.weights
        ), metrics

    def update(self, rollout: Any, update_index: int, timer: Any) -> Any:
        global BETA
        value = 5.0 * update_index
        self.beta = self.coefs["beta"] = self.other.beta = self.items[0] = BETA = value
        self.deep["coefs"]["beta"] = type(self).class_beta = value
        fastrl.ppo.beta_of_tests = value  # pyright: ignore
        self.tensor = torch.tensor(value)
        self.read[1](value)
        return super().update(rollout, update_index, timer)


def make_closure() -> Any:
    beta = 0.0

    def read() -> float:
        return beta

    def write(value: float) -> None:
        nonlocal beta
        beta = value

    return read, write


HOW = [
    "attribute",
    "dictionary",
    "list",
    "property",
    "getattr",
    "computed name",
    "vars",
    "__dict__ of another",
    "global",
    "class",
    "module",
    "closure",
]
HOW += ["nested dictionary", "other object", "new tensor"]
# Attributes and closures are read in the losses below.
QUICK_HOW = ["dictionary", "global", "class", "new tensor"]


@pytest.mark.parametrize("how", quick(HOW, *QUICK_HOW))
@on_native
def test_a_number_that_changes_between_updates_is_the_new_one(engine, how, monkeypatch, caplog):
    monkeypatch.setattr(WithBeta, "how", how)
    monkeypatch.setattr(WithBeta, "class_beta", 0.0)
    monkeypatch.setattr("fastrl.ppo.beta_of_tests", 0.0, raising=False)
    monkeypatch.setitem(globals(), "BETA", 0.0)
    expected = ran(WithBeta, "eager")
    for name, value in (("class_beta", 0.0),):
        monkeypatch.setattr(WithBeta, name, value)
    monkeypatch.setattr("fastrl.ppo.beta_of_tests", 0.0)
    monkeypatch.setitem(globals(), "BETA", 0.0)
    with caplog.at_level(logging.WARNING, "fastrl"):
        found = ran(WithBeta, engine)
    assert differ(expected, stock("ppo"))
    assert_same(found, expected)
    assert len([x for x in caplog.messages if "eager from here on" in x]) == 1


class Direct(PPO):
    """Reads in `loss` itself: `self.beta`, and an entry of a dictionary."""

    beta, key = 0.0, ""

    def __init__(self, *given: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self.coefs = {"beta": 0.0}

    def loss(self, batch: Any) -> Any:
        loss, metrics = super().loss(batch)
        _, _, values = self.evaluate_actions(batch)
        return loss + (self.beta + self.coefs["beta"]) * losses.weighted_mean(
            values, batch.weights
        ), metrics

    def update(self, rollout: Any, update_index: int, timer: Any) -> Any:
        if self.key:
            self.coefs[self.key] = 5.0 * update_index
        else:
            self.beta = 5.0 * update_index
        return super().update(rollout, update_index, timer)


@pytest.mark.parametrize("key", quick(["", "beta"], ""))
@on_native
def test_a_coefficient_read_in_the_loss_may_change_with_one_warning(
    engine, key, monkeypatch, caplog
):
    monkeypatch.setattr(Direct, "key", key)
    with caplog.at_level(logging.WARNING, "fastrl"):
        found = ran(Direct, engine)
    assert_same(found, ran(Direct, "eager"))
    assert differ(found, stock("ppo"))
    lines = [x for x in caplog.messages if "eager from here on" in x]
    assert len(lines) == 1 and ("self.coefs" if key else "self.beta") + " changed" in lines[0]


def with_closure(kind: Any) -> Any:
    """Returns an algorithm whose loss reads a variable of the function that defines it."""
    beta = 0.0

    class Closing(kind):
        def loss(self, batch: Any) -> Any:
            loss, metrics = super().loss(batch)
            _, _, values = self.policy.evaluate(batch.obs, batch.actions)
            return loss + beta * losses.weighted_mean(values, batch.weights), metrics

        def update(self, rollout: Any, update_index: int, timer: Any) -> Any:
            nonlocal beta
            beta = 5.0 * update_index
            return super().update(rollout, update_index, timer)

    return Closing


@pytest.mark.parametrize("name", quick(["ppo", "a2c"], "ppo"))
@on_native
def test_a_closure_s_variable_read_in_the_loss_may_change(name, engine):
    found = ran(with_closure(KINDS[name]), engine)
    expected = ran(with_closure(KINDS[name]), "eager")
    assert_same(found, expected)
    assert differ(found, stock(name))


class AnnealedA2C(A2C):
    beta = 0.0

    def loss(self, batch: Any) -> Any:
        loss, metrics = super().loss(batch)
        _, _, values = self.policy.evaluate(batch.obs, batch.actions)
        return loss + self.beta * losses.weighted_mean(values, batch.weights), metrics

    def update(self, rollout: Any, update_index: int, timer: Any) -> Any:
        self.beta = 5.0 * update_index
        return super().update(rollout, update_index, timer)


class AnnealedSAC(SAC):
    beta = 0.0

    def critic_loss(self, batch: Any) -> Any:
        loss, metrics = super().critic_loss(batch)
        return loss + self.beta * self.critics(
            self.policy.read(batch.obs), batch.actions
        ).mean(), metrics

    def update(self, buffer: Any, update_index: int, timer: Any) -> Any:
        self.beta = 5.0 * update_index
        return super().update(buffer, update_index, timer)


class AnnealedDroQ(DroQ):
    beta = 0.0

    def actor_loss(self, batch: Any) -> Any:
        loss, metrics = super().actor_loss(batch)
        return loss + self.beta * self.policy.sample(batch.obs, batch.noise)[0].mean(), metrics

    def update(self, buffer: Any, update_index: int, timer: Any) -> Any:
        self.beta = 5.0 * update_index
        return super().update(buffer, update_index, timer)


ANNEALED = {AnnealedA2C: "a2c", AnnealedSAC: "sac", AnnealedDroQ: "droq"}


@pytest.mark.parametrize("kind", quick(ANNEALED, AnnealedSAC, AnnealedDroQ))
@on_fast
def test_a_coefficient_of_every_algorithm_may_change(kind, engine, caplog):
    with caplog.at_level(logging.WARNING, "fastrl"):
        found = ran(kind, engine)
    assert_same(found, ran(kind, "eager"))
    assert differ(found, stock(ANNEALED[kind]))
    assert len([x for x in caplog.messages if "eager from here on" in x]) == 1


@pytest.mark.parametrize(
    "setting", quick([{"vf_coef": 9.0}, {"clip_vloss": True}, {"gamma": 0.1}], {"vf_coef": 9.0})
)
@on_native
def test_a_config_replaced_between_updates_is_the_new_one(engine, setting):
    def replace(agent: Any) -> None:
        agent.config = agent.config.replace(**setting)

    found, expected = (ran(PPO, x, between=replace) for x in (engine, "eager"))
    assert differ(expected, stock("ppo"))
    assert_same(found, expected)


@on_native
def test_a_coefficient_in_a_tensor_may_change_without_a_warning(engine, caplog):
    def fill(agent: Any) -> None:
        agent.ent_coef.fill_(0.7)

    class Kept(PPO):
        def anneal(self, update_index: int) -> None:
            pass

    expected = ran(Kept, "eager", between=fill)
    with caplog.at_level(logging.WARNING, "fastrl"):
        found = ran(Kept, engine, between=fill)
    assert_same(found, expected)
    assert differ(found, stock("ppo"))
    assert not caplog.messages


class Counting(PPO):
    """Counts the calls of its loss, and takes another loss every third time."""

    calls = 0

    def loss(self, batch: Any) -> Any:
        self.calls += 1
        loss, metrics = super().loss(batch)
        return loss * (1 if self.calls % 3 else 0), metrics


def test_a_counter_in_the_loss_counts_as_on_eager():
    found, expected = (ran(Counting, x) for x in ("auto", "eager"))
    stock_agent = make(PPO, "auto")
    stock_agent.make_buffer()
    assert found.agent.engine.describe() != stock_agent.engine.describe()
    assert "changed" in found.agent.engine.describe()
    assert found.agent.calls == expected.agent.calls
    assert_same(found, expected)


def test_a_counter_in_the_loss_is_refused_by_a_recording():
    with pytest.raises(ValueError, match=r"engine=recorded cannot run .*calls changed"):
        make(Counting, "recorded").make_buffer()


# (i) Python that depends on a tensor's value


class Looking(PPO):
    """Looks at values in Python."""

    how = "if"

    def loss(self, batch: Any) -> Any:
        loss, metrics = super().loss(batch)
        advantages, log_probs = batch.advantages, self.evaluate_actions(batch)[0]
        if self.how == "if":
            more = log_probs.mean() if advantages.mean() > 0 else -log_probs.mean()
        elif self.how == "item":
            more = log_probs.mean() * advantages.square().mean().item()
        elif self.how == "float":
            more = log_probs.mean() * float(advantages.max())
        elif self.how == "tolist":
            more = log_probs.mean() * max(advantages.tolist())
        elif self.how == "numpy":
            more = log_probs.mean() * advantages.numpy().max()
        elif self.how == "mask":
            more = log_probs[advantages > 0].mean()
        elif self.how == "nonzero":
            more = log_probs[(advantages > 0).nonzero().squeeze(1)].mean()
        else:
            more = log_probs.masked_select(advantages > 0).mean()
        return loss + more, metrics


LOOKS = ["if", "item", "float", "tolist", "numpy", "mask", "nonzero", "masked_select"]


@pytest.mark.parametrize("how", quick(LOOKS, "if", "mask"))
def test_a_loss_that_looks_at_values_runs_eagerly_with_a_note(how, monkeypatch):
    monkeypatch.setattr(Looking, "how", how)
    found, expected = (ran(Looking, x) for x in ("auto", "eager"))
    assert differ(expected, stock("ppo"))
    assert_same(found, expected)
    assert "eager: it reads a tensor's value" in found.agent.engine.describe()


@pytest.mark.parametrize("how", quick(LOOKS, "item", "numpy", "masked_select"))
def test_a_loss_that_looks_at_values_is_refused_by_a_recording(how, monkeypatch):
    monkeypatch.setattr(Looking, "how", how)
    with pytest.raises(ValueError, match="engine=recorded cannot run"):
        make(Looking, "recorded").make_buffer()


class Drawing(PPO):
    """Draws numbers of its own in the loss."""

    def loss(self, batch: Any) -> Any:
        loss, metrics = super().loss(batch)
        log_probs, _, _ = self.evaluate_actions(batch)
        return loss + (torch.rand_like(log_probs) * log_probs).mean(), metrics


@on_fast
def test_a_loss_that_draws_draws_anew_every_time(engine):
    learned = []
    for name in (engine, "eager"):
        agent = make(Drawing, name)
        loop = Loop(agent)
        torch.manual_seed(0)
        loop.run(2)
        learned.append(agent.optimizer.flat.clone())
    torch.testing.assert_close(*learned, rtol=2e-3, atol=2e-4)


class Penalised(PPO):
    """Has a gradient penalty on the critic in its loss: a second derivative."""

    def loss(self, batch: Any) -> Any:
        loss, metrics = super().loss(batch)
        obs = batch.obs.clone().requires_grad_()
        values = self.policy.evaluate(obs, batch.actions)[2]
        (gradient,) = torch.autograd.grad(values.sum(), obs, create_graph=True)
        return loss + gradient.square().mean(), metrics


@on_fast
def test_a_loss_with_a_second_derivative_is_learned_from_as_on_eager(engine):
    found = ran(Penalised, engine)
    assert differ(found, stock("ppo"))
    assert_same(found, ran(Penalised, "eager"))


class DrawingItself(PPO):
    """Draws from a generator of its own in the loss."""

    def build(self, rollout: Any) -> None:
        self.generator = torch.Generator().manual_seed(0)
        super().build(rollout)

    def loss(self, batch: Any) -> Any:
        loss, metrics = super().loss(batch)
        return loss * torch.rand((), generator=self.generator), metrics


def test_a_loss_with_a_generator_of_its_own_runs_eagerly_with_a_note():
    found = ran(DrawingItself, "auto")
    assert differ(found, stock("ppo"))
    assert "eager: it draws from a generator of its own" in found.agent.engine.describe()


# (k) a copy of the file


COPIED = {
    "ppo": ("policy_loss + config.vf_coef", "0 * policy_loss + config.vf_coef"),
    "a2c": ("policy_loss + self.config.vf_coef", "0 * policy_loss + self.config.vf_coef"),
    "ppo_recurrent": ("actions.copy_(drawn)", "actions.copy_(0 * drawn)"),
    "sac": ("alpha * log_probs - values", "0 * log_probs + values"),
    "droq": ("values.mean(0)", "-values.mean(0)"),
}


def weights_of_program(program: list[str], algo: str, folder: Path) -> Tensor:
    """Returns the policy's weights after a run of a program."""
    words = "--seed 1 --num-envs 4 --eval-episodes 0 --preset none --num-threads 1"
    words += f" --log-dir {folder}"
    if algo in OFF_POLICY:
        words += " --env-id Pendulum-v1 --learning-starts 40 --total-timesteps 80"
        words += " --replay-ratio 0.25"
        words += " --per-rank-batch-size 16 --hidden-sizes 8 --policy-lr 0.01 --policy-frequency 1"
    else:
        words += " --env-id CartPole-v1 --total-timesteps 768 --num-steps 64 --hidden-sizes 8"
        words += " --learning-rate 0.01"
    done = subprocess.run([*program, *words.split()], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (checkpoint,) = folder.rglob("last.pt")
    policy = torch.load(checkpoint, weights_only=False)["agent"]["policy"]
    return torch.cat(
        [x.flatten() for name, x in policy.items() if x.is_floating_point() and "norm" not in name]
    )


@pytest.mark.slow
@pytest.mark.parametrize("algo", COPIED)
def test_a_copy_of_an_algorithm_s_file_trains_what_is_written_in_it(algo, tmp_path):
    text = (Path(fastrl.__file__).parent / f"{algo}.py").read_text()
    before, after = COPIED[algo]
    assert text.count(before) == 1
    for name, content in (("same", text), ("edited", text.replace(before, after))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(content)
    (tmp_path / "stock").mkdir()
    stock_weights = weights_of_program(
        [sys.executable, "-m", f"fastrl.{algo}"], algo, tmp_path / "stock"
    )
    same = weights_of_program([sys.executable, "mine.py"], algo, tmp_path / "same")
    edited = weights_of_program([sys.executable, "mine.py"], algo, tmp_path / "edited")
    assert torch.equal(same, stock_weights)
    assert not torch.allclose(edited, stock_weights, rtol=1e-4, atol=1e-5)


# (l) frozen layers


def freeze(agent: Any) -> None:
    layer = first_linear(agent)
    layer.requires_grad_(False)


@of_two
@on_native
def test_a_frozen_layer_stays_to_the_bit_and_the_rest_is_trained(name, engine):
    found, expected = ran(KINDS[name], engine, freeze), on_eager(KINDS[name], freeze)
    frozen = {id(x) for x in first_linear(found.agent).parameters()}
    named = dict(found.agent.policy.named_parameters())
    for weight, before in found.before.items():
        is_frozen = weight.startswith("policy.") and id(named[weight[7:]]) in frozen
        assert torch.equal(found.weights[weight], before) == is_frozen, weight
    assert_same(found, expected)


@pytest.mark.parametrize("name", quick(OFF_POLICY, "droq"))
@pytest.mark.parametrize("engine", [*ENGINES, "eager"])
def test_a_frozen_layer_of_the_critics_stays_in_them_and_in_the_targets(name, engine):
    def freeze_critics(agent: Any) -> None:
        agent.critics.weights[0].requires_grad_(False)

    found = ran(KINDS[name], engine, freeze_critics)
    assert torch.equal(found.weights["critics.weights.0"], found.before["critics.weights.0"])
    assert not torch.equal(found.weights["critics.weights.1"], found.before["critics.weights.1"])
    targets = found.agent.target_critics
    torch.testing.assert_close(targets.weights[0], found.agent.critics.weights[0])


@on_native
def test_a_frozen_spread_stays(engine):
    found = ran(PPO, engine, lambda agent: agent.policy.head.log_std.requires_grad_(False))
    assert torch.equal(found.weights["policy.head.log_std"], found.before["policy.head.log_std"])
    assert_same(found, ran(PPO, "eager", lambda x: x.policy.head.log_std.requires_grad_(False)))


# (m) What a loss returns


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda loss, metrics: None, "not NoneType"),
        slow((lambda loss, metrics: loss, "not Tensor")),
        (lambda loss, metrics: (1.0, metrics), "the loss is 1.0, no tensor"),
        (lambda loss, metrics: (loss.expand(3), metrics), r"the loss is a tensor of shape \[3\]"),
        (lambda loss, metrics: (loss, {"mine": loss}), "a metric is 'mine', no tensor"),
        slow((lambda loss, metrics: (loss, [*metrics[1:], 1.0]), "a metric is 1.0, no tensor")),
        (lambda loss, metrics: (loss, [*metrics[1:], loss.expand(2)]), r"of shape \[2\]"),
    ],
)
def test_a_loss_that_returns_something_else_is_told_what(returned, words):
    class Other(PPO):
        def loss(self, batch: Any) -> Any:
            return returned(*super().loss(batch))

    with pytest.raises(ValueError, match=rf"a loss returns \(loss, metrics\).*{words}"):
        make(Other, "auto").make_buffer()
