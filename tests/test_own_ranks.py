"""Own networks, losses and modules on several ranks learn what one rank with all rows learns."""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
import sys
from typing import Any

import numpy as np
import own_networks
import pytest
import torch
from own_modules import DQN, ActorCritic, PPOAgent, Reinforce, mlp
from quick import quick, slow
from ranks import run_ranks
from test_decoupled import config_of
from test_decoupled import decoupled as decoupled_ppo
from test_decoupled_replay import _arrays, _tensors
from test_decoupled_replay import decoupled as decoupled_sac
from test_fabric_run import fabric, free_port
from test_fabric_run import train as start
from test_info_metrics import rows_of
from test_ranks import NUM_ENVS, SameNoise, SamePPO, arrays, learn
from test_resume import assert_equal, last_state
from test_sac import make_agent as make_sac
from test_sac_ranks import learners
from toy_agents import Loop, tensors_of

from fastrl import PPO, SAC, AgentTrainer
from fastrl.buffers.replay import Transitions
from fastrl.module.replay import ReplayAgent
from fastrl.module.rollouts import RolloutAgent
from fastrl.ops.losses import approximate_kl

RESIDUAL = "own_networks:ResidualMLP"


class OwnNetwork(SamePPO):
    """PPO with a network of somebody's own."""

    network: Any = own_networks.ResidualMLP

    def __init__(self, env: Any, *arguments: Any, **settings: Any) -> None:
        settings.pop("hidden_sizes")
        super().__init__(env, *arguments, network=type(self).network, **settings)


class Frozen(OwnNetwork):
    """Has a layer that does not learn."""

    network = own_networks.pretrained


class OwnLoss(SamePPO):
    """A penalty whose weight goes by what is logged, and a term that knows nothing of ranks."""

    metrics = (*SamePPO.metrics[:-1], "Loss/penalty", SamePPO.metrics[-1])

    def build(self, rollout: Any) -> None:
        self.beta = torch.tensor(1.0)
        super().build(rollout)

    def loss(self, batch: Any) -> Any:
        loss, metrics = super().loss(batch)
        log_probs, _, _ = self.evaluate_actions(batch)
        penalty = self.beta * approximate_kl(log_probs - batch.log_probs, batch.weights)
        decay = sum((x**2).sum() for x in self.policy.parameters()) / self.devices.world_size
        return loss + penalty + 0.01 * decay, (*metrics, penalty.detach())

    def update(self, rollout: Any, update_index: int, timer: Any) -> dict[str, float]:
        metrics = super().update(rollout, update_index, timer)
        self.beta.mul_(2 if metrics["Info/approx_kl"] > 1e-3 else 0.5).clamp_(0.01, 10)
        return metrics


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        (OwnNetwork, "own_data"),
        slow((Frozen, "own_data")),
        (OwnLoss, "share_data"),
        pytest.param(OwnNetwork, "share_data", marks=pytest.mark.slow),
        pytest.param(Frozen, "share_data", marks=pytest.mark.slow),
        pytest.param(OwnLoss, "own_data", marks=pytest.mark.slow),
    ],
)
def test_ranks_learn_with_own_networks_and_losses_what_one_rank_learns(kind, way):
    one, first, second = learn(1, way, kind), *run_ranks(2, learn, 2, way, kind)
    for name, expected in one["learned"].items():
        assert np.array_equal(first["learned"][name], second["learned"][name]), name
        np.testing.assert_allclose(first["learned"][name], expected, 2e-3, 2e-5, err_msg=name)
    for name, expected in one["metrics"].items():
        for rank in (first, second):
            np.testing.assert_allclose(rank["metrics"][name], expected, 5e-3, 1e-4, err_msg=name)


def sac_on_rank() -> dict[str, np.ndarray]:
    settings = {"network": RESIDUAL, "devices": 2, "replay_ratio": 0.5, "policy_frequency": 1}
    agent = make_sac(kind=SAC, **settings)
    Loop(agent).run(12)
    assert agent.num_gradient_steps > 0
    return learners(agent)


def test_ranks_of_sac_stay_equal_with_an_own_network():
    first, second = run_ranks(2, sac_on_rank)
    for part, values in first.items():
        assert np.array_equal(second[part], values), part


# Modules


class SameRollout(SameNoise, RolloutAgent):
    """Acts as one rank with all environments."""


class SameModule:
    """Has such an agent."""

    def make_agent(self, env: Any, settings: dict[str, Any]) -> Any:
        return SameRollout(self, env, {**self.given, **settings})


class SameReinforce(SameModule, Reinforce):
    pass


class SameShuffled(SameModule, PPOAgent):
    pass


MODULES: dict[str, Any] = {"rollouts": SameReinforce, "minibatches": SameShuffled}


def learn_module(kind: str, num_ranks: int, **more: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "num_envs": NUM_ENVS // num_ranks,
        "num_steps": 16,
        "total_timesteps": 16 * NUM_ENVS * 4,
        "normalize_advantages": True,
        "reward_scaling": True,
        "learning_rate": 0.01,
        "devices": num_ranks,
        "eval_episodes": 0,
        "accelerator": "cpu",
        **more,
    }
    if kind == "minibatches":  # one, so that its rows are the same
        rows = settings["num_envs"] * settings["num_steps"]
        settings |= {"per_rank_batch_size": rows, "update_epochs": 3}
    network = mlp(2, 3) if kind == "rollouts" else ActorCritic(2, 3)
    module = MODULES[kind](network, **settings)
    agent = module.make_agent("toy_agents:DiscreteWalk", {})
    metrics = Loop(agent).run(4)
    return {
        "learned": {**arrays(tensors_of(agent)), **_arrays(module.state_dict())},
        "metrics": {name: [row[name] for row in metrics] for name in metrics[0]},
        "step": module.step,
    }


@pytest.mark.parametrize("kind", quick(MODULES, "minibatches"))
@pytest.mark.parametrize("engine", [pytest.param("eager", marks=pytest.mark.slow), "auto"])
def test_ranks_learn_with_a_module_what_one_rank_learns(kind, engine):
    work = functools.partial(learn_module, kind, engine=engine)
    one, ranks = work(1), run_ranks(2, work, 2)
    for name, expected in one["learned"].items():
        assert np.array_equal(ranks[0]["learned"][name], ranks[1]["learned"][name]), name
        np.testing.assert_allclose(ranks[0]["learned"][name], expected, 2e-3, 2e-5, err_msg=name)
    for rank in ranks:
        assert rank["step"] == one["step"]
        for name, expected in one["metrics"].items():
            np.testing.assert_allclose(rank["metrics"][name], expected, 5e-3, 1e-4, err_msg=name)


ROWS = 16


def steps_of_replay(num_ranks: int) -> dict[str, Any]:
    """Takes three gradient steps on this rank's share of given rows."""
    count = ROWS // num_ranks
    settings = {"num_envs": 2, "devices": num_ranks, "per_rank_batch_size": count}
    settings |= {"accelerator": "cpu", "eval_episodes": 0, "learning_rate": 0.01}
    module = DQN(mlp(2, 3), **settings)
    agent = module.make_agent("toy_agents:DiscreteWalk", {})
    assert isinstance(agent, ReplayAgent)
    agent.make_buffer()
    drawn = torch.Generator().manual_seed(3)
    share = slice(agent.devices.global_rank * count, (agent.devices.global_rank + 1) * count)
    for _ in range(3):
        obs, next_obs = torch.randn(2, ROWS, 2, generator=drawn)
        actions = torch.randint(3, (ROWS,), generator=drawn)
        rewards, discounts = torch.rand(2, ROWS, generator=drawn)
        rows = (obs, actions, next_obs, rewards, discounts)
        agent.learner.take_step(Transitions(*(x[share] for x in rows)))
    return {**_arrays(module.state_dict()), "metrics": list(agent.learner.take_metrics().values())}


@pytest.mark.slow
def test_ranks_take_the_gradient_steps_of_a_replay_module_that_one_rank_with_all_rows_takes():
    one, ranks = steps_of_replay(1), run_ranks(2, steps_of_replay, 2)
    for rank in ranks:
        for name, expected in one.items():
            np.testing.assert_allclose(rank[name], expected, 1e-3, 1e-5, err_msg=name)


def run_replay(folder: str) -> dict[str, Any]:
    settings = {"num_envs": 2, "num_steps": 4, "devices": 2, "per_rank_batch_size": 8}
    settings |= {"accelerator": "cpu", "eval_episodes": 0, "learning_starts": 32, "log_every": 0}
    module = DQN(mlp(2, 3), **settings, total_timesteps=256, log_dir=folder)
    AgentTrainer().fit(module, "toy_agents:DiscreteWalk")
    agent = module.agent
    obs = agent.replay.state_dict()["obs"].numpy()
    return {"state": _arrays(module.state_dict()), "obs": obs, "steps": agent.num_gradient_steps}


@pytest.mark.slow
def test_ranks_of_a_replay_module_stay_equal_on_rows_of_their_own(tmp_path):
    first, second = run_ranks(2, run_replay, str(tmp_path))
    assert first["steps"] == second["steps"] == (256 - 32) * 0.125
    assert not np.array_equal(first["obs"], second["obs"])
    for name, expected in first["state"].items():
        assert np.array_equal(second["state"][name], expected), name


# Info metrics


def goal_run(folder: str, num_ranks: int, network: bool = False) -> Any:
    settings: dict[str, Any] = {"num_envs": 4 // num_ranks, "num_steps": 16, "devices": num_ranks}
    settings |= {"total_timesteps": 256, "eval_episodes": 0, "info_metrics": ("distance", "bonus")}
    settings |= {"per_rank_batch_size": 16 * settings["num_envs"], "log_dir": folder}
    settings |= {"accelerator": "cpu", "network": RESIDUAL} if network else {"accelerator": "cpu"}
    result = PPO("goal_envs:GoalEnv", preset="none", **settings).learn().result
    assert result is not None
    if not result.summary:  # of another rank than the one that writes
        return None
    rows = [[row[f"Episode/{x}"] for x in ("distance", "bonus")] for row in rows_of(result.folder)]
    return result.summary["train_info_means"], rows


@pytest.mark.slow
def test_ranks_log_the_info_metrics_of_one_rank(tmp_path):
    one = goal_run(str(tmp_path / "1"), 1)
    first, second = run_ranks(2, goal_run, str(tmp_path / "2"), 2)
    assert one[0]["distance"] is not None and len({row[0] for row in one[1]}) > 1
    assert first[0] == pytest.approx(one[0]) and second is None
    assert first[1] == one[1]


# Decoupled


def test_a_player_and_a_trainer_learn_with_an_own_network_what_one_process_learns():
    settings = {"network": (RESIDUAL,)}
    (player,) = decoupled_ppo("own_data", 1, 1, None, **settings)
    config = config_of("own_data", 1, 1, SamePPO, **settings).for_one_process()
    loop = Loop(SamePPO(config.env_id, config))
    metrics = loop.run(4)
    assert type(loop.agent.policy.actor) is own_networks.ResidualMLP
    for name, expected in arrays(tensors_of(loop.agent)).items():
        assert np.array_equal(player["learned"][name], expected), name
    for theirs, ours in zip(player["metrics"], metrics, strict=True):
        assert {name: theirs[name] for name in ours} == ours


def test_a_player_and_a_trainer_of_sac_learn_with_an_own_network_what_one_process_learns():
    from test_decoupled_replay import NUM_UPDATES
    from test_decoupled_replay import config_of as sac_config

    settings = {"network": (RESIDUAL,)}
    player, _ = decoupled_sac("sac", 1, 1, **settings)
    config = sac_config("sac", **settings)
    loop = Loop(SAC(config.env_id, config))
    loop.run(NUM_UPDATES)
    states = player["state"], _arrays(loop.agent.state_dict())
    actual, expected = ({**_tensors(state), "config": None} for state in states)
    assert_equal(actual, expected)


def decoupled_goals(folder: str, algo: str) -> Any:
    from importlib import import_module

    from fastrl.cli import parse

    words = "--env-id goal_envs:GoalEnv --preset none --decoupled --devices 2 --num-players 1 "
    words += "--num-trainers 1 --num-envs 4 --eval-episodes 0 --info-metrics distance "
    words += f"--network {RESIDUAL} --accelerator cpu "
    if algo == "ppo":
        words += "--num-steps 16 --total-timesteps 256 --per-rank-batch-size 64"
    else:
        words += "--total-timesteps 128 --learning-starts 32 --hidden-sizes 8 --log-every 0 "
        words += "--env-kwargs box=true --per-rank-batch-size 8"
    argv = [*shlex.split(words), "--log-dir", folder]
    return import_module(f"fastrl.{algo}").main(parse(algo, argv))


@pytest.mark.slow
@pytest.mark.parametrize("algo", quick(["ppo", "sac"], "ppo"))
def test_a_decoupled_run_has_own_networks_and_info_metrics(algo, tmp_path):
    assert run_ranks(2, decoupled_goals, str(tmp_path), algo) == [0, 0]
    (path,) = tmp_path.glob("*/*/*/metrics.csv")
    header, *rows = path.read_text().splitlines()
    column = header.split(",").index("Episode/distance")
    numbers = [float(row.split(",")[column]) for row in rows if row.split(",")[column]]
    assert numbers and all(2 <= x <= 4 for x in numbers)


# Launchers


@pytest.mark.slow
def test_every_launcher_trains_an_own_network_to_the_same_weights(tmp_path):
    words = f"--env-id CartPole-v1 --network {RESIDUAL} --total-timesteps 2048 --num-envs 4 "
    words += "--preset none --num-steps 128 --per-rank-batch-size 256 --eval-episodes 0 "
    words += "--lr-schedule adaptive,kl=0.01 --callback own_callbacks:Diary"
    on_cpu = ["-m", "fastrl.ppo", "--devices", "2", "--accelerator", "cpu", *words.split()]
    own = start(tmp_path / "own", sys.executable, *on_cpu)
    launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    assert_equal(start(tmp_path / "torchrun", sys.executable, *launch, *on_cpu), own)
    by_fabric = fabric("--accelerator=cpu", "--devices=2")
    assert_equal(start(tmp_path / "fabric", *by_fabric, *words.split()), own)


SCRIPT = """
import sys

from own_modules import PPOAgent, ActorCritic

from fastrl import AgentTrainer

settings = {"num_envs": 2, "num_steps": 64, "per_rank_batch_size": 64, "eval_episodes": 0}
module = PPOAgent(ActorCritic(), log_dir=sys.argv[1], accelerator="cpu", **settings)
AgentTrainer(max_steps=1024, devices=2).fit(module, "CartPole-v1")
"""


@pytest.mark.slow
def test_every_launcher_trains_a_module_of_a_script_to_the_same_weights(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    by_fabric = fabric("--accelerator=cpu", "--devices=2")
    ways = {
        "own": [sys.executable, str(script)],
        "torchrun": [*torchrun, f"--master-port={free_port()}", str(script)],
        "fabric": [*by_fabric[:-1], str(script)],
    }
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    states = {}
    for way, words in ways.items():
        folder = str(tmp_path / way)
        how: Any = {"capture_output": True, "text": True, "env": environment, "timeout": 120}
        done = subprocess.run([*words, folder], **how)
        assert done.returncode == 0, done.stderr
        (run,) = (tmp_path / way).glob("*/*/*")
        states[way] = last_state(run)
    assert states["own"]["num_ranks"] == 2
    for way in ("torchrun", "fabric"):
        assert_equal(states[way], states["own"])


# Statistics that a network gathers


def gathered_apart(folder: str) -> str:
    settings: dict[str, Any] = {"num_envs": 2, "num_steps": 16, "devices": 2, "eval_episodes": 0}
    settings |= {"per_rank_batch_size": 32, "total_timesteps": 256, "log_dir": folder}
    make = own_networks.batch_normed
    try:
        PPO("CartPole-v1", preset="none", network=make, accelerator="cpu", **settings).learn()
    except ValueError as error:
        return str(error)
    return "trained"


@pytest.mark.slow
def test_ranks_that_would_gather_statistics_apart_are_refused(tmp_path):
    for words in run_ranks(2, gathered_apart, str(tmp_path)):
        assert words.startswith("policy.actor.1.running_mean of BatchNorm1d differs between ranks")


def test_a_player_has_the_statistics_that_its_trainer_gathered():
    settings = {"network": ("own_networks:batch_normed",)}
    (player,) = decoupled_ppo("own_data", 1, 1, None, **settings)
    config = config_of("own_data", 1, 1, SamePPO, **settings).for_one_process()
    loop = Loop(SamePPO(config.env_id, config))
    loop.run(4)
    for name, expected in arrays(tensors_of(loop.agent)).items():
        assert np.array_equal(player["learned"][name], expected), name
    assert player["learned"]["policy.actor.1.running_var"].std() > 0
