"""Several processes learn to solve CartPole, as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

# The presets, with the same global sizes.
WAYS = {
    "ppo on 2 ranks": "ppo --devices 2 --num-envs 4 --per-rank-batch-size 128",
    "ppo decoupled": "ppo --decoupled --num-trainers 2 --per-rank-batch-size 128",
    "ppo decoupled, overlapping": "ppo --decoupled --overlap",
    "a2c on 2 ranks": "a2c --devices 2 --num-envs 8",
    "a2c decoupled": "a2c --decoupled --num-players 2 --num-envs 8",
}


@pytest.mark.parametrize("way", WAYS)
def test_processes_solve_cartpole(way, tmp_path):
    algo, *words = WAYS[way].split()
    words += ["--env-id", "CartPole-v1", "--seed", "1", "--accelerator", "cpu"]
    words += ["--eval-every", "0", "--log-dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", f"fastrl.{algo}", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    (summary,) = tmp_path.glob("*/*/*/summary.json")
    assert json.loads(summary.read_text())["eval_return_mean"] >= 475
