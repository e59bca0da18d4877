"""Trains presets over seeds and reports what they reach: the evidence behind the README's table.

    python -m benchmarks.learning HalfCheetah-v4 --seeds 100 101      # one task
    python -m benchmarks.learning mujoco --algo ppo sac --publish     # a set of tasks

To be run from the root of the source tree. Every run is a process of its own, `python -m
fastrl.<algo> --env-id TASK --seed SEED --eval-every 0`, and is tested greedily at its end. The
folder of --out gets a record of each run, learning curves (CSV), results (YAML), a table (Markdown)
and a plot. A run that is on record there with the same settings is not run again, so an interrupted
series goes on where it stopped. --publish also brings the results that `python -m fastrl.presets`
lists, and the README's table and plot, up to date.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.learning import records
from benchmarks.learning.records import Record
from benchmarks.learning.report import PUBLISHED, read_results, report_in, update
from benchmarks.learning.training import Job, TrainingError, settings_of, take_in, train
from fastrl.presets import FRESH_SEEDS, algorithms, load_presets
from fastrl.processes.errors import exit_status, one_line

SETS = {
    "classic": ("CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCarContinuous-v0"),
    "box2d": ("LunarLander-v2", "LunarLanderContinuous-v2", "BipedalWalker-v3"),
    "mujoco": (
        *("HalfCheetah-v4", "Hopper-v4", "Walker2d-v4"),
        *("Ant-v4", "Swimmer-v4", "Humanoid-v4"),
    ),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line.

    Raises:
        ValueError: a mistake of the user.
    """
    parser = _Parser(
        prog="python -m benchmarks.learning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sets = ", ".join([*SETS, "all (every preset)"])
    tasks = f"a task's id, or of {sets}; flags make others: 'CartPole-v1 --mask-vel'"
    parser.add_argument("tasks", nargs="+", metavar="TASK", help=tasks)
    parser.add_argument("--algo", nargs="+", choices=algorithms(), default=["ppo"])
    fresh = " ".join(map(str, FRESH_SEEDS))
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=list(FRESH_SEEDS), help=f"default: {fresh}"
    )
    parser.add_argument(
        "--processes", type=int, default=1, help="runs side by side; default 1, as it is timed"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="default: logs/learning, or with --set logs/learning-changed",
    )
    parser.add_argument(
        "--runs",
        nargs="+",
        type=Path,
        default=[],
        metavar="RUN",
        help="run folders that are finished, of these tasks, algorithms and seeds, to take in",
    )
    parser.add_argument(
        "--untimed", action="store_true", help="record no seconds: the machine has other work"
    )
    parser.add_argument("--again", action="store_true", help="run also what is on record")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="change settings of the presets, for example total_timesteps=100000",
    )
    parser.add_argument("--publish", action="store_true", help="into the package and the README")
    options = parser.parse_args(words)
    options.changes = dict(_assignment(word) for word in options.set)
    if options.publish and options.changes:
        raise ValueError("--publish is for presets as they are: --set changes them")
    if options.out is None:
        options.out = Path("logs", "learning-changed" if options.changes else "learning")
    if options.processes < 1:
        raise ValueError(f"--processes must be at least 1, not {options.processes}")
    if len(set(options.seeds)) < len(options.seeds):
        raise ValueError(f"--seeds holds a seed twice: {options.seeds}")
    return options


def _assignment(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not (name and equals and value):
        raise ValueError(f"--set takes NAME=VALUE, not {word!r}")
    return name, value


def jobs(options: argparse.Namespace) -> list[Job]:
    """Returns the runs to make; of a set, the tasks that the algorithm has a preset for.

    Raises:
        ValueError: an algorithm has no preset for a task that was named, or for none of a set.
    """
    chosen: dict[tuple[str, str], dict[str, Any]] = {}
    for algo in options.algo:
        presets = load_presets(algo)
        for task in options.tasks:
            members = presets if task == "all" else SETS.get(task, (task,))
            known = [env_id for env_id in members if env_id.split()[0] in presets]
            if not known:
                raise ValueError(
                    f"{algo} has no preset for {task}; it has {', '.join(presets)}; "
                    f"sets are {', '.join(SETS)} and all"
                )
            chosen |= {(algo, env_id): settings_of(algo, env_id) for env_id in known}
    return [
        Job(*identity, seed, preset, options.changes, not options.untimed)
        for identity, preset in chosen.items()
        for seed in options.seeds
    ]


def run(options: argparse.Namespace) -> int:
    """Trains what is not on record yet and writes the report; returns 1 if a run failed."""
    folder, wanted = options.out / "records", jobs(options)
    for path in options.runs:
        job, record = take_in(path)
        if job not in wanted:
            raise ValueError(f"{path} is {job.name}, which is not among the runs asked for")
        records.save(record, folder)
    on_record = {record.name: record for record in records.load(folder)}
    # Runs with changed settings are made anew: only the preset says what a record is of.
    may_skip = not (options.again or options.changes)
    done = {
        job.name: on_record[job.name]
        for job in wanted
        if may_skip and job.name in on_record and on_record[job.name].settings == job.preset
    }
    for record in done.values():
        print("on record: " + _line(record), file=sys.stderr)

    def on_end(job: Job, result: Record | TrainingError) -> None:
        if isinstance(result, TrainingError):
            print("failed:", one_line(result), file=sys.stderr, flush=True)
            return
        done[job.name] = result
        records.save(result, folder)
        print(_line(result), file=sys.stderr, flush=True)

    to_train = [job for job in wanted if job.name not in done]
    train(to_train, options.out / "runs", options.processes, on_end)
    if done:
        report = report_in(options.out)
        update(report, done.values())
        print(report.table.read_text(encoding="utf-8"))
        print(_machines(read_results(report.results)))
    if len(done) < len(wanted):
        return 1
    if options.publish:
        update(PUBLISHED, done.values())
    return 0


def _line(record: Record) -> str:
    wall_seconds = "" if record.wall_seconds is None else f", {record.wall_seconds:.0f} s"
    cpu_seconds = "" if record.cpu_seconds is None else f", CPU {record.cpu_seconds:.0f} s"
    return (
        f"{record.algo} {record.env_id} seed {record.seed}: {record.return_mean:.1f} +- "
        f"{record.return_std:.1f} over {record.eval_episodes} greedy episodes after "
        f"{record.steps:,} steps{wall_seconds}{cpu_seconds}"
    )


def _machines(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    machines = {result["machine"] for tasks in results.values() for result in tasks.values()}
    return f"Machine: {'; '.join(sorted(machines))}."


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that training processes end too
    sys.exit(exit_status(lambda: run(arguments())))
