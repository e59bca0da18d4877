"""The ways in which an algorithm's functions can run, each with what speaks against it here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Situation(NamedTuple):
    """What decides which ways can serve."""

    device: torch.device
    networks: Sequence[nn.Module]
    against_kernels: Sequence[str]
    """Why no native kernel computes any of the networks."""
    lacks_memory: bool = False
    """Whether a compiler would be left to torch's own LSTM and GRU for a CPU."""


class Way(NamedTuple):
    """One way of running a function."""

    name: str
    words: str
    """What the header of a run says."""
    why_not: Callable[[Situation], list[str]]


def _against_native(situation: Situation) -> list[str]:
    return list(dict.fromkeys([*_against_recorded(situation), *situation.against_kernels]))


def _against_recorded(situation: Situation) -> list[str]:
    if torch.is_anomaly_enabled():
        return ["torch.autograd.set_detect_anomaly is on, which finds nothing in a fixed graph"]
    return why_not_static(situation.networks)


def why_not_static(networks: Sequence[nn.Module]) -> list[str]:
    """Says which hooks a fixed graph, which sees Python once, would call once and never again."""
    return [
        f"{type(module).__name__} {name} has a hook, which a fixed graph would not call".strip()
        for network in networks
        for name, module in network.named_modules()
        if any(getattr(module, hooks) for hooks in HOOKS)
        or any(parameter._backward_hooks for parameter in module.parameters(recurse=False))
    ]


def _against_compile(situation: Situation) -> list[str]:
    reasons = _against_recorded(situation)
    compilers = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    if situation.device.type == "cpu" and not any(shutil.which(x) for x in compilers if x):
        reasons.append("torch.compile needs a C++ compiler for a CPU, and none is installed")
    parts = [part for network in situation.networks for part in network.modules()]
    if situation.lacks_memory and any(isinstance(part, nn.RNNBase) for part in parts):
        reasons.append("torch.compile has no LSTM or GRU for a CPU, and the extension is not there")
    return reasons


# In the order in which `auto` tries them; it never takes `compile`, which is slow to start.
WAYS = (
    Way("native", "native kernels", _against_native),
    Way("recorded", "recorded graphs", _against_recorded),
    Way("compile", "torch.compile", _against_compile),
    Way("eager", "eager PyTorch", lambda _: []),
)


def choose(
    wanted: str, situation: Situation, agree: Callable[[str], str] = lambda reason: reason
) -> tuple[Way, list[str]]:
    """Returns the way to run, and why the faster ones do not serve.

    Args:
        wanted: a way's name, or "auto".
        situation: what decides.
        agree: makes one rank's reason against a way every rank's.

    Raises:
        ValueError: a way was named that cannot serve.
    """
    against: list[str] = []
    for way in WAYS:
        if way.name == wanted:
            if reason := agree("; ".join(way.why_not(situation))):
                raise ValueError(f"engine={wanted} cannot serve here: {reason}")
            return way, []
        if wanted != "auto" or way.name == "compile":
            continue
        if not (reason := agree("".join(way.why_not(situation)[:1]))):
            return way, against
        against = [*against, f"{way.name}: {reason}"]
    raise AssertionError(f"no way is called {wanted}")
