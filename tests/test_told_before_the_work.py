"""Mistakes are told before the work begins, with what they are about."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fastrl import cli
from fastrl.compare.__main__ import main as compare
from fastrl.config.trust import check_named, signature_of
from fastrl.evaluate import main as evaluate
from fastrl.runs.folder import check_replaceable, create_run_folder
from fastrl.runs.logger import _EventFile, _without_tensorboard
from fastrl.sweep.__main__ import main as sweep


@pytest.mark.parametrize("name", ["", ".", "日本", "x" * 101])
def test_a_name_that_cannot_be_a_folder_s_is_refused_without_a_run(name, capsys) -> None:
    assert cli.main("ppo", ["--exp-name", name, "--dry-run"]) == 2
    assert capsys.readouterr().err.startswith("error: exp_name names the run's folder: at most 100")


def test_a_path_that_is_no_text_is_named(tmp_path: Path) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    with pytest.raises(ValueError, match=r"log_dir: .* is not UTF-8"):
        create_run_folder(folder, "ppo", "CartPole-v1", "default", 1)
    assert not list(tmp_path.iterdir())


def test_a_grid_names_each_value_once(capsys) -> None:
    words = ["ppo", "--learning-rate", "1e-3", "0.001", "--seed", "1", "--dry-run"]
    assert sweep(words) == 2
    assert "--learning-rate names a value twice: 1e-3 0.001" in capsys.readouterr().err


@pytest.mark.parametrize("program", [["fastrl.presets"], ["fastrl.compare", "--help"]])
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
