"""Each setting changes something that can be seen, or is refused."""

from __future__ import annotations

import csv
import dataclasses
import re
import types
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch

from fastrl import SAC, DroQ
from fastrl.cli import main
from fastrl.config.describing import config_class_of
from fastrl.config.flags import read_flags
from fastrl.runs.checkpoint import load_checkpoint
from hostile.command_lines import ALGORITHMS, OF_OTHER_PROCESSES, flag
from hostile.rule import SEED, check, play

BASE = {"preset": "none", "accelerator": "cpu", "num_envs": "2", "hidden_sizes": "8 8"}
BASE |= {"total_timesteps": "96", "eval_every": "32", "eval_episodes": "1"}
BASE |= {"checkpoint_every": "32", "keep_checkpoints": "2", "per_rank_batch_size": "16"}
ON_POLICY = {"num_steps": "16", "ent_coef": "0.01"}
OFF_POLICY = {"learning_starts": "16", "replay_ratio": "0.5", "buffer_size": "200"}
KINDS: dict[str, type[SAC]] = {"sac": SAC, "droq": DroQ}
TASKS = {"sac": "Pendulum-v1", "droq": "Pendulum-v1"}

# How the same is done, not what; and what a run of 96 steps does not get to.
SAME_NUMBERS = {
    *("num_threads", "num_env_threads", "num_pools", "engine", "torch_deterministic"),
    *("vector", "num_workers", "matmul_precision", "target_return", "precision", "log_every"),
    *("logger", "info_metrics"),
}
OTHERS: dict[str, list[str]] = {
    "env_id": ["Acrobot-v1"],
    "backend": ["gymnasium"],
    "num_envs": ["4"],
    "optimizer_eps": ["0.1"],
    "env_kwargs": ["max_episode_steps=5"],
    "exp_name": ["other"],
    "total_timesteps": ["64"],
    "num_steps": ["8"],
    "per_rank_batch_size": ["8"],
    "sequence_length": ["8"],
    "eval_every": ["64"],
    "checkpoint_every": ["64"],
    "keep_checkpoints": ["1"],
    "learning_starts": ["32"],
    "target_kl": ["1e-9"],
    "target_entropy": ["-3"],
    "frame_stack": ["2"],
    "hidden_sizes": ["9"],
    "critic_hidden_sizes": ["9"],
    "adam_beta2": ["0.5"],
    "obs_keys": ["a"],
    "clip_coef": ["1e-4"],
    "lr_schedule": ["linear"],
    "clip_schedule": ["linear"],
    "ent_schedule": ["linear"],
    "max_grad_norm": ["1e-3"],
    "buffer_size": ["40"],
    "policy_frequency": ["3"],
    "replay_ratio": ["0.25"],
    "network": ["own_networks:plain"],
    "network_kwargs": ["width=4"],
    "callback": ["own_callbacks:Stops"],
    "vf_clip_coef": ["0.1"],
}


def other_value(kind: Any, default: Any) -> list[str]:
    """Returns the words of a value other than the default."""
    if isinstance(kind, types.UnionType):
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        return [next(value for value in get_args(kind) if value not in (default, "auto"))]
    if kind is bool:
        return [str(not default).lower()]
    return [str(default + 1) if kind is int else str(default / 2 or 0.5)]


def seen(algo: str, log_dir: Path, changes: dict[str, list[str]]) -> Any:
    """Trains; returns all that can be seen of it but how long it took, or None if it is refused.

    Raises:
        AssertionError: the run breaks the rule.
    """
    settings = BASE | (OFF_POLICY if algo in TASKS else ON_POLICY)
    if algo in ("ppo", "ppo_recurrent"):
        settings["clip_coef"] = "1e-3"  # so small that a few updates come to it
    if algo == "ppo_recurrent":
        settings["sequence_length"] = "16"
    settings |= {"env_id": TASKS.get(algo, "CartPole-v1"), "log_dir": str(log_dir)}
    words = {name: value.split() for name, value in settings.items()} | changes
    line = [part for name, values in words.items() for part in (flag(name), *values)]
    outcome = play(lambda: main(algo, line), seconds=20)
    assert not outcome.fault, outcome.fault
    return None if outcome.status == 2 else traces(log_dir, outcome.out)


def traces(log_dir: Path, out: str) -> Any:
    """Returns all that can be seen of the one run in a folder but how long it took."""
    (folder,) = log_dir.glob("*/*/*")
    told = [
        re.sub(r"(in )?[\d,.]+ (s|steps/s)\b", "", line).replace(str(folder), "")
        for line in out.splitlines()
        if not line.startswith(("you set", "    ", "run folder", "from "))
    ]
    rows = [
        {name: cell for name, cell in row.items() if not name.startswith("Time/")}
        for row in csv.DictReader((folder / "metrics.csv").open())
    ]
    weights = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["agent"]
    numbers = str([x for x in _tensors(weights)])
    files = sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if "tfevents" not in path.name
    )
    return folder.name, told, rows, numbers, files


def _tensors(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [x for name, item in value.items() if name != "config" for x in _tensors(item)]
    return [value.double().sum().item()] if isinstance(value, torch.Tensor) else []


def silent_settings(algo: str, tmp_path: Path, every: int) -> dict[str, str]:
    """Returns the settings, of each n-th, that change nothing and are accepted nevertheless."""
    config_class = config_class_of(algo)
    kinds, default = get_type_hints(config_class), config_class()
    usual = seen(algo, tmp_path / "usual", {})
    assert usual is not None and seen(algo, tmp_path / "again", {}) == usual
    silent = {}
    for entry in dataclasses.fields(config_class)[SEED % every :: every]:
        name = entry.name
        if name in OF_OTHER_PROCESSES | SAME_NUMBERS:
            continue
        words = OTHERS.get(name) or other_value(kinds[name], getattr(default, name))
        try:
            if seen(algo, tmp_path / name, {name: words}) == usual:
                silent[f"{algo} {flag(name)} {' '.join(words)}"] = f"{flag(name)} changes nothing"
        except AssertionError as error:
            silent[f"{algo} {flag(name)} {' '.join(words)}"] = str(error)
    return silent


@pytest.mark.parametrize(
    ("algo", "every"),
    [
        ("ppo", 42),
        pytest.param("ppo", 7, marks=pytest.mark.slow),
        *(pytest.param(algo, 1, marks=pytest.mark.hostile) for algo in ALGORITHMS),
    ],
)
def test_each_setting_has_an_effect_or_is_refused(algo: str, every: int, tmp_path: Path) -> None:
    check(silent_settings(algo, tmp_path, every))


def seen_after_load(algo: str, run: Path, log_dir: Path, words: dict[str, list[str]]) -> Any:
    """As `seen`, of a run of an agent that `load` made of another, its replay kept."""
    line = [part for name, values in words.items() for part in (flag(name), *values)]
    _, settings = read_flags(config_class_of(algo), line)

    def work() -> int:
        agent = KINDS[algo].load(run, **{"log_dir": str(log_dir), "keep_replay": True, **settings})
        agent.learn(settings.get("total_timesteps"))
        return 0

    outcome = play(work, seconds=20)
    assert not outcome.fault, outcome.fault
    return None if outcome.status == 2 else traces(log_dir, outcome.out)


@pytest.mark.parametrize(
    ("algo", "every"),
    [
        ("sac", 42),
        pytest.param("sac", 7, marks=pytest.mark.slow),
        *(pytest.param(algo, 1, marks=pytest.mark.hostile) for algo in TASKS),
    ],
)
def test_each_setting_of_load_goes_for_what_follows_or_is_refused(
    algo: str, every: int, tmp_path: Path
) -> None:
    """With the replay that the run before had filled."""
    assert seen(algo, tmp_path / "before", {}) is not None
    (run,) = (tmp_path / "before").glob("*/*/*")
    config_class = config_class_of(algo)
    kinds, saved = get_type_hints(config_class), load_checkpoint(run / "checkpoints" / "last.pt")
    usual = seen_after_load(algo, run, tmp_path / "usual", {})
    assert seen_after_load(algo, run, tmp_path / "again", {}) == usual
    silent = {}
    for entry in dataclasses.fields(config_class)[SEED % every :: every]:
        name = entry.name
        if name in OF_OTHER_PROCESSES | SAME_NUMBERS:
            continue
        words = OTHERS.get(name) or other_value(kinds[name], saved["agent"]["config"][name])
        try:
            if seen_after_load(algo, run, tmp_path / name, {name: words}) == usual:
                silent[f"{algo}, load({name}={words})"] = f"{name} changes nothing"
        except AssertionError as error:
            silent[f"{algo}, load({name}={words})"] = str(error)
    check(silent)
