"""Mistakes are told before the work begins, with what they are about."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from quick import slow

from fastrl import cli
from fastrl.compare.__main__ import main as compare
from fastrl.config.trust import check_named, signature_of
from fastrl.evaluate import main as evaluate
from fastrl.runs.folder import check_replaceable, create_run_folder, replaced_file
from fastrl.runs.logger import _EventFile, _without_tensorboard
from fastrl.sweep.__main__ import main as sweep


@pytest.mark.parametrize("name", ["", ".", "日本", "x" * 101, "a\udcff"])
def test_a_name_that_cannot_be_a_folder_s_is_refused_without_a_run(name, capsys) -> None:
    assert cli.main("ppo", ["--exp-name", name, "--dry-run"]) == 2
    assert capsys.readouterr().err.startswith("error: exp_name names the run's folder: at most 100")


def test_a_path_that_is_no_text_is_named(tmp_path: Path) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    with pytest.raises(ValueError, match=r"log_dir: .* is not UTF-8"):
        create_run_folder(folder, "ppo", "CartPole-v1", "default", 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flag", "values"),
    [
        ("--learning-rate", ["1e-3", "0.001"]),
        ("--anneal-lr", ["true", "True"]),
        ("--target-kl", ["None", "none"]),
        ("--lr-schedule", ["linear", "linear "]),
        ("--hidden-sizes", ["64 64", "64 64 "]),
    ],
)
def test_a_grid_names_each_value_once(flag: str, values: list[str], capsys) -> None:
    assert sweep(["ppo", flag, *values, "--seed", "1", "--dry-run"]) == 2
    assert f"{flag} names a value twice: {' '.join(values)}".strip() in capsys.readouterr().err


@pytest.mark.parametrize("program", ["fastrl", "fastrl.compare"])
def test_ctrl_c_while_a_program_imports_is_a_line(program: str) -> None:
    text = (
        "import os, runpy, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # some ignore it\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name in ('fastrl.processes.errors', 'ast', 'fastrl.compare.curves'):\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "sys.modules.pop('ast', None)\n"
        f"runpy.run_module({program!r}, run_name='__main__')\n"
    )
    call = [sys.executable, "-c", text]
    done = subprocess.run(call, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_failed_write_names_its_file(tmp_path) -> None:
    path = tmp_path / "file"
    with pytest.raises(OSError, match=r"File too large: '.*/file'"), replaced_file(path):
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))


@pytest.mark.parametrize("program", [slow(["fastrl.presets"]), ["fastrl.compare", "--help"]])
def test_programs_run_without_docstrings(program: list[str]) -> None:
    call = [sys.executable, "-OO", "-m", *program]
    done = subprocess.run(call, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_without_docstrings_is_no_signature() -> None:
    call = [sys.executable, "-OO", "-m", "fastrl.ppo", "--help"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=60, check=True)
    assert "Settings: PPOConfig" in done.stdout and "PPOConfig(" not in done.stdout


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"seed: 3\0\n", "it has the character #x0000, which no text has"),
        (b"? [seed]\n: 3\n", "a name is a list or a mapping"),
    ],
)
def test_what_is_no_settings_file_is_told_in_plain_words(text, told, tmp_path, capsys) -> None:
    (tmp_path / "settings.yaml").write_bytes(text)
    assert cli.main("ppo", ["--config", str(tmp_path / "settings.yaml")]) == 2
    assert told in capsys.readouterr().err


def test_a_key_with_another_mode_is_the_reason_that_is_told(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    settings = {"env_id": "somewhere:make"}
    signature = signature_of(settings)["signature"]
    check_named(settings, signature, "a run")
    (key,) = (path for path in tmp_path.rglob("*") if path.is_file())
    key.chmod(0o644)
    with pytest.raises(ValueError, match=r"it cannot be told: .* must be a file of yours"):
        check_named(settings, signature, "a run")


def test_a_folder_that_nothing_may_be_written_to_is_told(tmp_path: Path, monkeypatch) -> None:
    tmp_path.chmod(0o500)
    if os.geteuid() == 0:  # the superuser may write everywhere
        monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    with pytest.raises(ValueError, match="read-only for you"):
        check_replaceable(tmp_path / "result.json")


@pytest.mark.parametrize("program", [evaluate, compare])
def test_an_unknown_flag_is_answered_with_the_nearest(program, capsys) -> None:
    assert program(["run", "--episodez" if program is evaluate else "--plott"]) == 2
    assert "; did you mean --" in capsys.readouterr().err


def test_events_that_cannot_be_written_name_the_folder(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    events = _EventFile(folder)
    assert threading.excepthook is _without_tensorboard
    with pytest.raises(OSError, match=r"File too large: '.*/run'"), events._naming_the_folder():
        raise OSError(27, "File too large", b"events.out")
    events.close()
    assert capsys.readouterr().err == ""


def test_a_run_that_reached_its_target_is_complete(tmp_path, capsys) -> None:
    words = ["--preset", "none", "--target-return", "5", "--total-timesteps", "20000"]
    words += ["--eval-episodes", "1", "--log-dir", str(tmp_path), "--num-envs", "16"]
    words += ["--num-steps", "64", "--update-epochs", "1", "--engine", "eager"]
    assert cli.main("ppo", words) == 0
    (run,) = tmp_path.glob("ppo/*/*")
    before = (run / "summary.json").read_bytes()
    assert cli.main("ppo", ["--resume", str(run)]) == 2
    assert "is complete: its target_return of 5 was reached" in capsys.readouterr().err
    assert (run / "summary.json").read_bytes() == before
    longer = ["--target-return", "30", "--total-timesteps", "40000"]
    assert cli.main("ppo", ["--resume", str(run), *longer]) == 0
