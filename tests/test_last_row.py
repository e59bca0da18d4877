"""The row of metrics that a run ends with: what happened since the row before, and only once."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from own_modules import DQN, mlp
from quick import quick
from ranks import run_ranks
from test_module import REPLAY, SMALL, STATEFUL, fit
from test_resume import assert_equal, last_state, metrics_of
from test_sac import WALK, StopAfter, make_agent

from fastrl import PPO, SAC, AgentTrainer, Callback, DroQ
from fastrl.callbacks.base import CallbackError
from fastrl.config.command import Command

KINDS: dict[str, Any] = {"sac": SAC, "droq": DroQ, "module": None}
of_one = pytest.mark.parametrize("kind", quick(KINDS, "module"))
RARELY = 1_000  # steps, more than a run here has
SHORT: dict[str, Any] = {"total_timesteps": 240, "log_every": 100}
FEW_STEPS = {"replay_ratio": 0.1}  # since each takes time, and rows need only some of them


def run_of(kind: str, log_dir: Path, resume: Path | None = None, **settings: Any) -> Path:
    """Trains for `total_timesteps` on a walk that can be saved; the run folder."""
    settings = {**SHORT, **settings}
    if kind == "module":
        module = DQN(mlp(2, 2), **{**SMALL, **REPLAY, "num_steps": 1, **settings})
        return fit(module, STATEFUL, log_dir, resume=resume).folder
    agent = make_agent(kind=KINDS[kind], log_dir=str(log_dir), **{**FEW_STEPS, **settings})
    return AgentTrainer(resume=resume).fit(agent).folder


def timed_rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def steps_in(folder: Path) -> list[int]:
    return [int(row["env_steps"]) for row in metrics_of(folder)]


@of_one
def test_a_run_too_short_for_a_row_ends_with_one_of_all_that_happened(tmp_path, kind):
    (row,) = metrics_of(run_of(kind, tmp_path, log_every=RARELY))
    loss = "Loss/loss" if kind == "module" else "Loss/value_loss"
    assert row["env_steps"] == "240" and float(row["Info/gradient_steps"]) > 0
    assert row[loss] and row["Rewards/rew_avg"] and row["Game/ep_len_avg"]


@pytest.mark.parametrize("kind", quick(KINDS, "sac", "module"))
def test_the_last_row_is_that_of_a_run_with_a_row_due_there(tmp_path, kind):
    # Both have a row at 200 steps and none between that and 240.
    rare, often = (metrics_of(run_of(kind, tmp_path, log_every=every)) for every in (100, 40))
    assert rare[-1]["env_steps"] == "240"
    assert rare[-1] == often[-1]


@of_one
def test_a_row_that_is_due_at_the_end_is_written_once(tmp_path, kind):
    assert steps_in(run_of(kind, tmp_path, log_every=80)) == [80, 160, 240]


@of_one
def test_a_run_that_is_made_longer_has_the_rows_of_one_that_never_was_shorter(tmp_path, kind):
    straight = run_of(kind, tmp_path, total_timesteps=400)
    folder = run_of(kind, tmp_path)
    assert steps_in(folder) == [100, 200, 240]
    run_of(kind, tmp_path, folder, total_timesteps=400)
    assert metrics_of(folder) == metrics_of(straight)
    assert_equal(last_state(folder), last_state(straight))


def test_a_row_that_was_due_at_the_end_stays_in_a_run_that_is_made_longer(tmp_path):
    folder = run_of("sac", tmp_path, log_every=80)
    run_of("sac", tmp_path, folder, log_every=80, total_timesteps=320)
    assert steps_in(folder) == [80, 160, 240, 320]


def test_the_test_at_the_end_stays_in_a_run_that_is_made_longer(tmp_path):
    tests: dict[str, Any] = {"eval_episodes": 1, "eval_every": 0}
    folder = run_of("sac", tmp_path, **tests)
    assert steps_in(folder) == [100, 200, 240, 240]
    run_of("sac", tmp_path, folder, total_timesteps=300, **tests)
    tested = [row["env_steps"] for row in metrics_of(folder) if row["Test/cumulative_reward"]]
    assert tested == ["240", "300"]
    assert steps_in(folder) == [100, 200, 240, 300, 300]


def test_a_run_that_ends_at_its_target_has_a_row_that_reaches_it(tmp_path):
    rare = {"log_every": 100_000, "total_timesteps": 4_000, "replay_ratio": 0.01}
    agent = make_agent(log_dir=str(tmp_path), target_return=-1e6, **rare)
    result = AgentTrainer().fit(agent)
    (row,) = metrics_of(result.folder)
    assert int(row["env_steps"]) == result.summary["steps_to_target"] < 4_000
    assert float(row["Rewards/rew_avg_100"]) == result.summary["train_return_mean"] >= -1e6


def test_a_run_that_a_callback_stops_ends_with_a_row(tmp_path):
    class Stops(Callback):
        def on_update_end(self, trainer: Any, metrics: dict[str, float]) -> None:
            if trainer.env_steps == 120:
                trainer.stop("enough")

    agent = make_agent(log_dir=str(tmp_path), log_every=RARELY)
    assert steps_in(AgentTrainer(callbacks=[Stops()]).fit(agent).folder) == [120]


def test_a_run_that_a_signal_stops_has_no_row_that_was_not_due(tmp_path):
    agent = make_agent(kind=StopAfter, log_dir=str(tmp_path), log_every=100)
    stopped = AgentTrainer(on_interrupt="return").fit(agent)
    assert stopped.summary["total_env_steps"] == 172
    assert steps_in(stopped.folder) == [100]


# What callbacks see and log


class Logs(Callback):
    """Logs its own number after every update; sees the last row."""

    def on_update_end(self, trainer: Any, metrics: dict[str, float]) -> None:
        trainer.log("Mine/steps", trainer.env_steps)

    def on_fit_end(self, trainer: Any) -> None:
        self.last = trainer.metrics


def logged(log_dir: Path, resume: Path | None = None, **settings: Any) -> tuple[Path, Logs]:
    callback = Logs()
    settings = {**SHORT, **FEW_STEPS, **settings}
    agent = make_agent(kind=SAC, log_dir=str(log_dir), **settings)
    return AgentTrainer(resume=resume, callbacks=[callback]).fit(agent).folder, callback


def test_what_callbacks_log_is_in_the_last_row_and_goes_with_it(tmp_path):
    folder, callback = logged(tmp_path)
    assert [row["Mine/steps"] for row in metrics_of(folder)] == ["100.0", "200.0", "240.0"]
    last = metrics_of(folder)[-1]
    assert callback.last["Info/valid_env_steps"] == float(last["Info/valid_env_steps"])
    logged(tmp_path, folder, total_timesteps=400)
    straight, _ = logged(tmp_path, total_timesteps=400)
    assert metrics_of(folder) == metrics_of(straight)


def test_a_run_that_cannot_be_made_longer_keeps_its_last_row(tmp_path):
    class Fails(Callback):
        def on_fit_start(self, trainer: Any) -> None:
            raise RuntimeError("not today")

    folder = run_of("sac", tmp_path)
    before = metrics_of(folder)
    settings = {**SHORT, **FEW_STEPS, "total_timesteps": 400}
    agent = make_agent(kind=SAC, log_dir=str(tmp_path), **settings)
    with pytest.raises(CallbackError, match="not today"):
        AgentTrainer(resume=folder, callbacks=[Fails()]).fit(agent)
    assert metrics_of(folder) == before


def test_seconds_of_a_row_are_those_since_the_row_before_though_the_run_was_resumed(tmp_path):
    folder = run_of("sac", tmp_path, log_every=RARELY)
    (last,) = timed_rows(folder)
    run_of("sac", tmp_path, folder, log_every=RARELY, total_timesteps=320)
    (longer,) = timed_rows(folder)
    assert float(longer["Time/update_seconds"]) > float(last["Time/update_seconds"]) > 0


@pytest.mark.parametrize("kind", quick(["sac", "droq"], "sac"))
def test_a_second_run_of_an_agent_has_rows_of_its_own_steps_alone(tmp_path, kind):
    settings: dict[str, Any] = {**SHORT, **FEW_STEPS, "log_every": RARELY}
    agent = make_agent(kind=KINDS[kind], log_dir=str(tmp_path), **settings)
    agent.learn()
    taken = agent.num_gradient_steps
    agent.learn(120)
    assert agent._summed_steps[0] == agent.num_gradient_steps - taken > 0


# Several processes


def train_rank(log_dir: Path) -> list[dict[str, str]]:
    agent = make_agent(devices=2, log_dir=str(log_dir), log_every=RARELY)
    folder = AgentTrainer().fit(agent).folder
    return metrics_of(folder) if agent.devices.is_global_zero else []


@pytest.mark.slow
def test_ranks_end_with_one_row_of_what_all_learned(tmp_path):
    (row,), others = run_ranks(2, train_rank, tmp_path)
    assert others == []
    assert (row["env_steps"], row["Info/gradient_steps"]) == ("400", "190.0")
    assert row["Loss/value_loss"] and row["Rewards/rew_avg"]


def play_or_train(kind: type[Any], settings: dict[str, Any]) -> None:
    config = kind.config_class(decoupled=True, **settings)
    assert kind.run(Command(config=config)) == 0


@pytest.mark.slow
def test_a_player_with_a_trainer_ends_with_the_row_of_one_process(tmp_path):
    settings = make_agent(log_every=100, total_timesteps=240).config.unlike_defaults()
    settings["env_id"] = WALK
    run_ranks(2, play_or_train, SAC, {**settings, "log_dir": str(tmp_path / "two")})
    (table,) = (tmp_path / "two").rglob("metrics.csv")
    straight = metrics_of(run_of("sac", tmp_path / "one", replay_ratio=0.5))
    rows = [{k: x for k, x in row.items() if k in straight[0]} for row in metrics_of(table.parent)]
    assert rows == straight


def test_a_run_that_overlaps_ends_with_the_losses_of_its_last_update(tmp_path):
    settings = {"num_envs": 4, "num_steps": 16, "total_timesteps": 3 * 64, "eval_episodes": 0}
    settings |= {"env_id": "CartPole-v1", "overlap": True, "accelerator": "cpu"}
    settings |= {"per_rank_batch_size": 32, "hidden_sizes": (8,), "log_dir": str(tmp_path)}
    run_ranks(2, play_or_train, PPO, settings)
    (table,) = tmp_path.rglob("metrics.csv")
    losses = [(row["env_steps"], row["Loss/policy_loss"]) for row in metrics_of(table.parent)]
    assert [steps for steps, loss in losses if loss] == ["128", "192", "192"]
    assert len({loss for _, loss in losses if loss}) == 3
