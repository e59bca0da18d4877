"""Several processes learn what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

# The presets, some of them shorter, with the same global sizes.
WAYS = {
    "ppo on 2 ranks": "ppo --devices 2 --num-envs 4 --per-rank-batch-size 128",
    "ppo decoupled": "ppo --decoupled --num-trainers 2 --per-rank-batch-size 128",
    "ppo decoupled, overlapping": "ppo --decoupled --overlap",
    "a2c on 2 ranks": "a2c --devices 2 --num-envs 8",
    "a2c decoupled": "a2c --decoupled --num-players 2 --num-envs 8",
    "recurrent ppo on 2 ranks": "ppo_recurrent --devices 2 --num-envs 8 --per-rank-batch-size 256 "
    "--total-timesteps 200000",
    "sac on 2 ranks": "sac --devices 2 --num-envs 2 --per-rank-batch-size 128 "
    "--total-timesteps 10000",
    "droq on 2 ranks": "droq --devices 2 --num-envs 2 --per-rank-batch-size 128 "
    "--total-timesteps 3000 --learning-starts 500 --replay-ratio 4 --policy-frequency 4 "
    "--policy-lr 0.001 --q-lr 0.001 --alpha-lr 0.001 --hidden-sizes 128 128",
}


@pytest.mark.parametrize("way", WAYS)
def test_processes_learn_what_one_does(way, tmp_path):
    algo, *words = WAYS[way].split()
    env_id, least = ("Pendulum-v1", -220) if algo in ("sac", "droq") else ("CartPole-v1", 475)
    words += ["--env-id", env_id, "--seed", "1", "--accelerator", "cpu"]
    words += ["--eval-every", "0", "--log-dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", f"fastrl.{algo}", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    (summary,) = tmp_path.glob("*/*/*/summary.json")
    assert json.loads(summary.read_text())["eval_return_mean"] >= least
