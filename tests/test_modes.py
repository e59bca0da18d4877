"""Evaluation and training mode: acting is in the one, learning in the other, on every engine."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quick import quick
from seam import FAST, KINDS, ON_POLICY, assert_same, make, on_eager, ran, weights_of
from test_seam import put_layers
from torch import Tensor, nn
from toy_agents import Loop, make_agent

from fastrl import PPO
from fastrl.agents.export_files import export_policy
from fastrl.agents.exporting import exported
from fastrl.engine.modes import building
from fastrl.models.layers import evaluating
from fastrl.processes.generators import restore_generators, state_of_generators

of_all = pytest.mark.parametrize("name", KINDS)


class Moded(nn.Module):
    """A layer that gives something else in training, without drawing anything."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x + 0.1 if self.training else x


def moded(num_inputs: int, num_features: int) -> nn.Module:
    return nn.Sequential(nn.Linear(num_inputs, 12), Moded(), nn.Linear(12, num_features), nn.Tanh())


def normed(num_inputs: int, num_features: int) -> nn.Module:
    # No bias: batch norm takes it out, so that its gradient is rounding alone.
    first = nn.Linear(num_inputs, 12, bias=False)
    return nn.Sequential(first, nn.BatchNorm1d(12), nn.Linear(12, num_features), nn.Tanh())


def dropping(num_inputs: int, num_features: int) -> nn.Module:
    layers = nn.Linear(num_inputs, 12), nn.Dropout(0.5), nn.Linear(12, num_features)
    return nn.Sequential(*layers, nn.Tanh())


def put_moded(agent: Any) -> None:
    put_layers(moded, agent)


def put_normed(agent: Any) -> None:
    put_layers(normed, agent)


def put_dropping(agent: Any) -> None:
    put_layers(dropping, agent)


@pytest.mark.parametrize(
    ("engine", "change", "name"),
    quick(
        [
            *itertools.product(FAST, [put_moded], KINDS),
            *itertools.product(["auto"], [put_normed], KINDS),
        ],
        ("auto", put_moded, "ppo"),
        ("auto", put_moded, "droq"),
        ("recorded", put_moded, "sac"),
        ("auto", put_normed, "ppo_recurrent"),
    ),
)
def test_every_engine_learns_in_training_mode_what_eager_learns(engine, change, name):
    found, expected = ran(KINDS[name], engine, change), on_eager(KINDS[name], change)
    assert_same(found, expected)
    buffers = dict(expected.agent.policy.named_buffers())
    for key, value in found.agent.policy.named_buffers():
        torch.testing.assert_close(value, buffers[key], rtol=1e-3, atol=1e-4)


@of_all
def test_training_mode_is_what_the_loss_sees(name):
    def without(agent: Any) -> None:
        put_moded(agent)
        for module in agent.policy.modules():
            if isinstance(module, Moded):
                module.eval()  # a part alone: it stays so

    found, other = on_eager(KINDS[name], put_moded), ran(KINDS[name], "eager", without)
    assert any(not torch.equal(x, other.weights[key]) for key, x in found.weights.items())


@pytest.mark.parametrize("engine", [*FAST, "eager"])
@pytest.mark.parametrize("name", ON_POLICY)
def test_rows_are_acted_and_judged_without_dropout(name, engine):
    agent = make(KINDS[name], engine, observation_normalization=False)
    put_dropping(agent)
    loop = Loop(agent)
    loop.collect()
    with agent.engine.learning():
        agent.compute_advantages(loop.buffer)
    rows, actions = agent.rows_to_evaluate(loop.buffer)
    with torch.no_grad(), evaluating(agent.policy):
        log_probs, values = agent.evaluate_rows(rows, actions)
    torch.testing.assert_close(loop.buffer.log_probs.view(-1), log_probs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loop.buffer.values[:-1].view(-1), values, rtol=1e-4, atol=1e-4)


@of_all
@pytest.mark.parametrize("change", [put_dropping, put_normed])
def test_predict_is_in_evaluation_mode_and_leaves_the_mode_alone(name, change):
    agent = make(KINDS[name], "eager")
    change(agent)
    obs = np.random.default_rng(0).standard_normal((64, *agent.observation_space.shape))
    modes = [module.training for module in agent.policy.modules()]
    first, second = (agent.predict(obs.astype(np.float32)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert [module.training for module in agent.policy.modules()] == modes
    agent.policy.eval()
    np.testing.assert_array_equal(agent.predict(obs.astype(np.float32)), first)


def test_mode_is_put_back_after_an_error():
    network = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()).eval())
    with pytest.raises(ValueError), evaluating(network):
        assert not any(module.training for module in network.modules())
        raise ValueError
    assert [module.training for module in network.modules()] == [True, True, False, False]


def test_file_plays_what_the_tests_play(tmp_path: Path):
    agent = make_agent("discrete")
    put_dropping(agent)
    policy, example, wanted = exported(agent)
    export_policy(policy, example, tmp_path / "policy.pt", "torchscript", wanted)
    read = torch.jit.load(str(tmp_path / "policy.pt"))
    assert isinstance(example, Tensor)
    np.testing.assert_array_equal(read(example).numpy(), agent.predict(example.numpy()))


def test_a_policy_in_evaluation_mode_learns_in_training_mode():
    def evaluate(agent: Any) -> None:
        put_moded(agent)
        agent.policy.eval()

    assert_same(ran(PPO, "eager", evaluate), on_eager(PPO, put_moded))


@pytest.mark.parametrize(("name", "engine"), [("ppo", "auto"), ("a2c", "eager")])
def test_a_normaliser_in_evaluation_mode_keeps_its_statistics(name, engine):
    def freeze(agent: Any) -> None:
        agent.policy.normalizer.eval()

    found = ran(KINDS[name], engine, freeze)
    assert int(found.agent.policy.normalizer.count) == 0
    assert int(ran(KINDS[name], engine).agent.policy.normalizer.count) > 0


# Modes of torch that the caller is in


@pytest.mark.parametrize(
    ("mode", "name"),
    quick(
        itertools.product([torch.no_grad, torch.inference_mode], KINDS),
        (torch.inference_mode, "ppo"),
        (torch.no_grad, "sac"),
    ),
)
def test_learning_under_no_grad_is_learning(mode, name, tmp_path):
    settings = {"log_dir": str(tmp_path), "eval_episodes": 0, "total_timesteps": 128}

    def learned(kind: Any, around: Any) -> dict[str, Tensor]:
        with around():
            agent = make(kind, "auto", **settings)
            agent.learn()
        return weights_of(agent)

    found, expected = (learned(KINDS[name], around) for around in (mode, torch.enable_grad))
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    with torch.inference_mode():
        made = make(KINDS[name], "auto", **settings)
    found = weights_of(made.learn())
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_modes_in_which_other_numbers_would_come_out_are_refused():
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="bf16-mixed"):
        make_agent("discrete")
    agent = make_agent("discrete")
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(ValueError, match=r"set_default_dtype\(torch.float64\)"):
            make_agent("discrete")
        with pytest.raises(ValueError, match=r"set_default_dtype\(torch.float64\)"):
            agent.learn()
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_network_that_is_compiled_by_itself_is_refused_by_its_name(tmp_path):
    agent = make(PPO, "auto", log_dir=str(tmp_path))
    agent.policy.actor = torch.compile(agent.policy.actor)
    with pytest.raises(ValueError, match=r"policy.actor is compiled by torch.compile"):
        agent.learn()
    agent = make(PPO, "auto", log_dir=str(tmp_path))
    agent.policy.compile()
    with pytest.raises(ValueError, match=r"policy is compiled by torch.compile"):
        agent.learn()


def test_a_policy_in_a_wrapper_for_several_devices_is_refused(tmp_path):
    agent = make(PPO, "auto", log_dir=str(tmp_path))
    agent.policy = torch.nn.DataParallel(agent.policy)
    with pytest.raises(ValueError, match="policy is in DataParallel: devices=N trains on N"):
        agent.learn()


def test_a_loss_that_is_compiled_by_itself_is_seen_as_python():
    class Compiled(PPO):
        loss = torch.compile(PPO.loss)

    assert_same(ran(Compiled, "auto"), ran(PPO, "eager"))


def test_a_scripted_part_is_trained_as_the_module_it_was_made_of():
    def put(agent: Any, script: bool) -> None:
        layer = nn.Linear(agent.policy.actor[0].in_features, agent.policy.actor[0].out_features)
        nn.init.constant_(layer.weight, 0.1)
        nn.init.zeros_(layer.bias)
        agent.policy.actor[0] = torch.jit.script(layer) if script else layer

    found = ran(PPO, "auto", lambda agent: put(agent, True))
    assert_same(found, ran(PPO, "eager", lambda agent: put(agent, False)))


def test_no_other_thread_seeds_while_a_function_is_looked_at():
    state = state_of_generators()
    seeding = threading.Thread(target=restore_generators, args=(state,))
    with building():
        seeding.start()
        seeding.join(0.2)
        assert seeding.is_alive()
    seeding.join(60)
    assert not seeding.is_alive()
