"""Hostile files of settings: each is read as it stands, or refused in a line."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fastrl.cli import parse
from hostile.rule import SEED, check, play
from hostile.yaml_files import VALUES, yaml_file


def parsed(words: list[str], is_twice: bool = False) -> str:
    """Returns the fault of parsing a command line, or ""."""
    outcome = play(lambda: 0 if parse("ppo", words) else 1, seconds=3)
    if not outcome.fault and outcome.status == 0 and is_twice:
        return "accepts a setting given twice"
    return outcome.fault


@pytest.mark.parametrize("count", [60, pytest.param(600, marks=pytest.mark.hostile)])
def test_file_is_read_or_refused(count: int, tmp_path: Path) -> None:
    chance, broken = random.Random(SEED), {}
    path = tmp_path / "settings.yaml"
    for _ in range(count):
        kind, data = yaml_file(chance)
        path.write_bytes(data)
        if fault := parsed(["--config", str(path)], kind == "a name twice"):
            broken[f"{kind}: {data[-100:]!r}"] = fault
    check(broken)


@pytest.mark.parametrize("values", [VALUES[::6], pytest.param(VALUES, marks=pytest.mark.hostile)])
def test_argument_of_an_environment_is_read_or_refused(values: list[str]) -> None:
    broken = {}
    for value in values:
        if fault := parsed(["--env-kwargs", f"x={value}"]):
            broken[f"x={value[:60]}"] = fault
    check(broken)
