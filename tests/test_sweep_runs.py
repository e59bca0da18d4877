"""Sweeps with real runs: forked ones are those of processes of their own, and presets are read."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import yaml

from fastrl.cli import parse
from fastrl.sweep.__main__ import main
from fastrl.sweep.pool import Job, Pool
from fastrl.sweep.reading import read_sweep
from fastrl.sweep.warm import is_possible

WORDS = ("--env-id", "CartPole-v1", "--preset", "none", "--total-timesteps", "4096")
TESTS = ("--eval-every", "0", "--eval-episodes", "5", "--checkpoint-every", "0")


def run_of(pool: Pool, folder: Path, words: tuple[str, ...] = (*WORDS, *TESTS)):
    running = pool.start(Job("ppo", words, folder, 3))
    while running.process.poll() is None:
        time.sleep(0.05)
    pool.take_ended()
    return running.process


def figures_of(folder: Path | None) -> dict[str, float]:
    assert folder is not None
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["wall_seconds"] < 60  # of the run, not of what it was forked from
    names = ("eval_return_mean", "train_return_mean", "total_env_steps", "seed")
    return {name: summary[name] for name in names}


@pytest.mark.slow
@pytest.mark.skipif(not is_possible(), reason="Linux alone hands processes over")
def test_a_forked_run_is_what_a_process_of_its_own_is(tmp_path):
    with Pool(1) as pool:
        plain = figures_of(run_of(pool, tmp_path / "plain").folder())
        with pool.warm("ppo"):
            forked = [run_of(pool, tmp_path / name) for name in ("first", "second")]
            assert [process.poll() for process in forked] == [0, 0]
            assert [figures_of(process.folder()) for process in forked] == [plain, plain]
            failed = run_of(pool, tmp_path / "failed", ("--env-id", "NoSuchTask-v0"))
            assert failed.poll() == 2
            assert "NoSuchTask-v0" in failed.error()
            words = ("--env-id", "CartPole-v1", "--total-timesteps", "100_000_000")
            endless = pool.start(Job("ppo", words, tmp_path / "endless", 1))
            time.sleep(1)
            assert os.getpgid(endless.process.pid) == endless.process.pid
            pool.stop(endless)
            with pytest.raises(ProcessLookupError):
                os.killpg(endless.process.pid, 0)


@pytest.mark.slow
def test_a_small_search_of_cartpole_ends_with_a_preset_that_trains(tmp_path, capsys):
    pytest.importorskip("optuna")
    before = signal.getsignal(signal.SIGTERM)
    words = [*WORDS, "--trials", "4", "--confirm", "2", "--processes", "2"]
    assert main(["ppo", *words, "--log-dir", str(tmp_path)]) == 0
    signal.signal(signal.SIGTERM, before)
    (folder,) = (tmp_path / "sweeps").iterdir()
    sweep = read_sweep(folder)
    assert [trial.state for trial in sweep.trials].count("failed") == 0
    assert len(sweep.confirmation["best"]["returns"]) == 2
    best = yaml.safe_load((folder / "best.yaml").read_text())
    config = parse("ppo", ["--config", str(folder / "best.yaml")]).config.to_dict()
    assert {name: config[name] for name in best if name != "algo"} == {
        name: value for name, value in best.items() if name != "algo"
    }
    assert capsys.readouterr().out.count("trial ") > 4
