"""What each engine makes of the standard work: `python -m benchmarks.engines W1 W2 W4`.

Each run is a process of its own, and the engines take turns. Printed are, as medians over rounds:

- *cold* and *again*: seconds from the start of the process to the first step of an environment,
  with an empty and with a filled cache of compiled code (the same where nothing is compiled);
- *update*: milliseconds of one update, advantages included, once warm;
- *steps/s*: of the training loop, once warm;
- *process*: seconds of the whole process with the filled cache, for W3's 65,536 steps or as many as
  the work asks for.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.fastrl_work import settings_of
from benchmarks.peers.works import WORKS

ENGINES = ("native", "recorded", "compile", "eager")
COLUMNS = ("cold", "again", "update", "steps/s", "process")


def run_here(name: str, engine: str, start: float) -> None:
    """Trains in this process and prints what it took, as JSON."""
    from fastrl import PPO, AgentTrainer

    work = WORKS[name].to_dict()
    ticks: list[float] = []
    updates: list[float] = []

    class TimedPPO(PPO):
        def begin_rollout(self, rollout: Any) -> None:
            ticks.append(time.time())
            super().begin_rollout(rollout)

        def update(self, *arguments: Any) -> dict[str, float]:
            before = time.perf_counter()
            metrics = super().update(*arguments)
            updates.append(time.perf_counter() - before)
            return metrics

    agent = TimedPPO(work["env_id"], preset="none", engine=engine, **settings_of(work))
    AgentTrainer().fit(agent)
    warm = max(3, len(ticks) // 5)  # iterations that are left out
    steps = work["num_envs"] * work["num_steps"] * (len(ticks) - 1 - warm)
    facts = {
        "begun": ticks[0] - start,
        "update": 1000 * statistics.median(updates[warm:]),
        "steps/s": steps / (ticks[-1] - ticks[warm]),
    }
    print(json.dumps(facts))


def run_apart(name: str, engine: str, cache: Path) -> dict[str, float]:
    """Runs `run_here` in a process of its own, which keeps compiled code in `cache`."""
    start = time.time()
    command = [sys.executable, "-m", "benchmarks.engines", name, "--engines", engine]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*command, "--start", str(start)],
            cwd=folder,
            env={
                **os.environ,
                "TORCHINDUCTOR_CACHE_DIR": str(cache),
                "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path[1:]]),
            },
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise SystemExit(f"{name} with engine={engine}: {done.stderr.strip().splitlines()[-1]}")
    facts = json.loads(done.stdout.splitlines()[-1])
    return {**facts, "process": time.time() - start}


def measure(name: str, engines: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Returns the medians of each engine on one work."""
    table: dict[str, dict[str, list[float]]] = {x: {c: [] for c in COLUMNS} for x in engines}
    with tempfile.TemporaryDirectory() as root:
        for index in range(rounds):
            for engine in engines:
                cache = Path(root) / f"{engine}-{index}"
                first, second = (run_apart(name, engine, cache) for _ in range(2))
                row = table[engine]
                row["cold"].append(first["begun"])
                row["again"].append(second["begun"])
                for column in ("update", "steps/s", "process"):
                    row[column].append(second[column])
    return {
        engine: {column: statistics.median(values) for column, values in row.items()}
        for engine, row in table.items()
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    names = [name for name, work in WORKS.items() if work.algo == "ppo"]
    parser.add_argument("works", nargs="*", default=names, choices=names)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--start", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.start is not None:
        run_here(given.works[0], given.engines[0], given.start)
        return
    print("| work | engine | cold, s | again, s | update, ms | steps/s | process, s |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for name in given.works:
        for engine, row in measure(name, given.engines, given.rounds).items():
            print(
                f"| {name} | {engine} | {row['cold']:.1f} | {row['again']:.1f} | "
                f"{row['update']:.1f} | {row['steps/s']:,.0f} | {row['process']:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
