"""The words of a run's head, and the sizes of its files."""

import math

from fastrl.runs.run import Run
from fastrl.studio.pages.run_files import size_in_words
from fastrl.studio.pages.run_state import clock, facts_of


def test_facts_are_those_that_are_known(tmp_path):
    run = Run(tmp_path, "running", "", env_steps=1000, total_env_steps=5000)
    assert facts_of(run) == "1,000/5,000 steps"
    run = Run(tmp_path, "running", "", steps_per_second=1234.5, test_return=1.25, seconds_left=61.0)
    assert facts_of(run) == "0 steps · 1,234 steps/s · test return 1.2 · 1:01 left"


def test_numbers_in_words():
    times = [0, 59.2, 3725, math.inf, math.nan]
    assert [clock(x) for x in times] == ["0:00", "1:00", "1:02:05", "?", "?"]
    sizes = [size_in_words(x) for x in (12, 3400, 1_200_000, 2_500_000_000)]
    assert sizes == ["12 bytes", "3.4 kB", "1.2 MB", "2.5 GB"]
