"""Signals at any moment: all that was told is saved, and the run can be resumed."""

from __future__ import annotations

import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from fastrl.runs.checkpoint import Checkpoints, load_checkpoint
from hostile.rule import SEED, check

CARTPOLE = "--env-id CartPole-v1 --num-steps 16 --per-rank-batch-size 32 --num-envs 2"
LINES = {
    "ppo": CARTPOLE,
    "ppo --capture-video": CARTPOLE,
    "sac": "--env-id Pendulum-v1 --num-envs 2 --learning-starts 100 --buffer-size 5000",
    "ppo --devices 2": CARTPOLE,
    "ppo --decoupled": CARTPOLE,
    "ppo --decoupled --overlap --num-trainers 2": CARTPOLE.replace("32", "16"),
}
COMMON = "--preset none --accelerator cpu --total-timesteps 100000000 --hidden-sizes 8 "
COMMON += "--checkpoint-every 5000 --eval-every 5000 --eval-episodes 5"
STATUS = {signal.SIGHUP: 129, signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
MOST_SECONDS = 20  # to end after a signal, on a machine with other work to do


def cut_short(name: str, number: signal.Signals, seconds: float, log_dir: Path) -> str:
    """Sends a signal to a run that began so many seconds ago; returns what is wrong, or ""."""
    algo, *more = name.split()
    words = [*more, *shlex.split(LINES[name]), *shlex.split(COMMON), "--log-dir", str(log_dir)]
    process = subprocess.Popen(
        [sys.executable, "-m", f"fastrl.{algo}", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        # Whoever runs this in the background has it ignored, and so would the run at its start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(seconds)
    process.send_signal(number)
    try:
        out, err = process.communicate(timeout=MOST_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"still runs {MOST_SECONDS} s after the signal"
    # Before Python runs our code, a signal does what the system does.
    if process.returncode not in (STATUS[number], -number):
        return f"exit status {process.returncode}: {err[-200:]!r}"
    # Until the first module of ours is imported, some milliseconds, Python reports it by itself.
    if "Traceback" in err and "import main as command_line" not in err:
        return f"a traceback: {err[-200:]!r}"
    return left_running(log_dir) or lost(out + err, log_dir)


def left_running(log_dir: Path) -> str:
    """Returns which process of a run outlives it by ten seconds, or ""."""
    until = time.monotonic() + 10
    while left := [words for words in commands() if str(log_dir) in words]:
        if time.monotonic() > until:
            return f"10 s later there still runs {left[0]}"
        time.sleep(0.2)
    return ""


def commands() -> list[str]:
    """Returns the command lines of all processes that run."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended meanwhile
            lines.append(path.read_text().replace("\0", " "))
    return lines


def lost(told: str, log_dir: Path) -> str:
    """Returns what of the run is not saved, or ""."""
    folders = [path.parent for path in log_dir.glob("*/*/*/config.yaml")]
    if not folders:
        return "steps were made and no run folder" if "interrupted at" in told else ""
    checkpoints = Checkpoints(folders[0] / "checkpoints")
    if not any(checkpoints.folder.glob("*.pt")):
        return ""  # killed before the first checkpoint
    steps = load_checkpoint(checkpoints.newest())["counters"]["env_steps"]
    stopped = re.search(r"interrupted at ([\d,]+) steps", told)
    if stopped and int(stopped[1].replace(",", "")) != steps:
        return f"told {stopped[1]} steps, saved {steps}"
    return ""


@pytest.mark.hostile
def test_signal_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    chance, broken = random.Random(SEED), {}
    for index in range(120):
        name, number = chance.choice(list(LINES)), chance.choice(list(STATUS))
        seconds = chance.uniform(0.05, 8)
        if fault := cut_short(name, number, seconds, tmp_path / str(index)):
            broken[f"{number.name} after {seconds:.2f} s of {name}"] = fault
    check(broken)
