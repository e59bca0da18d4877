"""Hostile files of settings: each is read as it stands, or refused in a line."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml

from fastrl.cli import main, parse
from hostile.damage import CANARY, COMMANDS
from hostile.rule import SEED, check, play
from hostile.yaml_files import VALUES, yaml_file


def parsed(words: list[str], is_twice: bool = False) -> str:
    """Returns the fault of parsing a command line, or ""."""
    outcome = play(lambda: 0 if parse("ppo", words) else 1, seconds=3)
    if not outcome.fault and outcome.status == 0 and is_twice:
        return "accepts a setting given twice"
    return outcome.fault


@pytest.mark.parametrize(
    "count",
    [
        15,
        pytest.param(40, marks=pytest.mark.slow),
        pytest.param(600, marks=pytest.mark.hostile),
    ],
)
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


@pytest.mark.parametrize("task", COMMANDS)
def test_part_of_python_named_in_a_file_is_not_run(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"env_id": task, "env_kwargs": COMMANDS[task], "num_envs": 1}
    Path("settings.yaml").write_text(yaml.safe_dump(settings))
    outcome = play(lambda: main("ppo", ["--config", "settings.yaml"]), seconds=10)
    assert (outcome.fault, outcome.status) == ("", 2)
    assert not Path(CANARY).exists() and task in outcome.err
