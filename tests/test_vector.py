"""`--vector async`: runs, tests and films on environments in processes, interrupted and resumed."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from typing import Any

import gymnasium
import pytest
import torch
import toy_envs
from test_async_env import is_gone
from test_interrupt import ENDLESS, START_SECONDS, TINY, start, wait_for

from fastrl import PPO
from fastrl.config.ppo import PPOConfig
from fastrl.envs.make import make_env
from fastrl.envs.pools import open_envs
from fastrl.runs.checkpoint import load_checkpoint
from fastrl.training.trainer import AgentTrainer

TASK = f"{toy_envs.__name__}:EndlessEnv"
SETTINGS: dict[str, Any] = {
    "num_envs": 4,
    "num_steps": 16,
    "per_rank_batch_size": 32,
    "update_epochs": 1,
    "hidden_sizes": (8,),
    "engine": "eager",
    "accelerator": "cpu",
    "preset": "none",
    "total_timesteps": 256,
    "eval_episodes": 0,
}
ONE = {"num_envs": 1, "per_rank_batch_size": 16}


def weights(agent: PPO) -> torch.Tensor:
    return torch.cat([x.flatten() for x in agent.policy.parameters()])


@pytest.mark.slow
def test_run_with_tests_and_a_film_is_the_run_of_one_process(tmp_path):
    learned, results = [], []
    for vector in ("sync", "async"):
        folder = tmp_path / vector
        settings = {**SETTINGS, "log_dir": str(folder), "vector": vector, "eval_episodes": 3}
        settings |= {"env_kwargs": {"shown": "masked"}, "capture_video": vector == "async"}
        agent = PPO(f"{toy_envs.__name__}:TargetEnv", **settings).learn()
        learned.append(weights(agent))
        assert agent.result is not None
        results.append(json.loads((agent.result.folder / "summary.json").read_text()))
        for env in agent.envs:
            env.close()
    torch.testing.assert_close(*learned, rtol=0, atol=0)
    assert results[0]["eval_length_mean"] == results[1]["eval_length_mean"] > 0
    assert list((tmp_path / "async").glob("ppo/*/*/videos/*.mp4"))


def test_run_goes_on_exactly_where_states_can_be_saved(tmp_path):
    task, whole = f"{toy_envs.__name__}:StatefulEnv", {**SETTINGS, "log_dir": str(tmp_path)}
    straight = PPO(task, **whole).learn()
    halved = PPO(task, **{**whole, "total_timesteps": 128}, vector="async", num_workers=2).learn()
    assert halved.result is not None
    for env in halved.envs:
        env.close()
    resumed = PPO(task, **whole)  # in one process
    AgentTrainer(resume=halved.result.folder).fit(resumed)
    torch.testing.assert_close(weights(resumed), weights(straight), rtol=0, atol=0)


def test_halves_have_processes_of_their_own():
    settings = {**SETTINGS, "vector": "async", "num_workers": 2, "num_pools": 2}
    del settings["preset"]
    pools: list[Any] = open_envs(TASK, PPOConfig(env_id=TASK, **settings))
    assert [len(pool._workers.pids) for pool in pools] == [1, 1]
    assert all(pool.num_envs == 2 for pool in pools)
    for pool in pools:
        pool.close()


@pytest.mark.parametrize(
    ("env", "settings", "words"),
    [
        ("CartPole-v1", {}, "vector=async has no effect, because EnvPool runs it in threads"),
        (lambda: gymnasium.make_vec("CartPole-v1", 4), {}, "on environments that are made already"),
        (lambda: make_env("CartPole-v1", 4), {}, "on environments that are made already"),
        (
            lambda: gymnasium.make("CartPole-v1"),
            {"num_envs": 1, "per_rank_batch_size": 16},
            "that are made already",
        ),
        (TASK, {"num_workers": 5}, "num_workers=5 leaves some without an environment"),
        (TASK, {"vector": "threads"}, "vector must be one of sync, async"),
    ],
)
def test_where_it_has_no_effect_it_is_refused(env, settings, words):
    env = env if isinstance(env, str) else env()
    with pytest.raises(ValueError, match=words):
        PPO(env, **{**SETTINGS, "vector": "async", **settings})


def test_number_of_processes_without_processes_is_refused():
    with pytest.raises(ValueError, match="num_workers=2 has no effect with vector=sync"):
        PPO(TASK, **SETTINGS, num_workers=2)


@pytest.mark.slow
def test_ranks_with_processes_learn_what_they_do_without(tmp_path):
    words = [word for word in TINY if word not in ("--env-id", "CartPole-v1")]
    words += ["--env-id", "toy_envs:StatefulEnv", "--devices", "2", "--total-timesteps", "256"]
    states = []
    for vector in ("sync", "async"):
        log_dir = tmp_path / vector
        process = start(*words, "--vector", vector, "--log-dir", str(log_dir))
        _, stderr = process.communicate(timeout=4 * START_SECONDS)
        assert process.returncode == 0, stderr
        states.append(load_checkpoint(next(log_dir.glob("ppo/*/*/checkpoints/last.pt")))["agent"])
    for name, value in states[0]["policy"].items():
        torch.testing.assert_close(states[1]["policy"][name], value, rtol=0, atol=0)


# Signals

OWN = shlex.split("--env-id toy_envs:StatefulEnv --vector async --num-workers 2 ")


def children_of(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_signal_to_all_processes_ends_the_run_in_order(tmp_path, number):
    words = [word for word in TINY if word not in ("--env-id", "CartPole-v1")]
    process = start(*OWN, *words, *ENDLESS, "--log-dir", str(tmp_path))
    folder = wait_for(tmp_path, "ppo/*/*/checkpoints/step_*.pt", process).parent.parent
    workers = children_of(process.pid)
    assert len(workers) >= 2
    for pid in (*workers, process.pid):  # as a batch system does; a terminal spares the workers
        os.kill(pid, number)
    stdout, stderr = process.communicate(timeout=START_SECONDS)
    assert (process.returncode, stderr) == (128 + number, "")
    assert "interrupted at " in stdout
    steps = load_checkpoint(folder / "checkpoints" / "last.pt")["counters"]["env_steps"]
    assert steps == json.loads((folder / "summary.json").read_text())["total_env_steps"] > 0
    assert all(map(is_gone, workers))


def test_ctrl_c_in_python_is_raised_once_the_run_is_saved(tmp_path):
    agent = PPO(toy_envs.EndlessEnv, **{**SETTINGS, "log_dir": str(tmp_path)}, vector="async")
    groups = {os.getpgid(pid) for pid in agent.envs[0]._workers.pids}  # pyright: ignore
    assert os.getpgid(0) not in groups
    update = agent.update

    def interrupted(*args: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return update(*args)

    agent.update = interrupted
    with pytest.raises(KeyboardInterrupt):
        agent.learn()
    assert agent.result is not None and agent.result.summary["interrupted"] is True
    agent.envs[0].close()


@pytest.mark.slow
def test_sigterm_ends_a_run_whose_environment_hangs(tmp_path):
    words = [word for word in TINY if word not in ("--env-id", "CartPole-v1")]
    task = ["--env-id", "toy_envs:StuckEnv", "--vector", "async"]
    process = start(*task, *words, *ENDLESS, "--log-dir", str(tmp_path))
    wait_for(tmp_path, "ppo/*/*/config.yaml", process)
    workers = children_of(process.pid)
    process.terminate()
    _, stderr = process.communicate(timeout=START_SECONDS)
    assert process.returncode == 143 and "Traceback" not in stderr
    assert all(map(is_gone, workers))
