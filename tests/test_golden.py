"""What every algorithm learns in three updates, to the bit; `golden.py` runs and records it."""

from __future__ import annotations

import functools

import golden
import pytest
from quick import quick

RUNS = [
    # The runs of several processes, of which those of a process alone are most of what they do.
    pytest.param(where, *case, marks=[] if where == "alone" else [pytest.mark.slow])
    for where in golden.ARRANGEMENTS
    for case in golden.cases(where)
]
ALGOS = list(golden.KINDS)
DECOUPLED = golden.cases("decoupled")

numbers = functools.cache(golden.numbers)


@pytest.mark.parametrize(("where", "algo", "engine"), RUNS)
def test_numbers_are_those_on_record_for_this_processor(where, algo, engine):
    record = golden.records().get(golden.processor())
    if record is None:
        pytest.skip(
            f"no record of {golden.processor()}; on a commit whose numbers are right, write one "
            "by: python tests/golden.py --write"
        )
    assert numbers(where)[f"{algo} {engine}"] == record.get(f"{where} {algo} {engine}")


@pytest.mark.parametrize("algo", ALGOS)
def test_recorded_run_equals_the_eager_one_to_the_bit(algo):
    assert numbers("alone")[f"{algo} recorded"] == numbers("alone")[f"{algo} eager"]


@pytest.mark.slow
@pytest.mark.parametrize(("algo", "engine"), DECOUPLED)
def test_player_and_trainer_equal_one_process_to_the_bit(algo, engine):
    assert numbers("decoupled")[f"{algo} {engine}"] == numbers("alone")[f"{algo} {engine}"]


@pytest.mark.parametrize(
    ("algo", "engine"), quick(golden.cases("alone"), ("ppo", "recorded"), ("sac", "recorded"))
)
def test_one_seed_gives_one_result(algo, engine):
    assert golden.alone(algo, engine) == numbers("alone")[f"{algo} {engine}"]


@pytest.mark.parametrize("algo", ALGOS)
def test_another_seed_gives_another_result(algo, monkeypatch):
    monkeypatch.setitem(golden.SETTINGS[algo], "seed", 7)
    other = golden.alone(algo, "eager")
    assert not set(other.split()) & set(numbers("alone")[f"{algo} eager"].split())
