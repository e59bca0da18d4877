"""Interrupts from Python: whatever a run is at, it is saved and told; then the caller learns."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import toy_envs
from quick import quick, slow

from fastrl import PPO, AgentTrainer
from fastrl.processes import signals
from fastrl.runs.checkpoint import Checkpoints, load_checkpoint
from fastrl.training.trainer import TrainResult

UPDATE = 32
TINY = {
    "num_envs": 2,
    "num_steps": 16,
    "per_rank_batch_size": 32,
    "update_epochs": 1,
    "hidden_sizes": (8,),
    "total_timesteps": 6 * UPDATE,
    "eval_episodes": 0,
    "engine": "eager",
    "accelerator": "cpu",
}
RAISED = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit}


@pytest.fixture(autouse=True)
def ctrl_c_is_pythons():
    """Whoever runs these tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def agent_for(log_dir: Path, env: Any = "toy_envs:EndlessEnv", **settings: Any) -> PPO:
    return PPO(env, preset="none", log_dir=str(log_dir), **{**TINY, **settings})


def after(function: Callable[..., Any], call: int, then: Callable[[], Any]) -> Any:
    """Returns the function, which does something more at the end of one of its calls, from 1."""
    calls = iter(range(1, 10**9))

    def run(*arguments: Any, **settings: Any) -> Any:
        result = function(*arguments, **settings)
        if next(calls) == call:
            then()
        return result

    return run


def result_of(agent: PPO) -> TrainResult:
    assert agent.result is not None
    return agent.result


def saved_steps(folder: Path) -> int:
    newest = Checkpoints(folder / "checkpoints").newest()
    return load_checkpoint(newest)["counters"]["env_steps"]


@pytest.mark.parametrize("number", RAISED)
@pytest.mark.parametrize("door", ["learn", "fit"])
def test_signal_is_raised_once_the_run_is_saved_and_told(tmp_path, capsys, door, number):
    agent, trainer = agent_for(tmp_path), AgentTrainer()
    agent.update = after(agent.update, 2, lambda: signal.raise_signal(number))
    with pytest.raises(RAISED[number]) as raised:
        agent.learn() if door == "learn" else trainer.fit(agent)
    result = result_of(agent) if door == "learn" else trainer.result
    assert result is not None and result.exit_status == 128 + number
    assert number == signal.SIGINT or raised.value.code == 143
    assert saved_steps(result.folder) == result.summary["total_env_steps"] == 2 * UPDATE
    out = capsys.readouterr().out
    assert "stopping as soon as the run can be saved; Ctrl-C again: at once\n" in out
    assert f"interrupted at {2 * UPDATE} steps; resume with: " in out


def test_ctrl_c_ends_a_loop_over_seeds(tmp_path):
    begun = []
    with pytest.raises(KeyboardInterrupt):
        for seed in range(3):
            begun.append(seed)
            agent = agent_for(tmp_path, seed=seed)
            if seed == 1:
                agent.update = after(agent.update, 1, lambda: signal.raise_signal(signal.SIGINT))
            agent.learn()
    assert begun == [0, 1]


def test_on_interrupt_return_gives_the_result_and_goes_on(tmp_path):
    agent = agent_for(tmp_path)
    agent.update = after(agent.update, 1, lambda: signal.raise_signal(signal.SIGINT))
    agent.learn(on_interrupt="return")
    assert result_of(agent).exit_status == 130


@pytest.mark.parametrize("value", ["ignore", None, ""])
def test_other_values_of_on_interrupt_are_refused_before_training(tmp_path, value):
    with pytest.raises(ValueError, match="on_interrupt must be raise or return, not"):
        agent_for(tmp_path).learn(on_interrupt=value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", RAISED)
def test_handler_of_the_callers_own_is_called_in_place_of_raising(tmp_path, number):
    seen = []
    before = signal.signal(number, lambda number, frame: seen.append(number))
    try:
        agent = agent_for(tmp_path)
        agent.update = after(agent.update, 1, lambda: signal.raise_signal(number))
        agent.learn()
    finally:
        signal.signal(number, before)
    assert seen == [number] and result_of(agent).exit_status == 128 + number


def test_signal_after_everything_is_written_is_raised_too(tmp_path, monkeypatch):
    agent = agent_for(tmp_path)
    write = after(lambda *parts: None, 1, lambda: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr("fastrl.training.records.write_summary", write)
    with pytest.raises(KeyboardInterrupt):
        agent.learn()


class SignallingEnv(toy_envs.EndlessEnv):
    """Sends signals in its step number 41 of the process: in the third rollout."""

    signals: tuple[int, ...] = ()
    hangs = False
    count = 0

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Count over all environments, and send."""
        SignallingEnv.count += 1
        if SignallingEnv.count == 81:
            for number in self.signals:
                signal.raise_signal(number)
            if self.hangs:
                time.sleep(60)
        return super().step(action)


@pytest.mark.parametrize(
    ("sent", "hangs", "raised"),
    [
        slow(((signal.SIGINT, signal.SIGINT), False, KeyboardInterrupt)),
        ((signal.SIGINT, signal.SIGINT), True, KeyboardInterrupt),
        ((signal.SIGTERM, signal.SIGINT), False, SystemExit),
        slow(((signal.SIGTERM,), True, SystemExit)),
    ],
)
def test_run_that_is_cut_in_a_rollout_is_saved_as_the_last_update_left_it(
    tmp_path, monkeypatch, capsys, sent, hangs, raised
):
    monkeypatch.setattr(signals, "PATIENCE", 0.3)
    monkeypatch.setattr("fastrl.training.loop.PATIENCE", 0.3)
    for name, value in {"signals": sent, "hangs": hangs, "count": 0}.items():
        monkeypatch.setattr(SignallingEnv, name, value)
    agent = agent_for(tmp_path, "test_signals:SignallingEnv")
    with pytest.raises(raised):
        agent.learn()
    result = result_of(agent)
    assert result.exit_status == 128 + sent[0]
    assert saved_steps(result.folder) == result.summary["total_env_steps"] == 2 * UPDATE
    assert f"interrupted at {2 * UPDATE} steps" in capsys.readouterr().out
    monkeypatch.setattr(SignallingEnv, "signals", ())
    monkeypatch.setattr(SignallingEnv, "hangs", False)
    again = agent_for(tmp_path, "test_signals:SignallingEnv")
    resumed = AgentTrainer(resume=result.folder).fit(again)
    assert resumed.summary["total_env_steps"] == 6 * UPDATE


def test_interrupt_that_an_environment_raises_is_one(tmp_path, monkeypatch):
    agent = agent_for(tmp_path)

    def fail(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(agent, "act", after(agent.act, 40, fail))
    with pytest.raises(KeyboardInterrupt):
        agent.learn()
    assert saved_steps(result_of(agent).folder) == 2 * UPDATE


@pytest.mark.parametrize("call", [1, 2, 3])
def test_ctrl_c_twice_while_a_checkpoint_is_written_leaves_it_whole(tmp_path, monkeypatch, call):
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Checkpoints, "save_last", after(Checkpoints.save_last, call, twice))
    agent = agent_for(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        agent.learn()
    folder = result_of(agent).folder
    assert saved_steps(folder) == (0 if call == 1 else 6 * UPDATE)
    assert not list((folder / "checkpoints").glob(".*"))


@pytest.mark.parametrize("stage", ["make_buffer", "load_state_dict"])
def test_ctrl_c_before_the_first_step_ends_at_once(tmp_path, stage):
    folder = None
    if stage == "load_state_dict":
        folder = AgentTrainer().fit(agent_for(tmp_path)).folder
    agent = agent_for(tmp_path, total_timesteps=12 * UPDATE)
    stop = after(getattr(agent, stage), 1, lambda: signal.raise_signal(signal.SIGINT))
    setattr(agent, stage, stop)
    with pytest.raises(KeyboardInterrupt):
        AgentTrainer(resume=folder).fit(agent)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(list(tmp_path.glob("ppo/*"))) == (folder is not None)


def steps_of_tests(folder: Path) -> list[int]:
    lines = (folder / "metrics.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    return [int(row["env_steps"]) for row in rows if row.get("Test/cumulative_reward")]


@pytest.mark.parametrize(
    ("test", "num_signals"), quick(itertools.product([1, 3], [1, 2]), (1, 2), (3, 1))
)
def test_greedy_test_that_a_signal_cut_is_made_up_for(tmp_path, test, num_signals):
    settings = {"eval_every": 2 * UPDATE, "eval_episodes": 2}
    agent = agent_for(tmp_path, **settings)

    def stop() -> None:
        for _ in range(num_signals):
            signal.raise_signal(signal.SIGINT)

    agent.predict = after(agent.predict, 10 * test - 5, stop)
    with pytest.raises(KeyboardInterrupt):
        agent.learn()
    folder = result_of(agent).folder
    every = [2 * UPDATE, 4 * UPDATE, 6 * UPDATE]
    assert steps_of_tests(folder) == every[: test - 1]
    AgentTrainer(resume=folder).fit(agent_for(tmp_path, **settings))
    assert steps_of_tests(folder) == every


@pytest.mark.parametrize("num_signals", [1, 2])
def test_ctrl_c_in_a_film_ends_it_alone(tmp_path, monkeypatch, capsys, num_signals):
    def stop() -> None:
        for _ in range(num_signals):
            signal.raise_signal(signal.SIGINT)

    render = after(toy_envs.ToyEnv.render, 3, stop)
    monkeypatch.setattr(toy_envs.ToyEnv, "render", lambda self: render(self))
    agent = agent_for(tmp_path, eval_episodes=2, eval_every=0, capture_video=True)
    with pytest.raises(KeyboardInterrupt):
        agent.learn()
    folder = result_of(agent).folder
    assert saved_steps(folder) == 6 * UPDATE and steps_of_tests(folder) == [6 * UPDATE]
    assert list((folder / "videos").iterdir()) == []
    assert "interrupted at 192 steps" in capsys.readouterr().out


# Worker processes


def async_envs() -> gymnasium.vector.AsyncVectorEnv:
    make = [lambda: gymnasium.make("CartPole-v1")] * 2
    return gymnasium.vector.AsyncVectorEnv(make, context="fork")


def test_workers_get_no_ctrl_c_of_the_terminal_during_a_run(tmp_path):
    envs = async_envs()
    agent = agent_for(tmp_path, envs)
    groups: list[int] = []

    def note() -> None:
        groups.extend(os.getpgid(process.pid) for process in envs.processes)

    agent.update = after(agent.update, 1, note)
    agent.learn()
    assert groups == [process.pid for process in envs.processes]
    assert {os.getpgid(process.pid) for process in envs.processes} == {os.getpgid(0)}
    envs.close()


@pytest.mark.filterwarnings("ignore")  # gymnasium warns of the worker's end
def test_run_whose_workers_died_of_ctrl_c_is_saved(tmp_path, capsys):
    envs = async_envs()
    agent = agent_for(tmp_path, envs)
    kill = lambda: os.kill(envs.processes[0].pid, signal.SIGINT)  # noqa: E731
    agent.update = after(agent.update, 2, kill)
    with pytest.raises(KeyboardInterrupt):
        agent.learn()
    assert saved_steps(result_of(agent).folder) >= 2 * UPDATE
    assert "interrupted at " in capsys.readouterr().out


def test_process_that_is_forked_during_a_run_ignores_ctrl_c():
    read, write = os.pipe()
    with signals.StopSignals():
        child = os.fork()
        if not child:
            signal.raise_signal(signal.SIGINT)
            os.write(write, b"alive")
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(read, 5) == b"alive"
    os.close(read), os.close(write)


# The context itself


def test_nothing_is_left_behind():
    def files() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = files(), threading.active_count(), signal.getsignal(signal.SIGTERM)
    for _ in range(50):
        with signals.StopSignals(speaks=True, is_alone=True):
            pass
    assert (files(), threading.active_count(), signal.getsignal(signal.SIGTERM)) == before


def test_child_that_outlives_the_context_does_not_hold_it():
    read, write = os.pipe()
    with signals.StopSignals():
        child = os.fork()
        if not child:
            os.write(write, b"ready")
            time.sleep(60)
            os._exit(0)
        assert os.read(read, 5) == b"ready"
    os.close(read), os.close(write)
    os.kill(child, signal.SIGTERM)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM


def test_run_inside_of_another_keeps_the_signals_of_both():
    with signals.StopSignals() as outer:
        signal.raise_signal(signal.SIGTERM)
        with signals.StopSignals() as inner:
            assert not inner.came()
            signal.raise_signal(signal.SIGINT)
        assert (inner.number, outer.number) == (signal.SIGINT, signal.SIGTERM)
    assert outer.number == signal.SIGTERM


def test_third_ctrl_c_interrupts_what_a_second_one_does_not():
    alone = signals.StopSignals(is_alone=True)
    with alone as stop, pytest.raises(KeyboardInterrupt), stop.shielded():
        stop.hold()
        for number in range(1, 4):
            reached = number
            signal.raise_signal(signal.SIGINT)
    assert reached == 3


def test_ctrl_c_that_a_launcher_passes_on_too_counts_once(monkeypatch):
    with signals.StopSignals() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop.number == signal.SIGINT
        monkeypatch.setattr(signals, "_BOUNCE", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_run_in_a_thread_records_no_signals_and_works(tmp_path):
    agent = agent_for(tmp_path)
    thread = threading.Thread(target=agent.learn)
    thread.start()
    thread.join()
    assert result_of(agent).exit_status == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", RAISED)
def test_call_into_c_that_never_returns_does_not_hold_the_process(number):
    code = f"""
import ctypes, os, threading, time
from fastrl.processes import signals
def send():
    for _ in range(2):
        time.sleep(0.5); os.kill(os.getpid(), {int(number)})
stop = signals.StopSignals(speaks=True, is_alone=True)
stop.patience = 0.5
with stop:
    stop.hold()
    threading.Thread(target=send).start()
    ctypes.CDLL(None).sleep(60), ctypes.CDLL(None).sleep(60), ctypes.CDLL(None).sleep(60)
    while True:
        ctypes.CDLL(None).usleep(0)
"""
    paths = os.pathsep.join(path for path in sys.path if path)
    parts = {"env": {**os.environ, "PYTHONPATH": paths}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", code], timeout=20, check=False, **parts)
    # The C library's sleep ends at a signal, so Python may come to raise KeyboardInterrupt first.
    assert done.returncode in (128 + number, -number)
