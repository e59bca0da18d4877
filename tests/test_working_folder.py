"""Environments that change the working folder: all files of a run stay where the user said."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from quick import quick
from toy_envs import EndlessEnv

from fastrl import evaluate, export
from fastrl.cli import main

SETTINGS = shlex.split(
    "--env-id test_working_folder:WanderingEnv --preset none --num-envs 2 --num-steps 16 "
    "--per-rank-batch-size 32 --update-epochs 1 --hidden-sizes 4 --accelerator cpu --engine eager "
    "--eval-episodes 2 --checkpoint-every 32 --capture-video"
)


class WanderingEnv(EndlessEnv):
    """Changes to the folder `ELSEWHERE` in the method that `MOMENT` names."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.wander("init")

    def reset(self, **options: Any) -> Any:
        self.wander("reset")
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        self.wander("step")
        return super().step(action)

    def wander(self, moment: str) -> None:
        if moment == os.environ["MOMENT"]:
            os.chdir(os.environ["ELSEWHERE"])


@pytest.mark.parametrize("moment", quick(["init", "reset", "step"], "step"))
def test_relative_paths_begin_where_the_program_was_started(moment, tmp_path, monkeypatch, capsys):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    monkeypatch.setenv("MOMENT", moment)
    monkeypatch.setenv("ELSEWHERE", str(elsewhere))

    def call(program: Any, *words: Any) -> str:
        """Calls a program in `here`; returns its last line."""
        monkeypatch.chdir(here)
        assert program(*words) == 0
        return capsys.readouterr().out.splitlines()[-1]

    shown = call(main, "ppo", [*SETTINGS, "--total-timesteps", "64"])
    (folder,) = (path.relative_to(here) for path in here.glob("logs/ppo/*/*"))
    assert shown == f"run folder: {folder}"
    shown = call(main, "ppo", ["--resume", str(folder), "--total-timesteps", "128"])
    assert shown == f"run folder: {folder}"
    shown = call(evaluate.main, [str(folder), "--episodes", "2", "--video"])
    assert shown == f"video: {folder / 'videos' / 'evaluate_last.gif'}"
    call(export.main, [str(folder), "--out", "policy.pt"])
    assert list(elsewhere.iterdir()) == []
    assert {path.name for path in here.iterdir()} == {"logs", "policy.pt", "policy.pt.json"}
    assert [path.relative_to(here) for path in here.glob("logs/*/*/*")] == [folder]
    names = {path.name for path in (here / folder).rglob("*")}
    assert {"metrics.csv", "summary.json", "step_000000000128.pt", "evaluate_last.gif"} <= names


def test_agent_in_a_script_writes_where_it_was_made(tmp_path, monkeypatch):
    from fastrl import PPO

    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    monkeypatch.setenv("MOMENT", "init")
    monkeypatch.setenv("ELSEWHERE", str(elsewhere))
    monkeypatch.chdir(here)
    small = {"num_envs": 2, "num_steps": 16, "per_rank_batch_size": 32, "eval_episodes": 0}
    env_id = f"{__name__}:WanderingEnv"
    PPO(env_id, preset="none", accelerator="cpu", engine="eager", **small).learn(32)
    assert Path.cwd() == elsewhere
    assert list(elsewhere.iterdir()) == []
    assert len(list(here.glob("logs/ppo/*/*/summary.json"))) == 1
