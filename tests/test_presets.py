"""The presets as data: what they hold, and how they are listed with what they reached."""

from __future__ import annotations

import importlib
import json
import shlex
from typing import Any

import pytest

from fastrl import PPO, presets
from fastrl.cli import parse
from fastrl.presets import __main__ as command
from fastrl.presets import algorithms, load_presets

ALL = [(algo, env_id) for algo in algorithms() for env_id in load_presets(algo)]

RESULT: dict[str, Any] = {
    "return_mean": 1234.5,
    "return_std": 6.0,
    "return_iqm": 1233.0,
    "return_interval": [1230.0, 1239.0],
    "return_worst": 1230.0,
    "returns": [1230.0, 1239.0],
    "seeds": [4, 7],
    "eval_episodes": 100,
    "steps": 99_840,
    "wall_seconds": 9.4,
    "cpu_seconds": 12.6,
    "machine": "a machine, 2 cores",
    "commit": "abc1234",
    "versions": {},
}


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Results that are listed in place of the published ones: of CartPole-v1, measured as it is."""
    result = {**RESULT, "settings": load_presets("ppo")["CartPole-v1"]}
    monkeypatch.setattr(command, "load_results", lambda: {"ppo": {"CartPole-v1": result}})
    return result


@pytest.mark.parametrize(("algo", "env_id"), ALL)
def test_every_preset_is_a_valid_config(algo, env_id):
    settings = load_presets(algo)[env_id]
    config = parse(algo, ["--env-id", env_id]).config
    assert settings and "env_id" not in settings
    assert {name: config.to_dict()[name] for name in settings} == settings


def test_every_algorithm_with_presets_is_a_module():
    assert "ppo" in algorithms() and "results" not in algorithms()
    for algo in algorithms():
        assert importlib.util.find_spec(f"fastrl.{algo}") is not None


def test_listing_holds_every_preset_once():
    every = command.listing(algorithms())
    entries = [entry for entry in every if " " not in entry["env_id"]]  # without flags, that is
    assert [(entry["algo"], entry["env_id"]) for entry in entries] == ALL
    for entry in entries:
        assert entry["settings"] == presets.preset_for(entry["algo"], entry["env_id"])


def test_listing_shows_what_was_measured_and_how_to_measure_it_again(results, capsys):
    assert command.main(["--algo", "ppo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if " CartPole-v1 " in line]
    cells = "1,234.5 1,233.0 1,230.0 to 1,239.0 1,230.0 2 99,840 9 13 [1] abc1234"
    assert cells in " ".join(row.split())
    assert row.endswith("python -m benchmarks.learning CartPole-v1 --algo ppo --seeds 4 7")
    (other,) = [line for line in lines if " Acrobot-v1 " in line]
    assert "never run" in other
    assert lines[-1] == "[1] a machine, 2 cores"


def test_columns_of_seconds_are_listed_if_some_are_known(results, capsys):
    results |= {"wall_seconds": None, "cpu_seconds": None}
    assert command.main(["--algo", "ppo"]) == 0
    out = capsys.readouterr().out
    assert "wall s" not in out and "Seconds" not in out and " 2  99,840  [1]  " in out


def test_returns_below_one_are_listed_with_three_decimals(results):
    results |= {"return_mean": 0.06, "return_iqm": 0.95, "return_interval": [0.0, 1.5]}
    (row,) = [x for x in command.table(command.listing(["ppo"])).splitlines() if " CartPole" in x]
    assert "0.060 0.950 0.000 to 1.5" in " ".join(row.split())


def test_result_of_other_settings_is_marked(results, capsys):
    assert "other settings then" not in command.table(command.listing(["ppo"]))
    results["settings"] = {**results["settings"], "gamma": 0.5}
    (entry,) = [entry for entry in command.listing(["ppo"]) if entry["env_id"] == "CartPole-v1"]
    assert not entry["is_current"]
    assert "other settings then" in command.table([entry])


def test_task_measured_with_flags_is_listed_beside_its_preset(results, monkeypatch):
    preset = load_presets("ppo")["CartPole-v1"]
    masked = {**RESULT, "settings": {**preset, "mask_vel": True, "gamma": 0.9}}
    task = "CartPole-v1 --mask-vel --gamma=0.9"
    monkeypatch.setattr(command, "load_results", lambda: {"ppo": {task: masked}})
    plain, *_, entry = command.listing(["ppo"])
    assert plain["env_id"] == "CartPole-v1" and plain["result"] is None
    assert entry["env_id"] == task and entry["is_current"]
    words = shlex.split(entry["command"])
    assert words[3:6] == [task, "--algo", "ppo"]
    masked["settings"]["gae_lambda"] = 0.5  # which no flag says
    assert not command.listing(["ppo"])[-1]["is_current"]


def test_json_is_one_line_and_the_whole_listing(results, capsys):
    assert command.main(["--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and json.loads(out) == command.listing(algorithms())


def test_unknown_algorithm_is_one_line(capsys):
    assert command.main(["--algo", "nosuch"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "nosuch" in error and "ppo" in error


@pytest.mark.parametrize("preset", [None, True, ["auto"]])
def test_a_preset_that_is_no_name_is_refused_with_the_names(preset):
    with pytest.raises(ValueError, match="preset takes one of auto, none"):
        PPO("CartPole-v1", preset=preset)


def test_a_preset_may_be_the_path_of_a_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("gamma: 0.9\n")
    assert PPO("CartPole-v1", preset=tmp_path / "mine.yaml").config.gamma == 0.9  # pyright: ignore
