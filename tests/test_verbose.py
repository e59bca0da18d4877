"""Runs that print nothing, from Python, or one line, on the command line."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import fastrl
from fastrl import PPO, AgentTrainer, cli, from_sb3
from fastrl.runs.progress import Progress

SHORT: dict[str, Any] = {
    "preset": "none",
    "num_envs": 4,
    "num_steps": 16,
    "hidden_sizes": (8,),
    "total_timesteps": 64,
    "eval_episodes": 2,
    "engine": "eager",
    "accelerator": "cpu",
}
FILES = ["checkpoints", "config.yaml", "metrics.csv", "summary.json"]


def _names(folder: Path) -> list[str]:
    names = (path.name for path in folder.iterdir())
    return sorted(name for name in names if not name.startswith("events."))


def test_silent_model_prints_nothing_and_writes_the_same_files(tmp_path, capfd) -> None:
    capfd.readouterr()
    folders = []
    for verbose in (1, 0):
        model = PPO("CartPole-v1", verbose=verbose, log_dir=str(tmp_path), **SHORT).learn()
        assert model.result is not None
        folders.append(model.result.folder)
        printed = capfd.readouterr()
        assert ("run folder: " in printed.out) == (verbose == 1)
    assert printed == ("", "")
    assert _names(folders[0]) == _names(folders[1]) and set(FILES) <= set(_names(folders[1]))
    loud, silent = ((folder / "config.yaml").read_text() for folder in folders)
    assert "verbose" not in silent and loud == silent


def test_trainer_says_whether_a_run_prints_before_the_model_does(tmp_path, capfd) -> None:
    # Environments of the caller's, which a resumed run gives other seeds: a line of their own.
    def make() -> gymnasium.Env:
        return gymnasium.make("CartPole-v1")

    model = PPO(make, log_dir=str(tmp_path), **SHORT)
    result = AgentTrainer(verbose=0).fit(model)
    assert capfd.readouterr().out == ""
    again = PPO(make, verbose=0, log_dir=str(tmp_path), **{**SHORT, "total_timesteps": 128})
    result = AgentTrainer(resume=result.folder).fit(again)
    assert capfd.readouterr().out == ""
    again = PPO(make, verbose=0, log_dir=str(tmp_path), **{**SHORT, "total_timesteps": 192})
    AgentTrainer(resume=result.folder, verbose=1).fit(again)
    assert "run folder: " in capfd.readouterr().out


def test_silent_run_still_warns(tmp_path, caplog, capfd) -> None:
    more = {"info_metrics": ("is_success",), "log_dir": str(tmp_path)}
    PPO("CartPole-v1", verbose=0, backend="gymnasium", **SHORT, **more).learn()
    assert "is_success" in caplog.text
    assert capfd.readouterr().out == ""


def test_loaded_model_may_be_silent(tmp_path, capfd) -> None:
    PPO("CartPole-v1", **SHORT).save(tmp_path / "model.pt")
    for load in (PPO.load, fastrl.load):
        model = load(tmp_path / "model.pt", verbose=0, log_dir=str(tmp_path))
        model.learn(64)
        assert capfd.readouterr().out == ""


def test_other_values_are_refused() -> None:
    with pytest.raises(ValueError, match="verbose must be 0 or 1, not 2"):
        PPO("CartPole-v1", verbose=2)
    with pytest.raises(ValueError, match="verbose must be 0 or 1, not 'no'"):
        AgentTrainer(verbose="no")  # type: ignore[arg-type]
    assert [from_sb3({"verbose": n})["verbose"] for n in (0, 1, 2)] == [0, 1, 1]
    assert "verbose" not in from_sb3({})


def test_silent_progress_shows_no_line_on_a_terminal(monkeypatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(100, speaks=False) as progress:
        progress.update(50, 10.0)
        with progress.stage("evaluation", "episodes") as show:
            show(1, 2)
    assert terminal.getvalue() == ""


@pytest.mark.slow
def test_quiet_command_prints_the_run_folder_alone(tmp_path) -> None:
    words = "--quiet --preset none --total-timesteps 1024 --eval-episodes 2 --accelerator cpu"
    command = [sys.executable, "-m", "fastrl.ppo", *words.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    folder = line.removeprefix("run folder: ")
    assert folder != line and (tmp_path / folder / "summary.json").is_file()
    assert "quiet" not in (tmp_path / folder / "config.yaml").read_text()


def test_quiet_has_no_effect_with_dry_run(capsys) -> None:
    assert cli.main("ppo", ["--quiet", "--dry-run"]) == 2
    assert capsys.readouterr() == (
        "",
        "error: --quiet has no effect with --dry-run, which prints the settings\n",
    )
    assert not cli.parse("ppo", []).is_quiet and cli.parse("ppo", ["--quiet"]).is_quiet


@pytest.mark.slow
@pytest.mark.parametrize("words", ["", "--resume"])
def test_quiet_run_that_is_interrupted_names_its_folder(tmp_path, words: str) -> None:
    start = [sys.executable, "-m", "fastrl.ppo", "--quiet", "--total-timesteps", "100000000"]
    if words:
        saved = PPO("CartPole-v1", log_dir=str(tmp_path), **SHORT).learn().result
        assert saved is not None
        start += ["--resume", str(saved.folder)]
    else:
        start += ["--preset", "none", "--accelerator", "cpu", "--eval-episodes", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(start, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True) as process:
        limit = time.monotonic() + 60
        rows: list[int] = []
        while time.monotonic() < limit and not any(size > 2_000 for size in rows):
            time.sleep(0.2)
            rows = [path.stat().st_size for path in tmp_path.rglob("metrics.csv")]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    (line,) = out.splitlines()
    assert (tmp_path / line.removeprefix("run folder: ") / "summary.json").is_file()
