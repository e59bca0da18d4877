"""What the benchmarks of several processes compute from what they measured."""

import pytest

from benchmarks.processes import WARM_UP, steps_per_second
from benchmarks.scaling import LINKS, MEASURED, Link, all_reduce_seconds, iteration_seconds


def test_one_rank_waits_for_nobody():
    assert all_reduce_seconds(1, 10**6, Link(1.0, 1.0)) == 0


def test_large_all_reduce_sends_nearly_twice_its_bytes():
    link = Link(0.0, 1e9)
    assert all_reduce_seconds(2, 10**9, link) == pytest.approx(1)
    assert all_reduce_seconds(1024, 10**9, link) == pytest.approx(2, rel=0.01)


def test_small_all_reduce_takes_a_latency_each_way_and_doubling():
    assert all_reduce_seconds(8, 0, Link(1e-3, 1e9)) == pytest.approx(6e-3)


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_iteration_takes_no_less_time_with_more_ranks(link):
    seconds = [iteration_seconds(ranks, MEASURED, link) for ranks in (1, 2, 4, 8)]
    assert seconds == sorted(seconds)


def test_speed_leaves_the_warm_up_out(tmp_path):
    # 100 steps a second in the warm-up, 1,000 after it; a greedy test has a row of its own.
    rows = ["env_steps,Time/step_per_second", "1000,100", "1000,"]
    seconds = 10.0
    for steps in range(2000, 11_000, 1000):
        seconds += 1
        rows.append(f"{steps},{steps / seconds}")
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    assert WARM_UP * 10_000 == 2000
    assert steps_per_second(tmp_path / "metrics.csv") == pytest.approx(1000)
