"""Runs `python -m fastrl.<algo>` in processes of their own, and records what comes of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.learning.records import Record, name_of, read_curve
from fastrl.cli import parse
from fastrl.presets import preset_for
from fastrl.runs.folder import CONFIG_NAME, open_run_folder, read_config
from fastrl.runs.logger import METRICS_NAME, SUMMARY_NAME

ROOT = Path(__file__).parents[2]
# What may differ in a run that counts as one of the preset: nothing that learning depends on.
FREE = {
    *("exp_name", "log_dir", "eval_every", "checkpoint_every", "keep_checkpoints"),
    *("capture_video", "num_threads", "num_env_threads", "engine"),
}


class TrainingError(ValueError):
    """A training process ended without a result."""


@dataclass(frozen=True)
class Job:
    """One run to make."""

    algo: str
    env_id: str
    """Id of the task, with the flags that make another task of it: `CartPole-v1 --mask-vel`."""
    seed: int
    preset: dict[str, Any]
    """What `python -m fastrl.<algo>` takes for this task by itself, and what its flags say."""
    changes: dict[str, str]
    """Settings that differ from the preset's, by name, as flags spell them."""
    timed: bool = field(default=True, compare=False)
    """Whether seconds are recorded: not where the machine has other work."""

    @property
    def name(self) -> str:
        """Name of its files, without ending."""
        return name_of(self.algo, self.env_id, self.seed)


@dataclass(frozen=True)
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    log: Path
    started: float


def settings_of(algo: str, env_id: str) -> dict[str, Any]:
    """Returns what a task's preset and its flags set.

    Args:
        algo: module name of the algorithm.
        env_id: id of the task, with flags of `python -m fastrl.<algo>` or without.

    Raises:
        ValueError: a flag is unknown or its value is not allowed.
    """
    name, *flags = env_id.split()
    explicit = parse(algo, ["--env-id", name, *flags]).explicit
    del explicit["env_id"]
    return {**preset_for(algo, name), **explicit}


def train(
    jobs: Iterable[Job],
    folder: Path,
    num_processes: int,
    on_end: Callable[[Job, Record | TrainingError], None],
) -> None:
    """Makes runs, each with a greedy test of its final policy, some side by side.

    Args:
        jobs: in this order.
        folder: where run folders and logs go.
        num_processes: side by side, at most.
        on_end: gets each job and what came of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waiting = list(jobs)[::-1]
    running: dict[int, _Running] = {}
    try:
        while waiting or running:
            while waiting and len(running) < num_processes:
                begun = _start(waiting.pop(), folder)
                running[begun.process.pid] = begun
            process_id, status, usage = os.wait4(-1, 0)  # tells the seconds of CPU too
            ended = running.pop(process_id)
            ended.process.returncode = os.waitstatus_to_exitcode(status)
            try:
                on_end(ended.job, _record(ended, usage.ru_utime + usage.ru_stime))
            except TrainingError as error:
                on_end(ended.job, error)
    finally:
        for left in running.values():
            left.process.terminate()
        for left in running.values():
            left.process.wait()


def _start(job: Job, folder: Path) -> _Running:
    env_id, *task_flags = job.env_id.split()
    flags = {"env_id": env_id, "seed": str(job.seed), "eval_every": "0"}
    flags |= {"checkpoint_every": "0", "log_dir": str(folder.resolve()), **job.changes}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    log = folder / f"{job.name}.log"
    started = time.perf_counter()
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", f"fastrl.{job.algo}", *task_flags, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    return _Running(job, process, log, started)


def _record(ended: _Running, cpu_seconds: float) -> Record:
    job, seconds = ended.job, time.perf_counter() - ended.started
    lines = ended.log.read_text(encoding="utf-8").splitlines()
    runs = [line.removeprefix("run folder: ") for line in lines if line.startswith("run folder: ")]
    if ended.process.returncode or not runs:
        reason = lines[-1] if lines else "it said nothing"
        raise TrainingError(f"{job.name} ended with status {ended.process.returncode}: {reason}")
    times = (round(seconds, 2), round(cpu_seconds, 2)) if ended.job.timed else (None, None)
    return _record_of(job, Path(runs[-1]), *times, commit=commit())


def take_in(run: Path) -> tuple[Job, Record]:
    """Returns the record of a run folder that somebody made with a preset as it is.

    The seconds of such a run, and the commit that made it, are not known.

    Raises:
        ValueError: the run is not finished, or its settings are not those of a preset.
    """
    config = dict(open_run_folder(run).config)
    algo, env_id, seed = config.pop("algo"), config["env_id"], config["seed"]
    job = Job(algo, env_id, seed, preset_for(algo, env_id), {})
    expected = parse(algo, ["--env-id", env_id, "--seed", str(seed)]).config.to_dict()
    for name, value in config.items():
        if name not in FREE and expected.get(name) != value:
            raise ValueError(
                f"{run} has {name}={value}; the preset of {algo} for {env_id} means "
                f"{expected.get(name)}"
            )
    return job, _record_of(job, run, None, None, commit=None)


def commit() -> str:
    """Returns the short hash of HEAD, with a plus where files of the package have changed."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    # Results are what comes of this, not what is measured.
    package = ("fastrl", "csrc", ":!fastrl/presets/results.yaml")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", *package)
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def _record_of(
    job: Job,
    run: Path,
    wall_seconds: float | None,
    cpu_seconds: float | None,
    commit: str | None,
) -> Record:
    try:
        summary = json.loads((run / SUMMARY_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrainingError(f"{run} is not finished: it has no {SUMMARY_NAME}") from None
    if summary["interrupted"] or summary["eval_return_mean"] is None:
        raise TrainingError(f"{run} has no greedy test of the final policy")
    config, machine = read_config(run / CONFIG_NAME), summary["machine"]
    cores = f"{machine['cores']} core{'s' if machine['cores'] > 1 else ''}"
    return Record(
        algo=job.algo,
        env_id=job.env_id,
        seed=job.seed,
        settings={**job.preset, **{name: config[name] for name in job.changes}},
        return_mean=summary["eval_return_mean"],
        return_std=summary["eval_return_std"],
        eval_episodes=summary["eval_episodes"],
        steps=summary["total_env_steps"],
        wall_seconds=wall_seconds,
        cpu_seconds=cpu_seconds,
        machine=f"{machine['cpu']}, {cores}",
        commit=commit,
        versions={name: summary["versions"].get(name) for name in ("fastrl", "torch", "envpool")},
        curve=read_curve(run / METRICS_NAME),
    )
