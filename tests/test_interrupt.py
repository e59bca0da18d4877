"""Signals and kills, from outside: what a stopped run leaves, and that it always goes on."""

from __future__ import annotations

import fcntl
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from fastrl.processes import signals
from fastrl.processes.errors import exit_status
from fastrl.runs.checkpoint import Checkpoints, load_checkpoint

TINY = shlex.split(
    "--env-id CartPole-v1 --preset none --num-envs 2 --num-steps 16 --per-rank-batch-size 32 "
    "--update-epochs 1 --hidden-sizes 8 --accelerator cpu --engine eager --eval-episodes 0 "
    "--checkpoint-every 64 --keep-checkpoints 2"
)
ENDLESS = ["--total-timesteps", str(2**40)]
START_SECONDS = 60  # imports, on a busy machine


def start(*words: str, program: str = "ppo", first: str = "") -> subprocess.Popen[str]:
    """Starts a program; `first` is where it looks for packages before anywhere else."""
    paths = [
        *filter(None, [first]),
        str(Path(__file__).parent),
        *sys.path,
    ]  # environments of these tests too
    return subprocess.Popen(
        [sys.executable, "-m", f"fastrl.{program}", *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs these tests in the background has it ignored, and their children with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def start_in_terminal(*words: str, hangup: signal.Handlers) -> tuple[subprocess.Popen[str], int]:
    """Starts a run of PPO in a terminal of its own; returns the terminal's other end too."""
    ours, theirs = os.openpty()

    def begin() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, hangup)

    process = subprocess.Popen(
        [sys.executable, "-m", "fastrl.ppo", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        text=True,
        start_new_session=True,
        preexec_fn=begin,
    )
    os.close(theirs)
    return process, ours


def wait_for(path: Path, pattern: str, process: subprocess.Popen[str]) -> Path:
    """Waits for a file below a folder, as a sign that the run is that far."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if found := next(path.glob(pattern), None):
            return found
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"no {pattern} came: {process.communicate()}")


def steps_of(folder: Path) -> int:
    """Steps of the newest checkpoint, which must be whole."""
    newest = Checkpoints(folder / "checkpoints").newest()
    return load_checkpoint(newest)["counters"]["env_steps"]


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT],
    ids=["SIGTERM", "SIGINT"],
)
def test_signal_ends_the_run_in_order(tmp_path, number):
    process = start(*TINY, *ENDLESS, "--log-dir", str(tmp_path))
    checkpoint = wait_for(tmp_path, "ppo/*/*/checkpoints/step_*.pt", process)
    folder = checkpoint.parent.parent
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=START_SECONDS)
    assert (process.returncode, stderr) == (128 + number, "")
    *_, interrupted, last_line = stdout.splitlines()
    assert last_line == f"run folder: {folder}"
    command = shlex.split(interrupted.partition("resume with: ")[2])
    assert command == ["python", "-m", "fastrl.ppo", "--resume", str(folder)]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["interrupted"] is True
    last = load_checkpoint(folder / "checkpoints" / "last.pt")
    assert last["counters"]["env_steps"] == summary["total_env_steps"] > 0


@pytest.mark.slow
def test_run_whose_terminal_is_closed_saves_and_ends(tmp_path):
    words = [*TINY, *ENDLESS, "--log-dir", str(tmp_path)]
    process, terminal = start_in_terminal(*words, hangup=signal.SIG_DFL)
    checkpoint = wait_for(tmp_path, "ppo/*/*/checkpoints/step_*.pt", process)
    os.close(terminal)
    assert process.wait(START_SECONDS) == 128 + signal.SIGHUP
    summary = json.loads((checkpoint.parents[1] / "summary.json").read_text())
    assert steps_of(checkpoint.parents[1]) == summary["total_env_steps"] > 0


@pytest.mark.slow
def test_run_under_nohup_outlives_its_terminal(tmp_path):
    words = [*TINY, *ENDLESS, "--log-dir", str(tmp_path)]
    process, terminal = start_in_terminal(*words, hangup=signal.SIG_IGN)
    folder = wait_for(tmp_path, "ppo/*/*/checkpoints/step_*.pt", process).parents[1]
    os.close(terminal)
    steps = steps_of(folder)
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(START_SECONDS) == 128 + signal.SIGTERM
    assert steps_of(folder) > steps


@pytest.mark.parametrize(
    ("program", "package", "words"),
    [
        ("ppo", "yaml", TINY),
        pytest.param("ppo", "tyro", TINY, marks=pytest.mark.slow),
        ("ppo", "torch", TINY),
        pytest.param("ppo", "torch", [*TINY, "--devices", "2"], marks=pytest.mark.slow),
        ("evaluate", "numpy", ["nowhere"]),
        pytest.param("export", "yaml", ["nowhere"], marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_among_the_imports_is_one_line(program, package, words, tmp_path):
    reached = tmp_path / "reached"
    slow = f"import pathlib, time; pathlib.Path({str(reached)!r}).touch(); time.sleep(600)\n"
    (tmp_path / f"{package}.py").write_text(slow)
    process = start(*words, program=program, first=str(tmp_path))
    wait_for(tmp_path, "reached", process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=START_SECONDS)  # of other ranks too, if they live
    assert (process.returncode, stderr) == (130, "interrupted\n")


@pytest.mark.slow
def test_ctrl_c_while_the_other_ranks_leave_shows_nothing(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import atexit, os, sys, time\n"
        "from fastrl.processes.launch import ranks_are_done, start_ranks\n"
        "if 'LOCAL_RANK' in os.environ:\n"
        "    time.sleep(600)\n"
        "start_ranks(2, 1)\n"
        "ranks_are_done()\n"
        "atexit.register(open, sys.argv[1], 'w')\n"  # called first
    )
    process = subprocess.Popen(
        [sys.executable, str(program), str(tmp_path / "leaving")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(tmp_path, "leaving", process)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=START_SECONDS)
    assert (process.returncode, stderr) == (0, "")


def test_error_that_a_second_ctrl_c_caused_is_an_interrupt(capsys, monkeypatch):
    monkeypatch.setattr(signals, "_BOUNCE", 0.0)

    def replay() -> int:
        with signals.StopSignals():
            signal.raise_signal(signal.SIGINT)
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:  # as TorchScript does
                raise RuntimeError("an operation of the graph failed") from None
        return 0

    before = signal.getsignal(signal.SIGINT)
    try:
        assert exit_status(replay) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "interrupted\n"


def test_ctrl_c_in_a_hook_around_a_fork_is_held_until_it_can_be_handled():
    came = False
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def hook() -> None:
        if came:
            signal.raise_signal(signal.SIGINT)

    os.register_at_fork(after_in_parent=hook)
    try:
        came = True
        with pytest.raises(KeyboardInterrupt), signals.signals_held():
            process = subprocess.Popen([sys.executable, "-c", ""], preexec_fn=lambda: None)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert process.wait() == 0
    finally:
        came = False
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_before_the_first_step_has_its_own_status(number, capsys):
    def begin() -> int:
        with signals.StopSignals(is_alone=True):
            signal.raise_signal(number)
        return 0

    before = signal.getsignal(signal.SIGINT)
    try:
        assert exit_status(begin) == 128 + number
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "interrupted\n"


def test_error_without_an_interrupt_passes():
    def fail() -> int:
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        exit_status(fail)


@pytest.mark.slow
def test_second_ctrl_c_ends_a_run_that_hangs(tmp_path):
    tiny = [word.replace("CartPole-v1", "test_interrupt:hanging_env") for word in TINY]
    words = [*tiny, *ENDLESS, "--log-dir", str(tmp_path)]
    process = start(*words)
    wait_for(tmp_path, "ppo/*/*/checkpoints/last.pt", process)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=START_SECONDS)
    assert (process.returncode, stderr) == (130, "")
    assert "interrupted at 0 steps; resume with: python -m fastrl.ppo" in stdout


def hanging_env():
    """Returns an environment whose first step does not return."""
    from toy_envs import EndlessEnv

    class HangingEnv(EndlessEnv):
        def step(self, action):
            time.sleep(600)

    return HangingEnv()


def kill_at_random_moments_and_resume(log_dir: Path, num_kills: int) -> None:
    moments = random.Random(0)
    process = start(*TINY, *ENDLESS, "--log-dir", str(log_dir))
    config = wait_for(log_dir, "ppo/*/*/config.yaml", process)
    folder = config.parent
    wait_for(folder, "checkpoints/*.pt", process)
    steps = 0
    for _ in range(num_kills):
        before = len(events := list(folder.glob("events*")))
        time.sleep(moments.uniform(0, 0.5))
        process.kill()
        process.communicate()
        assert steps_of(folder) >= steps, "a kill has lost what was saved before it"
        steps = steps_of(folder)
        process = start("--resume", str(folder))
        end = time.monotonic() + START_SECONDS
        while len(events) <= before:  # the resumed run logs
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.02)
            events = list(folder.glob("events*"))
    process.kill()
    process.communicate()
    total = str(steps_of(folder) // 32 * 32 + 32)
    process = start("--resume", str(folder), "--total-timesteps", total)
    stdout, stderr = process.communicate(timeout=START_SECONDS)
    assert process.returncode == 0, stderr
    assert json.loads((folder / "summary.json").read_text())["total_env_steps"] == int(total)
    table = (folder / "metrics.csv").read_text().splitlines()
    x = [int(line.split(",")[0]) for line in table[1:]]
    assert x == sorted(set(x)), "x must never go back"
    assert not re.search("error|Traceback", stdout + stderr)


@pytest.mark.slow
def test_killed_run_goes_on(tmp_path):
    kill_at_random_moments_and_resume(tmp_path, 1)


@pytest.mark.slow
def test_killed_run_goes_on_every_time(tmp_path):
    kill_at_random_moments_and_resume(tmp_path, 10)
