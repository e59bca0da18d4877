"""Rivals on the same work, from interpreters of their own.

    python -m benchmarks.peers --install DIR             # a virtual environment for each rival
    python -m benchmarks.peers --venvs DIR W1 W2 W3      # measures

To be run from the root of the source tree. Each rival first tries its thread counts, and compiling
where it has that, in short runs; the fastest is measured. Then the systems take turns, ours first,
for some rounds. The tables on standard output hold medians over the rounds; progress goes to
standard error.

Steps per second are those of the training loop, from one place in an iteration to the same place in
a later one, so logging counts. Seconds are those of the whole process, from start to exit. The
systems' files (`*_work.py`) say how each does the work, and where it differs from the others.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.peers.systems import (
    OURS,
    PEERS,
    ROOT,
    RunError,
    System,
    best_options,
    install,
    num_cores,
    run,
)
from benchmarks.peers.table import Series, markdown
from benchmarks.peers.works import WORKS, Work


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [peer.name for peer in PEERS]
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"of {', '.join(WORKS)}")
    parser.add_argument("--install", metavar="DIR", type=Path, help="make the environments in DIR")
    parser.add_argument("--venvs", metavar="DIR", type=Path, help="where the environments are")
    parser.add_argument("--peers", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; default 3")
    parser.add_argument(
        "--threads",
        type=int,
        help="torch threads of everyone; default: rivals try one and all cores, fastrl chooses",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="change the works, for example num_updates=8 or shared_network=true",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every run into FILE")
    options = parser.parse_args(words)
    for name in options.works:
        if name not in WORKS:
            parser.error(f"no work {name!r}; there are {', '.join(WORKS)}")
    if options.works and not (options.venvs or options.install):
        parser.error("--venvs DIR must say where the environments are; --install DIR makes them")
    if not options.works and not options.install:
        parser.error(f"nothing to do: name works ({', '.join(WORKS)}) or --install DIR")
    if options.repeats < 1 or (options.threads is not None and options.threads < 1):
        parser.error("--repeats and --threads must be at least 1")
    return options


def main() -> int:
    """Installs, measures, prints; returns 1 if a rival dropped out."""
    options = arguments()
    peers = [peer for peer in PEERS if peer.name in options.peers]
    try:
        works = [WORKS[name].changed(options.set) for name in options.works]
        if options.install:
            for peer in peers:
                install(peer, options.install)
        venvs = options.venvs or options.install
        repeats = options.repeats
        results = [measure(work, peers, venvs, options.threads, repeats) for work in works]
    except ValueError as error:
        print("error:", error, file=sys.stderr)
        return 2
    if not results:
        return 0
    for result in results:
        print(table_of(result), end="\n\n")
    facts = machine()
    print(describe(facts, results[0], repeats))
    if options.json:
        options.json.write_text(json.dumps({"machine": facts, "works": results}, indent=2) + "\n")
    return 1 if any(result["failed"] for result in results) else 0


def measure(
    work: Work, peers: list[System], venvs: Path, threads: int | None, num_rounds: int
) -> dict[str, Any]:
    """Measures one work in alternation.

    Returns:
        The work, its title, the runs of each system by name in the table's order, the failures.

    Raises:
        ValueError: an environment is missing.
    """
    print(work.title, file=sys.stderr, flush=True)
    chosen: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    systems = [OURS, *(peer for peer in peers if work.name in peer.works)]
    runs: dict[str, list[dict[str, Any]]] = {system.name: [] for system in systems}
    for system in systems:
        try:
            chosen[system.name] = best_options(system, venvs, work, threads)
        except RunError as error:
            _drop(system, error, failed)
    for index in range(num_rounds):
        for system in systems:
            if system.name in failed:
                continue
            try:
                result = run(system, venvs, work, chosen[system.name])
            except RunError as error:
                _drop(system, error, failed)
                continue
            runs[system.name].append(result)
            done = f"  round {index + 1} {system.name} {chosen[system.name] or ''}"
            print(f"{done}: {result['value']:,.1f}", file=sys.stderr, flush=True)
    return {"work": dataclasses.asdict(work), "title": work.title, "runs": runs, "failed": failed}


def _drop(system: System, error: RunError, failed: dict[str, str]) -> None:
    """Leaves a rival out and says so; without ours there is nothing to compare with."""
    if system.is_ours:
        raise ValueError(f"{system.name} failed: {error}") from error
    failed[system.name] = str(error)
    print(f"  {system.name} failed and is left out: {error}", file=sys.stderr, flush=True)


def table_of(result: dict[str, Any]) -> str:
    """Returns the table of one work, and a line for what does not match."""
    runs = {name: runs for name, runs in result["runs"].items() if name not in result["failed"]}
    series = [
        Series(
            f"{name} {next(iter(answers[0]['versions'].values()))}",
            tuple(answer["value"] for answer in answers),
            notes_of(answers[0]),
        )
        for name, answers in runs.items()
    ]
    lines = [markdown(result["title"], series, result["work"]["measure"])]
    sizes = {name: answers[0]["num_parameters"] for name, answers in runs.items()}
    known = {name: size for name, size in sizes.items() if size is not None}
    if len(set(known.values())) > 1:
        lines.append(f"\nParameters differ: {known}.")
    lines += [f"\n{name} failed and is left out." for name in result["failed"]]
    return "\n".join(lines)


def notes_of(answer: dict[str, Any]) -> str:
    """Says in a few words how a system did the work."""
    settings = dict(answer["settings"])
    words = [settings.pop("environment")]
    if "threads" in settings:
        threads = settings.pop("threads")
        words.append(f"{threads} thread{'s' if threads > 1 else ''}")
    if settings.pop("compile", False):
        words.append("torch.compile")
    return "; ".join(words)


def describe(facts: dict[str, Any], result: dict[str, Any], num_rounds: int) -> str:
    """Says in a line where and how the tables were measured."""
    torch = result["runs"][OURS.name][0]["versions"]["torch"]
    rounds = f"{num_rounds} rounds in alternation" if num_rounds > 1 else "a single round"
    return (
        f"{facts['cores']} cores of {facts['processor']}, {facts['system']}, "
        f"Python {facts['python']}, torch {torch}; {rounds}; "
        f"{facts['date']}, commit {facts['commit']}."
    )


def machine() -> dict[str, Any]:
    """Returns where and when this was measured."""
    return {
        "cores": num_cores(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    """Returns the short hash of HEAD, with a plus where tracked files have changed."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "unknown") + (
        "+" if git("status", "--porcelain", "--untracked-files=no") else ""
    )


if __name__ == "__main__":
    raise SystemExit(main())
