"""Throughput over time: ratios to a plain twin, and a loss counts only beyond the noise of both."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import history
from benchmarks.conftest import NUM_VISITS, Tracking
from benchmarks.history import Case, Measurement

KIND = {"cpu": "P", "instructions": "avx2", "cores": 2}
STAMP = {"time": "2026-11-29T00:00:00", "commit": "abcdef0123", "versions": {"torch": "2.13"}}


def case(ratio: float, noise: float = 0.02) -> Case:
    return Case(per_second=1000.0, unit="steps", ratio=ratio, noise=noise)


@pytest.fixture
def records(tmp_path: Path):
    """Returns a function that reads the records of some cases, recorded one after the other."""

    def records(*cases: Case, **changes: object) -> list[history.Record]:
        file = tmp_path / "history.jsonl"
        for index, one in enumerate(cases):
            own = {"commit": f"{index}bcdef0123", "kind": {**KIND, **changes}, **changes}
            history.append(file, {"act": one}, {**STAMP, **own})
        return history.read(file)

    return records


def test_ours_is_compared_with_the_twin_of_the_same_moment():
    measurement = Measurement("steps", 64)
    measurement.add([1.0, 2.0, 1.0], [3.0, 6.0, 3.0])  # the machine was slow for a moment
    measurement.add([2.0, 2.0, 2.0], [6.0, 6.0, 6.0])  # and all of the second visit
    assert measurement.case() == Case(64 / 1.5, "steps", ratio=3.0, noise=0.0)


def test_noise_is_how_far_the_visits_lie_apart():
    measurement = Measurement("calls", 1)
    for twin in (2.0, 2.2, 1.8):
        measurement.add([1.0], [twin])
    assert measurement.case().noise == pytest.approx(0.2)


def test_visits_that_are_alike_by_chance_do_not_hide_the_noise_of_their_rounds():
    measurement = Measurement("calls", 1)
    for _ in range(3):
        measurement.add([1.0, 1.0, 1.0], [1.7, 2.0, 2.3])
    assert measurement.case().noise == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("now", "verdict"),
    [
        (case(1.0), ""),
        (case(0.96), ""),  # 5 % at least
        (case(0.9), "slower"),
        (case(0.9, noise=0.1), ""),  # noise of this run
        (case(1.2), "faster"),
        (case(1.2, noise=0.3), ""),
    ],
)
def test_what_noise_explains_is_neither_slower_nor_faster(now: Case, verdict: str):
    assert history.verdict(now, case(1.0)) == verdict
    assert history.verdict(now, case(1.0, noise=0.4)) == ""  # noise of the record


def test_loss_is_named_in_the_table_and_returned(records):
    lines, slower = history.compare({"act": case(1.5), "new": case(3.0)}, records(case(2.0)), KIND)
    assert slower == ["act"]
    assert "last record of this kind of machine: 0bcdef012, 2026-11-29, torch 2.13" in lines
    act, new = lines[-2:]
    cells = ["act", "1,000 steps/s", "1.50x ± 2%", "2.00x", "0.75 ± 5%", "slower"]
    assert re.split(r"\s{2,}", act) == cells
    assert new.endswith("new")


def test_last_record_that_has_the_case_is_compared_with(records):
    old = records(case(3.0), case(2.0))
    assert history.compare({"act": case(2.0)}, old, KIND)[1] == []
    assert history.last_of_kind(old, KIND, "step") == []


def test_records_of_one_commit_lie_apart_by_noise(records):
    old = records(case(9.0), case(2.0), case(2.2), case(1.8))
    for record in old[1:]:
        record["commit"] = "of the three"
    lines, slower = history.compare({"act": case(1.65)}, old, KIND)
    assert slower == [] and lines[1].endswith(", 3 runs")
    cells = ["act", "1,000 steps/s", "1.65x ± 2%", "2.00x", "0.82 ±22%"]
    assert re.split(r"\s{2,}", lines[-1]) == cells
    assert history.compare({"act": case(1.5)}, old, KIND)[1] == ["act"]


@pytest.mark.parametrize("other", [{"cpu": "Q"}, {"instructions": "avx512f"}, {"cores": 4}])
def test_first_run_on_a_kind_of_machine_says_so(records, other):
    lines, slower = history.compare({"act": case(1.0)}, records(case(9.0), **other), KIND)
    assert slower == [] and lines[1].startswith("no record of this kind of machine yet")


def test_kind_of_machine_has_the_instructions_that_code_is_chosen_by(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor : 0\nflags\t\t: fpu avx2 clflush avx512f\n\nflags\t\t: avx2\n")
    assert history.kind_of_machine(file)["instructions"] == "avx2 avx512f"
    assert history.kind_of_machine(tmp_path / "absent")["instructions"] == ""


def test_generations_of_a_processor_that_share_a_name_are_two_kinds(tmp_path):
    kinds = []
    for model in (17, 2):
        file = tmp_path / f"cpuinfo{model}"
        file.write_text(f"cpu family\t: 25\nmodel\t\t: {model}\nmodel name\t: AMD EPYC\n")
        kinds.append(history.kind_of_machine(file)["cpu"])
    assert kinds[0].endswith(" (25 17)") and kinds[0] != kinds[1]


@pytest.fixture
def finish(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Returns a function that ends a run of benchmarks; it returns exit status and table."""
    monkeypatch.setattr(history, "FILE", tmp_path / "history.jsonl")

    def finish(ratio: float, record: bool = False) -> tuple[int, list[str]]:
        options = {"benchmark_only": True, "benchmark_record": record}
        config: Any = SimpleNamespace(getoption=options.get, option=SimpleNamespace())
        tracking, session = Tracking(config), SimpleNamespace(exitstatus=0)
        measurement = tracking.measurements["act"] = Measurement("steps", 64)
        for _ in range(NUM_VISITS):
            measurement.add([1.0], [ratio])
        tracking.pytest_sessionfinish(session)  # pyright: ignore[reportArgumentType]
        return session.exitstatus, tracking.lines

    return finish


def test_loss_since_the_record_fails_the_run(finish):
    assert finish(2.0, record=True)[0] == 0
    assert finish(1.95)[0] == 0
    status, lines = finish(1.5)
    assert status == 1 and lines[-1].endswith("slower")


def test_nothing_is_recorded_unless_it_is_asked_for(finish):
    finish(2.0)
    assert not history.FILE.exists()
    finish(2.0, record=True)
    (record,) = history.read(history.FILE)
    assert record["kind"] == history.kind_of_machine() and record["cases"]["act"]["ratio"] == 2.0
