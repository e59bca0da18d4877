"""`pytest --benchmark-only`: every piece of work beside its plain twin, and one table at the end.

Without that flag nothing here is collected; with it, nothing else. `history` has the table.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

# As in `fastrl.cli`, for ours and the twins: threads that spin for long make the ratio to a twin
# that has two of them a matter of who else wants a core. It is read when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch

from benchmarks import history
from benchmarks.history import Measurement
from fastrl.runs.logger import versions

NUM_VISITS = 3  # of the whole set
_HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--benchmark-record",
        action="store_true",
        help="append the figures to benchmarks/history.jsonl",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Of EnvPool's own face, in the twins.
    config.addinivalue_line("filterwarnings", "ignore:.*precision lowered by casting")
    config.pluginmanager.register(Tracking(config), "throughput-tracking")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """What is timed runs in one process, alone."""
    return 0 if config.option.benchmark_only else None


class Tracking:
    """Chooses what is collected, keeps the measurements and prints the table."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.is_on = config.getoption("benchmark_only")
        self.measurements: dict[str, Measurement] = {}
        self.lines: list[str] = []
        if self.is_on:
            config.option.benchmark_quiet = True  # its tables compare nothing with anything

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Collects either benchmarks or tests, so that no list of skipped ones is printed."""
        is_benchmark = collection_path.is_relative_to(_HERE)
        if self.is_on:
            return None if is_benchmark or collection_path in _HERE.parents else True
        return True if is_benchmark and collection_path.name.startswith("bench_") else None

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Visits the whole set before any part of it again, so that visits lie minutes apart."""
        if self.is_on:
            items.sort(key=_visit_of)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Compares with the last record; a loss beyond the noise fails the run."""
        whole = {
            name: measurement.case()
            for name, measurement in self.measurements.items()
            if len(measurement.ratios) == NUM_VISITS
        }
        if not whole:
            return
        kind = history.kind_of_machine()
        self.lines, slower = history.compare(whole, history.read(history.FILE), kind)
        if self.config.getoption("benchmark_record"):
            now = datetime.now(UTC).isoformat(timespec="seconds")
            history.append(history.FILE, whole, history.stamp(_commit(), versions(), now))
        if slower and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_unconfigure(self) -> None:
        """Prints the table after all that pytest has to say."""
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if self.lines and reporter is not None:
            reporter.write_line("\n" + "\n".join(self.lines))


def _visit_of(item: pytest.Item) -> int:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("visit", 0) if callspec else 0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "compare" in metafunc.fixturenames:
        metafunc.parametrize("visit", range(NUM_VISITS))


@pytest.fixture(autouse=True)
def fixed_conditions():
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def compare(benchmark: Any, visit: int, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Returns a function that times ours and its plain twin in turns.

    It takes the name of the work, both functions, the unit of the speed and its amount in a call.
    A visit takes --benchmark-max-time seconds in --benchmark-min-rounds rounds, or three rounds of
    one call each where that takes longer.
    """
    tracking: Any = request.config.pluginmanager.get_plugin("throughput-tracking")
    options: Any = request.config.option
    rounds, seconds = options.benchmark_min_rounds, float(options.benchmark_max_time)

    def compare(
        work: str,
        ours: Callable[[], Any],
        twin: Callable[[], Any],
        unit: str = "calls",
        amount: float = 1,
    ) -> None:
        our_calls, our_guess = _calls_in(seconds / rounds / 2, ours)
        twin_calls, twin_guess = _calls_in(seconds / rounds / 2, twin)
        is_long = our_guess + twin_guess > 2 * seconds / rounds
        our_seconds: list[float] = []
        twin_seconds: list[float] = []
        benchmark.group = work
        benchmark.pedantic(
            lambda: our_seconds.append(_seconds_of(ours, our_calls)),
            setup=lambda: twin_seconds.append(_seconds_of(twin, twin_calls)),
            rounds=min(rounds, 3) if is_long else rounds,
        )
        measurement = tracking.measurements.setdefault(work, Measurement(unit, amount))
        measurement.add(our_seconds, twin_seconds)

    return compare


def _calls_in(seconds: float, function: Callable[[], Any]) -> tuple[int, float]:
    """Warms a function up; returns how many calls take about so many seconds, and how many do."""
    start, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds / 2:
        function()
        count += 1
    calls = max(1, round(count * seconds / passed))
    return calls, calls * passed / count


def _seconds_of(function: Callable[[], Any], count: int) -> float:
    """Returns the mean seconds of so many calls."""
    start = time.perf_counter()
    for _ in range(count):
        function()
    return (time.perf_counter() - start) / count


def _commit() -> str:
    """Hash of the commit, with a "+" after it if files differ from it."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        done = subprocess.run(command, cwd=_HERE, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
