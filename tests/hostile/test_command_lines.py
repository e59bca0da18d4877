"""Hostile command lines: each is run, or refused in a line."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fastrl.cli import main, parse
from hostile.command_lines import ALGORITHMS, command_line, dropped, line_for_a_run
from hostile.rule import SEED, Outcome, check, play

ONLY_PRINT = {"--help", "--describe", "--print-config", "--dry-run"}


def parsed(algo: str, words: list[str]) -> str:
    """Returns the fault of parsing a line, or ""."""
    silent: list[str] = []

    def work() -> int:
        try:
            silent.append(dropped(words, parse(algo, words)))
        except SystemExit as end:
            return int(end.code or 0) if ONLY_PRINT & set(words) else 1
        return 0

    outcome = play(work, seconds=3)
    return outcome.fault or "".join(silent)


@pytest.mark.parametrize(
    "count",
    [
        25,
        pytest.param(100, marks=pytest.mark.slow),
        pytest.param(4000, marks=pytest.mark.hostile),
    ],
)
def test_every_line_is_understood_or_refused(count: int) -> None:
    chance, faults = random.Random(SEED), {}
    for _ in range(count):
        algo = chance.choice(ALGORITHMS)
        words = command_line(algo, chance)
        if fault := parsed(algo, words):
            faults[f"{algo} {words!r:.300}"] = fault
    check(faults)


@pytest.mark.parametrize("count", [8, pytest.param(400, marks=pytest.mark.hostile)])
def test_every_line_runs_or_is_refused(count: int, tmp_path: Path) -> None:
    chance, faults = random.Random(SEED), {}
    for index in range(count):
        algo = chance.choice(ALGORITHMS)
        words = line_for_a_run(algo, chance, str(tmp_path / str(index)))
        outcome = play(lambda algo=algo, words=words: main(algo, words), seconds=20)
        if fault := outcome.fault or lack_of_result(outcome, words, tmp_path / str(index)):
            faults[f"{algo} {words!r:.400}"] = fault
    check(faults)


def lack_of_result(outcome: Outcome, words: list[str], log_dir: Path) -> str:
    """Returns what a run that ended well did not leave behind, or ""."""
    is_run = outcome.status == 0 and not ONLY_PRINT & set(words)
    if is_run and not list(log_dir.glob("*/*/*/checkpoints/last.pt")):
        return "exit status 0 without a checkpoint"
    return ""
