"""Misbehaving environments: each is named in a line, or does no harm."""

from __future__ import annotations

import random
import shlex
from pathlib import Path

import pytest

from fastrl.cli import main
from hostile.environments import HARMS, Fault, Harmful, Misbehaving, faults
from hostile.rule import SEED, check, play

TASK = f"{Misbehaving.__module__}:{Misbehaving.__name__}"
TINY = shlex.split(
    "--preset none --num-envs 2 --num-steps 16 --per-rank-batch-size 16 --update-epochs 1 "
    "--hidden-sizes 8 --accelerator cpu --engine eager --eval-episodes 1 --total-timesteps 64"
)


def trained_on(fault: Fault, log_dir: Path, *more: str) -> str:
    """Trains on an environment with a fault; returns what breaks the rule, or "".

    Args:
        fault: what is wrong.
        log_dir: for the run folder.
        *more: further flags.
    """
    words = [f"place={fault.place}", f"kind='{fault.kind}'", f"when={fault.when}"]
    line = ["--env-id", TASK, "--env-kwargs", *words, "--log-dir", str(log_dir), *TINY, *more]
    outcome = play(lambda: main("ppo", line), seconds=30)
    if outcome.fault:
        return outcome.fault
    if outcome.status == 0 and not fault.may_end_well:
        return f"exit status 0: {fault.kind} was taken as {fault.place}"
    # An environment that cannot be made at all has no number yet.
    if outcome.status == 2 and TASK not in outcome.err:
        return f"an error that does not name the task: {outcome.err.strip()[:150]!r}"
    return ""


@pytest.mark.parametrize(
    "count",
    [
        5,
        pytest.param(30, marks=pytest.mark.slow),
        pytest.param(None, marks=pytest.mark.hostile),
    ],
)
def test_fault_of_an_environment_is_named_in_a_line(count: int | None, tmp_path: Path) -> None:
    broken = {}
    # A good one first: torch imports much at the first run, and must not be interrupted at that.
    good = ["--env-id", "CartPole-v1", "--log-dir", str(tmp_path / "good"), *TINY]
    assert play(lambda: main("ppo", good), seconds=300).status == 0
    for index, fault in enumerate(faults(random.Random(SEED))[:count]):
        if words := trained_on(fault, tmp_path / str(index)):
            broken[f"{fault}"] = words
    check(broken)


@pytest.mark.parametrize(
    "count",
    [
        1,
        pytest.param(8, marks=pytest.mark.slow),
        pytest.param(None, marks=pytest.mark.hostile),
    ],
)
def test_fault_in_a_process_is_named_in_a_line(count: int | None, tmp_path: Path) -> None:
    broken = {}
    more = "--vector", "async", "--num-workers", "1"
    for index, fault in enumerate(faults(random.Random(SEED + 1))[:count]):
        if words := trained_on(fault, tmp_path / str(index), *more):
            broken[f"{fault}"] = words
    check(broken)


def test_harm_to_its_own_process_is_named_in_a_line(tmp_path: Path) -> None:
    broken = {}
    task = f"{Harmful.__module__}:{Harmful.__name__}"
    for kind in HARMS:
        line = ["--env-id", task, "--env-kwargs", f"kind={kind}", "--log-dir", str(tmp_path)]
        line += [*TINY, "--vector", "async", "--num-workers", "2"]
        outcome = play(lambda line=line: main("ppo", line), seconds=60)
        if words := outcome.fault or ("" if outcome.status == 2 else f"status {outcome.status}"):
            broken[kind] = words
        elif f"{task}: the process of environment" not in outcome.err:
            broken[kind] = f"an error that does not name the process: {outcome.err[:150]!r}"
    check(broken)
