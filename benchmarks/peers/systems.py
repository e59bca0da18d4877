"""fastrl and its rivals: which interpreter runs them, what can be tried, and one run of a work."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.peers.works import Work

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LONGEST_RUN_SECONDS = 3600


class RunError(Exception):
    """A system did not do its work; the message holds the end of what it said."""


@dataclass(frozen=True)
class System:
    """A library with a small file, `<module>.py`, that does a work and answers in JSON."""

    name: str
    module: str
    works: tuple[str, ...] = ("W1", "W2", "W3", "W4")
    """The works that it can do."""
    options: dict[str, list[Any]] = field(default_factory=dict)
    """What is tried besides the thread count, for the best combination to be measured."""
    is_ours: bool = False

    def python(self, venvs: Path) -> Path:
        """Returns the interpreter.

        Raises:
            ValueError: the environment was not made.
        """
        if self.is_ours:
            return Path(sys.executable)
        python = environment_folder(venvs, self.name) / "bin" / "python"
        if not python.exists():
            raise ValueError(f"{python} is not there; --install {venvs} makes it")
        return python

    def candidates(self, work: Work, threads: int | None) -> list[dict[str, Any]]:
        """Returns the combinations of options to try.

        Args:
            work: what is to be done.
            threads: the only thread count to try; None tries one and all cores, and lets ours
                choose by itself.
        """
        if threads is None and self.is_ours:
            return [{}]
        options = {"threads": [threads] if threads else sorted({1, num_cores()}), **self.options}
        if work.measure == "seconds" and "compile" in options:
            # Compiling takes longer than these short runs could win back.
            options["compile"] = [False]
        names = list(options)
        return [
            dict(zip(names, values, strict=True)) for values in itertools.product(*options.values())
        ]


OURS = System("fastrl", "fastrl_work", is_ours=True)
PEERS = (
    System("rl-games", "rl_games_work", options={"compile": [False, True]}),
    System("stable-baselines3", "sb3_work"),
    System("sheeprl", "sheeprl_work", works=("W3", "W5")),
)


def num_cores() -> int:
    """Returns the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def environment_folder(venvs: Path, name: str) -> Path:
    """Returns where a peer's virtual environment is."""
    return venvs.expanduser().resolve() / name


def install(system: System, venvs: Path) -> None:
    """Makes the virtual environment of a peer with the pinned packages.

    Raises:
        ValueError: pip refuses.
    """
    folder = environment_folder(venvs, system.name)
    requirements = HERE / f"requirements-{system.name}.txt"
    commands = [
        [sys.executable, "-m", "venv", str(folder)],
        [str(folder / "bin" / "python"), "-m", "pip", "install", "-r", str(requirements)],
    ]
    for command in commands:
        print("$", " ".join(command), file=sys.stderr, flush=True)
        status = subprocess.run(command, check=False, stdout=sys.stderr).returncode
        if status:
            raise ValueError(f"{' '.join(command)} ended with status {status}")


def run(system: System, venvs: Path, work: Work, options: dict[str, Any]) -> dict[str, Any]:
    """Does a work once in a process of its own.

    Args:
        system: who.
        venvs: where the environments of the peers are.
        work: what.
        options: a candidate of the system.

    Returns:
        The answer of the process (see `Stopwatch.answer`), its "seconds" from start to exit, and
        "value": what the work measures.

    Raises:
        RunError: the process failed or answered with something else.
        ValueError: the environment was not made.
    """
    command = [str(system.python(venvs)), "-m", f"benchmarks.peers.{system.module}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    if "threads" in options:
        # Read when the process starts, where a library sets its own number too late or not at all.
        environment |= {
            name: str(options["threads"]) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
        }
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        start = perf_counter()
        try:
            ended = subprocess.run(
                [*command, json.dumps({**work.to_dict(), **options})],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=LONGEST_RUN_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise RunError(f"not done after {LONGEST_RUN_SECONDS} s") from error
        seconds = perf_counter() - start
    if ended.returncode:
        raise RunError(f"status {ended.returncode}: {_tail(ended.stderr or ended.stdout)}")
    try:
        answer = json.loads(ended.stdout.strip().splitlines()[-1])
    except (IndexError, json.JSONDecodeError) as error:
        raise RunError(f"no JSON in its last line: {_tail(ended.stdout)}") from error
    value = seconds if work.measure == "seconds" else answer["steps_per_second"]
    return {**answer, "seconds": seconds, "value": value}


def _tail(text: str, num_lines: int = 8) -> str:
    return "\n".join(text.strip().splitlines()[-num_lines:])


def best_options(system: System, venvs: Path, work: Work, threads: int | None) -> dict[str, Any]:
    """Returns the fastest combination of options, by a short run each; failed ones are left out.

    Raises:
        RunError: every one failed.
    """
    candidates = system.candidates(work, threads)
    if len(candidates) == 1:
        return candidates[0]
    values: list[float] = []
    errors: list[RunError] = []
    for options in candidates:
        try:
            value = run(system, venvs, work.short(), options)["value"]
        except RunError as error:
            errors.append(error)
            value = float("inf") if work.measure == "seconds" else 0.0
        values.append(value)
        print(f"  try {system.name} {options}: {value:,.1f}", file=sys.stderr, flush=True)
    if len(errors) == len(candidates):
        raise errors[0]
    choose = min if work.measure == "seconds" else max
    return candidates[values.index(choose(values))]
