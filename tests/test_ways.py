"""The way to run is the first that serves, or the one that was asked for, or it is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fastrl.engine.ways import WAYS, Situation, choose


def situation(*against_kernels: str, hook: bool = False, device: str = "cpu") -> Situation:
    network = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    if hook:
        network[0].register_forward_hook(lambda *_: None)
    return Situation(torch.device(device), [network], list(against_kernels))


@pytest.mark.parametrize(
    ("case", "expected", "notes"),
    [
        (situation(), "native", []),
        (situation("no kernels"), "recorded", ["native: no kernels"]),
        (situation("first", "second"), "recorded", ["native: first"]),
    ],
)
def test_auto_takes_the_first_that_serves_and_says_why_not_a_faster_one(case, expected, notes):
    way, reasons = choose("auto", case)
    assert (way.name, reasons) == (expected, notes)


def test_auto_runs_eagerly_with_a_hook_and_never_compiles():
    way, reasons = choose("auto", situation(hook=True))
    assert way.name == "eager"
    assert [reason.split(":")[0] for reason in reasons] == ["native", "recorded"]
    assert all("Linear 0 has a hook" in reason for reason in reasons)


@pytest.mark.parametrize("name", [way.name for way in WAYS if way.name != "compile"])
def test_a_way_asked_for_by_name_is_taken(name):
    way, reasons = choose(name, situation())
    assert (way.name, reasons) == (name, [])


def test_a_way_that_cannot_serve_is_refused_with_every_reason():
    with pytest.raises(ValueError, match="engine=native cannot serve here") as error:
        choose("native", situation("no kernels", "of bfloat16", hook=True))
    for reason in ("no kernels", "of bfloat16", "Linear 0 has a hook"):
        assert reason in str(error.value)


def hooks() -> dict[str, Any]:
    """Returns what hooks a network in each way that torch has."""

    def nothing(*_: Any) -> None:
        pass

    return {
        "forward": lambda x: x[0].register_forward_hook(nothing),
        "before": lambda x: x[0].register_forward_pre_hook(nothing),
        "backward": lambda x: x[0].register_full_backward_hook(nothing),
        "before backward": lambda x: x[0].register_full_backward_pre_hook(nothing),
        "weight": lambda x: x[0].weight.register_hook(nothing),
        "outermost": lambda x: x.register_forward_hook(nothing),
    }


@pytest.mark.parametrize("how", hooks())
def test_every_kind_of_hook_is_seen(how):
    network = nn.Sequential(nn.Linear(2, 2))
    hooks()[how](network)
    with pytest.raises(ValueError, match="has a hook"):
        choose("recorded", Situation(torch.device("cpu"), [network], []))


def test_compile_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match="needs a C\\+\\+ compiler"):
        choose("compile", situation())
