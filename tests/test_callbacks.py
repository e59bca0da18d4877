"""Callbacks: every hook is called, nothing of theirs is ignored, and their state goes on."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from own_callbacks import Diary, Raises, Stops
from quick import quick
from test_resume import metrics_of
from toy_envs import CountingEnv

import fastrl
from fastrl import PPO, SAC, AgentTrainer, Callback, cli
from fastrl.callbacks import (
    HOOKS,
    CallbackError,
    Curriculum,
    SaveBest,
    StopAfter,
    StopAtReturn,
)
from fastrl.callbacks.names import GLOSSARY, PREFIXES
from fastrl.config.run import RunConfig
from fastrl.runs.checkpoint import load_checkpoint, save_checkpoint
from fastrl.runs.folder import read_config, write_config

SMALL: dict[str, Any] = {
    "num_envs": 4,
    "num_steps": 16,
    "per_rank_batch_size": 32,
    "update_epochs": 1,
    "total_timesteps": 256,
    "hidden_sizes": (8,),
    "eval_episodes": 0,
    "engine": "eager",
    "accelerator": "cpu",
}
WORDS = [
    *("--num-envs", "4", "--num-steps", "16", "--per-rank-batch-size", "32", "--preset", "none"),
    *("--update-epochs", "1", "--hidden-sizes", "8", "--total-timesteps", "128"),
    *("--eval-episodes", "0", "--engine", "eager", "--accelerator", "cpu"),
]


def agent_in(folder: Path, env: Any = "CartPole-v1", **settings: Any) -> PPO:
    return PPO(env, preset="none", log_dir=str(folder), **{**SMALL, **settings})


def run_folder_in(folder: Path) -> Path:
    (path,) = folder.glob("*/*/*")
    return path


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


class Does(Callback):
    """Calls a function after each update."""

    def __init__(self, what: Any) -> None:
        self.what = what

    def on_update_end(self, trainer: Any, metrics: dict[str, float]) -> None:
        self.what(trainer)


# Hooks


def test_every_hook_is_called_in_the_order_of_the_run(tmp_path):
    diary = Diary()
    settings = {"total_timesteps": 128, "eval_every": 64, "eval_episodes": 2}
    agent_in(tmp_path, checkpoint_every=64, **settings).learn(callbacks=[diary])
    assert diary.calls == [
        ("start", 0),
        ("checkpoint", "last.pt"),
        ("rollout", 0),
        ("update", 64),
        ("checkpoint", "best.pt"),
        ("evaluation", 64),
        ("checkpoint", "step_000000000064.pt"),
        ("rollout", 64),
        ("update", 128),
        *([("checkpoint", "best.pt")] if diary.calls[9][0] == "checkpoint" else []),
        ("evaluation", 128),
        ("checkpoint", "step_000000000128.pt"),
        ("checkpoint", "last.pt"),
        ("end", 128),
        ("checkpoint", "last.pt"),
    ]


def test_a_hook_that_nobody_overrides_is_never_called(tmp_path, monkeypatch):
    monkeypatch.setattr(Callback, "on_rollout_end", lambda *arguments: pytest.fail("called"))
    agent_in(tmp_path, total_timesteps=64).learn(callbacks=[Stops()])


@pytest.mark.parametrize(
    ("hook", "meant"),
    [("on_update", "on_update_end"), ("on_train_epoch_end", ""), ("on_fit_begin", "on_fit_")],
)
def test_a_misspelt_hook_is_an_error_that_names_the_right_ones(tmp_path, hook, meant):
    callback = type("Mine", (Callback,), {hook: lambda self, trainer: None})()
    with pytest.raises(ValueError, match=f"Mine.{hook} would never be called.*{meant}") as error:
        agent_in(tmp_path).learn(callbacks=[callback])
    assert all(name in str(error.value) for name in HOOKS)


def test_a_hook_with_other_arguments_is_an_error_before_the_run(tmp_path):
    callback: Any = type("Mine", (Callback,), {"on_update_end": lambda self, trainer: None})()
    with pytest.raises(ValueError, match=r"Mine.on_update_end must take \(self, trainer, metrics"):
        agent_in(tmp_path).learn(callbacks=[callback])


def test_what_is_no_callback_is_refused(tmp_path):
    twice = Diary()
    for wrong, words in (
        ([Diary], r"give Diary\(\), not the class"),
        ([print], "must be a fastrl.Callback"),
        (Diary(), "must be a list"),
        ([twice, twice], "given twice"),
    ):
        with pytest.raises(ValueError, match=words):
            agent_in(tmp_path).learn(callbacks=wrong)  # pyright: ignore[reportArgumentType]


def test_callbacks_see_the_run(tmp_path):
    seen: list[Any] = []

    def look(trainer: Any) -> None:
        seen.append((trainer.env_steps, trainer.updates, trainer.progress))
        assert trainer.agent is agent and trainer.config is agent.config
        assert trainer.envs is agent.envs and trainer.folder == run_folder_in(tmp_path)
        assert trainer.metrics["Info/learning_rate"] == pytest.approx(agent.config.learning_rate)
        assert trainer.episodes > 0 and np.isfinite(trainer.mean_return)
        assert trainer.rollout.rewards.shape == (16, 4)
        assert trainer.is_global_zero and trainer.num_ranks == 1 and not trainer.is_resumed

    agent = agent_in(tmp_path, CountingEnv)
    agent.learn(callbacks=[Does(look)])
    assert seen == [(64 * n, n, n / 4) for n in (1, 2, 3, 4)]


def test_callbacks_change_no_number(tmp_path):
    plain, watched = (agent_in(tmp_path) for _ in range(2))
    plain.learn()
    watched.learn(callbacks=[Diary(), SaveBest(), StopAfter(hours=1)])
    for name, weights in plain.policy.state_dict().items():
        assert torch.equal(weights, watched.policy.state_dict()[name])


# What they log


def test_logged_values_stand_in_the_row_of_their_update_and_in_tensorboard(tmp_path):
    from test_logger import scalars

    agent = agent_in(tmp_path)
    agent.learn(callbacks=[Does(lambda trainer: trainer.log("Mine/steps", trainer.env_steps))])
    folder = run_folder_in(tmp_path)
    assert [(row["env_steps"], row["Mine/steps"]) for row in rows_of(folder)] == [
        (str(n), f"{n}.0") for n in (64, 128, 192, 256)
    ]
    assert scalars(folder, "Mine/steps") == [(n, n) for n in (64, 128, 192, 256)]


def test_values_logged_between_rows_wait_for_the_next_one(tmp_path):
    settings = {"num_envs": 2, "per_rank_batch_size": 8, "learning_starts": 20, "log_every": 40}
    agent = SAC(
        "Pendulum-v1",
        log_dir=str(tmp_path),
        preset="none",
        total_timesteps=80,
        eval_episodes=0,
        hidden_sizes=(8,),
        accelerator="cpu",
        engine="eager",
        **settings,
    )
    rows: list[bool] = []

    class Counts(Callback):
        def on_update_end(self, trainer: Any, metrics: dict[str, float]) -> None:
            rows.append(bool(metrics))
            trainer.log("Mine/count", len(rows))

        def on_fit_end(self, trainer: Any) -> None:
            trainer.log("Mine/end", torch.tensor(1.5))

    agent.learn(callbacks=[Counts()])
    table = rows_of(run_folder_in(tmp_path))
    due = [index + 1 for index, is_due in enumerate(rows) if is_due]
    assert len(due) == 2 < len(rows)
    assert [row["Mine/count"] for row in table] == [*(f"{n}.0" for n in due), ""]
    assert table[-1]["Mine/end"] == "1.5"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("Loss/policy_loss", 1.0, "metric of fastrl itself"),
        ("Time/mine", 1.0, "metric of fastrl itself"),
        ("Episode/is_success", 1.0, "metric of fastrl itself"),
        ("env_steps", 1.0, "metric of fastrl itself"),
        ("", 1.0, "letters, digits"),
        ("a\nb", 1.0, "letters, digits"),
        ("x" * 10_000, 1.0, "at most 200 letters, .* not 'x{80}\\.\\.\\.'"),
        (3, 1.0, "letters, digits"),
        ("Mine/x", "high", "must be one number"),
        ("Mine/x", np.zeros(2), "must be one number"),
    ],
)
def test_names_that_are_taken_and_values_that_are_no_numbers_are_refused(
    tmp_path, name, value, words
):
    with pytest.raises(CallbackError, match=f"Does.on_update_end raised ValueError: .*{words}"):
        agent_in(tmp_path).learn(callbacks=[Does(lambda trainer: trainer.log(name, value))])


def test_a_name_that_the_agent_logs_too_is_refused(tmp_path):
    class Own(PPO):
        def update(self, *args: Any) -> dict[str, float]:
            return {**super().update(*args), "Mine/x": 1.0}

    agent = Own("CartPole-v1", preset="none", log_dir=str(tmp_path), **SMALL)
    with pytest.raises(CallbackError, match=r"logs 'Mine/x', which .* logs too"):
        agent.learn(callbacks=[Does(lambda trainer: trainer.log("Mine/x", 2.0))])


def test_the_reserved_names_are_those_of_the_glossary():
    page = (Path(fastrl.__file__).parents[1] / "docs" / "metrics.md").read_text()
    cells = "\n".join(line.split("|")[1] for line in page.splitlines() if line.startswith("|"))
    documented = set(re.findall(r"`([A-Z]\w+/\w+)`", cells))
    assert {name for name in documented if not name.startswith(PREFIXES)} == GLOSSARY


# Stopping


@pytest.mark.parametrize("way", ["stop", "should_stop"])
def test_a_stopped_run_is_tested_and_saved_and_says_why(tmp_path, way, capsys):
    class Mine(Callback):
        def on_update_end(self, trainer: Any, metrics: dict[str, float]) -> None:
            if trainer.updates == 2 and way == "stop":
                trainer.stop("solved")
            elif trainer.updates == 2:
                trainer.should_stop = True

    agent = agent_in(tmp_path, eval_episodes=2)
    agent.learn(callbacks=[Mine()])
    assert agent.result is not None
    summary, reason = agent.result.summary, "solved" if way == "stop" else "Mine"
    assert (summary["total_env_steps"], summary["stop_reason"]) == (128, reason)
    assert summary["eval_episodes"] == 2 and not summary["interrupted"]
    assert f"stopped at 128 steps: {reason}" in capsys.readouterr().out
    last = load_checkpoint(agent.result.folder / "checkpoints" / "last.pt")
    assert last["counters"]["env_steps"] == 128


def test_a_callback_takes_back_its_own_stop_and_no_other(tmp_path):
    class Wavers(Callback):
        def on_update_end(self, trainer: Any, metrics: dict[str, float]) -> None:
            trainer.should_stop = trainer.updates == 1
            trainer.should_stop = False

    agent = agent_in(tmp_path).learn(callbacks=[Stops(at=2), Wavers()])
    assert agent.result.summary["total_env_steps"] == 128
    assert agent.result.summary["stop_reason"] == "enough"


@pytest.mark.parametrize("hook", ["on_fit_start", "on_rollout_end", "on_checkpoint"])
def test_a_run_may_be_stopped_from_every_hook(tmp_path, hook):
    class Mine(Callback):
        pass

    def stop(self: Any, trainer: Any, *_: Any) -> None:
        trainer.should_stop = True

    arguments = {"on_checkpoint": lambda self, trainer, path: stop(self, trainer)}
    setattr(Mine, hook, arguments.get(hook, lambda self, trainer: stop(self, trainer)))
    agent = agent_in(tmp_path).learn(callbacks=[Mine()])
    steps = {"on_fit_start": 0, "on_rollout_end": 64, "on_checkpoint": 64}
    assert agent.result.summary["total_env_steps"] == steps[hook]
    assert agent.result.summary["stop_reason"] == "Mine"
    resumed = AgentTrainer(resume=agent.result.folder).fit(agent_in(tmp_path))
    assert resumed.summary["total_env_steps"] == 256


EDGES = [np.nan, np.inf, -np.inf, 1e300, True, np.float16(2), -0.0]


@pytest.mark.parametrize("value", quick(EDGES, np.nan, -np.inf, True))
def test_numbers_at_the_edge_are_logged_as_they_are(tmp_path, value):
    agent = agent_in(tmp_path).learn(callbacks=[Does(lambda x: x.log("Mine/x", value))])
    logged = [float(row["Mine/x"]) for row in metrics_of(agent.result.folder)]
    assert logged and all(x == float(value) or (x != x and value != value) for x in logged)


def test_a_stopped_run_can_go_on(tmp_path):
    agent = agent_in(tmp_path)
    agent.learn(callbacks=[Stops()])
    again = AgentTrainer(resume=run_folder_in(tmp_path)).fit(agent_in(tmp_path))
    assert (again.summary["total_env_steps"], again.summary["stop_reason"]) == (256, None)


# State


def test_state_goes_on_in_a_resumed_run(tmp_path):
    agent_in(tmp_path).learn(128, callbacks=[Diary(), Diary()])
    folder = run_folder_in(tmp_path)
    saved = load_checkpoint(folder / "checkpoints" / "last.pt")["callbacks"]
    assert saved == [{"class": "own_callbacks:Diary", "state": {"count": 2}}] * 2
    saved[0]["state"]["count"] = 10
    state = {**load_checkpoint(folder / "checkpoints" / "last.pt"), "callbacks": saved}
    save_checkpoint(folder / "checkpoints" / "last.pt", state)
    first, second = Diary(), Diary()
    AgentTrainer(resume=folder, callbacks=[first, second]).fit(agent_in(tmp_path))
    assert (first.count, second.count) == (12, 4)
    assert first.calls[0] == ("start", 128)


def test_a_resumed_run_says_which_callbacks_are_others(tmp_path, capsys):
    agent_in(tmp_path).learn(128, callbacks=[Diary()])
    folder = run_folder_in(tmp_path)
    capsys.readouterr()
    AgentTrainer(resume=folder, callbacks=[Raises(at=0)]).fit(agent_in(tmp_path))
    out = capsys.readouterr().out
    assert "callback own_callbacks:Raises is new in this run, and begins from nothing" in out
    assert "callback own_callbacks:Diary of the run before is not given now" in out


def test_a_state_that_no_checkpoint_holds_is_named_before_the_first_update(tmp_path):
    class Mine(Callback):
        state: Any = {"when": np.float64(1)}  # noqa: RUF012

        def state_dict(self) -> Any:
            return self.state

    mine = Mine()
    with pytest.raises(CallbackError, match=r"Mine.state_dict: .*\['when'\] is a numpy.float64"):
        agent_in(tmp_path).learn(callbacks=[mine])
    mine.state = 3
    with pytest.raises(CallbackError, match=r"Mine.state_dict must return a dict, not 3"):
        agent_in(tmp_path).learn(callbacks=[mine])


DAMAGED = [3, [3], [{"class": 1, "state": {}}], [{"class": "x"}]]


@pytest.mark.parametrize("saved", quick(DAMAGED, 3, [{"class": "x"}]))
def test_damaged_states_are_refused(tmp_path, saved):
    agent_in(tmp_path).learn(128, callbacks=[Diary()])
    path = run_folder_in(tmp_path) / "checkpoints" / "last.pt"
    save_checkpoint(path, {**load_checkpoint(path), "callbacks": saved})
    trainer = AgentTrainer(resume=run_folder_in(tmp_path), callbacks=[Diary()])
    with pytest.raises(ValueError, match=r"last.pt: its callbacks are not a list"):
        trainer.fit(agent_in(tmp_path))


# Errors


@pytest.mark.parametrize(
    "hook", quick(HOOKS, "on_fit_start", "on_update_end", "on_checkpoint", "on_fit_end")
)
def test_an_error_in_a_hook_ends_the_run_saved_and_names_file_and_line(tmp_path, hook, capsys):
    at = 1 if hook in ("on_fit_start", "on_fit_end") else 2
    callback = Raises(hook, at)
    agent = agent_in(tmp_path, eval_every=64, eval_episodes=1, checkpoint_every=64)
    words = rf"Raises.{hook} raised ZeroDivisionError: of mine \(.*own_callbacks.py:\d+\)$"
    with pytest.raises(CallbackError, match=words):
        agent.learn(callbacks=[callback])
    folder = run_folder_in(tmp_path)
    steps = load_checkpoint(folder / "checkpoints" / "last.pt")["counters"]["env_steps"]
    assert steps == {"on_fit_start": 0, "on_fit_end": 256, "on_checkpoint": 64}.get(hook, 128)
    if hook != "on_fit_end":
        out = capsys.readouterr().out
        assert f"saved at {steps} steps; resume with: python -m fastrl.ppo --resume" in out
        again = AgentTrainer(resume=folder).fit(agent_in(tmp_path, eval_episodes=1))
        assert again.summary["total_env_steps"] == 256


# From the command line


def test_the_command_line_names_callbacks_and_a_resumed_run_finds_them(tmp_path, capsys):
    words = ["--callback", "own_callbacks:Diary", "--callback", "own_callbacks:make_diary"]
    log_dir = ["--log-dir", str(tmp_path)]
    assert cli.main("ppo", ["--env-id", "CartPole-v1", *WORDS, *log_dir, *words]) == 0
    folder = run_folder_in(tmp_path)
    assert rows_of(folder)[-1]["Diary/count"] == "2.0"
    assert read_config(folder / "config.yaml")["callback"] == [words[1], words[3]]
    resume = ["--resume", str(folder), "--total-timesteps", "256"]
    assert cli.main("ppo", resume) == 0
    assert rows_of(folder)[-1]["Diary/count"] == "4.0"
    # Others can be named, and none; the file's are not imported then.
    more = ["--total-timesteps", "320", "--callback", "own_callbacks:Stops"]
    assert cli.main("ppo", ["--resume", str(folder), *more]) == 0
    assert "callback own_callbacks:Diary of the run before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("own_callbacks", "must be written module:callable"),
        ("no_such_module:x", "importing no_such_module raised ModuleNotFoundError"),
        ("own_callbacks:Nothing", "has no callable 'Nothing'"),
        ("own_callbacks:not_callable", "has no callable 'not_callable'"),
        ("own_callbacks:Path", "comes with Python"),
        ("os:abort", "comes with Python"),
        ("toy_envs:CountingEnv", "is a class, but not a fastrl.Callback"),
        ("own_callbacks:Callback.state_dict", "called without arguments, which raised TypeError"),
    ],
)
def test_a_wrong_name_is_one_line(tmp_path, name, words, capsys):
    log_dir = ["--log-dir", str(tmp_path)]
    assert cli.main("ppo", [*WORDS, *log_dir, "--callback", name]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(words, error), error
    assert not list(tmp_path.iterdir())


def test_an_error_from_the_command_line_is_one_line_with_the_users_file(tmp_path, capsys):
    words = ["--log-dir", str(tmp_path), "--callback", "own_callbacks:Raises"]
    assert cli.main("ppo", [*WORDS, *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert re.search(r"raised ZeroDivisionError: of mine \(.*own_callbacks.py:\d+\)", captured.err)
    assert "saved at 128 steps; resume with:" in captured.out


def test_a_file_from_elsewhere_imports_no_callback(tmp_path, capsys):
    """As for environments and agents: signed, named again or trusted."""
    agent = agent_in(tmp_path, callback=["own_callbacks:Diary"])
    agent.learn()
    folder = run_folder_in(tmp_path)
    settings = read_config(folder / "config.yaml")
    write_config(folder / "config.yaml", {**settings, "callback": ["own_callbacks:Raises"]})
    resume = ["--resume", str(folder), "--total-timesteps", "320"]
    assert cli.main("ppo", resume) == 2
    error = capsys.readouterr().err
    assert "wants to run own_callbacks:Raises" in error and "--callback" in error
    assert cli.main("ppo", [*resume, "--callback", "own_callbacks:Diary"]) == 0
    assert cli.main("ppo", [*resume[:2], "--total-timesteps", "384"]) == 0  # signed again
    # What plays a policy needs no callback, so that none is imported or asked for.
    path = folder / "checkpoints" / "last.pt"
    state = load_checkpoint(path)
    state["agent"]["config"]["callback"] = ["no_such_module:x"]
    save_checkpoint(path, state)
    assert PPO.load_anywhere(path).config.callback == ()
    with pytest.raises(ValueError, match="wants to run no_such_module:x"):
        PPO.load(path)


def test_callbacks_of_settings_run_from_python_too(tmp_path):
    agent_in(tmp_path, callback=["own_callbacks:Diary"]).learn(callbacks=[Stops()])
    assert rows_of(run_folder_in(tmp_path))[-1]["Diary/count"] == "2.0"
    with pytest.raises(ValueError, match="must be written module:callable, not 'x'"):
        RunConfig(callback=("x",))


# Ready-made ones


def test_stop_at_return_stops_at_the_return_of_training_or_of_a_test(tmp_path):
    agent = agent_in(tmp_path / "a", CountingEnv, total_timesteps=10_000)
    agent.learn(callbacks=[StopAtReturn(-1e9)])
    assert agent.result is not None
    # The first update after which 100 episodes have ended, as `target_return` wants it.
    twin = agent_in(tmp_path / "b", CountingEnv, total_timesteps=10_000, target_return=-1e9)
    twin.learn()
    assert twin.result is not None
    steps = [x.result.summary["total_env_steps"] for x in (agent, twin)]  # pyright: ignore
    assert steps[0] == steps[1] < 10_000
    tested = agent_in(tmp_path / "c", eval_every=64, eval_episodes=2)
    tested.learn(callbacks=[StopAtReturn(1.0, by="evaluation")])
    assert tested.result is not None and tested.result.summary["total_env_steps"] == 64
    assert "evaluation return" in tested.result.summary["stop_reason"]


def test_what_judges_by_tests_refuses_a_run_without_any(tmp_path):
    for callback in (StopAtReturn(1.0, by="evaluation"), SaveBest(by="evaluation")):
        with pytest.raises(ValueError, match="there are none during the training"):
            agent_in(tmp_path).learn(callbacks=[callback])
    with pytest.raises(ValueError, match="training or evaluation, not 'test'"):
        StopAtReturn(1.0, by="test")  # pyright: ignore[reportArgumentType]


def test_stop_after_stops_by_the_clock(tmp_path):
    agent = agent_in(tmp_path, total_timesteps=10**6)
    agent.learn(callbacks=[StopAfter(0.2)])
    assert agent.result is not None
    assert agent.result.summary["stop_reason"] == "0.2 seconds have passed"
    assert StopAfter(1, minutes=2, hours=3).seconds == 1 + 120 + 10800
    with pytest.raises(ValueError, match="positive time"):
        StopAfter()


@pytest.mark.parametrize("value", [None, [1.0], "soon", math.nan])
def test_stopping_rules_take_numbers_alone(value):
    with pytest.raises(ValueError, match="mean_return must be a number, not "):
        StopAtReturn(value)
    with pytest.raises(ValueError, match="hours must be a number, not "):
        StopAfter(hours=value)


def test_a_file_of_a_callback_may_be_in_a_new_folder(tmp_path):
    class Saving(Callback):
        def on_update_end(self, trainer: Any, metrics: dict[str, float]) -> None:
            trainer.save("mine/agents/agent.pt")

    agent = agent_in(tmp_path)
    agent.learn(callbacks=[Saving()])
    assert agent.result is not None and (agent.result.folder / "mine/agents/agent.pt").exists()


def test_save_best_keeps_the_best_policy_and_goes_on_with_it(tmp_path):
    best = SaveBest(by="evaluation", file="mine.pt")
    agent_in(tmp_path, eval_every=64, eval_episodes=4).learn(callbacks=[best])
    folder = run_folder_in(tmp_path)
    returns = [float(row["Test/cumulative_reward"] or "-inf") for row in rows_of(folder)]
    assert best.best_return == max(returns)
    assert isinstance(PPO.load(folder / "mine.pt"), PPO)
    resumed = SaveBest(by="evaluation", file="mine.pt")
    again = agent_in(tmp_path, eval_every=64, eval_episodes=4, total_timesteps=320)
    AgentTrainer(resume=folder, callbacks=[resumed]).fit(again)
    assert resumed.best_return >= best.best_return


class Gains(CountingEnv):
    """Its reward is an attribute, and it knows which were used."""

    gain = 1.0

    def __init__(self, gain: float = 1.0, **more: Any) -> None:
        super().__init__(**more)
        self.gain = gain

    def outcome(self, action: Any) -> tuple[float, bool, bool]:
        _, ended, cut = super().outcome(action)
        return self.gain, ended, cut

    def set_gain(self, gain: float) -> None:
        self.gain = gain


def gains_of(callback: Callback, agent: PPO) -> list[float]:
    """Returns the rewards of each rollout, which are all the same in one."""
    gains: list[float] = []

    class Reads(Callback):
        def on_rollout_end(self, trainer: Any) -> None:
            (gain,) = set(trainer.rollout.rewards[trainer.rollout.valid].tolist())
            gains.append(gain)

    agent.learn(callbacks=[callback, Reads()])
    return gains


STAGES = [{"gain": 2.0}, {"gain": 3.0}, {"gain": 5.0}]


@pytest.mark.parametrize("way", ["attributes", "method", "reopen", "vector"])
def test_a_curriculum_changes_the_environments_stage_by_stage(tmp_path, way):
    env: Any = "test_callbacks:Gains"
    if way == "vector":
        env = gymnasium.vector.SyncVectorEnv([Gains] * 4)
    agent = agent_in(tmp_path, env, total_timesteps=64 * 17)
    how: dict[str, Any] = {"method": {"method": "set_gain"}, "reopen": {"reopen": True}}
    curriculum = Curriculum(STAGES, at_return=2.0, **how.get(way, {}))
    gains = gains_of(curriculum, agent)
    assert gains == sorted(gains) and set(gains) == {2.0, 3.0, 5.0}
    rows = rows_of(run_folder_in(tmp_path))
    stages = [int(float(row["Curriculum/stage"])) for row in rows if row["Curriculum/stage"]]
    # The row of the update after which a stage begins has its number; its rewards come next.
    assert [STAGES[stage]["gain"] for stage in stages[:-1]] == gains[1:]
    # 100 episodes that began and ended in a stage: of 3 steps and a reset row on average.
    assert gains.count(3.0) >= 5


def test_a_curriculum_goes_on_in_its_stage(tmp_path):
    agent = agent_in(tmp_path, "test_callbacks:Gains", total_timesteps=64 * 8)
    first = Curriculum(STAGES, at_return=2.0)
    assert gains_of(first, agent)[-1] == 3.0 and first.stage == 1
    again = Curriculum(STAGES, at_return=1e9)
    seen: list[float] = []
    look = Does(lambda trainer: seen.append(trainer.envs[0].envs[0].gain))
    longer = agent_in(tmp_path, "test_callbacks:Gains", total_timesteps=64 * 9)
    AgentTrainer(resume=run_folder_in(tmp_path), callbacks=[again, look]).fit(longer)
    assert seen == [3.0]


def test_a_curriculum_makes_the_environments_of_envpool_anew(tmp_path):
    lengths: list[int] = []

    class Reads(Callback):
        def on_rollout_end(self, trainer: Any) -> None:
            lengths.append(int(trainer.rollout.episode_lengths.max()))

    stages = [{"max_episode_steps": 5}, {"max_episode_steps": 50}]
    agent = agent_in(tmp_path, total_timesteps=64 * 20, num_steps=16)
    agent.learn(callbacks=[Curriculum(stages, at_return=4.0), Reads()])
    assert max(lengths[:7]) <= 5 < max(lengths)
    assert agent.config.env_kwargs == ()  # what tests and a resumed run begin with


def test_wrong_attributes_and_arguments_are_named(tmp_path):
    for env, callback, words in (
        ("CartPole-v1", Does(lambda t: t.set_attr("gravity", 1)), "envpool's environments have"),
        ("test_callbacks:Gains", Does(lambda t: t.set_attr("gian", 1)), "have no 'gian'"),
        ("test_callbacks:Gains", Does(lambda t: t.call("fly")), "have no 'fly'"),
        ("CartPole-v1", Does(lambda t: t.reopen(wind=1)), "reopens the environments with .*wind"),
        (Gains, Does(lambda t: t.reopen(gain=1)), "handed over cannot be made anew"),
    ):
        with pytest.raises(CallbackError, match=words):
            agent_in(tmp_path, env).learn(callbacks=[callback])


@pytest.mark.parametrize(
    ("stages", "at_return", "words"),
    [
        ([{}], 1.0, "two stages or more"),
        ([{}, {}], [1.0, 2.0], "one for each but the last"),
    ],
)
def test_a_curriculum_without_sense_is_refused(stages, at_return, words):
    with pytest.raises(ValueError, match=words):
        Curriculum(stages, at_return)


def test_callbacks_belong_to_the_settings_of_a_run(tmp_path):
    """They are in config.yaml, which starts the same run again."""
    agent_in(tmp_path, callback=["own_callbacks:Diary"]).learn(128)
    folder = run_folder_in(tmp_path)
    command = cli.parse("ppo", ["--config", str(folder / "config.yaml")])
    assert command.config.callback == ("own_callbacks:Diary",)
    assert json.loads((folder / "summary.json").read_text())["stop_reason"] is None
