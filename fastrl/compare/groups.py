"""Groups of runs: those with the same settings but for the seed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fastrl.config.describing import config_class_of
from fastrl.config.values import write_value
from fastrl.presets import algorithms
from fastrl.runs.metrics_table import (
    STEPS_PER_SECOND,
    TEST_RETURN,
    TRAIN_RETURN,
    WALL_SECONDS,
    MetricsTable,
)
from fastrl.runs.reading import read_run
from fastrl.runs.run import Run

WRITTEN = frozenset(
    {"log_dir", "exp_name", "logger", "checkpoint_every", "keep_checkpoints", "capture_video"}
)
"""Settings that say what a run writes, and where: they make no difference to a group."""

_UNLABELLED = {"agent": "built-in", "handed_over": False}
"""What labels of config.yaml mean where a run has none."""
_MOST_SHOWN = 60  # characters of a value in a label


@dataclass(frozen=True, eq=False)
class Measured:
    """A run with its table of metrics."""

    run: Run
    table: MetricsTable


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that differ in their seeds alone."""

    label: str
    """What tells it from the other groups."""
    runs: tuple[Measured, ...]
    settings: Mapping[str, Any]
    """Those in which it differs from other groups of its algorithm and task."""

    @property
    def algo(self) -> str:
        """The algorithm."""
        return self.runs[0].run.algo

    @property
    def env_id(self) -> str:
        """The task."""
        return self.runs[0].run.env_id

    @property
    def seeds(self) -> tuple[int | None, ...]:
        """The seeds of its runs, which may have some twice."""
        return tuple(measured.run.seed for measured in self.runs)


def measure(folder: Path, metrics: Collection[str] = ()) -> Measured:
    """Reads a run folder, as `runs.reading.read_run` does.

    Args:
        folder: of the run.
        metrics: further metrics to read.
    """
    wanted = {TRAIN_RETURN, TEST_RETURN, STEPS_PER_SECOND, WALL_SECONDS, *metrics}
    path = folder.resolve()
    table = MetricsTable(path / "metrics.csv", wanted)
    return Measured(read_run(path, table), table)


def groups_of(runs: Iterable[Measured], by: Collection[str] = ()) -> list[Group]:
    """Returns the groups that runs form, in the order of their first runs.

    A setting that a run's file does not have, since it is newer than the run, counts as its
    default.

    Args:
        runs: none of them damaged.
        by: further settings that tell groups apart, such as `exp_name`.
    """
    members: dict[str, list[Measured]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for measured in runs:
        fact = _facts(measured.run, by)
        key = repr(sorted(fact.items()))
        members.setdefault(key, []).append(measured)
        facts[key] = fact
    groups = []
    labels = _labels(list(facts.values()))
    for (key, found), (label, differing) in zip(members.items(), labels, strict=True):
        settings = {name: facts[key].get(name) for name in differing}
        ordered = sorted(found, key=lambda measured: (measured.run.seed or 0, measured.run.path))
        groups.append(Group(label, tuple(ordered), settings))
    return groups


def named_group(name: str, folders: Iterable[Path], metrics: Collection[str] = ()) -> Group:
    """Returns a group of runs that somebody else has put together.

    Args:
        name: its label.
        folders: of its runs; at least one.
        metrics: further metrics to read.
    """
    return Group(name, tuple(measure(folder, metrics) for folder in folders), {})


def _facts(run: Run, by: Collection[str]) -> dict[str, Any]:
    """Returns what must be equal within a group."""
    left_out = (WRITTEN | {"seed", "signature"}) - set(by)  # one signs on each machine anew
    settings = {**_defaults(run.algo), **run.settings, **run.labels}
    facts = {name: value for name, value in settings.items() if name not in left_out}
    return {**facts, "algo": run.algo, "env_id": run.env_id}


@cache
def _defaults(algo: str) -> dict[str, Any]:
    """Returns the defaults of an algorithm; none of one that somebody else has written."""
    return config_class_of(algo)().to_dict() if algo in algorithms() else {}


def _labels(groups: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Returns a label for each group, and the settings in it."""
    several_algos = len({facts["algo"] for facts in groups}) > 1
    several_tasks = len({facts["env_id"] for facts in groups}) > 1
    found: list[tuple[str, list[str]]] = []
    for facts in groups:
        same = [x for x in groups if (x["algo"], x["env_id"]) == (facts["algo"], facts["env_id"])]
        names = dict.fromkeys(name for other in same for name in other)
        differing = [name for name in names if len({_spelled(x.get(name)) for x in same}) > 1]
        words = [facts["env_id"]] if several_tasks else []
        words += [facts["algo"]] if several_algos else []
        words += [f"{name}={_shown(facts.get(name, _UNLABELLED.get(name)))}" for name in differing]
        label = " ".join(words) or f"{facts['algo']} {facts['env_id']}"
        found.append((_printable(label), differing))
    labels = [label for label, _ in found]
    for place, label in enumerate(labels):  # values that are equal as far as they are shown
        if labels.count(label) > 1:
            found[place] = f"{label} ({labels[: place + 1].count(label)})", found[place][1]
    return found


def _spelled(value: Any) -> str:
    try:
        return write_value(value)
    except ValueError:
        return repr(value)


def _shown(value: Any) -> str:
    text = "None" if value is None else _spelled(value)  # as flags and a dry run have it
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."


def _printable(text: str) -> str:
    """Returns a text that cannot command a terminal."""
    return "".join(x if x.isprintable() else ascii(x)[1:-1] for x in text)
