"""A model of how training scales over ranks, from measured parts. A model, not a measurement.

    python -m benchmarks.scaling                         # from the parts below
    python -m benchmarks.scaling --measure               # measures the parts here first, one minute
    python -m benchmarks.scaling --minibatch-us 150 --latency-us 8 --gigabytes-per-second 200

Every rank keeps its own environments and minibatch, so R ranks do R times the work of one (weak
scaling). An iteration is a rollout, which needs no other rank, and the minibatches of the update,
each followed by one all-reduce of the gradient. An all-reduce of n bytes by recursive halving and
doubling takes 2 log2(R) latencies and sends 2 (R - 1) / R n bytes (Thakur et al. 2005,
doi 10.1177/1094342005051521). Waiting for the slowest of R ranks is left out, so the model is an
upper bound.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

NUM_MINIBATCHES, NUM_EPOCHS, STEPS_OF_RANK = 16, 4, 64 * 128
LARGE_BYTES = 2**24
WORK = (
    "--env-id LunarLander-v2 --preset none --num-envs 64 --num-steps 128 --update-epochs 4 "
    "--per-rank-batch-size 2048 --normalize-advantages --accelerator cpu "
    "--total-timesteps 163840 --eval-episodes 0 --checkpoint-every 0"
)


@dataclass(frozen=True)
class Parts:
    """What an iteration of one rank is made of: W1, on the cores it has."""

    rollout_seconds: float
    """Stepping, acting, judging."""
    minibatch_seconds: float
    """Gradient, clipping, Adam."""
    gradient_bytes: int
    """Of one minibatch's all-reduce, metrics included."""


@dataclass(frozen=True)
class Link:
    """What connects ranks."""

    latency_seconds: float
    bytes_per_second: float


# A rank with two cores of an Intel Xeon, as in the README's table; --measure takes yours.
MEASURED = Parts(0.102, 1.7e-3, 4 * (9_797 + 5))
LINKS = {
    "8 GPUs of a machine, assumed NVLink": Link(8e-6, 200e9),
    "8 machines, assumed 25 Gb/s Ethernet": Link(30e-6, 3e9),
}


def all_reduce_seconds(num_ranks: int, num_bytes: int, link: Link) -> float:
    """Seconds to sum `num_bytes` over all ranks."""
    hops = 2 * math.ceil(math.log2(num_ranks))
    sent = 2 * (num_ranks - 1) / num_ranks * num_bytes
    return hops * link.latency_seconds + sent / link.bytes_per_second


def iteration_seconds(num_ranks: int, parts: Parts, link: Link) -> float:
    """Seconds of a rollout and its update; every epoch and rollout exchanges some numbers more."""
    reduced = all_reduce_seconds(num_ranks, parts.gradient_bytes, link)
    numbers = (NUM_EPOCHS + 2) * all_reduce_seconds(num_ranks, 2048, link)
    update = NUM_MINIBATCHES * (parts.minibatch_seconds + reduced)
    return parts.rollout_seconds + update + numbers


def table_of(parts: Parts, link: Link) -> str:
    """Returns a Markdown table over 1, 2, 4 and 8 ranks."""
    lines = [
        "| ranks | steps/s | efficiency | all-reduce of a minibatch |",
        "|---:|---:|---:|---:|",
    ]
    alone = iteration_seconds(1, parts, link)
    for ranks in (1, 2, 4, 8):
        seconds = iteration_seconds(ranks, parts, link)
        reduced = 1e6 * all_reduce_seconds(ranks, parts.gradient_bytes, link)
        speed = ranks * STEPS_OF_RANK / seconds
        lines.append(f"| {ranks} | {speed:,.0f} | {alone / seconds:.1%} | {reduced:,.0f} us |")
    return "\n".join(lines)


def measure_parts() -> Parts:
    """Trains W1 for 20 iterations; medians, the first five left out."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fastrl.ppo", *WORK.split(), "--log-dir", folder]
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
        with next(Path(folder).glob("**/metrics.csv")).open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["Time/update_seconds"]][5:]
    stages = ("env", "act", "store", "advantage")
    rollout = [sum(float(row[f"Time/{stage}_seconds"]) for stage in stages) for row in rows]
    update = [float(row["Time/update_seconds"]) / NUM_MINIBATCHES for row in rows]
    return replace(
        MEASURED,
        rollout_seconds=statistics.median(rollout),
        minibatch_seconds=statistics.median(update),
    )


def measure_pair(gradient_bytes: int) -> Link:
    """Measures the all-reduce of two processes of this machine, through gloo."""
    import torch.multiprocessing as processes

    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "seconds"
        processes.spawn(_pair, (f"file://{folder}/meeting", gradient_bytes, str(result)), nprocs=2)
        small, large = map(float, result.read_text().split())
    rate = LARGE_BYTES / large
    return Link(max(small - gradient_bytes / rate, 0) / 2, rate)


def _pair(rank: int, meeting: str, gradient_bytes: int, result: str) -> None:
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    medians = []
    for num_bytes in (gradient_bytes, LARGE_BYTES):
        x, seconds = torch.zeros(num_bytes // 4), []
        for _ in range(200 if num_bytes < LARGE_BYTES else 20):
            start = time.perf_counter()
            dist.all_reduce(x)
            seconds.append(time.perf_counter() - start)
        medians.append(statistics.median(seconds))
    if rank == 0:
        Path(result).write_text(" ".join(map(str, medians)))
    dist.destroy_process_group()


def main() -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--measure", action="store_true", help="measure the parts here first")
    parser.add_argument("--rollout-ms", type=float, help="of one rank")
    parser.add_argument("--minibatch-us", type=float, help="of one rank")
    parser.add_argument("--gradient-kib", type=float, help="of one minibatch")
    parser.add_argument("--latency-us", type=float, help="of one message")
    parser.add_argument("--gigabytes-per-second", type=float, help="of one link")
    options = parser.parse_args()
    parts = measure_parts() if options.measure else MEASURED
    if options.rollout_ms is not None:
        parts = replace(parts, rollout_seconds=options.rollout_ms / 1e3)
    if options.minibatch_us is not None:
        parts = replace(parts, minibatch_seconds=options.minibatch_us / 1e6)
    if options.gradient_kib is not None:
        parts = replace(parts, gradient_bytes=int(options.gradient_kib * 1024))
    links = dict(LINKS)
    if options.measure:
        links["ranks as two processes of this machine, measured"] = measure_pair(
            parts.gradient_bytes
        )
    if options.latency_us is not None or options.gigabytes_per_second is not None:
        latency, rate = options.latency_us or 10, options.gigabytes_per_second or 10
        links = {"the link given": Link(latency / 1e6, rate * 1e9)}
    print(
        f"Model, W1: a rank's rollout takes {1e3 * parts.rollout_seconds:.1f} ms, a minibatch "
        f"{1e6 * parts.minibatch_seconds:,.0f} us, its gradient {parts.gradient_bytes:,} bytes."
    )
    for name, link in links.items():
        rate = link.bytes_per_second / 1e9
        print(f"\n{name}: {1e6 * link.latency_seconds:.0f} us, {rate:.1f} GB/s\n")
        print(table_of(parts, link))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
