"""Stage times: what is measured is what passed, per name. And the age of the process."""

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from fastrl.processes.start import seconds_since_process_start
from fastrl.runs.timer import SaveClock, StageTimer


def test_stage_adds_up_the_seconds_spent_inside_it():
    timer = StageTimer()
    for _ in range(2):
        with timer.stage("update"):
            time.sleep(0.02)
    time.sleep(0.02)
    # Sleeping may take longer, never shorter.
    assert timer.seconds["update"] >= 0.04


def test_add_and_stage_feed_the_same_name():
    timer = StageTimer()
    timer.add("env", 1.5)
    with timer.stage("env"):
        pass
    timer.add("env", 0.5)
    assert timer.seconds["env"] == pytest.approx(2.0, abs=0.1)


def test_reset_keeps_names_and_clears_seconds():
    timer = StageTimer()
    timer.add("env", 3.0)
    timer.reset()
    assert timer.seconds == {"env": 0.0}


def test_reset_inside_a_stage_counts_only_what_follows():
    timer = StageTimer()
    with timer.stage("env"):
        time.sleep(0.05)
        before_reset = time.perf_counter()
        timer.reset()
    assert 0 <= timer.seconds["env"] <= time.perf_counter() - before_reset


def test_a_stage_that_raises_is_still_counted_and_can_be_entered_again():
    timer = StageTimer()
    with pytest.raises(KeyError), timer.stage("env"):
        raise KeyError
    with timer.stage("env"):
        pass
    assert timer.seconds["env"] > 0


def test_a_stage_nested_in_itself_is_refused():
    timer = StageTimer()
    with timer.stage("env"), pytest.raises(AssertionError, match="nested"):
        timer.stage("env").__enter__()


def test_seconds_of_the_process_tell_readings_of_a_millisecond_apart():
    first = seconds_since_process_start()
    time.sleep(0.001)
    assert seconds_since_process_start() - first >= 0.001


def test_seconds_of_the_process_count_what_was_before_the_import():
    code = (
        "import time; time.sleep(0.1)\n"
        "from fastrl.processes.start import seconds_since_process_start as seconds\n"
        "assert seconds() >= 0.09, seconds()"  # the system's ticks are hundredths
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def saves(cost: float, seconds: float, monkeypatch, **settings: bool) -> list[float]:
    """Returns when a run saves that asks every tenth of a second."""
    now = [0.0]
    monkeypatch.setattr("fastrl.runs.timer.time", SimpleNamespace(perf_counter=lambda: now[0]))
    clock, found = SaveClock(**settings), []
    while now[0] < seconds:
        now[0] += 0.1
        if clock.is_due:
            found.append(round(now[0]))
            with clock.saving():
                now[0] += cost
    return found


@pytest.mark.parametrize(
    ("cost", "seconds", "expected"),
    [
        (0.0, 300, [1, 2, 4, 9, 18, 36, 73, 133, 193, 253]),
        (0.05, 30, [1, 6, 13, 26]),  # at least a hundred times as long apart
        (7.0, 2000, [1, 708, 1415]),
    ],
)
def test_saves_come_soon_at_first_and_take_a_hundredth_of_the_time(
    cost, seconds, expected, monkeypatch
):
    found = saves(cost, seconds, monkeypatch)
    assert len(found) == len(expected) and found == pytest.approx(expected, rel=0.1)
    assert cost * (len(found) - 1) <= 0.011 * seconds


def test_nothing_is_saved_by_a_clock_that_never_is_due(monkeypatch):
    assert saves(0.0, 100, monkeypatch, never=True) == []
