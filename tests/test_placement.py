"""Which core the environments' threads run on: chosen by the clock, and undone afterwards."""

import os
import threading
from collections.abc import Iterator

import pytest

from fastrl.processes import machine
from fastrl.processes.machine import thread_ids
from fastrl.training import placement
from fastrl.training.placement import Placement

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs Linux and two cores",
)


@pytest.fixture
def worker() -> Iterator[int]:
    """Another thread's id, as EnvPool has some."""
    before, ready, leave = thread_ids(), threading.Event(), threading.Event()

    def work() -> None:
        ready.set()
        leave.wait()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    (thread_id,) = thread_ids() - before
    yield thread_id
    leave.set()
    thread.join()


class Clock:
    """Seconds that pass only as a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.cpu = 0.0
        monkeypatch.setattr(placement, "perf_counter", lambda: self.now)
        monkeypatch.setattr(placement, "process_time", lambda: self.cpu)


def play(
    place: Placement, clock: Clock, together: float, apart: float, cores: float = 1.0
) -> list[bool]:
    """Plays ten rollouts that take so long each way; returns which way each one went."""
    ways = []
    for _ in range(10):
        ways.append(place.together)
        with place.rollout():
            seconds = together if place.together else apart
            clock.now += seconds
            clock.cpu += seconds * cores
    return ways


def test_a_rollout_together_has_all_threads_on_one_core_and_frees_this_one_after(
    worker: int,
) -> None:
    place = Placement(frozenset({worker}))
    allowed = os.sched_getaffinity(0)
    place.together = True
    with place.rollout():
        assert os.sched_getaffinity(worker) == os.sched_getaffinity(0)
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == allowed


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_plays_on_one_of_its_own_cores(
    worker: int, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    monkeypatch.setattr(machine, "_sharers", 2)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    place, cores = Placement(frozenset({worker})), sorted(os.sched_getaffinity(0))
    place.together = True
    with place.rollout():
        (core,) = os.sched_getaffinity(worker)
    assert (core in cores[: len(cores) // 2]) == (rank == 0)


def test_a_rollout_apart_frees_the_workers_again(worker: int) -> None:
    place = Placement(frozenset({worker}))
    place.together = True
    with place.rollout():
        pass
    place.together = False
    with place.rollout():
        assert os.sched_getaffinity(worker) == os.sched_getaffinity(0)
        assert len(os.sched_getaffinity(0)) > 1


def test_together_is_kept_where_it_is_faster(worker: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = play(Placement(frozenset({worker})), Clock(monkeypatch), together=1.0, apart=1.1)
    assert ways[6:] == [True] * 4


def test_apart_is_kept_where_it_is_faster(worker: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = play(Placement(frozenset({worker})), Clock(monkeypatch), together=1.1, apart=1.0)
    assert ways[6:] == [False] * 4


def test_one_slow_rollout_together_is_enough(worker: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = play(Placement(frozenset({worker})), Clock(monkeypatch), together=1.5, apart=1.0)
    assert sum(ways) == 1


def test_a_disturbed_choice_is_made_again(worker: int, monkeypatch: pytest.MonkeyPatch) -> None:
    place, clock = Placement(frozenset({worker})), Clock(monkeypatch)
    assert play(place, clock, together=9.0, apart=1.0)[6:] == [False] * 4  # once, by accident
    play(place, clock, together=0.5, apart=1.0)
    assert all(play(place, clock, together=0.5, apart=1.0))


def test_busy_cores_are_not_given_up_even_for_a_trial(
    worker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Placement(frozenset({worker}))
    assert not any(play(place, Clock(monkeypatch), together=1.0, apart=1.0, cores=8.0))


def test_without_workers_nothing_is_bound() -> None:
    place = Placement(frozenset())
    allowed = os.sched_getaffinity(0)
    with place.rollout():
        assert os.sched_getaffinity(0) == allowed


def test_a_worker_that_ended_ends_the_trials_not_the_run(worker: int) -> None:
    place = Placement(frozenset({worker, 2**22 - 1}))
    place.together = True
    allowed = os.sched_getaffinity(0)
    with place.rollout():
        pass
    assert os.sched_getaffinity(0) == allowed
