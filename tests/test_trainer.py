"""The training loop in this process: what it counts, writes down, keeps and refuses."""

from __future__ import annotations

import csv
import json
import math
import signal
from pathlib import Path
from time import perf_counter
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from quick import slow

from fastrl import PPO, SAC, AgentTrainer, DroQ, make_env
from fastrl.cli import main, parse
from fastrl.config.command import describe
from fastrl.config.ppo import PPOConfig
from fastrl.config.run import RunConfig
from fastrl.envs.vector import EnvError
from fastrl.runs.checkpoint import Checkpoints, load_checkpoint
from fastrl.runs.fitting import first_not_finite
from fastrl.runs.timer import SaveClock
from fastrl.training.trainer import TrainResult

SMALL = {
    "num_envs": 4,
    "num_steps": 16,
    "per_rank_batch_size": 32,
    "update_epochs": 2,
    "total_timesteps": 256,
    "hidden_sizes": (8,),
    "eval_episodes": 0,
    "engine": "eager",
    "accelerator": "cpu",
}
GLOSSARY = {
    "Rewards/rew_avg",
    "Game/ep_len_avg",
    "Loss/policy_loss",
    "Loss/value_loss",
    "Loss/entropy_loss",
    "Info/learning_rate",
    "Info/valid_env_steps",
    "Info/clip_coef",
    "Info/ent_coef",
    "Info/approx_kl",
    "Info/clip_fraction",
    "Info/explained_variance",
    "Gradients/grad_norm",
    "Time/step_per_second",
    "Time/wall_seconds",
    "Time/env_seconds",
    "Time/act_seconds",
    "Time/store_seconds",
    "Time/advantage_seconds",
    "Time/update_seconds",
    "Test/cumulative_reward",
}
SUMMARY_TYPES = {
    "algo": str,
    "env_id": str,
    "backend": str,
    "seed": int,
    "total_env_steps": int,
    "valid_env_steps": int,
    "episodes": int,
    "restarts": int,
    "wall_seconds": float,
    "loop_seconds": float,
    "steps_per_second": float,
    "stage_seconds": dict,
    "train_return_mean": float,
    "eval_return_mean": float,
    "eval_return_std": float,
    "eval_length_mean": float,
    "eval_episodes": int,
    "interrupted": bool,
    "versions": dict,
    "machine": dict,
}


def agent_for(env: Any, log_dir: Path, **settings: Any) -> PPO:
    return PPO(env, preset="none", log_dir=str(log_dir), **{**SMALL, **settings})


def train(env: Any, log_dir: Path, **settings: Any) -> TrainResult:
    return AgentTrainer().fit(agent_for(env, log_dir, **settings))


def read_metrics(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def steps_of_tests(folder: Path) -> list[int]:
    rows = read_metrics(folder)
    return [int(row["env_steps"]) for row in rows if row.get("Test/cumulative_reward")]


def checkpoint_names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    log_dir = tmp_path_factory.mktemp("logs")
    return train("CartPole-v1", log_dir, total_timesteps=512, eval_episodes=3, seed=3)


# What is written down


def test_summary_holds_what_the_run_folder_promises(cartpole):
    summary = json.loads((cartpole.folder / "summary.json").read_text())
    assert {name: type(summary[name]) for name in SUMMARY_TYPES} == SUMMARY_TYPES
    assert (summary["algo"], summary["env_id"], summary["seed"]) == ("ppo", "CartPole-v1", 3)
    assert (summary["eval_episodes"], summary["interrupted"]) == (3, False)


def test_metrics_table_has_the_glossary_names(cartpole):
    assert set(read_metrics(cartpole.folder)[0]) >= GLOSSARY


def test_tensorboard_has_the_glossary_names_over_environment_steps(cartpole):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(cartpole.folder))
    events.Reload()
    assert set(events.Tags()["scalars"]) >= GLOSSARY
    steps = [event.step for event in events.Scalars("Loss/policy_loss")]
    assert steps == list(range(64, 513, 64))


def test_x_is_the_number_of_stored_rows(cartpole):
    rows = read_metrics(cartpole.folder)
    assert [int(row["env_steps"]) for row in rows] == [*range(64, 513, 64), 512]  # and the test


def test_folder_is_named_after_the_run(cartpole):
    assert cartpole.folder.name == "CartPole-v1_default_3"
    assert cartpole.folder.parent.parent.name == "ppo"


def test_valid_steps_leave_the_reset_rows_out(tmp_path):
    result = train("toy_envs:EndlessEnv", tmp_path, num_envs=2, num_steps=33, total_timesteps=66)
    # Episodes of 10 steps and one reset row: rows 10, 21 and 32 of each env are reset rows.
    assert result.summary["total_env_steps"] == 66
    assert result.summary["valid_env_steps"] == 66 - 2 * 3
    assert result.summary["episodes"] == 2 * 3
    assert result.summary["train_return_mean"] == 10


def test_incomplete_last_rollout_is_dropped(tmp_path):
    result = train("toy_envs:EndlessEnv", tmp_path, total_timesteps=64 * 3 + 63)
    assert result.summary["total_env_steps"] == 64 * 3


def test_stage_seconds_are_within_those_of_the_loop(cartpole):
    stages = cartpole.summary["stage_seconds"]
    assert set(stages) == {"env", "act", "store", "advantage", "update"}
    assert 0 < sum(stages.values()) <= cartpole.summary["loop_seconds"]
    assert cartpole.summary["loop_seconds"] < cartpole.summary["wall_seconds"]


def test_wall_seconds_are_those_since_the_run_was_asked_for(tmp_path, monkeypatch):
    """By a command line: since the process began; else that may have been long before."""
    monkeypatch.setattr("fastrl.processes.start._BEFORE_IMPORT", 1000.0)
    agent = agent_for("toy_envs:EndlessEnv", tmp_path, total_timesteps=64)
    start = perf_counter()
    for _ in range(2):
        assert 0 < agent.learn().result.summary["wall_seconds"] <= perf_counter() - start
    words = "--env-id CartPole-v1 --preset none --num-envs 4 --num-steps 64 --eval-episodes 0"
    words += (
        f" --engine eager --accelerator cpu --total-timesteps 256 --log-dir {tmp_path} --exp-name"
    )
    monkeypatch.setattr("sys.argv", ["ppo", *words.split(), "shell"])
    assert main("ppo", [*words.split(), "words"]) == main("ppo") == 0
    seconds = {
        name: json.loads(next(tmp_path.glob(f"ppo/*/*_{name}_*/summary.json")).read_text())
        for name in ("words", "shell")
    }
    assert 0 < seconds["words"]["wall_seconds"] <= perf_counter() - start
    assert seconds["shell"]["wall_seconds"] > 1000


# Tests during training


def test_periodic_tests_come_as_often_as_asked_and_one_at_the_end(tmp_path):
    result = train("toy_envs:EndlessEnv", tmp_path, eval_every=128, eval_episodes=2)
    assert steps_of_tests(result.folder) == [128, 256]


def test_periodic_tests_of_long_rollouts_do_not_fall_behind(tmp_path):
    result = train("toy_envs:EndlessEnv", tmp_path, eval_every=96, eval_episodes=2)
    assert steps_of_tests(result.folder) == [128, 192, 256]  # after 96 and 192 steps; the end


def test_eval_every_0_leaves_the_final_test(tmp_path):
    result = train("toy_envs:EndlessEnv", tmp_path, eval_every=0, eval_episodes=2)
    assert steps_of_tests(result.folder) == [256]
    assert result.summary["eval_return_mean"] == 10


def test_eval_episodes_0_switches_all_tests_off(tmp_path):
    result = train("toy_envs:EndlessEnv", tmp_path, eval_every=0, eval_episodes=0)
    assert steps_of_tests(result.folder) == []
    assert result.summary["eval_return_mean"] is None


def test_testing_does_not_change_the_training(tmp_path):
    plain = agent_for("CartPole-v1", tmp_path)
    tested = agent_for("CartPole-v1", tmp_path, eval_every=64, eval_episodes=2)
    for agent in (plain, tested):
        AgentTrainer().fit(agent)
    torch.testing.assert_close(
        tested.policy.state_dict(), plain.policy.state_dict(), rtol=0, atol=0
    )


def test_rows_and_the_last_line_count_steps_without_resets(tmp_path, capsys):
    result = train("toy_envs:EndlessEnv", tmp_path)
    rows = read_metrics(result.folder)
    # Of 64 rows of an environment, one after each 10 steps is a reset row.
    assert [float(row["Info/valid_env_steps"]) for row in rows] == [60, 120, 176, 236]
    assert "256 steps (236 without resets) in " in capsys.readouterr().out


# Checkpoints


def test_best_and_last_exist_with_and_without_tests(tmp_path):
    for eval_episodes in (0, 2):
        result = train("toy_envs:EndlessEnv", tmp_path, eval_episodes=eval_episodes)
        assert checkpoint_names(result.folder) == ["best.pt", "last.pt"]


def test_periodic_checkpoints_come_as_often_as_asked_and_the_newest_are_kept(tmp_path):
    settings = {"checkpoint_every": 64, "keep_checkpoints": 2}
    result = train("toy_envs:EndlessEnv", tmp_path, **settings)
    steps = ["step_000000000192.pt", "step_000000000256.pt"]
    assert checkpoint_names(result.folder) == ["best.pt", "last.pt", *steps]


def test_checkpoint_every_0_keeps_best_and_last_alone(tmp_path):
    result = train("toy_envs:EndlessEnv", tmp_path, checkpoint_every=0)
    assert checkpoint_names(result.folder) == ["best.pt", "last.pt"]


def test_last_checkpoint_knows_the_best_return_of_the_final_test(tmp_path):
    result = train("toy_envs:EndlessEnv", tmp_path, eval_episodes=2)
    last = load_checkpoint(result.folder / "checkpoints" / "last.pt")
    assert last["counters"]["best_return"] == 10


def test_run_folder_has_a_checkpoint_before_the_first_update(tmp_path, monkeypatch):
    agent = agent_for("CartPole-v1", tmp_path)
    monkeypatch.setattr(agent, "update", lambda *_: pytest.fail("updated"))
    with pytest.raises(pytest.fail.Exception):
        AgentTrainer().fit(agent)
    (checkpoints,) = tmp_path.glob("ppo/*/*/checkpoints")
    assert load_checkpoint(Checkpoints(checkpoints).newest())["counters"]["env_steps"] == 0


@pytest.fixture
def always_due(monkeypatch):
    monkeypatch.setattr(SaveClock, "is_due", property(lambda clock: True))


def test_clock_saves_what_each_update_left(tmp_path, always_due):
    agent = agent_for("CartPole-v1", tmp_path, checkpoint_every=0)
    update = agent.update

    def update_or_fail(*arguments: Any) -> dict[str, float]:
        assert arguments[1] < 3, "as if killed"
        return update(*arguments)

    agent.update = update_or_fail
    with pytest.raises(AssertionError, match="as if killed"):
        AgentTrainer().fit(agent)
    (checkpoints,) = tmp_path.glob("ppo/*/*/checkpoints")
    assert [path.name for path in checkpoints.iterdir()] == ["last.pt"]
    assert load_checkpoint(checkpoints / "last.pt")["counters"]["env_steps"] == 3 * 64


def test_saving_by_the_clock_does_not_change_the_training(tmp_path, request):
    plain, saved = (agent_for("CartPole-v1", tmp_path) for _ in range(2))
    AgentTrainer().fit(plain)
    request.getfixturevalue("always_due")
    AgentTrainer().fit(saved)
    torch.testing.assert_close(saved.policy.state_dict(), plain.policy.state_dict(), rtol=0, atol=0)


# The end of a run


def test_target_return_ends_the_run(tmp_path):
    # 4 envs finish 4 episodes of return 10 in 11 steps: the 100th in row 275 of 4 envs.
    settings = {"target_return": 10.0, "total_timesteps": 64 * 100}
    result = train("toy_envs:EndlessEnv", tmp_path, **settings)
    assert result.summary["steps_to_target"] == math.ceil(4 * 275 / 64) * 64
    assert result.summary["total_env_steps"] == result.summary["steps_to_target"]
    assert 0 < result.summary["seconds_to_target"] <= result.summary["wall_seconds"]


def test_target_that_is_not_reached_leaves_nulls(tmp_path):
    result = train("toy_envs:EndlessEnv", tmp_path, target_return=11.0)
    assert result.summary["steps_to_target"] is None
    assert result.summary["seconds_to_target"] is None


def test_diverged_run_names_the_task_and_leaves_the_last_checkpoint_whole(tmp_path):
    with pytest.raises(ValueError, match=r"^CartPole-v1: .* the training diverged"):
        train("CartPole-v1", tmp_path, learning_rate=1e30, checkpoint_every=64)
    (checkpoints,) = tmp_path.glob("ppo/*/*/checkpoints")
    weights = load_checkpoint(Checkpoints(checkpoints).newest())["agent"]["policy"]
    assert all(value.isfinite().all() for value in weights.values())


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (SAC, {"q_lr": 1e6}),
        slow((SAC, {"policy_lr": 1e30})),
        (SAC, {"q_lr": 1e30, "log_every": 0}),
        (SAC, {"alpha_lr": 1e30}),
        slow((DroQ, {"q_lr": 1e6})),
        slow((DroQ, {"policy_lr": 1e30})),
    ],
)
def test_diverged_learner_is_told_before_it_plays_or_is_saved(tmp_path, kind, settings):
    """On a task that survives actions that are not numbers, and metrics that are rarely due."""
    small = {"learning_starts": 8, "hidden_sizes": (8,), "per_rank_batch_size": 8, "num_envs": 1}
    small |= {"total_timesteps": 400, "checkpoint_every": 4, "keep_checkpoints": 90}
    small |= {"eval_episodes": 0, "replay_ratio": 1.0, "accelerator": "cpu", "log_dir": tmp_path}
    agent = kind("toy_envs:EnduringEnv", preset="none", **{**small, **settings})
    with pytest.raises(ValueError, match=r"EnduringEnv: .*the training diverged; a lower p"):
        AgentTrainer().fit(agent)
    (checkpoints,) = tmp_path.glob("*/*/*/checkpoints")
    assert "last.pt" in checkpoint_names(checkpoints.parent)
    for path in checkpoints.iterdir():
        assert first_not_finite({**load_checkpoint(path)["agent"], "replay": None}) == ""


def test_environment_is_not_blamed_for_what_it_makes_of_actions_that_are_not_numbers(tmp_path):
    agent = agent_for("toy_envs:BoxActionEnv", tmp_path)
    update = agent.update

    def update_and_diverge(*arguments: Any) -> dict[str, float]:
        metrics = update(*arguments)
        with torch.no_grad():
            agent.optimizer.flat.fill_(torch.nan)
        return metrics

    agent.update = update_and_diverge
    with pytest.raises(
        ValueError, match=r"policy\..* is not finite after 64 steps: the training div"
    ):
        AgentTrainer().fit(agent)


def test_loss_that_comes_after_the_last_update_is_checked_before_anything_is_saved(tmp_path):
    agent = agent_for("toy_envs:EndlessEnv", tmp_path, total_timesteps=64)
    losses = iter([{}, {"Loss/policy_loss": math.nan}])  # before the first update, after the last
    agent.finish_pending = lambda: next(losses)
    with pytest.raises(ValueError, match=r"Loss/policy_loss is nan after 64 steps"):
        AgentTrainer().fit(agent)
    (checkpoints,) = tmp_path.glob("ppo/*/*/checkpoints")
    assert load_checkpoint(Checkpoints(checkpoints).newest())["counters"]["env_steps"] == 0


def test_setting_of_the_trainer_that_the_agent_was_built_without_is_refused(tmp_path):
    agent = agent_for("toy_envs:EndlessEnv", tmp_path)
    with pytest.raises(
        ValueError, match=r"gamma=0\.5 has no effect: the agent was built without it"
    ):
        AgentTrainer(PPOConfig(gamma=0.5)).fit(agent)


@pytest.mark.parametrize("env_id", ["toy_envs:RaisingEnv", "toy_envs:NanEnv"])
def test_failing_env_is_named_and_the_last_checkpoint_stays_whole(tmp_path, env_id):
    with pytest.raises(EnvError, match=f"^{env_id}: "):
        train(env_id, tmp_path)
    (checkpoints,) = tmp_path.glob("ppo/*/*/checkpoints")
    assert Checkpoints(checkpoints).newest().name == "last.pt"


def test_signal_in_the_final_test_leaves_best_to_whole_tests(tmp_path, monkeypatch):
    agent = agent_for("toy_envs:EndlessEnv", tmp_path, eval_episodes=2)
    predict = agent.predict

    def predict_and_stop(*observations: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return predict(*observations)

    monkeypatch.setattr(agent, "predict", predict_and_stop)
    result = AgentTrainer(on_interrupt="return").fit(agent)
    assert result.exit_status == 128 + signal.SIGTERM
    assert checkpoint_names(result.folder) == ["last.pt"]


# Environments from elsewhere


def gymnasium_envs(num_envs: int) -> gymnasium.vector.VectorEnv:
    return gymnasium.make_vec("CartPole-v1", num_envs, vectorization_mode="sync")


def undescribed_envs(num_envs: int) -> gymnasium.vector.VectorEnv:
    return gymnasium.wrappers.vector.ClipReward(gymnasium_envs(num_envs), 0, 0.5)


def test_gymnasium_vector_env_trains(tmp_path):
    agent = agent_for(gymnasium_envs(4), tmp_path)
    assert agent.learn() is agent
    (summary,) = tmp_path.glob("ppo/*/CartPole-v1_default_42/summary.json")
    assert json.loads(summary.read_text())["total_env_steps"] == 256


def test_environments_that_nothing_describes_get_no_greedy_tests_and_that_is_said_once(
    tmp_path, capsys, caplog
):
    tests = {"eval_episodes": 2, "eval_every": 64, "capture_video": True}
    result = agent_for(undescribed_envs(4), tmp_path, **tests).learn().result
    out = capsys.readouterr().out
    assert out.count("no evaluation and no videos: no spec describes the wrapper ClipReward") == 1
    assert f"python -m fastrl.evaluate {result.folder} --env-id module:callable" in out
    assert caplog.messages == [] and result.summary["eval_return_mean"] is None


def test_environments_that_nothing_describes_keep_the_best_policy_by_training(tmp_path, capsys):
    agent = agent_for(undescribed_envs(4), tmp_path, eval_episodes=2, checkpoint_every=64)
    update = agent.update

    def update_and_stop(buffer, update_index, timer):
        metrics = update(buffer, update_index, timer)
        if update_index == 2:
            signal.raise_signal(signal.SIGTERM)
        return metrics

    agent.update = update_and_stop
    folder = AgentTrainer(on_interrupt="return").fit(agent).folder
    assert "best.pt" in checkpoint_names(folder)
    out = capsys.readouterr().out
    assert f"resume with: AgentTrainer(resume={str(folder)!r}).fit(agent)" in out


@pytest.mark.parametrize("make", [gymnasium_envs, lambda n: make_env("CartPole-v1", n)])
def test_fit_plays_the_environments_it_is_given(tmp_path, make):
    agent = agent_for("CartPole-v1", tmp_path)
    own = agent.envs[0]
    result = AgentTrainer().fit(agent, make(4))
    assert agent.envs[0] is not own
    assert result.summary["total_env_steps"] == 256


def test_fit_refuses_environments_of_another_number(tmp_path):
    with pytest.raises(ValueError, match="the agent was built for"):
        AgentTrainer().fit(agent_for("CartPole-v1", tmp_path), make_env("CartPole-v1", 2))


def test_fit_refuses_environments_of_other_spaces(tmp_path):
    with pytest.raises(ValueError, match="the agent was built for"):
        AgentTrainer().fit(agent_for("CartPole-v1", tmp_path), make_env("Acrobot-v1", 4))


def test_config_of_the_trainer_sets_the_length_and_leaves_the_agent_alone(tmp_path):
    agent = agent_for("CartPole-v1", tmp_path, learning_rate=2e-3)
    config = RunConfig(total_timesteps=128, eval_episodes=0, log_dir=str(tmp_path))
    result = AgentTrainer(config).fit(agent)
    assert result.summary["total_env_steps"] == 128
    assert (agent.config.learning_rate, agent.config.num_envs) == (2e-3, 4)


def test_learn_begins_with_the_lines_of_the_command_line_and_names_its_folder(tmp_path, capsys):
    model = PPO("CartPole-v1", log_dir=tmp_path, eval_episodes=0, seed=3).learn(1024)
    flags = f"--log-dir {tmp_path} --eval-episodes 0 --seed 3 --total-timesteps 1024"
    header = describe(parse("ppo", flags.split()))
    assert "preset CartPole-v1: num_envs" in header
    assert model.result is not None
    seen = "observations: a vector of 4 numbers"
    lines = header, model.engine.describe(), seen, f"run folder: {model.result.folder}\n"
    assert capsys.readouterr().out.startswith("\n".join(lines))


def test_learn_tells_what_differs_from_the_defaults_in_a_config(tmp_path, capsys):
    config = PPOConfig(**SMALL, log_dir=str(tmp_path), seed=3)
    PPO("CartPole-v1", config).learn(64)
    first, second, third, *_ = capsys.readouterr().out.splitlines()
    assert (first, second) == ("ppo on CartPole-v1, seed 3", "preset: none")
    assert third.startswith("you set: ") and "total_timesteps=64" in third


def test_predict_after_learning_returns_legal_actions(tmp_path):
    agent = agent_for("CartPole-v1", tmp_path).learn(64)
    action = agent.predict(np.zeros(4, np.float32))
    assert agent.action_space.contains(action)
