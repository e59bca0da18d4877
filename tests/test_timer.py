"""Stage times: what is measured is what passed, per name. And the age of the process."""

import subprocess
import sys
import time

import pytest

from fastrl.processes.start import seconds_since_process_start
from fastrl.runs.timer import StageTimer


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
