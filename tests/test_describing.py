"""`--describe` says of each setting what the checks hold it to."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from fastrl import cli
from fastrl.config.bounds import Bounds, OneOf, check_bounds, notes_at
from fastrl.config.decoupled import DecoupledConfig
from fastrl.config.describing import config_class_of
from fastrl.config.groups import GROUP_OF, GROUPS
from fastrl.presets import algorithms, load_presets
from fastrl.presets.describing import describe


def settings_of(algo: str, **words: str) -> dict[str, dict[str, Any]]:
    return {setting["name"]: setting for setting in describe(algo, **words)["settings"]}


# The JSON


@pytest.mark.parametrize("algo", algorithms())
def test_every_setting_is_described_in_plain_values(algo):
    described = json.loads(json.dumps(describe(algo)))
    fields = [entry.name for entry in dataclasses.fields(config_class_of(algo))]
    assert [setting["name"] for setting in described["settings"]] == fields
    kinds = {"integer", "number", "boolean", "choice", "text", "mapping"}
    kinds |= {"list of integers", "list of texts", "list of choices"}
    for setting in described["settings"]:
        assert setting["kind"] in kinds and setting["help"].endswith("."), setting
        assert (setting["choices"] is not None) == ("choice" in setting["kind"])
        assert setting["optional"] or setting["default"] is not None


def test_description_is_printed_alone_and_without_torch():
    code = (
        "import sys\nfrom fastrl import cli\n"
        "status = cli.main('ppo', ['--describe', '--env-id', 'LunarLander-v2'])\n"
        "sys.exit(3 if 'torch' in sys.modules else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == describe("ppo", "LunarLander-v2")


@pytest.mark.parametrize("algo", algorithms())
def test_the_preset_of_a_task_is_shown_beside_the_defaults(algo):
    task = list(load_presets(algo))[-1]
    shown = {
        name: s["preset"] for name, s in settings_of(algo, env_id=task).items() if "preset" in s
    }
    assert shown == load_presets(algo)[task]


def test_a_named_preset_is_shown_for_any_task():
    assert settings_of("ppo", env_id="Nowhere-v0", preset="source-003")["num_envs"]["preset"] == 2
    assert "preset" not in settings_of("ppo", env_id="Nowhere-v0")["num_envs"]


def test_arguments_are_mappings_and_names_of_code_are_marked():
    settings = settings_of("ppo")
    assert settings["env_kwargs"]["kind"] == settings["network_kwargs"]["kind"] == "mapping"
    marked = {name for name, setting in settings.items() if setting["names_code"]}
    schedules = {"lr_schedule", "clip_schedule", "ent_schedule"}
    assert marked == {"env_id", "network", "callback", *schedules}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--describe --seed 1", "--describe goes with --env-id and --preset, not --seed"),
        ("--describe --dry-run", "--describe goes with --env-id and --preset, not --dry-run"),
        ("--describe --preset x", "--preset takes one of auto, none, source-003"),
    ],
)
def test_what_a_description_would_ignore_is_refused(words, message):
    with pytest.raises(ValueError, match=message):
        cli.parse("ppo", words.split())


# Bounds


def edges(setting: dict[str, Any]) -> list[tuple[float, bool]]:
    """Returns numbers at the edge of what a description allows, and whether they should be."""
    step = 1 if "integer" in setting["kind"] else 1e-9
    found: list[tuple[float, bool]] = []
    for side, sign in (("minimum", 1), ("maximum", -1)):
        if (bound := setting[side]) is not None:
            # At zero a step of any size is a change; elsewhere it is one of that size.
            step_here = step if step == 1 else max(abs(bound), 1) * step
            found.append((bound, not setting[f"excludes_{side}"]))
            found += [(bound - sign * step_here, False), (bound + sign * step_here, True)]
    return found


@pytest.mark.parametrize("algo", algorithms())
def test_checks_hold_settings_to_the_bounds_that_are_described(algo):
    config_class = config_class_of(algo)
    base = vars(config_class())
    num_checked = 0
    for name, setting in settings_of(algo).items():
        for value, is_allowed in edges(setting):
            given = (value,) if setting["kind"].startswith("list") else value
            config = object.__new__(config_class)
            vars(config).update({**base, name: given})
            try:
                check_bounds(config)
            except ValueError as error:
                assert not is_allowed and f"{name} must " in str(error)
            else:
                assert is_allowed, (name, value)
            if not is_allowed:
                with pytest.raises(ValueError, match=f"{name} must "):
                    config_class(**{name: given})
            num_checked += 1
    assert num_checked > 60


def test_a_field_that_is_declared_again_keeps_its_bounds_unless_it_has_others():
    @dataclass(frozen=True, kw_only=True)
    class Base:
        first: Annotated[int, Bounds(at_least=1)] = 3
        second: Annotated[int, Bounds(at_least=1)] = 3

    @dataclass(frozen=True, kw_only=True)
    class Derived(Base):
        first: int = 5
        second: Annotated[int, "else", Bounds(above=4)] = 5

    expected = {"first": Bounds(at_least=1), "second": Bounds(above=4)}
    assert notes_at(Derived, Bounds) == expected


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Bounds(at_least=1), "at least 1"),
        (Bounds(above=0), "above 0"),
        (Bounds(at_most=9), "at most 9"),
        (Bounds(at_least=0, at_most=1_000_000), "between 0 and 1000000"),
        (Bounds(at_least=1e-6, at_most=1e6), "between 1e-06 and 1e+06"),
        (Bounds(at_least=0, below=1), "from 0 to below 1"),
        (Bounds(above=0, below=1), "above 0 and below 1"),
        (OneOf((0, 2)), "one of 0, 2"),
    ],
)
def test_rules_are_said_in_words(rule, words):
    assert str(rule) == words


def test_nan_is_within_no_bounds():
    assert not Bounds(at_least=0).holds(float("nan")) and not Bounds(below=1).holds(float("nan"))


# Groups


def test_shared_settings_have_a_group_and_the_table_names_no_others():
    shared = {entry.name for entry in dataclasses.fields(DecoupledConfig)}
    known = {
        entry.name for algo in algorithms() for entry in dataclasses.fields(config_class_of(algo))
    }
    assert shared <= GROUP_OF.keys() <= known
    assert set(GROUP_OF.values()) < GROUPS.keys()


def test_help_shows_the_groups_in_order(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")  # wider ones have groups side by side
    with pytest.raises(SystemExit):
        cli.parse("ppo", ["--help"])
    text = capsys.readouterr().out
    places = [text.index(f"{group} options") for group in GROUPS]
    assert places == sorted(places)
    assert places[2] < text.index("--gamma") < places[3] < text.index("--hidden-sizes") < places[4]
    assert text.count("--gamma") == 1
