"""`fabric run` with flags of its own: source 003's command lines, coupled and decoupled."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_resume import assert_equal, last_state

from fastrl import cli
from fastrl.config.ppo import PPOConfig
from fastrl.processes.launch import take_over_from_fabric


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns what sets the variables that `fabric run` sets for its flags."""

    def launch(devices: int, num_nodes: int = 1, **flags: str) -> None:
        ranks = devices * num_nodes
        variables = {"LOCAL_WORLD_SIZE": devices, "WORLD_SIZE": ranks, "TORCHELASTIC_RUN_ID": "x"}
        variables |= {"LT_CLI_USED": 1, "LT_DEVICES": devices, "LT_NUM_NODES": num_nodes}
        variables |= {f"LT_{name.upper()}": value for name, value in flags.items()}
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    return launch


def parsed(words: str = "") -> Any:
    return cli.parse("ppo", shlex.split(words)).config


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        ({"accelerator": "cpu"}, "accelerator", "cpu"),
        ({"accelerator": "gpu"}, "accelerator", "cuda"),
        ({"accelerator": "auto"}, "accelerator", "auto"),
        ({"strategy": "ddp"}, "strategy", "auto"),  # which is ddp where there are several ranks
        ({"precision": "32"}, "precision", "32-true"),
        ({"precision": "bf16"}, "precision", "bf16-mixed"),
        ({"precision": "bf16-mixed"}, "precision", "bf16-mixed"),
        ({}, "devices", 2),
    ],
)
def test_flags_of_fabric_are_settings(flags, name, value, launched):
    launched(2, **flags)
    assert getattr(parsed(), name) == value


def test_machines_of_fabric_are_counted(launched):
    launched(2, 3)
    config = parsed()
    assert (config.devices, config.num_nodes) == (2, 3)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"accelerator": "cpu", "strategy": "ddp"}, "--accelerator cpu --strategy ddp --devices 2"),
        ({"accelerator": "gpu"}, "--cuda"),
        ({"precision": "bf16"}, "--precision bf16-mixed"),
    ],
)
def test_the_same_may_be_said_twice(flags, words, launched):
    launched(2, **flags)
    parsed(words)


@pytest.mark.parametrize(
    ("flags", "words", "message"),
    [
        ({"accelerator": "cpu"}, "--cuda", "--accelerator is cuda, but the launcher was told cpu"),
        ({}, "--devices 3", "--devices is 3, but the launcher was told 2"),
        ({"strategy": "fsdp"}, "", "strategy"),
        ({"precision": "16-mixed"}, "", "precision"),
        ({"accelerator": "tpu"}, "", "accelerator"),
    ],
)
def test_what_cannot_be_had_is_refused(flags, words, message, launched):
    launched(2, **flags)
    with pytest.raises(ValueError, match=message):
        parsed(words)


@pytest.mark.parametrize(
    ("devices", "words", "trainers"),
    [
        (2, "", 1),
        (3, "", 2),
        (5, "--num-players 2", 3),
        (3, "--num-trainers 2", 2),
    ],
)
def test_processes_that_do_not_play_are_trainers(devices, words, trainers, launched):
    launched(devices)
    assert parsed(f"--decoupled {words}").num_trainers == trainers


def test_settings_from_python_must_be_those_of_fabric(launched):
    launched(2, precision="bf16-mixed")
    with pytest.raises(ValueError, match="precision is 32-true, but fabric run was told bf16"):
        take_over_from_fabric(PPOConfig(devices=2))


def test_what_fabric_would_read_again_is_taken_out(launched):
    launched(2, strategy="ddp", accelerator="cpu")
    take_over_from_fabric(PPOConfig(devices=2, accelerator="cpu"))
    assert not [name for name in os.environ if name.startswith("LT_")]


# The whole command lines, shorter

EXAMPLE = (
    "--capture-video --env-id LunarLander-v2 --total-timesteps 8192 --ortho-init "
    "--num-envs 2 --num-steps 1024 --seed 1 --eval-episodes 0"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train(folder: Path, *command: str, **variables: str) -> dict[str, Any]:
    """Returns the last checkpoint of a run that a command line starts."""
    words = [*command, "--log-dir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    (run,) = folder.glob("ppo/*/*")
    return last_state(run)


def fabric(*words: str) -> list[str]:
    program = shutil.which("fabric", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("there is no command fabric")
    script = str(Path(cli.__file__).with_name("ppo.py"))
    return [program, "run", f"--main-port={free_port()}", *words, script]


@pytest.mark.slow
def test_the_example_learns_what_own_launch_learns(tmp_path):
    words = EXAMPLE.replace("--capture-video", "").split()
    coupled = fabric("--accelerator=cpu", "--strategy=ddp", "--devices=2")
    by_fabric = train(tmp_path / "a", *coupled, *words)
    own = [sys.executable, "-m", "fastrl.ppo", "--devices", "2"]
    left = {"MASTER_ADDR": "10.9.9.9", "MASTER_PORT": "0", "NODE_RANK": "1", "OMP_NUM_THREADS": "2"}
    assert_equal(train(tmp_path / "b", *own, *words, **left), by_fabric)


@pytest.mark.slow
def test_the_decoupled_example_counts_its_trainers(tmp_path):
    words = "--num-envs 4 --decoupled --env-id LunarLander-v2 --num-steps 256 --eval-episodes 0"
    state = train(tmp_path, *fabric("--devices=3"), *words.split(), "--total-timesteps", "2048")
    assert state["counters"]["env_steps"] == 2048
