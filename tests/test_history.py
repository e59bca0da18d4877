"""The throughput history: ratios to a twin, and a loss counts only beyond the measured noise."""

import json
from pathlib import Path

import pytest

from benchmarks import history

STAMP = {"machine": {"processor": "P", "cores": 2}, "versions": {}, "commit": "abc"}


def a_run(fast_seconds: float, slow_seconds: float = 4.0, machine: str = "P") -> dict:
    cases = {"fast": fast_seconds, "plain": slow_seconds}
    return {
        "machine_info": {"fastrl": {**STAMP, "machine": {"processor": machine}}},
        "benchmarks": [
            {"group": "g", "name": name, "stats": {"median": seconds}}
            for name, seconds in cases.items()
        ],
    }


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Returns a function that records runs of such seconds; it returns the exit status."""

    def play(*fast_seconds: float, machine: str = "P", slow_seconds: float = 4.0) -> int:
        runs = iter([a_run(seconds, slow_seconds, machine) for seconds in fast_seconds])
        monkeypatch.setattr(history, "measure", lambda only: next(runs))
        return history.main(["--repeats", "2", "--file", str(tmp_path / "history.jsonl")])

    play.file = tmp_path / "history.jsonl"  # pyright: ignore[reportFunctionMemberAccess]
    return play


def test_a_case_is_measured_against_the_slowest_of_its_group():
    assert history.speeds(a_run(1.0)) == {"g / fast": 4.0, "g / plain": 1.0}


def test_a_slower_machine_is_no_regression(play):
    assert play(1.0, 1.0) == 0
    assert play(2.0, 2.0, slow_seconds=8.0) == 0


def test_a_loss_beyond_the_noise_fails_and_is_not_recorded(play, capsys):
    assert play(1.0, 1.02) == 0
    assert play(1.3, 1.3) == 1
    assert "g / fast: 3.08x its twin" in capsys.readouterr().err
    assert len(play.file.read_text().splitlines()) == 1


def test_a_loss_within_the_noise_passes_and_is_recorded(play):
    assert play(1.0, 1.2) == 0
    assert play(1.3, 1.3) == 0
    records = [json.loads(line) for line in play.file.read_text().splitlines()]
    assert records[1]["cases"]["g / fast"] == {"ratio": 4 / 1.3, "spread": 0.0}


def test_other_machines_are_not_compared(play):
    assert play(1.0, 1.0) == 0
    assert play(2.0, 2.0, machine="Q") == 0
