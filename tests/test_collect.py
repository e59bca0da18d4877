"""The command that collects: what acts, what is refused, and that memory does not grow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

minari = pytest.importorskip("minari")

from fastrl import PPO, PPORecurrent, TrajectoryDataset  # noqa: E402
from fastrl.collect.__main__ import main  # noqa: E402

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def agent_file(tmp_path_factory) -> str:
    """A saved agent of CartPole-v1."""
    path = tmp_path_factory.mktemp("agent") / "agent.pt"
    PPO("CartPole-v1", seed=3, num_envs=2, preset="none").save(path)
    return str(path)


def first_actions(agent: PPO, data: TrajectoryDataset, deterministic: bool) -> np.ndarray:
    return agent.predict(data[:].obs.numpy(), deterministic)


@pytest.mark.slow
def test_the_trained_policy_acts_greedily_unless_told_otherwise(agent_file, tmp_path, capsys):
    agent = PPO.load(agent_file)
    share = {}
    for name, more in {
        "greedy": [],
        "drawn": ["--stochastic"],
        "mixed": ["--policy", "mixed", "--epsilon", "0.5"],
        "never": ["--policy", "mixed", "--epsilon", "0"],
        "random": ["--policy", "random"],
    }.items():
        out = str(tmp_path / name)
        assert main([agent_file, "--steps", "1500", "--out", out, *more]) == 0
        data = TrajectoryDataset(out)
        greedy = agent.predict(data[:].obs.numpy())
        share[name] = float((greedy == data[:].actions.numpy()).mean())
        assert f"fastrl.TrajectoryDataset({out!r})" in capsys.readouterr().out.splitlines()[-1]
        expected = "random" if name == "random" else "ppo"
        assert data.metadata["algorithm_name"] == expected and data.env_id == "CartPole-v1"
    assert share["greedy"] == share["never"] == 1
    assert 0.65 < share["mixed"] < 0.85 and 0.4 < share["random"] < 0.6
    assert share["drawn"] < 0.95


def test_a_memory_starts_anew_with_each_episode(tmp_path):
    agent = PPORecurrent("CartPole-v1", seed=1, num_envs=2, preset="none")
    agent.save(tmp_path / "agent.pt")
    out = str(tmp_path / "data")
    assert main([str(tmp_path / "agent.pt"), "--steps", "600", "--out", out]) == 0
    data = TrajectoryDataset(out)
    for index in range(len(data.episodes)):
        episode, state = data.episode(index), agent.new_state(1)
        for obs, action in zip(episode.obs[:-1], episode.actions, strict=True):
            assert agent.predict(obs.numpy()[None], state=state)[0] == action


def test_the_same_command_writes_the_same_data(agent_file, tmp_path):
    whole = []
    for name in ("one", "two"):
        out = str(tmp_path / name)
        main([agent_file, "--episodes", "5", "--out", out, "--stochastic", "--seed", "5"])
        whole.append(TrajectoryDataset(out)[:])
    assert all(torch.equal(one, two) for one, two in zip(*whole, strict=True))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--out is missing"),
        (["--out", "x"], "--steps or --episodes"),
        (["--out", "x", "--steps", "5", "--episodes", "5"], "--steps or --episodes"),
        (["--out", "x", "--steps", "5"], "give a RUN or --env-id"),
        (["--out", "x", "--steps", "0", "--env-id", "CartPole-v1"], "--steps is 0"),
        (["--out", "x", "--steps", "many", "--env-id", "CartPole-v1"], "--steps must be"),
        (["--out", "x", "--steps", "5", "--env-id", "Nope-v1"], "unknown env 'Nope-v1'"),
        (["--out", "x", "--steps", "5", "--env-id", "CartPole-v1", "--trust"], "no effect"),
        (["--out", "x", "--steps", "5", "--policy", "mixed"], "needs a RUN"),
        (["RUN", "--out", "x", "--steps", "5", "--epsilon", "0.1"], "no effect without --policy"),
        (["RUN", "--out", "x", "--steps", "5", "--policy", "mixed", "--epsilon", "2"], "is 2"),
        (["RUN", "--out", "x", "--steps", "5", "--policy", "random", "--stochastic"], "no effect"),
        (["RUN", "--out", ".", "--steps", "5"], "exists already"),
        (["RUN", "--out", ".", "--steps", "5", "--append"], "lacks metadata.json"),
        (["missing", "--out", "x", "--steps", "5"], "does not exist"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    arguments, words, agent_file, tmp_path, capsys, monkeypatch
):
    (tmp_path / "mine.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert main([agent_file if word == "RUN" else word for word in arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_code_that_a_foreign_run_names_is_not_run(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    PPO("story_envs:StoryEnv", num_envs=2).save(tmp_path / "agent.pt")
    state = torch.load(tmp_path / "agent.pt", weights_only=True)
    torch.save({**state, "signature": "0" * 64}, tmp_path / "foreign.pt")
    command = [str(tmp_path / "foreign.pt"), "--steps", "20", "--out", str(tmp_path / "data")]
    assert main(command) == 2
    assert "wants to run story_envs:StoryEnv" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
    assert main([*command, "--trust"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_all_episodes_that_have_ended(number, tmp_path):
    out = tmp_path / "data"
    command = [sys.executable, "-m", "fastrl.collect", "--env-id", "story_envs:SlowEnv"]
    command += ["--steps", "1e6", "--out", str(out), "--num-envs", "2"]
    where = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    process = subprocess.Popen(command, env=where, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (out / "metadata.json").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    told = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + number
    assert "until it was interrupted" in told.splitlines()[-1]
    data = minari.MinariDataset(out)
    assert f"{data.total_episodes:,} episodes, {data.total_steps:,} steps" in told


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps(tmp_path):
    """The links to the episodes take a hundred bytes each."""
    sizes = {}
    for steps in (100_000, 1_000_000):
        code = (
            "import resource, sys; from fastrl.collect.__main__ import main;"
            f"main(['--env-id', 'LunarLander-v2', '--steps', '{steps}', '--out', sys.argv[1]]);"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        command = [sys.executable, "-c", code, str(tmp_path / str(steps))]
        sizes[steps] = int(subprocess.check_output(command, text=True).splitlines()[-1])
    assert sizes[1_000_000] < sizes[100_000] + 100_000, sizes
