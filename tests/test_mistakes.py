"""What is told in one line, and that telling it fails for nothing."""

from __future__ import annotations

import sys

import pytest
from test_program import run_python

from fastrl.config.run import RunConfig
from fastrl.processes.devices import make_devices
from fastrl.processes.errors import exit_status
from fastrl.processes.launch import launched_sizes, local_rank, start_ranks
from fastrl.processes.machine import available_cores

ALLOCATOR = (
    "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
)


def fail(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("wrong\nvalue"), "wrong value"),
        (OSError(28, "No space left on device", "last.pt"), "[Errno 28] No space left"),
        (MemoryError("Unable to allocate 7 TiB"), "Unable to allocate 7 TiB"),
        (MemoryError(), "MemoryError"),
        (RuntimeError(ALLOCATOR), ALLOCATOR),
        (RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"), "CUDA out of memory."),
    ],
)
def test_mistake_and_want_of_memory_are_one_line_and_status_2(error, line, capsys):
    assert exit_status(lambda: fail(error)) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {line}") and told.count("\n") == 1


def test_mistake_with_stderr_closed_is_not_told_on_stdout(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    assert exit_status(lambda: fail(ValueError("wrong value"))) == 2
    assert capsys.readouterr().out == ""


def test_our_own_faults_pass():
    with pytest.raises(RuntimeError, match="a bug"):
        exit_status(lambda: fail(RuntimeError("a bug")))


# Environment variables of launchers


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in ("LOCAL_RANK", "SLURM_LOCALID", "TORCHELASTIC_RUN_ID", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"TORCHELASTIC_RUN_ID": "1"}, "LOCAL_WORLD_SIZE is missing"),
        (
            {"SLURM_PROCID": "0", "SLURM_NTASKS": "a"},
            "SLURM_NTASKS must be a whole number, not 'a'",
        ),
        (
            {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "-1"},
            "LOCAL_WORLD_SIZE must be a whole number, not '-1'",
        ),
    ],
)
def test_variable_of_a_launcher_is_blamed_by_name(variables, message, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"the environment variable {message}"):
        launched_sizes()


def test_mistake_is_told_although_the_rank_is_unknown(monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "x")
    assert exit_status(local_rank) == 2
    expected = "error: the environment variable LOCAL_RANK must be a whole number, not 'x'\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("port", "message"),
    [("abc", "must be a whole number, not 'abc'"), ("0", "must be 1 to 65535, not 0")],
)
def test_port_at_which_machines_cannot_meet_is_blamed_by_name(port, message, monkeypatch):
    for name, value in {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"the environment variable MASTER_PORT {message}"):
        start_ranks(1, 2)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"NODE_RANK": "5"}, "NODE_RANK, .* must be a whole number below 2, not 5"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is empty"),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, "LOCAL_RANK .* below 1, not 1"),
    ],
)
def test_place_that_the_run_does_not_have_is_refused_at_once(variables, message, monkeypatch):
    rest = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "NODE_RANK": "0"}
    for name, value in {**rest, **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"the environment variable {message}"):
        start_ranks(1, 2)


def test_rank_that_no_launcher_gave_is_blamed_by_name(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(ValueError, match=r"LOCAL_RANK is set, .* 1 processes were started"):
        start_ranks(2, 1)


@pytest.mark.parametrize("value", ["0", "7", "abc", ""])
def test_number_of_ranks_that_others_left_does_not_share_the_cores(value, monkeypatch):
    cores = available_cores()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", value)
    with make_devices(RunConfig(accelerator="cpu")) as devices:
        assert devices.is_alone
        assert available_cores() == cores


def test_ranks_are_not_started_from_the_standard_input():
    code = "from fastrl.processes.launch import start_ranks; start_ranks(2, 1)"
    ended = run_python("-", typed=code)
    assert ended.returncode == 1
    assert "as a script or module, not from" in ended.stderr


def test_rank_that_ends_before_the_others_reach_it_is_told(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, time\n"
        "from fastrl.processes.launch import start_ranks\n"
        "if 'LOCAL_RANK' not in os.environ:\n"
        "    start_ranks(2, 1)\n"
        "    time.sleep(60)\n"
    )
    ended = run_python(str(program))
    assert ended.returncode == 1
    assert ended.stderr == "error: rank 1 ended before it was reached\n"


def test_script_goes_on_alone_after_its_ranks(monkeypatch):
    monkeypatch.setenv("FASTRL_PARENT", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    start_ranks(1, 1)


def test_terminal_that_lacks_letters_ends_no_program(monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    code = "from fastrl.processes import errors; errors.exit_status(lambda: print('h\u00e9') or 0)"
    assert run_python("-c", code).stdout == "h\\xe9\n"
