"""`vector="auto"` steps environments here or in processes, by the clock, and changes no number."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from clocked_envs import SHARED, Counting, Failing, Global, Masked, Slow
from quick import slow
from test_async_env import assert_equal, play
from toy_agents import make_agent, run

from fastrl import PPO
from fastrl.envs import choosing
from fastrl.envs.choosing import choice_of, vector_of
from fastrl.envs.make import make_env
from fastrl.envs.vector import EnvError, VectorEnv
from fastrl.training.hints import lines_about


@pytest.fixture(autouse=True)
def two_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[VectorEnv]]:
    """As on a machine of two cores; what is put into the list is closed."""
    monkeypatch.setattr(choosing, "default_num_workers", lambda number: min(number, 2))
    # Between two quick steps and two slow ones, far from both: other work may hold up a test.
    monkeypatch.setattr(choosing, "_LEAST_SECONDS", 3e-3)
    for name in ("made", "closed", "steps"):
        monkeypatch.setattr(Counting, name, 0)
    opened: list[VectorEnv] = []
    yield opened
    for env in opened:
        env.close()


def made(kind: Any, opened: list[VectorEnv], num_envs: int = 2, **settings: Any) -> Any:
    name = f"clocked_envs:{kind.__name__}"
    opened.append(make_env(name, num_envs, **{"seed": 3, "vector": "auto", **settings}))
    return opened[-1]


def line_of(env: Any) -> str:
    choice = choice_of(env)
    assert choice is not None and choice.vector == vector_of(env)
    return choice.line


def test_slow_steps_go_to_processes_and_quick_ones_stay(two_workers) -> None:
    slow, quick = (made(kind, two_workers, frame_stack=2) for kind in (Slow, Counting))
    assert (vector_of(slow), vector_of(quick)) == ("async", "sync")
    assert line_of(slow).startswith("environments: in 2 processes (vector=auto: a step takes ")
    assert line_of(quick).startswith("environments: one after the other (vector=auto: a step takes")
    assert line_of(quick).endswith("us, so processes would gain nothing)")


@pytest.mark.parametrize(
    ("kind", "least", "vector"),
    [
        (Counting, 0.0, "async"),
        (Counting, 1e9, "sync"),
        slow((Masked, 0.0, "async")),
        (Masked, 1e9, "sync"),
    ],
)
def test_numbers_are_those_of_sync_whatever_the_clock_says(
    kind: Any, least: float, vector: str, two_workers, monkeypatch
) -> None:
    monkeypatch.setattr(choosing, "_LEAST_SECONDS", least)
    how = {"info_mask": kind is Masked}
    auto, sync = (made(kind, two_workers, vector=x, **how) for x in ("auto", "sync"))
    assert vector_of(auto) == vector and choice_of(sync) is None
    first, other = auto.reset(), sync.reset()
    np.testing.assert_array_equal(first, other)
    if kind is Counting:
        assert_equal(play(auto), play(sync))


@pytest.mark.parametrize("least", [0.0, 1e9])
def test_an_agent_learns_the_same(least: float, monkeypatch) -> None:
    monkeypatch.setattr(choosing, "_LEAST_SECONDS", least)
    weights = []
    for vector in ("auto", "sync"):
        agent = make_agent(
            "clocked_envs:Counting", vector=vector, num_workers=2 * (vector == "auto")
        )
        run(agent, 2)
        weights.append(agent.optimizer.flat.clone())
        for env in agent.envs:
            env.close()
    assert torch.equal(*weights)


def test_global_generators_and_shared_spaces_are_where_they_were(two_workers) -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    SHARED.seed(1)
    expected = random.random(), np.random.rand(), float(torch.rand(())), SHARED.sample()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    SHARED.seed(1)
    env = made(Global, two_workers)
    assert (random.random(), np.random.rand(), float(torch.rand(())), SHARED.sample()) == expected
    assert vector_of(env) == "sync"  # in processes it would draw other numbers
    assert "they draw from global generators" in line_of(env)


def test_one_environment_more_is_made_stepped_a_little_and_closed(two_workers) -> None:
    made(Counting, two_workers, num_envs=3)
    assert (Counting.made, Counting.closed) == (4, 1)
    assert 2 <= Counting.steps <= 101


def test_a_slow_one_is_stepped_four_times_where_that_says_enough(two_workers, monkeypatch) -> None:
    monkeypatch.setattr(Slow, "seconds", 0.02)
    made(Slow, two_workers)
    assert Counting.steps == 4


def test_a_step_that_other_work_holds_up_does_not_count(two_workers, monkeypatch) -> None:
    held_up = iter([0.0, 0.0, 0.0, 5.0])  # seconds of other work
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1e-5 + next(held_up, 0.0)
        return now

    monkeypatch.setattr(choosing.time, "perf_counter", clock)
    assert vector_of(made(Counting, two_workers)) == "sync"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"num_envs": 1}, "there is one environment"),
        ({"num_workers": 1}, "there is one process for all"),
    ],
)
def test_where_there_is_no_choice_nothing_is_measured(settings: Any, why: str, two_workers) -> None:
    env = made(Slow, two_workers, **settings)
    assert why in line_of(env) and Counting.steps == 0


def test_what_cannot_be_sent_stays(two_workers) -> None:
    lock = threading.Lock()
    how: dict[str, Any] = {"preset": "none", "accelerator": "cpu", "num_envs": 2}
    agent = PPO(lambda: Slow(lock), vector="auto", **how)
    two_workers += agent.envs
    assert "but what makes them cannot be sent: " in line_of(agent.envs[0])


def test_one_that_fails_stays_and_says_so_itself(two_workers) -> None:
    env = made(Failing, two_workers)
    assert "a step could not be measured: " in line_of(env)
    env.reset()
    with pytest.raises(EnvError, match="no step"):
        env.step(np.zeros(2, np.int64))


def test_processes_that_cannot_begin_are_done_without(two_workers, monkeypatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise EnvError("no processes here")

    monkeypatch.setattr(choosing, "AsyncEnv", refuse)
    monkeypatch.setattr(choosing, "vector_of", lambda env: "sync")
    env = made(Slow, two_workers)
    choice = choice_of(env)
    assert choice is not None and "processes cannot begin: no processes here" in choice.line


def test_the_first_lines_of_a_run_say_it_and_tests_play_alike(two_workers) -> None:
    agent: Any = make_agent("clocked_envs:Slow", vector="auto", num_workers=2)
    two_workers += agent.envs
    buffer = agent.make_buffer()
    assert lines_about(agent, buffer.obs[0])[0] == line_of(agent.envs[0])
    assert agent.task.make is not None
    tested = agent.task.make(2, seed=1, num_threads=1)
    two_workers.append(tested)
    assert vector_of(tested) == "async" and choice_of(tested) is None  # nothing is measured again


def test_halves_are_stepped_alike_and_measured_once(two_workers) -> None:
    agent = make_agent("clocked_envs:Slow", vector="auto", num_pools=2, num_workers=4)
    two_workers += agent.envs
    assert [vector_of(env) for env in agent.envs] == ["async"] * 2
    assert choice_of(agent.envs[1]) is None


def test_envpool_and_made_environments_need_no_choice(two_workers) -> None:
    two_workers.append(make_env("CartPole-v1", 2, vector="auto"))
    assert two_workers[0].backend == "envpool" and choice_of(two_workers[0]) is None
    with pytest.raises(ValueError, match="num_workers=2 has no effect, because EnvPool"):
        make_env("CartPole-v1", 2, vector="auto", num_workers=2)
    how: dict[str, Any] = {"preset": "none", "accelerator": "cpu", "num_envs": 2}
    env = gymnasium.vector.SyncVectorEnv([Counting] * 2)
    assert choice_of(PPO(env, vector="auto", **how).envs[0]) is None
    with pytest.raises(ValueError, match="num_workers=2 has no effect on environments that are"):
        PPO(env, vector="auto", num_workers=2, **how)
