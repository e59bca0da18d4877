"""One finished training run as plain data, and what several of them come to."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np

from fastrl.ops.intervals import interquartile_mean
from fastrl.runs.folder import replaced_file

MAX_POINTS = 50  # of a curve that is kept
NUM_RESAMPLES = 10_000  # of the seeds, for the interval

Curve = list[tuple[int, float]]
"""Environment steps and mean return of the last 100 training episodes."""
Curves = dict[tuple[str, str, int], Curve]
"""Curves by algorithm, task and seed."""


@dataclass(frozen=True)
class Record:
    """What came of one run of a preset."""

    algo: str
    env_id: str
    """Id of the task, with the flags that make another task of it."""
    seed: int
    settings: dict[str, Any]
    """What the run was told: the preset, and changes to it if there were any."""
    return_mean: float
    """Mean return of the final policy over `eval_episodes` greedy episodes."""
    return_std: float
    """Standard deviation of these returns."""
    eval_episodes: int
    steps: int
    wall_seconds: float | None
    """Of the whole process, from its start to its exit; None if the machine had other work."""
    cpu_seconds: float | None
    """Of all cores together, the whole process; None as above, or if somebody else made the run."""
    machine: str
    commit: str | None
    """Of the code, with a plus where it had changed since; None if somebody else made the run."""
    versions: dict[str, str | None]
    curve: Curve

    @property
    def name(self) -> str:
        """Name of the record's file, without ending."""
        return name_of(self.algo, self.env_id, self.seed)


def name_of(algo: str, env_id: str, seed: int) -> str:
    """Returns the name of a run's files, without ending."""
    return f"{algo}_{env_id.replace('/', '-').replace(' ', '')}_{seed}"


def save(record: Record, folder: Path) -> None:
    """Writes a record into a folder, in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    with replaced_file(folder / f"{record.name}.json") as file:
        file.write(json.dumps(dataclasses.asdict(record)).encode() + b"\n")


def load(folder: Path) -> list[Record]:
    """Returns the records in a folder, none if it is not there.

    Raises:
        ValueError: a file holds no record.
    """
    return [_read(path) for path in sorted(folder.glob("*.json"))]


def _read(path: Path) -> Record:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        curve = [(int(step), float(value)) for step, value in fields.pop("curve")]
        return Record(**fields, curve=curve)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a record of a run: {error}") from error


def summarise(records: Iterable[Record]) -> dict[str, Any]:
    """Returns what runs of one preset over several seeds reached, as `results.yaml` holds it.

    Raises:
        ValueError: the runs differ in more than their seed.
    """
    runs = sorted(records, key=lambda record: record.seed)
    first = runs[0]
    for run in runs:
        for name in ("algo", "env_id", "settings", "steps", "eval_episodes"):
            if getattr(run, name) != getattr(first, name):
                raise ValueError(f"runs {first.name} and {run.name} differ in {name}")
    returns = [run.return_mean for run in runs]
    return {
        **statistics_of(returns),
        "returns": [round(value, 2) for value in returns],
        "seeds": [run.seed for run in runs],
        "eval_episodes": first.eval_episodes,
        "steps": first.steps,
        "wall_seconds": _median(run.wall_seconds for run in runs),
        "cpu_seconds": _median(run.cpu_seconds for run in runs),
        "machine": "; ".join(sorted({run.machine for run in runs})),
        "commit": "; ".join(sorted({run.commit for run in runs if run.commit})) or None,
        "versions": first.versions,
        "settings": first.settings,
    }


def statistics_of(returns: Sequence[float]) -> dict[str, Any]:
    """Returns what the mean returns of a preset's seeds come to.

    `return_mean`, `return_std` (sample standard deviation), `return_worst`, `return_iqm` and
    `return_interval`, its 95 % interval. The interquartile mean leaves out a quarter of the seeds,
    rounded down, at either end (Agarwal et al. 2021, arXiv 2108.13264): of fewer than four, it is
    the mean. The interval is that of a percentile bootstrap over the seeds.
    """
    values = np.sort(np.asarray(returns, dtype=np.float64))
    drawn = np.random.default_rng(0).choice(values, (NUM_RESAMPLES, len(values)))
    low, high = np.percentile(interquartile_mean(drawn), [2.5, 97.5])
    return {
        "return_mean": round(fmean(returns), 2),
        "return_std": round(stdev(returns), 2) if len(returns) > 1 else 0.0,
        "return_iqm": round(float(interquartile_mean(values)), 2),
        "return_interval": [round(float(low), 2), round(float(high), 2)],
        "return_worst": round(min(returns), 2),
    }


def _median(seconds: Iterable[float | None]) -> float | None:
    known = [value for value in seconds if value is not None]
    return round(median(known), 1) if known else None


def read_curve(metrics: Path) -> Curve:
    """Returns the learning curve in a run's `metrics.csv`, thinned to MAX_POINTS points."""
    with open(metrics, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("Rewards/rew_avg_100")]
    curve = [(int(row["env_steps"]), float(row["Rewards/rew_avg_100"])) for row in rows]
    if len(curve) <= MAX_POINTS:
        return curve
    last = len(curve) - 1
    return [curve[round(point * last / (MAX_POINTS - 1))] for point in range(MAX_POINTS)]


def write_curves(path: Path, curves: Mapping[tuple[str, str, int], Curve]) -> None:
    """Writes curves as CSV, one row a point."""
    lines = ["algo,env_id,seed,env_steps,mean_return"]
    for (algo, env_id, seed), curve in sorted(curves.items()):
        lines += [f"{algo},{env_id},{seed},{step},{value:.2f}" for step, value in curve]
    with replaced_file(path) as file:
        file.write("\n".join(lines).encode() + b"\n")


def read_curves(path: Path) -> Curves:
    """Returns the curves in a file that `write_curves` wrote; none if it is not there."""
    curves: Curves = {}
    if path.exists():
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                key = (row["algo"], row["env_id"], int(row["seed"]))
                point = (int(row["env_steps"]), float(row["mean_return"]))
                curves.setdefault(key, []).append(point)
    return curves
