"""What several processes cost and gain, on the same global batch.

    python -m benchmarks.processes                   # about five minutes on two cores
    python -m benchmarks.processes W1 --rounds 5

To be run from the root of the source tree, on two cores with nothing else to do. Each work is done
in some ways that take turns for some rounds; the table holds medians over the rounds, the range,
and the ratio to the first way. Steps per second are those of the training loop, its first updates
left out. Progress goes to standard error.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fastrl.runs.logger import machine_facts

WARM_UP = 0.2  # share of the steps that is not measured


@dataclass(frozen=True)
class Work:
    """One training run, and the ways to do it: the flags of each."""

    title: str
    flags: str
    num_steps: int
    ways: dict[str, str]


_STANDARD = (
    "--num-steps 128 --update-epochs 4 --normalize-advantages --learning-rate 3e-4 --ent-coef 0.01"
)
_ALL = "--num-envs 64 --per-rank-batch-size 2048"
_WAYS = {
    "1 rank x 2 threads": _ALL,
    "2 ranks x 1 thread": "--devices 2 --num-envs 32 --per-rank-batch-size 1024",
    "decoupled, 1 player + 1 trainer": f"--decoupled {_ALL}",
}
WORKS = {
    "W1": Work(
        "W1: PPO LunarLander-v2, 64 envs x 128 steps, 4 epochs, global minibatch 2048",
        f"--env-id LunarLander-v2 {_STANDARD}",
        48 * 8192,
        _WAYS,
    ),
    "W2": Work(
        "W2: PPO CartPole-v1, 64 envs x 128 steps, 4 epochs, global minibatch 2048",
        f"--env-id CartPole-v1 {_STANDARD}",
        96 * 8192,
        _WAYS,
    ),
    "overlap": Work(
        "PPO Acrobot-v1 stepped by gymnasium, 8 envs x 256 steps, 10 epochs, minibatch 64: "
        "neither half gains from a second core",
        "--env-id Acrobot-v1 --backend gymnasium --num-envs 8 --num-steps 256 "
        "--update-epochs 10 --per-rank-batch-size 64 --normalize-advantages",
        30 * 2048,
        {
            "1 player + 1 trainer in turn": "--decoupled",
            "1 player + 1 trainer, --overlap": "--decoupled --overlap",
            "1 process": "",
        },
    ),
}


def steps_per_second(metrics: Path) -> float:
    """Returns the speed of a run's loop after its warm-up, from its `metrics.csv`."""
    with metrics.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["Time/step_per_second"]]
    steps = [float(row["env_steps"]) for row in rows]
    seconds = [
        done / float(row["Time/step_per_second"]) for done, row in zip(steps, rows, strict=True)
    ]
    first = next(index for index, done in enumerate(steps) if done >= WARM_UP * steps[-1])
    return (steps[-1] - steps[first]) / (seconds[-1] - seconds[first])


def run(work: Work, way: str) -> float:
    """Trains once; returns steps per second. Raises RuntimeError if the run fails."""
    with tempfile.TemporaryDirectory() as folder:
        words = (
            f"-m fastrl.ppo --preset none {work.flags} {work.ways[way]} --accelerator cpu "
            f"--total-timesteps {work.num_steps} --eval-episodes 0 --checkpoint-every 0"
        )
        command = [sys.executable, *shlex.split(words), "--log-dir", folder]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise RuntimeError(f"{way}: {done.stderr.strip()}")
        return steps_per_second(next(Path(folder).glob("**/metrics.csv")))


def table_of(work: Work, speeds: dict[str, list[float]]) -> str:
    """Returns a Markdown table: medians, ranges, ratios to the first way."""
    lines = [work.title, "", "| way | steps/s | range | ratio |", "|---|---:|---:|---:|"]
    first = statistics.median(next(iter(speeds.values())))
    for way, values in speeds.items():
        median = statistics.median(values)
        spread = f"{min(values):,.0f} to {max(values):,.0f}"
        lines.append(f"| {way} | {median:,.0f} | {spread} | {median / first:.2f}x |")
    return "\n".join(lines)


def main() -> int:
    """Measures, prints; returns 1 if a run failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.processes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("works", nargs="*", help=f"of {', '.join(WORKS)}; default: all")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument("--shorten", type=float, default=1.0, help="divide the steps of each run")
    options = parser.parse_args()
    names = options.works or list(WORKS)
    for name in names:
        if name not in WORKS:
            parser.error(f"no work {name!r}; there are {', '.join(WORKS)}")
    for name in names:
        work = WORKS[name]
        work = Work(work.title, work.flags, int(work.num_steps / options.shorten), work.ways)
        speeds: dict[str, list[float]] = {way: [] for way in work.ways}
        for number in range(options.rounds):
            for way, values in speeds.items():
                try:
                    values.append(run(work, way))
                except RuntimeError as error:
                    print("error:", error, file=sys.stderr)
                    return 1
                print(f"{name} round {number + 1}: {way}: {values[-1]:,.0f}", file=sys.stderr)
        print(table_of(work, speeds), end="\n\n", flush=True)
    facts = machine_facts()
    print(f"Medians of {options.rounds} rounds on {facts['cores']} cores, {facts['cpu']}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
