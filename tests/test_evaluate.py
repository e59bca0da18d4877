"""Greedy tests: which episodes count, what is left out, what the command line says."""

import json
import logging
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import toy_envs

from fastrl.config.run import RunConfig
from fastrl.envs.make import base_seed, make_env
from fastrl.envs.rebuild import task_of
from fastrl.envs.vector import VectorEnv
from fastrl.evaluate import main
from fastrl.training.greedy import EndlessEpisodeError, evaluate, evaluate_agent

COUNTING = f"{toy_envs.__name__}:CountingEnv"
ENDLESS = f"{toy_envs.__name__}:EndlessEnv"


def zeros(obs: np.ndarray) -> np.ndarray:
    """Return action 0 for every row."""
    return np.zeros(len(obs), np.int64)


def counting_length(seed: int) -> int:
    """Return the steps of every episode of CountingEnv."""
    return 2 + seed % 3


def counting_return(seed: int, action: int = 0) -> float:
    """Return the sum of 10 * step + action over an episode of CountingEnv."""
    length = counting_length(seed)
    return 10.0 * length * (length + 1) / 2 + action * length


@dataclass
class GreedyAgent:
    """An agent as far as a test needs one: it always does action 0 (or `action`)."""

    env_id: str
    backend: str = "auto"
    mask_vel: bool = False
    action: int = 0
    algo: str = "toy"
    envs: list[VectorEnv] = field(default_factory=list)

    def __post_init__(self):
        self.config = RunConfig(env_id=self.env_id, mask_vel=self.mask_vel)
        self.envs = self.envs or [
            make_env(self.env_id, 2, backend=self.backend, mask_vel=self.mask_vel)
        ]
        self.task = task_of(self.envs[0].env_id, self.envs, self.config)
        self.seen: list[np.ndarray] = []

    def predict(self, obs: np.ndarray, deterministic: bool = True) -> np.ndarray:
        self.seen.append(obs)
        return np.full(len(obs), self.action, np.int64)


# Which episodes count


@pytest.mark.parametrize(("num_envs", "num_episodes"), [(3, 3), (3, 7), (5, 3), (1, 4), (4, 10)])
def test_every_env_plays_the_episodes_dealt_to_it(num_envs, num_episodes):
    env = make_env(COUNTING, num_envs, seed=0)
    result = evaluate(zeros, env, num_episodes)
    dealt = [num_episodes // num_envs + (i < num_episodes % num_envs) for i in range(num_envs)]
    expected = [counting_length(seed) for seed in range(num_envs) for _ in range(dealt[seed])]
    assert result.lengths.tolist() == expected


def test_mean_is_that_of_the_envs_although_their_episodes_differ_in_length():
    env = make_env(COUNTING, 3, seed=0)
    result = evaluate(zeros, env, 30)
    # Seeds 0, 1, 2 have episodes of 2, 3, 4 steps; the first 30 to end would hold 14, 9 and 7.
    assert result.mean == np.mean([counting_return(seed) for seed in range(3)])
    assert result.mean_length == 3


def test_reset_row_is_not_counted():
    agent = GreedyAgent(COUNTING, action=1)
    result = evaluate(agent.predict, make_env(COUNTING, 1, seed=0), 3)
    # An action that counted on a reset row would add a step and its reward.
    assert result.returns.tolist() == [counting_return(0, action=1)] * 3
    assert len(agent.seen) == 3 * counting_length(0) + 2  # two reset rows between three episodes


def test_play_stops_with_the_last_dealt_episode():
    agent = GreedyAgent(COUNTING)
    evaluate(agent.predict, make_env(COUNTING, 3, seed=0), 3)
    assert len(agent.seen) == max(counting_length(seed) for seed in range(3))


def test_action_that_is_not_finite_is_no_fault_of_the_env():
    env = make_env(f"{toy_envs.__name__}:EnduringEnv", 2)
    with pytest.raises(ValueError, match="an action of the policy is not finite: its training div"):
        evaluate(lambda obs: np.full((len(obs), 3), np.nan, np.float32), env, 2)


def test_returns_are_summed_in_float64():
    env = make_env(ENDLESS, 1, env_kwargs={"time_limit": 300})
    env_step = env.step

    def tenths(actions):
        return env_step(actions)._replace(rewards=np.full(1, 0.1, np.float32))

    env.step = tenths  # pyright: ignore[reportAttributeAccessIssue]
    assert evaluate(zeros, env, 1).mean == pytest.approx(300 * float(np.float32(0.1)), rel=1e-13)


def test_std_is_that_of_the_population():
    result = evaluate(zeros, make_env(COUNTING, 3, seed=0), 3)
    assert result.std == pytest.approx(np.std([counting_return(seed) for seed in range(3)]))


def test_envpool_and_gymnasium_count_alike():
    lengths = [
        evaluate(zeros, make_env("CartPole-v1", 8, backend=backend), 40).mean_length
        for backend in ("envpool", "gymnasium")
    ]
    # Pushing one way only falls within 8 to 10 steps from any start.
    assert all(8 <= length <= 10 for length in lengths)


def test_endless_task_is_refused_by_name():
    env = make_env(ENDLESS, 2, env_kwargs={"time_limit": 10**9})
    with pytest.raises(EndlessEpisodeError, match=r"EndlessEnv.* 50 steps"):
        evaluate(zeros, env, 2, max_episode_steps=50)


def test_episode_of_just_the_allowed_length_counts():
    env = make_env(ENDLESS, 2, env_kwargs={"time_limit": 50})
    assert evaluate(zeros, env, 4, max_episode_steps=50).lengths.tolist() == [50] * 4


def test_no_episodes_are_refused():
    with pytest.raises(ValueError, match="num_episodes is 0"):
        evaluate(zeros, make_env(COUNTING, 1), 0)


def test_return_that_is_not_finite_is_refused():
    env = make_env(f"{toy_envs.__name__}:NanEnv", 1, env_kwargs={"in_reward": True})
    with pytest.raises(ValueError, match="nan"):
        evaluate(zeros, env, 1)


# Agents


def test_two_tests_of_an_agent_play_the_same_episodes():
    agent = GreedyAgent("LunarLander-v2")
    first, second = (evaluate_agent(agent, 6, env_steps) for env_steps in (0, 1000))
    assert first is not None and second is not None
    np.testing.assert_array_equal(first.returns, second.returns)
    assert len(np.unique(first.returns)) == 6


def test_test_leaves_the_training_envs_alone():
    agent, other = GreedyAgent("CartPole-v1"), GreedyAgent("CartPole-v1")
    for each in (agent, other):
        each.envs[0].reset()
    evaluate_agent(agent, 4, 0)
    steps = [each.envs[0].step(np.zeros(2, np.int64)).obs for each in (agent, other)]
    np.testing.assert_array_equal(*steps)


def test_test_episodes_are_not_those_of_training():
    agent = GreedyAgent("CartPole-v1")
    evaluate_agent(agent, 2, 0)
    assert not np.array_equal(agent.seen[0], agent.envs[0].reset())


def test_velocities_are_hidden_in_the_test_too():
    agent = GreedyAgent("CartPole-v1", mask_vel=True)
    evaluate_agent(agent, 2, 0)
    assert all((obs[:, [1, 3]] == 0).all() for obs in agent.seen)


def test_backend_of_training_is_played():
    agent = GreedyAgent("CartPole-v1", backend="gymnasium")
    # EnvPool's CartPole starts elsewhere: the observations tell the two apart.
    evaluate_agent(agent, 2, 0)
    seed = base_seed(agent.config.seed, "eval")
    expected = make_env("CartPole-v1", 2, seed=seed, backend="gymnasium").reset()
    np.testing.assert_array_equal(agent.seen[0], expected)


def test_env_built_by_hand_skips_the_test_with_one_line(caplog):
    agent = GreedyAgent(COUNTING)
    agent.task = agent.task._replace(make=None, why_not="it was built by hand")
    with caplog.at_level(logging.WARNING, "fastrl"):
        assert evaluate_agent(agent, 4, 123) is None
    assert len(caplog.messages) == 1 and "no evaluation at 123 steps" in caplog.messages[0]


def test_env_that_is_another_when_made_anew_skips_the_test(caplog):
    env = make_env("CartPole-v1", 2)
    env.env_id = "LunarLander-v2"
    assert evaluate_agent(GreedyAgent("CartPole-v1", envs=[env]), 4, 0) is None
    assert "LunarLander-v2: new environments have the spaces" in caplog.messages[0]


def test_error_of_the_env_is_no_skipped_test():
    agent = GreedyAgent(f"{toy_envs.__name__}:RaisingEnv")
    with pytest.raises(ValueError, match="exploded"):
        evaluate_agent(agent, 2, 0)


# The command line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "RUN"),
        (["{tmp}/nowhere"], "nowhere does not exist"),
        (["{tmp}"], "is not a run folder"),
        (["{tmp}", "--episodes", "0"], "--episodes is 0"),
        (["{tmp}", "--episodes", "ten"], "'ten'"),
        (["{tmp}", "--episodes", "2000000000"], "it must be at least 1 and at most 1,000,000"),
        (["{tmp}", "--colour"], "--colour"),
        (["{tmp}", "--seed", "1", "--seed=2"], "--seed is given twice; give it once"),
        (["{tmp}/foreign.pt"], "is not a fastrl checkpoint"),
        (["{tmp}/foreign.pt", "--checkpoint", "best"], "no effect"),
    ],
)
def test_mistake_is_told_in_one_line(words, message, tmp_path, capsys):
    (tmp_path / "foreign.pt").write_bytes(b"no checkpoint")
    assert main([word.format(tmp=tmp_path) for word in words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.parametrize("algo", ["no_such", "cli", "evaluate", "../ppo", "", 3])
def test_unknown_algorithm_is_told_in_one_line(algo, tmp_path, capsys):
    from fastrl.runs.checkpoint import save_checkpoint

    save_checkpoint(tmp_path / "agent.pt", {"algo": algo})
    assert main([str(tmp_path / "agent.pt")]) == 2
    assert "which fastrl does not have" in capsys.readouterr().err


def test_arguments_are_read_without_torch(tmp_path):
    code = (
        "import sys; from fastrl.evaluate import main; "
        f"assert main([{str(tmp_path)!r}]) == 2; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Return the file of an untrained agent."""
    from fastrl import PPO

    path = tmp_path_factory.mktemp("agents") / "agent.pt"
    agent = PPO("CartPole-v1", preset="none", seed=3, num_envs=2, num_steps=64)
    agent.save(path)
    return path


@pytest.fixture
def run_folder(checkpoint, tmp_path) -> Path:
    """Return a run folder with that agent as its best and last."""
    import torch

    from fastrl.runs.checkpoint import Checkpoints, load_checkpoint
    from fastrl.runs.folder import write_config

    state = {**load_checkpoint(checkpoint), "counters": {"env_steps": 128}}
    write_config(tmp_path / "config.yaml", {"algo": "ppo", **state["agent"]["config"]})
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save_last(state)
    for tensor in state["agent"]["policy"].values():
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
            tensor.zero_()  # the best always pushes left
    checkpoints.save_best(state)
    return tmp_path


@pytest.mark.slow
def test_result_is_one_line(checkpoint):
    command = [sys.executable, "-m", "fastrl.evaluate", str(checkpoint), "--episodes", "5"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1
    assert result.stdout.startswith("return ") and "over 5 episodes (length " in result.stdout


def test_json_holds_every_return(checkpoint, capsys):
    assert main([str(checkpoint), "--episodes", "5", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["eval_return_mean"] == pytest.approx(np.mean(facts["returns"]))
    assert facts["eval_return_std"] == pytest.approx(np.std(facts["returns"]))
    assert facts["eval_episodes"] == len(facts["returns"]) == 5
    assert facts["eval_length_mean"] == facts["eval_return_mean"]  # CartPole pays 1 a step
    assert (facts["checkpoint"], facts["env_id"]) == (str(checkpoint), "CartPole-v1")


def test_numbers_are_written_as_for_training_and_the_folder_of_a_file_is_made(checkpoint, tmp_path):
    file = tmp_path / "new" / "result.json"
    assert main([str(checkpoint), "--episodes", "2e0", "--seed", "1_0", "--json", str(file)]) == 0
    facts = json.loads(file.read_text())
    assert (facts["eval_episodes"], facts["seed"]) == (2, 10)


def test_seed_chooses_the_episodes(checkpoint, capsys):
    outputs = []
    for seed in ("3", "3", "4"):
        assert main([str(checkpoint), "--episodes", "8", "--seed", seed, "--json"]) == 0
        outputs.append(json.loads(capsys.readouterr().out)["returns"])
    assert main([str(checkpoint), "--episodes", "8", "--json"]) == 0
    assert outputs[0] == outputs[1] != outputs[2]
    assert json.loads(capsys.readouterr().out)["returns"] == outputs[0]  # 3 was the run's seed


def test_agent_of_handed_over_environments_is_tested_on_the_id_that_is_named(tmp_path, capsys):
    from fastrl import PPO

    env = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2)
    path = tmp_path / "agent.pt"
    PPO(env, preset="none", seed=3, num_steps=64).save(path)
    assert main([str(path)]) == 2
    error = capsys.readouterr().err
    told = "was trained on environments of SyncVectorEnv that were handed over"
    assert error.count("\n") == 1 and told in error
    assert "--env-id of evaluate, export and collect" in error
    assert main([str(path), "--env-id", "CartPole-v1", "--episodes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["env_id"] == "CartPole-v1"
    assert PPO.load(path, "CartPole-v1").config.env_id == "CartPole-v1"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "last.pt"),
        (["--checkpoint", "last"], "last.pt"),
        (["--checkpoint", "best"], "best.pt"),
        (["--checkpoint", "best.pt"], "best.pt"),
    ],
)
def test_checkpoint_of_a_run_is_chosen(words, name, run_folder, capsys):
    assert main([str(run_folder), "--episodes", "2", "--json", *words]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert Path(facts["checkpoint"]) == run_folder / "checkpoints" / name


def test_missing_checkpoint_is_told_in_one_line(run_folder, capsys):
    assert main([str(run_folder), "--checkpoint", "step_7.pt"]) == 2
    assert "step_7.pt does not exist" in capsys.readouterr().err


def test_truncated_checkpoint_is_told_in_one_line(checkpoint, tmp_path, capsys):
    cut = tmp_path / "cut.pt"
    cut.write_bytes(checkpoint.read_bytes()[:-1000])
    assert main([str(cut)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1


def test_checkpoint_without_an_agent_is_told_in_one_line(tmp_path, capsys):
    from fastrl.runs.checkpoint import save_checkpoint

    save_checkpoint(tmp_path / "empty.pt", {"algo": "ppo"})
    assert main([str(tmp_path / "empty.pt")]) == 2
    assert "holds no agent of ppo" in capsys.readouterr().err


@pytest.mark.parametrize("agent", [3, {"config": 3}, {"config": {"num_envs": "x"}}, {"config": {}}])
def test_checkpoint_of_another_agent_is_told_in_one_line(agent, tmp_path, capsys):
    from fastrl.runs.checkpoint import save_checkpoint

    save_checkpoint(tmp_path / "other.pt", {"algo": "ppo", "agent": agent})
    assert main([str(tmp_path / "other.pt")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1


@pytest.mark.slow
def test_video_lies_in_the_run_folder(run_folder, capsys):
    assert main([str(run_folder), "--episodes", "1", "--checkpoint", "best", "--video"]) == 0
    names = sorted(path.name for path in (run_folder / "videos").iterdir())
    assert names == ["evaluate_best.gif", "evaluate_best.json", "evaluate_best.mp4"]
    told = capsys.readouterr().out.splitlines()  # with lines on progress, where that takes long
    assert len([line for line in told if line.endswith((".mp4", ".gif"))]) == 2
