"""A run that was stopped goes on: bit by bit where environments can be saved, else exactly."""

from __future__ import annotations

import csv
import itertools
import os
import re
import shutil
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from quick import quick, slow
from toy_envs import CountingEnv, StatefulEnv

from fastrl import PPO, AgentTrainer, cli, make_env
from fastrl.envs import pools
from fastrl.envs.make import base_seed
from fastrl.runs.checkpoint import load_checkpoint, save_checkpoint
from fastrl.runs.folder import owned
from fastrl.training.counters import Counters

STATEFUL = "toy_envs:StatefulEnv"
UPDATE = 64  # steps
SETTINGS = {
    "num_envs": 4,
    "num_steps": 16,
    "per_rank_batch_size": 32,
    "update_epochs": 2,
    "hidden_sizes": (8,),
    "eval_episodes": 0,
    "anneal_lr": True,
    "anneal_clip_coef": True,
    "observation_normalization": True,
    "reward_scaling": True,
    "accelerator": "cpu",
    "total_timesteps": 8 * UPDATE,
}


class StatefulVectorEnv(gymnasium.vector.SyncVectorEnv):
    """A caller's environments whose state holds arrays, not only plain values."""

    def __init__(self, num_envs: int) -> None:
        super().__init__([StatefulEnv] * num_envs)

    def state_dict(self) -> dict[str, Any]:
        states = [env.state_dict() for env in self.envs]
        return {
            "positions": np.array([state.pop("position") for state in states]),
            "ended": self._autoreset_envs.copy(),
            "num_envs": np.int64(self.num_envs),
            "envs": states,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.reset()
        for env, saved, position in zip(self.envs, state["envs"], state["positions"], strict=True):
            env.load_state_dict({**saved, "position": float(position)})
        self._autoreset_envs[:] = state["ended"]


class StopAfter(PPO):
    """Receives a signal at the end of its update number `stop`."""

    stop = 4

    def update(self, buffer, update_index, timer):
        import signal

        metrics = super().update(buffer, update_index, timer)
        if update_index + 1 == self.stop:
            signal.raise_signal(signal.SIGTERM)
        return metrics


def agent_for(env: Any, log_dir: Path, kind: type[PPO] = PPO, **settings: Any) -> PPO:
    return kind(env, preset="none", log_dir=str(log_dir), **{**SETTINGS, **settings})


def plain_agent_for(*arguments: Any, **settings: Any) -> PPO:
    """An agent where the engine plays no part: making a fast one takes longer than the run."""
    return agent_for(*arguments, **{"engine": "eager", **settings})


def last_state(folder: Path) -> dict[str, Any]:
    """The last checkpoint but for what may differ between equal runs: clock and restarts."""
    state = load_checkpoint(folder / "checkpoints" / "last.pt")
    for name in ("loop_seconds", "wall_seconds", "stage_seconds", "restarts"):
        del state["counters"][name]
    del state["agent"]["config"]
    return state


def metrics_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: row[name] for name in row if not name.startswith("Time/")} for row in rows]


def assert_equal(actual: Any, expected: Any) -> None:
    """Equal to the bit, containers and all."""
    assert type(actual) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert actual.equal(expected)
    elif isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for name in expected:
            assert_equal(actual[name], expected[name])
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for left, right in zip(actual, expected, strict=True):
            assert_equal(left, right)
    else:
        assert actual == expected


def stopped_and_resumed(make_env_argument: Any, log_dir: Path, **settings: Any) -> Path:
    agent = agent_for(make_env_argument(), log_dir, StopAfter, **settings)
    stopped = AgentTrainer(on_interrupt="return").fit(agent)
    assert stopped.exit_status == 143
    assert stopped.summary["total_env_steps"] == 4 * UPDATE
    AgentTrainer(resume=stopped.folder).fit(agent_for(make_env_argument(), log_dir, **settings))
    return stopped.folder


@pytest.fixture(params=["id", "vector env"])
def stateful(request):
    """Returns a function that makes what PPO plays, in environments that can be saved."""
    return (lambda: STATEFUL) if request.param == "id" else (lambda: StatefulVectorEnv(4))


@pytest.mark.parametrize("engine", quick(["eager", "auto"], "auto"))
def test_resumed_run_is_bit_identical_where_envs_can_be_saved(tmp_path, stateful, engine):
    settings = {"engine": engine}
    straight = AgentTrainer().fit(agent_for(stateful(), tmp_path, **settings)).folder
    resumed = stopped_and_resumed(stateful, tmp_path, **settings)
    assert "envs" in last_state(straight)
    assert_equal(last_state(resumed), last_state(straight))
    assert metrics_of(resumed) == metrics_of(straight)


def test_resume_from_a_periodic_checkpoint_drops_what_came_after_it(tmp_path):
    settings = {"checkpoint_every": 3 * UPDATE}
    straight = AgentTrainer().fit(plain_agent_for(STATEFUL, tmp_path, **settings)).folder
    agent = plain_agent_for(STATEFUL, tmp_path, StopAfter, **settings)
    stopped = AgentTrainer(on_interrupt="return").fit(agent).folder
    (stopped / "checkpoints" / "last.pt").write_bytes(b"cut")  # as if last.pt had been damaged
    AgentTrainer(resume=stopped).fit(plain_agent_for(STATEFUL, tmp_path, **settings))
    assert_equal(last_state(stopped), last_state(straight))
    assert metrics_of(stopped) == metrics_of(straight)


def test_resume_with_envpool_goes_on_with_counters_schedules_and_optimizer(tmp_path, monkeypatch):
    agent = agent_for("CartPole-v1", tmp_path, StopAfter)
    stopped = AgentTrainer(on_interrupt="return").fit(agent).folder
    before = load_checkpoint(stopped / "checkpoints" / "last.pt")
    assert "envs" not in before
    agent = agent_for("CartPole-v1", tmp_path)
    seen: list[tuple[int, dict[str, Any]]] = []
    update = agent.update

    def noted_update(buffer, update_index, timer):
        seen.append((update_index, {**agent.state_dict(), "policy": clone(agent.policy)}))
        return update(buffer, update_index, timer)

    monkeypatch.setattr(agent, "update", noted_update)
    result = AgentTrainer(resume=stopped).fit(agent)
    assert [index for index, _ in seen] == [4, 5, 6, 7]
    assert_equal(dict(seen[0][1]["policy"]), dict(before["agent"]["policy"]))  # normaliser too
    assert agent.optimizer.steps == 2 * before["agent"]["optimizer"]["steps"]
    assert (result.summary["total_env_steps"], result.summary["restarts"]) == (8 * UPDATE, 1)
    rates = [float(row["Info/learning_rate"]) for row in metrics_of(stopped)]
    assert rates == pytest.approx([1e-3 * (1 - index / 8) for index in range(8)])


def clone(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.slow
def test_resumed_envpool_run_plays_other_episodes(tmp_path, monkeypatch):
    seeds: list[int] = []
    make = pools.make_env

    def noted_make(env_id, num_envs, *, seed, **others):
        seeds.append(seed)
        return make(env_id, num_envs, seed=seed, **others)

    monkeypatch.setattr(pools, "make_env", noted_make)
    folder = AgentTrainer().fit(agent_for("CartPole-v1", tmp_path)).folder
    for restart in (1, 2):
        longer = {"total_timesteps": (8 + restart) * UPDATE}
        AgentTrainer(resume=folder).fit(agent_for("CartPole-v1", tmp_path, **longer))
        assert seeds[-1] == base_seed(42, "train", restart)
    assert load_checkpoint(folder / "checkpoints" / "last.pt")["counters"]["restarts"] == 2


def test_environments_of_the_caller_are_not_made_anew(tmp_path):
    folder = AgentTrainer().fit(plain_agent_for("CartPole-v1", tmp_path)).folder
    env = make_env("CartPole-v1", 4)
    agent = plain_agent_for(env, tmp_path, total_timesteps=9 * UPDATE)
    AgentTrainer(resume=folder).fit(agent)
    assert agent.envs == [env]


def test_finished_run_may_be_made_longer(tmp_path):
    folder = AgentTrainer().fit(plain_agent_for("CartPole-v1", tmp_path)).folder
    longer = plain_agent_for("CartPole-v1", tmp_path, total_timesteps=10 * UPDATE)
    result = AgentTrainer(resume=folder).fit(longer)
    assert result.summary["total_env_steps"] == 10 * UPDATE
    assert len(metrics_of(folder)) == 10


@pytest.mark.slow
def test_longer_run_that_was_killed_in_its_last_test_makes_up_for_it(tmp_path, monkeypatch):
    tests = {"eval_episodes": 2, "eval_every": 0}
    folder = AgentTrainer().fit(plain_agent_for("CartPole-v1", tmp_path, **tests)).folder
    longer = {**tests, "total_timesteps": 10 * UPDATE}

    def killed(*_: Any) -> Any:
        raise MemoryError("killed")

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr("fastrl.training.records.evaluate_agent", killed)
        AgentTrainer(resume=folder).fit(plain_agent_for("CartPole-v1", tmp_path, **longer))
    result = AgentTrainer(resume=folder).fit(plain_agent_for("CartPole-v1", tmp_path, **longer))
    assert result.summary["total_env_steps"] == 10 * UPDATE
    assert result.summary["eval_episodes"] == 2
    told = f"{folder} is complete at {10 * UPDATE} of {10 * UPDATE} steps"
    with pytest.raises(ValueError, match=re.escape(told)):
        AgentTrainer(resume=folder).fit(plain_agent_for("CartPole-v1", tmp_path, **longer))


def test_seconds_of_all_parts_count(tmp_path):
    first = AgentTrainer().fit(plain_agent_for("CartPole-v1", tmp_path)).summary
    (folder,) = tmp_path.glob("ppo/*/*")
    longer = plain_agent_for("CartPole-v1", tmp_path, total_timesteps=9 * UPDATE)
    second = AgentTrainer(resume=folder).fit(longer).summary
    for name in ("wall_seconds", "loop_seconds"):
        assert second[name] > first[name]
    assert second["stage_seconds"]["update"] > first["stage_seconds"]["update"]


def test_summary_and_last_checkpoint_agree_on_wall_seconds_however_slow_the_disk(
    tmp_path, monkeypatch
):
    seconds, sync = [0.0], os.fsync

    def slow_sync(descriptor):
        seconds[0] += 100
        sync(descriptor)

    for place in ("records", "trainer"):
        name = f"fastrl.training.{place}.seconds_since_process_start"
        monkeypatch.setattr(name, lambda: seconds[0])
    monkeypatch.setattr(os, "fsync", slow_sync)
    result = AgentTrainer().fit(plain_agent_for("CartPole-v1", tmp_path))
    saved = load_checkpoint(result.folder / "checkpoints" / "last.pt")
    assert result.summary["wall_seconds"] == saved["counters"]["wall_seconds"] > 0


# What is refused


def resume_error(folder: Path, env: Any = "CartPole-v1", **settings: Any) -> str:
    with pytest.raises(ValueError) as caught:
        AgentTrainer(resume=folder).fit(plain_agent_for(env, folder, **settings))
    return str(caught.value)


def test_resume_refuses_a_folder_without_a_whole_checkpoint(tmp_path):
    folder = (
        AgentTrainer().fit(plain_agent_for("CartPole-v1", tmp_path, total_timesteps=UPDATE)).folder
    )
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    assert "has no whole checkpoint" in resume_error(folder)


def test_resume_refuses_a_checkpoint_of_something_else(tmp_path):
    folder = (
        AgentTrainer().fit(plain_agent_for("CartPole-v1", tmp_path, total_timesteps=UPDATE)).folder
    )
    (folder / "checkpoints" / "best.pt").unlink()
    save_checkpoint(folder / "checkpoints" / "last.pt", {"counters": {"env_steps": 1}})
    assert "is not one of a run of this version of fastrl" in resume_error(folder)


def test_resume_refuses_another_network(tmp_path):
    folder = (
        AgentTrainer().fit(plain_agent_for("CartPole-v1", tmp_path, total_timesteps=UPDATE)).folder
    )
    assert "does not fit this agent" in resume_error(folder, hidden_sizes=(16,))


class OtherStatefulEnv(StatefulEnv):
    """Does not take the state of a StatefulEnv."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Look for what is not there."""
        self.position = state["place"]


@pytest.mark.parametrize(
    ("env", "words"),
    [
        slow((CountingEnv, "which these cannot take; new episodes are started")),
        (OtherStatefulEnv, r"KeyError: 'place' \(.*\); new episodes are started"),
    ],
)
def test_state_of_other_environments_is_told_and_new_episodes_start(tmp_path, caplog, env, words):
    folder = AgentTrainer().fit(plain_agent_for(STATEFUL, tmp_path, total_timesteps=UPDATE)).folder
    agent = plain_agent_for(env, tmp_path, total_timesteps=2 * UPDATE)
    result = AgentTrainer(resume=folder).fit(agent)
    assert re.search(words, caplog.text)
    assert result.summary["total_env_steps"] == 2 * UPDATE
    envs: Any = agent.envs[0]
    assert [env.seed for env in envs.envs] == [base_seed(42, "train", 1) + i for i in range(4)]


@pytest.mark.parametrize("is_vector", quick([False, True], True))
def test_handed_over_environments_play_other_episodes_at_each_resume(tmp_path, capsys, is_vector):
    folder = AgentTrainer().fit(plain_agent_for("toy_envs:CountingEnv", tmp_path)).folder
    for restart in (1, 2):
        longer = {"total_timesteps": (8 + restart) * UPDATE}
        vector = gymnasium.vector.SyncVectorEnv([CountingEnv] * 4)
        agent = plain_agent_for(vector if is_vector else CountingEnv, tmp_path, **longer)
        AgentTrainer(resume=folder).fit(agent)
        envs: Any = vector if is_vector else agent.envs[0]
        first = base_seed(42, "train", restart)
        assert [env.seed for env in envs.envs] == [first + i for i in range(4)]
        assert f"were handed over start new episodes, from seed {first}" in capsys.readouterr().out


def test_environments_that_cannot_be_seeded_again_are_named(tmp_path, caplog):
    folder = AgentTrainer().fit(plain_agent_for("CartPole-v1", tmp_path)).folder
    agent = plain_agent_for(make_env("CartPole-v1", 4), tmp_path, total_timesteps=9 * UPDATE)
    AgentTrainer(resume=folder).fit(agent)
    assert "CartPole-v1: the environments that were handed over cannot be given" in caplog.text


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Returns the folder of a run of one update, in environments that can be saved."""
    settings = {"total_timesteps": UPDATE}
    agent = plain_agent_for(STATEFUL, tmp_path_factory.mktemp("run"), **settings)
    return AgentTrainer().fit(agent).folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


PLACES = [
    *[("counters", name) for name in vars(Counters())],
    *[("counters",), ("agent",), ("agent", "policy"), ("agent", "optimizer", "mean")],
    *[("torch_random",), ("num_ranks",), ("ranks",), ("algo",), ("envs",)],
    *[("rollout",), ("rollout", "obs"), ("rollout", "episode_lengths")],
]
QUICK_PLACES = [("counters", name) for name in ("env_steps", "recent_returns", "stage_seconds")]
SECONDS = [("counters", name) for name in ("stage_seconds", "unlogged_seconds")]
QUICK_PLACES += [("counters",), ("agent", "optimizer", "mean"), ("ranks",), ("rollout", "obs")]


@pytest.mark.parametrize(
    "place",
    [pytest.param(x, marks=[] if x in QUICK_PLACES else [pytest.mark.slow]) for x in PLACES],
    ids=repr,
)
def test_value_of_another_kind_in_a_run_is_told_and_nothing_is_written(finished, tmp_path, place):
    folder = tmp_path / "run"
    path = folder / "checkpoints" / "last.pt"
    shutil.copytree(finished, folder)
    (folder / "checkpoints" / "best.pt").unlink(missing_ok=True)
    state = load_checkpoint(path)
    agent = plain_agent_for(STATEFUL, tmp_path, total_timesteps=2 * UPDATE)
    for wrong in ("word", [1], {"a": 1}, torch.zeros(3), True):
        part, changed = state, {**state}
        parent = changed
        for name in place[:-1]:
            part = part[name]
            parent[name] = part.copy()
            parent = parent[name]
        old = part.get(place[-1]) if isinstance(part, dict) else part[place[-1]]
        fits = isinstance(wrong, list) and isinstance(old, list)
        fits = fits and place[0] == "counters" and place[1] in ("recent_returns", "recent_lengths")
        if fits or (wrong == {"a": 1} and place in SECONDS):
            continue
        parent[place[-1]] = wrong
        save_checkpoint(path, changed)
        before = contents(folder)
        with pytest.raises(ValueError) as told:
            AgentTrainer(resume=folder).fit(agent)
        assert str(path) in str(told.value) and "\n" not in str(told.value)
        assert contents(folder) == before


WRONG_FILES = ("link", "folder")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *itertools.product(("metrics.csv", "summary.json", "checkpoints/last.pt"), WRONG_FILES),
        ("metrics.csv", "words"),
    ],
)
def test_file_that_cannot_be_written_is_told_before_anything_is(finished, tmp_path, name, kind):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    path = folder / name
    path.unlink()
    if kind == "link":
        path.symlink_to(tmp_path / "nothing")
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_text("not a table")
    before = contents(folder)
    assert str(path) in resume_error(folder, STATEFUL, total_timesteps=2 * UPDATE)
    assert contents(folder) == before


def test_resume_refuses_a_checkpoint_of_another_algorithm(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "last.pt"
    save_checkpoint(path, {**load_checkpoint(path), "algo": "a2c"})
    told = resume_error(tmp_path / "run", STATEFUL, total_timesteps=2 * UPDATE)
    assert f"{path}: it is of the algorithm 'a2c', not 'ppo'" in told


@pytest.mark.parametrize("setting", [{"seed": 7}, {"ortho_init": True}])
def test_resume_refuses_settings_of_the_beginning(finished, setting):
    (name,) = setting
    told = resume_error(finished, STATEFUL, **setting)
    assert f"{name}=" in told and "has no effect: the run began with" in told


@pytest.mark.parametrize(
    "setting", [{"mask_vel": True}, {"env_kwargs": {"sutton_barto_reward": True}}], ids=str
)
def test_resume_refuses_another_task(tmp_path, setting):
    folder = (
        AgentTrainer().fit(plain_agent_for("CartPole-v1", tmp_path, backend="gymnasium")).folder
    )
    settings = {"backend": "gymnasium", "total_timesteps": 1024, **setting}
    told = resume_error(folder, **settings)
    assert f"{next(iter(setting))} is " in told and "the run was trained with" in told


def test_run_of_handed_over_environments_goes_on_from_python_alone(tmp_path, capsys):
    short = {"total_timesteps": UPDATE}
    folder = AgentTrainer().fit(plain_agent_for(StatefulVectorEnv(4), tmp_path, **short)).folder
    assert cli.main("ppo", ["--resume", str(folder), "--total-timesteps", "128"]) == 2
    assert "go on from Python: AgentTrainer(resume=" in capsys.readouterr().err


def test_run_that_another_process_writes_is_not_even_read(tmp_path):
    folder = AgentTrainer().fit(plain_agent_for("CartPole-v1", tmp_path)).folder
    for path in (folder / "checkpoints").glob("*.pt"):
        path.write_bytes(b"half a file")
    with owned(folder):
        assert "is being written by another process" in resume_error(folder)
