"""The settings in signatures: those of the config dataclasses, with their types and defaults."""

from __future__ import annotations

import dataclasses
import inspect
import os
import pydoc
import subprocess
import sys
from typing import Any, get_args, get_type_hints

import pytest
from torch import nn

import fastrl
from fastrl import PPO
from fastrl.agents.base import BaseAgent
from fastrl.agents.signatures import AgentArguments, Schedule, Widths, Words
from fastrl.config.networks import Activation
from fastrl.config.schedules import SCHEDULES

KINDS = ["PPO", "PPORecurrent", "A2C", "SAC", "DroQ"]
SHARED = set(AgentArguments.__annotations__)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return getattr(fastrl, request.param)


def _settings(kind: Any) -> dict[str, Any]:
    (typed,) = get_args(get_type_hints(kind.__init__)["settings"])
    return get_type_hints(typed)


def _accepted(name: str, kind: Any) -> Any:
    """Returns what a setting may be from Python, where it is converted to the config's type."""
    if name in SCHEDULES:
        return Schedule
    if name in ("env_kwargs", "network_kwargs"):
        return Words | dict[str, Any]
    wider = {tuple[str, ...]: Words, tuple[int, ...]: Widths}
    wider[Activation] = Activation | type[nn.Module]
    return str | os.PathLike[str] if name == "log_dir" else wider.get(kind, kind)


def test_typed_settings_are_those_of_the_config(kind: Any) -> None:
    of_config = get_type_hints(kind.config_class)
    del of_config["env_id"]
    expected = {name: _accepted(name, x) for name, x in of_config.items() if name not in SHARED}
    settings = _settings(kind)
    told = "a setting was added, renamed or removed: do so in fastrl/agents/signatures.py, too"
    assert {name: x for name, x in settings.items() if name not in SHARED} == expected, told
    assert settings.keys() == expected.keys() | SHARED


def test_signature_lists_all_settings_with_their_defaults(kind: Any) -> None:
    parameters = inspect.signature(kind).parameters
    assert list(parameters)[:2] == ["env", "config"]
    assert not any(x.kind is x.VAR_KEYWORD for x in parameters.values())
    shared = inspect.signature(BaseAgent.__init__).parameters
    explicit = [name for name, x in shared.items() if x.kind is x.KEYWORD_ONLY]
    assert set(explicit) == SHARED
    assert {name: parameters[name].default for name in SHARED} == {
        name: shared[name].default for name in SHARED
    }
    for field in dataclasses.fields(kind.config_class):
        if field.name not in SHARED | {"env_id"}:
            assert parameters[field.name].default == field.default
            assert parameters[field.name].annotation == _settings(kind)[field.name]
    fields = {field.name for field in dataclasses.fields(kind.config_class)}
    assert parameters.keys() == {"env", "config"} | SHARED | fields - {"env_id"}


def test_help_explains_every_setting(kind: Any) -> None:
    text = " ".join(pydoc.plain(pydoc.render_doc(kind)).replace("|", " ").split())
    for field in dataclasses.fields(kind.config_class):
        if field.name not in SHARED | {"env_id"}:
            assert f"{field.name} ({field.default!r}): " in text
    assert all(f"\n    {name}: " in kind.__doc__ for name in SHARED)
    assert kind.__doc__.startswith(f"A{'n' if kind.__name__ == 'A2C' else ''} ")
    assert "Discount factor per step." in kind.__doc__


def test_class_with_a_constructor_of_its_own_shows_that_one() -> None:
    class Plain(PPO):
        """Mine."""

    class Own(PPO):
        def __init__(self, size: int) -> None:
            super().__init__("CartPole-v1", hidden_sizes=(size,))

    assert inspect.signature(Plain) == inspect.signature(PPO)
    assert Plain.__doc__ is not None and Plain.__doc__.startswith("Mine.\n\nArguments")
    assert list(inspect.signature(Own).parameters) == ["size"]
    assert Own.__doc__ is None
    assert Own(8).config.hidden_sizes == (8,)


def test_importing_lists_nothing() -> None:
    code = (
        "import fastrl.config.run as run\n"
        "def documentation(*kinds): raise SystemExit(3)\n"
        "run.documentation = documentation\n"
        "from fastrl import A2C, DroQ, PPO, PPORecurrent, SAC\n"
        "assert '__signature__' in vars(PPO)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
