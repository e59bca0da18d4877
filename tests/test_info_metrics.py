"""Info metrics: means over the episodes that ended, in training, tests and the summary."""

from __future__ import annotations

import csv
import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from goal_envs import GoalEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList

from fastrl import PPO, AgentTrainer, make_env
from fastrl.buffers.rollout import MEAN_EPISODES, Episodes
from fastrl.config.run import RunConfig
from fastrl.envs.stacking import FrameStack
from fastrl.envs.wrapped_env import WrappedVectorEnv, info_of
from fastrl.training.counters import Counters, IterationCounts

GOAL = "goal_envs:GoalEnv"


def train(folder: Path, env: Any = GOAL, **settings: Any) -> Any:
    small = {"num_envs": 2, "num_steps": 16, "per_rank_batch_size": 32, "update_epochs": 1}
    small |= {"total_timesteps": 64, "hidden_sizes": (8,), "eval_episodes": 6, "engine": "eager"}
    small |= {"accelerator": "cpu", "log_dir": str(folder), "info_metrics": ("distance", "bonus")}
    result = PPO(env, preset="none", **{**small, **settings}).learn().result
    assert result is not None
    return result


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_are_means_over_the_episodes_that_ended(tmp_path):
    GoalEnv.ended.clear()
    result = train(tmp_path, total_timesteps=32, eval_episodes=0)
    ended = list(GoalEnv.ended)
    (row,) = rows_of(result.folder)
    assert len(set(ended)) > 1 and float(row["Episode/distance"]) == pytest.approx(np.mean(ended))
    assert result.summary["train_info_means"]["distance"] == pytest.approx(np.mean(ended))
    assert result.summary["eval_info_means"] == {}


def test_a_number_that_some_infos_lack_is_averaged_over_the_others(tmp_path):
    result = train(tmp_path, seed=3)
    rows = rows_of(result.folder)
    assert {row["Episode/bonus"] for row in rows} <= {"", "7.0"}
    last = rows[-1]
    assert (last["Test/bonus"], float(last["Test/distance"])) == ("7.0", 3.0)
    assert result.summary["eval_info_means"] == {"distance": 3.0, "bonus": 7.0}


def test_a_name_that_no_info_has_is_told_once_and_training_goes_on(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "fastrl"):
        result = train(tmp_path, info_metrics=("distance", "nothing"), eval_every=32)
    told = [text for text in caplog.messages if "'nothing'" in text]
    assert len(told) == 2 and "it has" in told[0] and "evaluation" in told[1]
    assert result.summary["train_info_means"]["nothing"] is None
    assert result.summary["total_env_steps"] == 64


def test_what_is_not_a_number_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"GoalEnv: the last .* info\['words'\] 'none', which is"):
        train(tmp_path, info_metrics=("words",))


def test_a_resumed_run_goes_on_with_the_same_episodes(tmp_path):
    GoalEnv.ended.clear()
    result = train(tmp_path, eval_episodes=0)
    agent = PPO.load(result.folder, info_metrics=("distance",), total_timesteps=128)
    after = AgentTrainer(resume=result.folder).fit(agent).summary["train_info_means"]
    assert after["distance"] == pytest.approx(np.mean(GoalEnv.ended))
    assert 16 < len(GoalEnv.ended) <= MEAN_EPISODES


def test_without_names_no_info_is_read(tmp_path, monkeypatch):
    def unread(*_: Any) -> Any:
        raise AssertionError("an info was read")

    monkeypatch.setattr("fastrl.envs.gym_env.GymEnv.infos", unread)
    result = train(tmp_path, info_metrics=())
    assert result.summary["train_info_means"] == result.summary["eval_info_means"] == {}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("",), "'' is no name"),
        (("a", "a"), "'a' is given twice"),
        (("return_std",), "Test/return_std is the name of another metric"),
    ],
)
def test_names_that_no_metric_can_have_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(info_metrics=names)


def test_ranks_are_counted_together():
    def rank(infos: list[list[float]]) -> np.ndarray:
        number = len(infos)
        episodes = Episodes(np.ones(number), np.ones(number), np.array(infos).reshape(number, 2))
        return IterationCounts.of_rank(0, False, 9, episodes).pack()

    nan = np.nan
    ranks = [rank([[1, nan], [2, 5]]), rank([]), rank([[6, nan]])]
    together, counters = IterationCounts.unpack(np.stack(ranks)), Counters()
    assert together.info_counts.tolist() == [3, 1] and together.info_sums.tolist() == [9, 5]
    counters.add(together, ("a", "b"))
    assert counters.info_means == {"a": 3.0, "b": 5.0}
    metrics = counters.take_unlogged()
    assert (metrics["Episode/a"], metrics["Episode/b"]) == (3.0, 5.0)
    assert "Episode/a" not in counters.take_unlogged()
    many = rank([[float(i), nan] for i in range(MEAN_EPISODES + 50)])
    counters.add(IterationCounts.unpack(many[None]), ("a", "b"))
    assert counters.recent_infos["a"] == [float(i) for i in range(50, 150)]


# Where the infos are


@pytest.mark.parametrize("mode", AutoresetMode)
def test_infos_of_a_vector_env_are_those_of_the_last_step(mode):
    env = WrappedVectorEnv(SyncVectorEnv([GoalEnv] * 4, autoreset_mode=mode), seed=0)
    check_last_infos(env)


def test_a_vector_env_that_resets_within_a_step_keeps_the_last_info():
    """Others than `SyncVectorEnv` are not switched to another mode."""

    class Own(SyncVectorEnv):
        """Of somebody's own."""

    env = WrappedVectorEnv(Own([GoalEnv] * 4, autoreset_mode=AutoresetMode.SAME_STEP), seed=0)
    check_last_infos(env)


@pytest.mark.parametrize("value", [np.float64(2), np.array(2), 2, "two", None])
def test_what_is_said_of_all_environments_is_in_each_info(value):
    assert info_of({"all": value}, 1) == {"all": value}


@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_wrapper_may_make_a_list_of_the_infos(mode):
    env = DictInfoToList(SyncVectorEnv([GoalEnv] * 4, autoreset_mode=mode))
    check_last_infos(WrappedVectorEnv(env, seed=0))


def check_last_infos(env: Any) -> None:
    env.reset()
    lengths, num_ended = np.zeros(4), 0
    is_reset_row = np.zeros(4, bool)
    for _ in range(12):
        step = env.step(np.zeros(4, np.int64))
        lengths[~is_reset_row] += 1
        done = np.flatnonzero(step.terminated | step.truncated)
        for i, info in zip(done, env.infos(done.tolist()), strict=True):
            assert info["distance"] == lengths[i] == 2 + i % 3
            assert ("bonus" in info) == (i % 2 == 0)
            num_ended += 1
        is_reset_row = step.terminated | step.truncated
        lengths[done] = 0
    assert num_ended > 8


def test_infos_of_gymnasium_envs_pass_through_wrappers():
    check_last_infos(FrameStack(make_env(GOAL, 4, seed=0), 2))
    check_last_infos(make_env(GOAL, 4, seed=0, frame_stack=3))


def test_infos_of_envs_in_processes_of_their_own_come_over():
    env = make_env(GOAL, 4, seed=0, vector="async", num_workers=2)
    try:
        check_last_infos(env)
        env.reset()
        env.step(np.zeros(4, np.int64))
        infos: Any = env
        assert [info["is_success"] for info in infos.infos([3, 0, 2])] == [False, True, True]
    finally:
        env.close()


def test_infos_of_envpool_are_those_of_the_env():
    shown = {"exclude_current_positions_from_observation": False, "max_episode_steps": 5}
    env = make_env("HalfCheetah-v4", 3, seed=1, env_kwargs=shown)
    env.reset()
    for _ in range(5):
        step = env.step(np.ones((3, 6), np.float32))
    assert step.truncated.all()
    infos: Any = env
    for i, info in zip((2, 0), infos.infos([2, 0]), strict=True):
        assert info["x_position"] == pytest.approx(float(step.obs[i, 0]), abs=1e-6)
    assert set(infos.infos([0])[0]) == {"reward_run", "reward_ctrl", "x_position", "x_velocity"}


def test_nested_infos_are_taken_apart():
    infos = {"a": np.array([1, 2]), "_a": np.array([False, True]), "all": "same"}
    nested = {"r": np.array([3.0, 4.0]), "_r": np.array([True, True])}
    infos |= {"episode": nested, "_episode": np.array([True, True])}
    assert info_of(infos, 0) == {"all": "same", "episode": {"r": 3.0}}
    assert info_of(infos, 1) == {"a": 2, "all": "same", "episode": {"r": 4.0}}


def test_an_own_vector_env_without_infos_says_so():
    env = make_env(GOAL, 2)

    class Bare:
        """Has what a `VectorEnv` must have, and no infos."""

        env_id, backend, num_envs = "bare", "gymnasium", 2
        reset, send, recv, step = env.reset, env.send, env.recv, env.step
        render, close = env.render, env.close
        single_observation_space = env.single_observation_space
        single_action_space = env.single_action_space

    agent = partial(PPO, Bare(), num_envs=2, num_steps=16, preset="none", eval_episodes=0)
    with pytest.raises(ValueError, match=r"bare: a Bare gives no infos"):
        agent(info_metrics=("distance",), total_timesteps=32, per_rank_batch_size=32).learn()


def test_a_resumed_run_forgets_the_names_that_it_no_longer_asks_for(tmp_path):
    folder = train(tmp_path).folder
    agent = PPO.load(folder, verbose=0, info_metrics=("is_success",), total_timesteps=128)
    result = AgentTrainer(resume=folder).fit(agent)
    assert list(result.summary["train_info_means"]) == ["is_success"]
