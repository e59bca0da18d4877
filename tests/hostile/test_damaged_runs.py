"""Damaged runs: evaluated, exported and resumed as what they hold, or refused in a line."""

from __future__ import annotations

import hashlib
import logging
import random
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from fastrl import evaluate, export
from fastrl.cli import main
from hostile.damage import CANARY, damage
from hostile.rule import SEED, Outcome, check, play

TINY = {
    "ppo": "--num-steps 16 --per-rank-batch-size 16 --update-epochs 1 --total-timesteps 64",
    "sac": "--learning-starts 8 --per-rank-batch-size 8 --replay-ratio 0.5 --buffer-size 200 "
    "--total-timesteps 64",
}
TASKS = {"ppo": "CartPole-v1", "sac": "Pendulum-v1"}
COMMON = "--preset none --num-envs 2 --hidden-sizes 8 --accelerator cpu --engine eager "
COMMON += "--eval-episodes 1 --eval-every 32 --checkpoint-every 32"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a finished run of each algorithm."""
    folders = {}
    for algo, sizes in TINY.items():
        log_dir = tmp_path_factory.mktemp(algo)
        words = [
            "--env-id",
            TASKS[algo],
            "--log-dir",
            str(log_dir),
            *shlex.split(COMMON + " " + sizes),
        ]
        assert main(algo, words) == 0
        (folders[algo],) = log_dir.glob(f"{algo}/*/*")
    return folders


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fingerprint(folder: Path) -> dict[str, str]:
    """Returns a hash of every regular file in a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "null"]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.resolve() != Path("/dev/null")
    }


def used(algo: str, run: Path, settings: dict[str, object]) -> dict[str, str]:
    """Uses a damaged run in each way; returns what breaks the rule, by way."""
    broken = {}
    before = fingerprint(run)
    reading = {
        "evaluate": lambda: evaluate.main([str(run), "--episodes", "1"]),
        "export": lambda: export.main([str(run), "--out", "policy.pt"]),
    }
    is_poisoned = _is_poisoned(run)
    for way, work in reading.items():
        outcome = play(work, seconds=5)
        if fault := outcome.fault:
            broken[way] = fault
        elif outcome.status == 0 and ("nan" in outcome.out or is_poisoned):
            broken[way] = f"exit status 0 with weights or results that are not finite: {way}"
        if fingerprint(run) != before:
            broken[way] = f"{way} changes the run"
    words = ["--resume", str(run), "--total-timesteps", "128"]
    told = _Told()
    logging.getLogger("fastrl").addHandler(told)
    outcome = play(lambda: main(algo, words), seconds=8)
    logging.getLogger("fastrl").removeHandler(told)
    if outcome.fault:
        broken["resume"] = outcome.fault
    elif outcome.status == 2 and (changed := _changes(run, before, outcome)):
        broken["resume"] = f"changes {changed}, then: {outcome.err.strip()[:100]}"
    elif outcome.status == 0 and (lost := _settings_lost(run, settings, told)):
        broken["resume"] = lost
    if (canary := Path(CANARY)).exists():
        canary.rmdir() if canary.is_dir() else canary.unlink()
        broken["code"] = "code in a file was run"
    return broken


def _is_poisoned(run: Path) -> bool:
    """Returns whether the last checkpoint can be read and has weights that are not finite."""
    path = run / "checkpoints" / "last.pt"
    if not path.is_file():  # a pipe would be waited for
        return False
    try:
        state = torch.load(path, weights_only=True)
        weights = state["agent"]["policy"].values()
        return any(not weight.isfinite().all() for weight in weights)
    except Exception:
        return False


def _changes(run: Path, before: dict[str, str], outcome: Outcome) -> str:
    """Returns which file a refused run changed, or "".

    Once training has begun, as its header tells, it may change all but the checkpoints.
    """
    after = fingerprint(run)
    changed = [name for name in before if after.get(name) != before[name]]
    if "run folder:" in outcome.out:
        changed = [name for name in changed if name.startswith("checkpoints/")]
    return ", ".join(changed)


class _Told(logging.Handler):
    """Keeps what a program says of the settings that it goes on with."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Takes a line."""
        self.lines += record.getMessage()


def _settings_lost(run: Path, settings: dict[str, object], told: _Told) -> str:
    """Returns which settings a run resumed with that are not those of its training, and untold."""
    now = yaml.safe_load((run / "config.yaml").read_text())
    expected = {**settings, "total_timesteps": 128}
    lost = [name for name, value in expected.items() if now.get(name) != value]
    lost = [name for name in lost if f"{name}=" not in told.lines]
    return f"resumes with another {lost[0]}, and {len(lost) - 1} more" if lost else ""


@pytest.mark.parametrize(
    "count",
    [
        3,
        pytest.param(20, marks=pytest.mark.slow),
        pytest.param(600, marks=pytest.mark.hostile),
    ],
)
def test_damaged_run_is_used_as_it_stands_or_refused(
    count: int, runs: dict[str, Path], tmp_path: Path
) -> None:
    chance, broken = random.Random(SEED), {}
    for _ in range(count):
        algo = chance.choice(list(runs))
        run = tmp_path / "run"
        shutil.copytree(runs[algo], run, symlinks=True)
        settings = yaml.safe_load((run / "config.yaml").read_text())
        words = damage(run, chance)
        for way, fault in used(algo, run, settings).items():
            broken[f"{way} of {algo} with {words}"] = fault
        shutil.rmtree(run)
    check(broken)
