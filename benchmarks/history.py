"""Throughput over time: measures all benchmarks, compares with the last record, and adds one.

    python -m benchmarks.history                 # exit status 1 if something became slower
    python -m benchmarks.history --only update   # as pytest's -k

To be run from the root of the source tree. What is kept of a case is its speed relative to the
slowest case of its group, a plain twin measured in the same minute: that ratio is worth comparing
on machines that change their speed from hour to hour. The whole set runs several times; how far the
ratios of one case lie apart is the noise, and only what falls further than twice that, and 5 %,
below the last record of the same kind of machine counts as slower.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("history.jsonl")
LEAST = 0.05  # changes below this share are not looked at, however small the noise

Record = dict[str, Any]


def measure(only: str) -> dict[str, Any]:
    """Runs the benchmarks once; returns what pytest-benchmark writes.

    Raises:
        RuntimeError: a benchmark failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.json"
        command = [sys.executable, "-m", "pytest", "benchmarks", "--benchmark-only", "-q"]
        command += ["-p", "no:cacheprovider", f"--benchmark-json={file}", "-k", only]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
        return json.loads(file.read_text())


def speeds(run: dict[str, Any]) -> dict[str, float]:
    """Returns how many times as fast as the slowest of its group each case was."""
    groups: dict[str, dict[str, float]] = {}
    for case in run["benchmarks"]:
        groups.setdefault(case["group"], {})[case["name"]] = case["stats"]["median"]
    return {
        f"{group} / {name}": max(cases.values()) / seconds
        for group, cases in groups.items()
        if len(cases) > 1
        for name, seconds in cases.items()
    }


def record(runs: list[dict[str, Any]]) -> Record:
    """Sums up some runs: each case's median ratio and its spread, as a share of the median."""
    per_run = [speeds(run) for run in runs]
    cases = {}
    for name in per_run[0]:
        ratios = [ratios[name] for ratios in per_run]
        median = statistics.median(ratios)
        cases[name] = {"ratio": median, "spread": (max(ratios) - min(ratios)) / median}
    stamp = runs[0]["machine_info"]["fastrl"]
    return {"time": datetime.now(UTC).isoformat(timespec="seconds"), **stamp, "cases": cases}


def last_comparable(records: list[Record], new: Record) -> Record | None:
    """Returns the latest record from a machine like that of `new`."""
    alike = [old for old in records if old["machine"] == new["machine"]]
    return alike[-1] if alike else None


def slower(old: Record, new: Record) -> list[str]:
    """Returns a line for each case that lost more than noise explains."""
    lines = []
    for name, now in new["cases"].items():
        before = old["cases"].get(name)
        if before is None:
            continue
        noise = max(LEAST, 2 * max(now["spread"], before["spread"]))
        if now["ratio"] < before["ratio"] * (1 - noise):
            lines.append(
                f"{name}: {now['ratio']:.2f}x its twin, was {before['ratio']:.2f}x; "
                f"noise explains {noise:.0%}"
            )
    return lines


def main(words: list[str] | None = None) -> int:
    """Measures, compares, records; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history", description=__doc__)
    parser.add_argument("--only", default="", help="an expression as of pytest's -k")
    parser.add_argument("--repeats", type=int, default=3, help="runs of the whole set; default 3")
    parser.add_argument("--file", type=Path, default=FILE, help="default: benchmarks/history.jsonl")
    options = parser.parse_args(words)
    if options.repeats < 2:
        parser.error("--repeats must be at least 2: one run has no spread")
    try:
        new = record([measure(options.only) for _ in range(options.repeats)])
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    lines = options.file.read_text().splitlines() if options.file.exists() else []
    old = last_comparable([json.loads(line) for line in lines], new)
    for name, case in new["cases"].items():
        print(f"{case['ratio']:6.2f}x  +- {case['spread'] / 2:4.0%}  {name}")
    lost = [] if old is None else slower(old, new)
    if lost:
        print("slower than the last record:", *lost, sep="\n  ", file=sys.stderr)
        return 1
    with options.file.open("a") as file:
        file.write(json.dumps(new) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
