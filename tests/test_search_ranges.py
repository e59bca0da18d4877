"""Ranges of settings lie at the fields of the configs, and change nothing else about them."""

from __future__ import annotations

import dataclasses
from typing import get_type_hints

import pytest

from fastrl.config.describing import config_class_of
from fastrl.config.search import (
    Choices,
    LinearRange,
    LogRange,
    OneMinusLogRange,
    PowersOfTwo,
    range_from_dict,
    ranges_of,
)

ALGORITHMS = ("ppo", "a2c", "ppo_recurrent", "sac", "droq")


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_algorithm_has_ranges_whose_ends_it_accepts(algo):
    config_class = config_class_of(algo)
    for name, search_range in ranges_of(config_class).items():
        ends = (
            search_range.values
            if isinstance(search_range, Choices | PowersOfTwo)
            else (search_range.low, search_range.high)
        )
        for value in ends:
            dataclasses.replace(config_class(total_timesteps=10**6), **_fitting(algo, name, value))


def _fitting(algo: str, name: str, value: object) -> dict[str, object]:
    """Returns the setting with room for it: a rollout that any minibatch or sequence fits into."""
    room = {} if algo in ("sac", "droq") else {"num_envs": 64, "num_steps": 512}
    if algo == "ppo_recurrent":
        room |= {"per_rank_batch_size": 512, "sequence_length": 8}
    return {**room, name: value}


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_the_default_of_a_setting_is_in_its_range_or_next_to_it(algo):
    config = config_class_of(algo)()
    outside = {
        name
        for name, search_range in ranges_of(type(config)).items()
        if not search_range.contains(getattr(config, name))
    }
    assert outside <= {"ent_coef"}  # 0: no logarithm


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_ranges_are_written_and_read_again(algo):
    for search_range in ranges_of(config_class_of(algo)).values():
        assert range_from_dict(search_range.to_dict()) == search_range


def test_fields_with_a_range_are_of_a_plain_type_for_everything_else():
    kinds = get_type_hints(config_class_of("ppo"))
    assert kinds["learning_rate"] is float
    assert kinds["hidden_sizes"] == tuple[int, ...]


def test_the_nearest_value_lies_in_the_range():
    assert PowersOfTwo(16, 64).values == (16, 32, 64)
    assert PowersOfTwo(16, 64).nearest(1000) == 64
    assert PowersOfTwo(16, 64).nearest(20) == 16
    assert LogRange(1e-4, 1e-2).nearest(0.0) == 1e-4
    assert OneMinusLogRange(0.9, 0.999).nearest(0.95) == 0.95
    assert LinearRange(0, 1).nearest(2) == 1
    assert Choices(((64, 64), (32, 32))).nearest((512,)) == (64, 64)


def test_what_describes_no_range_is_refused():
    with pytest.raises(ValueError, match="no range"):
        range_from_dict({"kind": "wide"})
    with pytest.raises(ValueError, match="no range"):
        range_from_dict({"kind": "log", "low": 1})
