"""Networks of the user's own: all algorithms learn with them, and files find them by name."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import own_networks
import pytest
import torch
from gymnasium import spaces
from quick import quick, slow
from seam import weights_of
from torch import nn

import fastrl
from fastrl import A2C, PPO, SAC, AgentTrainer, DroQ, PPORecurrent
from fastrl.agents.networks import frozen_names
from fastrl.cli import main as command_line
from fastrl.evaluate import main as evaluate
from fastrl.export import main as export
from fastrl.models.own import make_own, space_seen
from fastrl.runs.checkpoint import load_checkpoint, save_checkpoint
from fastrl.runs.folder import read_config
from fastrl.spaces.observations import observation_rows

ALGORITHMS = (PPO, A2C, PPORecurrent, SAC, DroQ)
of_all = pytest.mark.parametrize("kind", ALGORITHMS)


class Task(gymnasium.Env):
    """Endless random observations of any space; the reward is the action."""

    def __init__(self, space: spaces.Space, has_box: bool) -> None:
        self.observation_space = space
        self.action_space = spaces.Box(-1, 1, (1,)) if has_box else spaces.Discrete(2)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        reward = float(np.asarray(action).sum())
        return self.observation_space.sample(), reward, False, self.steps == 20, {}


SET = spaces.Dict(own=spaces.Box(-1, 1, (3,)), others=spaces.Box(-1, 1, (5, 2)))
VECTOR, IMAGE = spaces.Box(-1, 1, (4,)), spaces.Box(0, 1, (3, 6, 6))


def small(kind: Any, env: Any = None, **settings: Any) -> Any:
    is_off = issubclass(kind, SAC)
    env = env or ("Pendulum-v1" if is_off else "CartPole-v1")
    more: dict[str, Any] = {"num_envs": 2, "eval_episodes": 0, "accelerator": "cpu"}
    if is_off:
        sizes = {"hidden_sizes": (8,), "learning_starts": 32, "per_rank_batch_size": 16}
        more |= {**sizes, "total_timesteps": 48}
    else:
        more |= {"num_steps": 32, "total_timesteps": 128, "per_rank_batch_size": 32}
    if kind is PPORecurrent:
        more["hidden_sizes"] = (8,)
    if callable(env):
        more["backend"] = "gymnasium"
    return kind(env, preset="none", **{**more, **settings})


def some_rows(agent: Any, count: int = 6) -> np.ndarray:
    space = agent.observation_space
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, *space.shape)).astype(space.dtype)


def refusal(work: Any) -> str:
    with pytest.raises(ValueError) as error:
        work()
    assert "\n" not in str(error.value)
    return str(error.value)


KINDS_OF_NETWORKS = {
    "residual": (VECTOR, own_networks.ResidualMLP, ALGORITHMS),
    "attention": (SET, own_networks.SetAttention, (PPO, PPORecurrent, SAC)),
    "cnn": (IMAGE, own_networks.float_cnn, (PPO, SAC)),
    "pretrained": (VECTOR, own_networks.pretrained, ALGORITHMS),
}
QUICK = [("residual", SAC), ("residual", PPORecurrent)]
QUICK += [("attention", PPO), ("cnn", PPO), ("pretrained", PPO)]


@pytest.mark.parametrize(
    ("kind", "space", "network"),
    [
        pytest.param(
            *(kind, space, network),
            id=f"{name}-{kind.algo}",
            marks=[] if (name, kind) in QUICK else [pytest.mark.slow],
        )
        for name, (space, network, kinds) in KINDS_OF_NETWORKS.items()
        for kind in kinds
    ],
)
def test_every_algorithm_learns_with_every_kind_and_load_plays_the_same(
    kind, space, network, tmp_path
):
    env = partial(Task, space, issubclass(kind, SAC))
    agent = small(kind, env, network=network, log_dir=str(tmp_path))
    before = weights_of(agent)
    agent.learn()
    now, frozen = weights_of(agent), set(frozen_names(agent.networks()))
    assert {name for name, x in before.items() if torch.equal(x, now[name])} == frozen
    assert bool(frozen) == (network is own_networks.pretrained)

    agent.save(tmp_path / "agent.pt")
    loaded = kind.load(tmp_path / "agent.pt", env=env)
    rows = some_rows(agent)
    np.testing.assert_array_equal(agent.predict(rows), loaded.predict(rows))
    assert set(frozen_names(loaded.networks())) == frozen
    for name, value in weights_of(loaded).items():
        assert torch.equal(value, weights_of(agent)[name])


def test_target_critics_have_the_frozen_weights_of_the_critics():
    def random(space: Any) -> nn.Module:
        return nn.Linear(space.shape[0], 8).requires_grad_(False)

    state = small(SAC, network=random).state_dict()
    for name, value in state["critics"].items():
        assert torch.equal(value, state["target_critics"][name])
    assert "encoder.weight" in state["critics"]


# What a network sees


def space_of(space: spaces.Space, action_space: Any = None, **more: Any) -> Any:
    return observation_rows("task", space, action_space or spaces.Discrete(2), **more)


def test_a_network_sees_parts_by_key_in_their_own_shapes_images_scaled_and_channels_first():
    space = spaces.Dict(
        board=spaces.Box(-1, 1, (2, 3), np.float64),
        camera=spaces.Box(0, 255, (8, 9, 3), np.uint8),
        inner=spaces.Dict(kind=spaces.Discrete(3, start=1)),
        action_mask=spaces.MultiBinary(2),
    )
    row, seen = space_of(space), {}

    class Look(nn.Module):
        def forward(self, obs: Any) -> torch.Tensor:
            seen.update(obs)
            return obs["board"].flatten(1)

    given = space_seen(row)
    assert isinstance(given, spaces.Dict)
    shapes = {name: part.shape for name, part in given.items()}
    assert shapes == {"board": (2, 3), "camera": (3, 8, 9), "inner.kind": (3,)}

    from fastrl.models.encoders import Reader

    reader = Reader(row)
    trunk, num_features = make_own(reader, lambda space: Look())
    assert num_features == 6
    space.seed(0)
    sample = space.sample()
    parts = {name: np.asarray(value)[None] for name, value in sample.items() if name != "inner"}
    parts["inner.kind"] = np.array([sample["inner"]["kind"]])
    inputs = reader.read(torch.from_numpy(row.pack(parts)))
    trunk(inputs.pixels, inputs.vector)
    assert seen.keys() == shapes.keys() and all(x.dtype == torch.float32 for x in seen.values())
    np.testing.assert_allclose(seen["board"][0], sample["board"], rtol=1e-6)
    np.testing.assert_allclose(seen["camera"][0], sample["camera"].transpose(2, 0, 1) / 255.0, 1e-6)
    assert seen["inner.kind"][0].argmax() + 1 == sample["inner"]["kind"]


@pytest.mark.parametrize(
    ("space", "shape"),
    [
        slow((spaces.Discrete(5), (5,))),
        slow((spaces.MultiDiscrete([2, 3]), (5,))),
        slow((spaces.MultiBinary(4), (4,))),
        slow((spaces.Box(0, 255, (4, 10, 10), np.uint8), (4, 10, 10))),
        (spaces.Box(0, 255, (10, 12), np.uint8), (1, 10, 12)),
        slow((spaces.Box(-1, 1, (2, 2, 2), np.float32), (2, 2, 2))),
        (spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 1, (3,))]), {"0": (2,), "1": (3,)}),
    ],
    ids=str,
)
def test_the_space_that_a_network_is_made_of_is_that_of_what_it_sees(space, shape, tmp_path):
    seen: list[Any] = []

    class Look(nn.Module):
        def __init__(self, space: Any) -> None:
            super().__init__()
            self.layer = nn.LazyLinear(4)
            self.space = space

        def forward(self, obs: Any) -> torch.Tensor:
            parts = obs if isinstance(obs, dict) else {"": obs}
            seen.append({name: tuple(x.shape[1:]) for name, x in parts.items()})
            return self.layer(torch.cat([x.flatten(1) for x in parts.values()], 1))

    agent = small(PPO, partial(Task, space, False), network=Look, log_dir=str(tmp_path))
    agent.learn()
    wanted = shape if isinstance(shape, dict) else {"": shape}
    assert seen and all(x == wanted for x in seen)


def test_a_normaliser_stands_in_front_of_a_network(tmp_path):
    env = partial(Task, spaces.Box(100, 102, (2, 2)), False)
    settings = {"observation_normalization": True, "log_dir": str(tmp_path)}
    agent = small(PPO, env, network=lambda space: nn.Flatten(), **settings).learn()
    row = torch.tensor(agent.observation_space.sample()).unsqueeze(0)
    inputs = agent.policy.read(row)
    assert inputs.vector.abs().max() < 5
    assert torch.equal(agent.policy.actor(inputs.vector), inputs.vector)


# What runs


def test_the_stock_layers_as_a_network_learn_the_stock_numbers(tmp_path):
    settings = {"engine": "eager", "log_dir": str(tmp_path), "ortho_init": False}
    own = small(PPO, network=own_networks.plain, **settings)
    stock = small(PPO, hidden_sizes=(16, 16), **settings)
    for agent in (own, stock):
        agent.learn()
    for name, value in weights_of(stock).items():
        torch.testing.assert_close(weights_of(own)[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("network", "served"),
    [("plain", True), ("Wrapped", False), slow(("Skipping", False)), slow(("ResidualMLP", False))],
)
def test_the_kernels_serve_what_they_know_and_all_learn_as_eager(network, served, tmp_path, capsys):
    agents = {}
    for engine in ("auto", "eager"):
        make = getattr(own_networks, network)
        agents[engine] = small(PPO, network=make, engine=engine, log_dir=str(tmp_path)).learn()
    lines = capsys.readouterr().out.splitlines()
    told = next(line for line in lines if line.startswith("engine:"))
    from fastrl.kernels.extension import HAS_DENSE

    assert (told == "engine: native kernels") == (served and HAS_DENSE)
    assert any(line.startswith(f"network: own_networks:{network}; ") for line in lines)
    for name, value in weights_of(agents["eager"]).items():
        torch.testing.assert_close(weights_of(agents["auto"])[name], value, rtol=1e-3, atol=1e-5)


def test_actor_and_critic_may_be_of_different_kinds(tmp_path):
    network = {"actor": own_networks.plain, "critic": "own_networks:ResidualMLP"}
    agent = small(PPO, network=network, log_dir=str(tmp_path)).learn()
    assert type(agent.policy.critic) is own_networks.ResidualMLP
    assert agent.config.network == (
        "actor=own_networks:plain",
        "critic=own_networks:ResidualMLP",
    )
    loaded = fastrl.load(agent.result.folder)
    assert type(loaded.policy.critic) is own_networks.ResidualMLP


def test_a_shared_network_is_made_once(tmp_path):
    agent = small(PPO, network=own_networks.plain, shared_network=True, log_dir=str(tmp_path))
    assert agent.policy.critic is None
    agent.learn()
    assert PPO.load(agent.result.folder).policy.critic is None


# Names


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory) -> Path:
    network = {"network": own_networks.ResidualMLP, "network_kwargs": {"width": 12}}
    folder = str(tmp_path_factory.mktemp("runs"))
    return small(PPO, log_dir=folder, **network).learn().result.folder


@pytest.fixture
def run(finished_run, tmp_path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "copied" / finished_run.name)


def test_files_name_the_network_and_every_command_finds_it(run, capsys, tmp_path):
    assert read_config(run / "config.yaml")["network"] == ["own_networks:ResidualMLP"]
    agent = fastrl.load(run)
    assert agent.policy.actor.first.out_features == 12
    assert evaluate([str(run), "--episodes", "2"]) == 0
    assert export([str(run), "--out", str(tmp_path / "policy.pt")]) == 0
    policy = torch.jit.load(str(tmp_path / "policy.pt"))
    rows = torch.randn(9, 4)
    np.testing.assert_array_equal(policy(rows).numpy(), agent.predict(rows.numpy()))
    assert command_line("ppo", ["--resume", str(run), "--total-timesteps", "256"]) == 0
    assert capsys.readouterr().err == ""
    assert load_checkpoint(run / "checkpoints/last.pt")["counters"]["env_steps"] == 256


@pytest.mark.parametrize("kind", quick(ALGORITHMS, SAC))
def test_the_command_line_names_networks(kind, tmp_path, capsys):
    words = "--preset none --num-envs 2 --eval-episodes 0 --network own_networks:ResidualMLP"
    more = "--num-steps 32 --total-timesteps 64 --per-rank-batch-size 32"
    if issubclass(kind, SAC):
        more = "--hidden-sizes 8 --total-timesteps 40 --learning-starts 32 --env-id Pendulum-v1"
    argv = [*words.split(), *more.split(), "--network-kwargs", "width=6", "--log-dir"]
    assert command_line(kind.algo, [*argv, str(tmp_path)]) == 0
    assert "network: own_networks:ResidualMLP with width=6; " in capsys.readouterr().out
    (folder,) = tmp_path.glob("*/*/*")
    modules = [type(x).__name__ for x in fastrl.load(folder).policy.modules()]
    assert "ResidualMLP" in modules


def test_a_function_without_a_name_must_be_handed_over_again(tmp_path):
    def local(space: Any) -> nn.Module:
        return own_networks.plain(space)

    for network in (lambda space: own_networks.plain(space), local, partial(own_networks.plain)):
        agent = small(PPO, network=network, log_dir=str(tmp_path))
        agent.save(tmp_path / "agent.pt")
        told = refusal(lambda: PPO.load(tmp_path / "agent.pt"))
        assert "is a function without a name" in told and "network= of PPO or load" in told
        loaded = PPO.load(tmp_path / "agent.pt", network=network)
        rows = some_rows(agent)
        np.testing.assert_array_equal(agent.predict(rows), loaded.predict(rows))
        assert type(PPO.load(tmp_path / "agent.pt", network=own_networks.plain)) is PPO
    folder = agent.learn().result.folder
    assert evaluate([str(folder)]) == 2
    AgentTrainer(resume=folder).fit(
        small(PPO, network=local, log_dir=str(tmp_path), total_timesteps=256)
    )


def test_a_name_that_is_gone_is_one_line(run, monkeypatch, capsys):
    monkeypatch.delattr(own_networks, "ResidualMLP")
    assert refusal(lambda: PPO.load(run)) == (
        "own_networks:ResidualMLP: there is no function or class of that name"
    )
    assert evaluate([str(run)]) == 2
    assert command_line("ppo", ["--resume", str(run), "--total-timesteps", "256"]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_another_network_of_the_same_shapes_is_refused(tmp_path):
    agent = small(PPO, network=own_networks.plain)
    agent.save(tmp_path / "agent.pt")
    with pytest.raises(ValueError, match=r"its policy has actor: Sequential.*, this one"):
        PPO.load(tmp_path / "agent.pt", network=own_networks.Wrapped)


def test_a_network_that_was_renamed_is_named_again(run, monkeypatch, capsys, tmp_path):
    rows = torch.randn(9, 4)
    expected = fastrl.load(run).predict(rows.numpy())

    class Renamed(own_networks.ResidualMLP):
        pass

    Renamed.__qualname__ = "Renamed"
    monkeypatch.setattr(own_networks, "Renamed", Renamed, raising=False)
    again = ["--network", "own_networks:Renamed"]
    assert evaluate([str(run), *again]) == 2  # it may be another function of the same shapes
    assert "policy has actor: ResidualMLP, this one actor: Renamed" in capsys.readouterr().err
    monkeypatch.delattr(own_networks, "ResidualMLP")
    assert evaluate([str(run)]) == 2 and "no function or class" in capsys.readouterr().err
    assert evaluate([str(run), "--episodes", "2", *again]) == 0
    assert export([str(run), *again, "--out", str(tmp_path / "policy.pt")]) == 0
    exported = torch.jit.load(str(tmp_path / "policy.pt"))
    assert (exported(rows).numpy() == expected).all()
    loaded = fastrl.load(run, network="own_networks:Renamed")
    assert loaded.config.network == ("own_networks:Renamed",)
    assert capsys.readouterr().err == ""


def test_a_network_of_a_run_of_somebody_else_is_named_again(run, monkeypatch, capsys, tmp_path):
    monkeypatch.delitem(sys.modules, "own_networks")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))  # without the key that signed the run
    again = ["--network", "own_networks:ResidualMLP"]
    assert export([str(run), "--out", str(tmp_path / "policy.pt")]) == 2
    assert "name it again (--network, network= in Python)" in capsys.readouterr().err
    assert export([str(run), *again, "--out", str(tmp_path / "policy.pt")]) == 0
    assert evaluate([str(run), "--episodes", "2", *again]) == 0


@pytest.mark.parametrize(
    ("named", "words"),
    [
        (["own_networks:plain"], "its policy has actor: ResidualMLP, this one actor: Sequential"),
        slow((["own_networks:failing"], "network own_networks:failing raised")),
        slow((["own_networks"], "network must be named module:callable, not 'own_networks'")),
        slow((["actor=own_networks:plain"], "network takes one module:callable, or actor=")),
        slow((["own_networks:nothing"], "own_networks:nothing: there is no function or class")),
    ],
)
def test_another_network_that_is_named_for_a_run_is_refused_in_one_line(
    run, capsys, tmp_path, named, words
):
    capsys.readouterr()
    for command in (evaluate, export):
        assert command([str(run), "--network", *named]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


def test_a_network_that_is_named_for_a_run_without_one_is_refused(tmp_path, capsys):
    folder = small(PPO, log_dir=str(tmp_path)).learn().result.folder
    capsys.readouterr()
    assert evaluate([str(folder), "--network", "own_networks:plain"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_network_that_only_a_file_of_somebody_else_names_is_not_imported(
    run, monkeypatch, capsys, tmp_path
):
    monkeypatch.delitem(sys.modules, "own_networks")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))  # without the key that signed the run
    told = "wants to run own_networks:ResidualMLP(width=12), but is signed by another user"
    assert told in refusal(lambda: PPO.load(run))
    assert evaluate([str(run)]) == export([str(run)]) == 2
    assert command_line("ppo", ["--resume", str(run), "--total-timesteps", "256"]) == 2
    assert told in capsys.readouterr().err
    assert "own_networks" not in sys.modules
    assert type(PPO.load(run, trust=True).policy.actor).__name__ == "ResidualMLP"


def test_a_function_of_python_that_a_file_of_somebody_else_names_is_not_called(
    monkeypatch, tmp_path
):
    small(PPO, network=own_networks.plain).save(tmp_path / "agent.pt")
    state = load_checkpoint(tmp_path / "agent.pt")
    assert type(PPO.load(tmp_path / "agent.pt")) is PPO  # what is imported already is called
    state["agent"]["config"]["network"] = ["subprocess:Popen"]
    save_checkpoint(tmp_path / "agent.pt", state)
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **b: pytest.fail("it was called"))
    told = refusal(lambda: PPO.load(tmp_path / "agent.pt"))
    assert "wants to run subprocess:Popen() but is signed by another user" in told.replace(",", "")


# Mistakes


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"network": nn.Linear(4, 4)}, "must be a function that makes a network, not a Linear"),
        ({"network": 3}, "network must be a function, module:callable, or a mapping"),
        ({"network": {"pi": own_networks.plain}}, "must have the keys actor and critic, not pi"),
        ({"network": "own_networks"}, "must be named module:callable, not 'own_networks'"),
        ({"network": "own_networks:none"}, "there is no function or class of that name"),
        ({"network": "no_such_module:net"}, "No module named 'no_such_module'"),
        ({"network": own_networks.failing}, "network own_networks:failing raised IndexError"),
        ({"network": own_networks.no_features}, r"must give features [B, F]; of 2 rows it gave"),
        ({"network": lambda space: 3}, "must be a torch.nn.Module, not int"),
        ({"network_kwargs": {"width": 3}}, "no effect without network"),
        ({"network": own_networks.plain, "hidden_sizes": (8,)}, "hidden_sizes=(8,) has no effect"),
        ({"network": own_networks.plain, "activation_function": "elu"}, "has no effect with net"),
        (
            {"network": dict.fromkeys(("actor", "critic"), own_networks.plain)}
            | {"shared_network": True},
            "takes shared_network=false",
        ),
    ],
)
def test_a_mistake_is_one_line(settings, words):
    assert words in refusal(lambda: small(PPO, **settings))


ODD = {
    "float64": "must give float32 features where its input is, not torch.float64 on cpu",
    "meta": "must give float32 features where its input is, not torch.float32 on meta",
    "in place": "must not change its input in place",
    "ReLU in place": "must not change its input in place",
    "pair": "must give features [B, F]; of 2 rows it gave tuple",
    "width of batch": "must give features [B, F]; F changes with B: [2, 3]",
    "rows of batch": "must give features [B, F]; of 3 rows it gave [2, 8]",
    "raises": "of 2 rows of zeros, the network raised KeyError: 2 (",
}


@pytest.mark.parametrize("how", ODD)
@pytest.mark.parametrize("kind", [PPO, SAC])
def test_what_a_network_does_wrong_is_one_line_before_training(kind, how):
    odd = {"network": own_networks.Odd, "network_kwargs": {"how": how}}
    assert ODD[how] in refusal(lambda: small(kind, **odd))


@pytest.mark.parametrize("kind", quick([PPO, SAC], PPO))
def test_weights_that_no_gradient_reaches_are_told(kind, tmp_path, caplog):
    expected = "policy.actor.layer.weight" if kind is PPO else "policy.trunk.0.layer.weight"
    for how, is_told in (("none", False), ("detached", True)):
        caplog.clear()
        odd = {"network": own_networks.Odd, "network_kwargs": {"how": how}}
        small(kind, log_dir=str(tmp_path), **odd).learn()
        told = [text for text in caplog.messages if "no gradient has reached" in text]
        assert len(told) == is_told
    assert any(f"no gradient has reached {expected}" in text for text in caplog.messages)


def test_weights_that_no_gradient_reaches_are_told_beside_a_fixed_temperature(tmp_path, caplog):
    odd = {"network": own_networks.Odd, "network_kwargs": {"how": "detached"}}
    small(SAC, log_dir=str(tmp_path), tune_alpha=False, **odd).learn()
    assert any("no gradient has reached policy." in text for text in caplog.messages)


def test_an_agent_of_which_nothing_learns_is_refused(tmp_path):
    agent = small(PPO, log_dir=str(tmp_path))
    agent.policy.requires_grad_(False)
    assert "nothing learns: all" in refusal(agent.learn)


def shared_encoder() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = nn.Linear(4, 8)
        return lambda space: nn.Sequential(encoder, nn.Tanh(), nn.Linear(8, 8), nn.Tanh())


def same_network() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
    return lambda space: network


def normed(make: Any) -> Any:
    return lambda: lambda space: nn.Sequential(make(nn.Linear(space.shape[0], 8)), nn.Tanh())


SHARING = {
    "one encoder": shared_encoder,
    "one network": same_network,
    "spectral norm": normed(nn.utils.parametrizations.spectral_norm),
    "weight norm": normed(nn.utils.parametrizations.weight_norm),
}


@pytest.mark.parametrize("name", quick(SHARING, "one encoder", "spectral norm"))
def test_weights_that_are_shared_or_made_of_others_learn_as_on_eager_and_are_saved(name, tmp_path):
    agents = {}
    for engine in ("eager", "auto"):
        make = SHARING[name]()
        agents[engine] = agent = small(PPO, network=make, engine=engine, log_dir=str(tmp_path))
        before = weights_of(agent)
        agent.learn()
    after = {engine: weights_of(agent) for engine, agent in agents.items()}
    for weight, value in after["eager"].items():
        torch.testing.assert_close(after["auto"][weight], value, rtol=1e-3, atol=1e-5)
        assert not value.equal(before[weight]), weight
    agents["auto"].save(tmp_path / "agent.pt")
    loaded = PPO.load(tmp_path / "agent.pt", network=SHARING[name]())
    rows = some_rows(loaded)
    np.testing.assert_array_equal(loaded.predict(rows), agents["auto"].predict(rows))
    loaded.export(tmp_path / "policy.pt")


@pytest.mark.filterwarnings("ignore")  # of torch, about this form of weight norm
def test_a_policy_that_cannot_be_copied_is_refused_by_an_export_in_one_line(tmp_path):
    make = normed(nn.utils.weight_norm)()
    agent = small(PPO, network=make, log_dir=str(tmp_path)).learn()
    told = refusal(lambda: agent.export(tmp_path / "policy.pt"))
    assert told.startswith("this policy cannot be exported, as it cannot be copied: ")


def test_a_recurrent_policy_takes_the_width_of_its_memory_alone():
    settings = {"network": own_networks.plain, "hidden_sizes": (8, 12)}
    assert "whose width alone is asked for" in refusal(lambda: small(PPORecurrent, **settings))
    agent = small(PPORecurrent, network=own_networks.plain, hidden_sizes=(12,))
    assert agent.policy.memories[0].num_outputs == 12


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_residual_network_solves_cartpole_as_the_built_in_one_does(seed, tmp_path):
    returns = []
    for more in ({}, {"network": own_networks.ResidualMLP, "network_kwargs": {"width": 64}}):
        settings = {"accelerator": "cpu", "eval_every": 0, "log_dir": str(tmp_path), **more}
        result = PPO("CartPole-v1", seed=seed, **settings).learn().result
        assert result is not None
        returns.append(result.summary["eval_return_mean"])
    assert min(returns) >= 475, returns
