"""What is asked of a sweep: the words of its command line, as `sweep.yaml` keeps them."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from fastrl.cli import parse
from fastrl.config.command import Command
from fastrl.config.describing import config_class_of
from fastrl.config.flags import flag_of
from fastrl.config.trust import ARGUMENTS, is_signed, sign_text
from fastrl.config.values import as_kind
from fastrl.presets import algorithms
from fastrl.runs.folder import config_text, read_config, write_config
from fastrl.sweep.objective import Objective
from fastrl.sweep.space import is_list
from fastrl.sweep.words import Group, value_of

SWEEP_NAME = "sweep.yaml"
DEFAULT_MINUTES = 10.0
TRIAL_SEEDS = (1, 2, 3)
FINAL_SEEDS = (*TRIAL_SEEDS, 4, 5, 6, 7, 8, 9, 10)
CONFIRMATION_SEEDS = (1001, 1002, 1003, 1004, 1005)
_SET_BY_SWEEP = {
    "resume": "--resume of a sweep names its folder",
    "eval_every": "a sweep tests each run eight times, to compare the trials",
    "describe": "it is of an algorithm",
    "print_config": "it is for single runs",
    "dry_run": "it is for single runs",
    "quiet": "the runs of a sweep write into files",
}
_MOST_RUNS = 10_000


@dataclass(frozen=True)
class Asked:
    """What a sweep was asked for."""

    kind: str
    """"search" or "grid"."""
    algo: str
    flags: tuple[str, ...]
    """Flags of the algorithm that all runs have in common."""
    env_id: str = ""
    minutes: float | None = None
    trials: int | None = None
    objective: str = "return"
    target_return: float | None = None
    processes: int = 1
    seeds: tuple[int, ...] = TRIAL_SEEDS
    """Of a trial; leaders and finalists alone get all of them."""
    final_seeds: tuple[int, ...] = ()
    """Of the finalists of a search, as far as the time allows; empty: those of the trials."""
    confirmation_seeds: tuple[int, ...] = CONFIRMATION_SEEDS
    total_timesteps: int | None = None
    """Steps of a run; None until a search has chosen it."""
    search: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The ranges that are searched, as plain values."""
    grid: dict[str, list[Any]] = field(default_factory=dict)
    """The values of a grid, by setting; without the seeds."""
    command: str = ""
    """The command line."""
    signature: str = ""
    """This user's, if the user has a key and `sweep.yaml` is as the user's sweep wrote it."""

    @property
    def goal(self) -> Objective:
        """What is optimised."""
        return Objective(self.objective, self.target_return)

    def save(self, folder: Path) -> None:
        """Writes `sweep.yaml`, signed as this user's."""
        signature = sign_text(self._signed_text(folder))
        write_config(folder / SWEEP_NAME, {**dataclasses.asdict(self), "signature": signature})

    def is_own(self, folder: Path) -> bool:
        """Returns whether this user's sweep wrote this, for this folder."""
        return is_signed(self._signed_text(folder), self.signature)

    def _signed_text(self, folder: Path) -> str:
        values = {**dataclasses.asdict(self), "signature": ""}
        return config_text({"sweep": os.path.realpath(folder), **values})

    @classmethod
    def load(cls, folder: Path) -> Asked:
        """Reads `sweep.yaml`, whoever wrote it (`sweep.trust`).

        Raises:
            ValueError: the folder is not that of a sweep, or the file is damaged.
        """
        path = folder / SWEEP_NAME
        if not path.is_file():
            raise ValueError(f"{folder} is not the folder of a sweep: it has no {SWEEP_NAME}")
        values = read_config(path)
        kinds = get_type_hints(cls)
        try:
            own = {name: _typed(kinds[name], x) for name, x in values.items() if name in kinds}
            asked = cls(**own)
            if asked.kind not in ("search", "grid") or asked.algo not in algorithms():
                raise ValueError(f"kind {asked.kind}, algo {asked.algo}")
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged") from error
        return asked


def _typed(kind: Any, value: Any) -> Any:
    """Returns a value of `sweep.yaml` as the type of its field.

    Raises:
        ValueError: it is of another type.
    """
    if get_origin(kind) is not dict:
        return as_kind(kind, value)
    inner = get_origin(get_args(kind)[1])
    fits = isinstance(value, dict)
    if not fits or not all(isinstance(x, str) and isinstance(y, inner) for x, y in value.items()):
        raise ValueError(f"not a mapping of names to {inner}: {value!r}")
    return value


def base_command(algo: str, flags: Sequence[str]) -> Command:
    """Returns the command that all runs of a sweep have in common, checked.

    Raises:
        ValueError: a mistake in the flags.
    """
    return parse(algo, list(flags))


def kinds_of(algo: str) -> dict[str, Any]:
    """Returns the type of each setting of an algorithm."""
    return get_type_hints(config_class_of(algo))


def sorted_out(
    algo: str, groups: Sequence[Group]
) -> tuple[list[str], dict[str, list[Any]], list[int]]:
    """Sorts the flags of the algorithm: one value, several values, and the seeds.

    Args:
        algo: module name of the algorithm.
        groups: its flags, each with its words.

    Returns:
        The flags with one value, as words; the values of the others, by setting; the seeds, empty
        if none are given.

    Raises:
        ValueError: a flag that a sweep sets itself, or a value that is none.
    """
    kinds = kinds_of(algo)
    flags: list[str] = []
    listed: dict[str, list[Any]] = {}
    seeds: list[int] = []
    for group in groups:
        name = group.name
        if name in _SET_BY_SWEEP:
            raise ValueError(f"{group.flag} is not for sweeps: {_SET_BY_SWEEP[name]}")
        if name == "log_dir":
            continue
        words = expanded_ranges(group.words) if kinds.get(name) is int else list(group.words)
        if name == "seed":
            seeds = [value_of("seed", word, int) for word in words]
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"--seed names a seed twice: {' '.join(words)}")
            continue
        once = {_number_or_word(word) for word in words}
        are_values = not is_list(kinds.get(name)) or any(" " in word for word in words)
        if len(once) < len(words) and are_values:
            raise ValueError(f"{group.flag} names a value twice: {' '.join(words)}")
        is_one_list = is_list(kinds.get(name)) and not any(" " in word for word in words)
        arguments = {word.partition("=")[0] for word in words}
        if is_one_list and name in ARGUMENTS and len(arguments) < len(words):
            tried = " ".join(f'"{word} "' for word in words)
            raise ValueError(
                f"{group.flag} must name each argument once; lists of arguments to try are quoted, "
                f"with a space in each: {group.flag} {tried}"
            )
        if (len(words) <= 1 and not (words and " " in words[0])) or is_one_list:
            flags += [group.flag, *words]
        elif name not in kinds:
            if name == "config":
                flags += [group.flag, *words]
                continue
            raise ValueError(f"{group.flag} takes one value in a sweep, not {' '.join(words)!r}")
        else:
            listed[name] = [value_of(name, word, kinds[name]) for word in words]
    return flags, listed, seeds


def expanded_ranges(words: Sequence[str]) -> list[str]:
    """Returns words with each range such as 1..5 as all its numbers.

    Raises:
        ValueError: a range runs backwards or has more than 10,000 numbers.
    """
    expanded: list[str] = []
    for word in words:
        found = re.fullmatch(r"(-?\d+)\.\.(-?\d+)", word)
        if found is None:
            expanded.append(word)
            continue
        first, last = int(found[1]), int(found[2])
        if not 0 <= last - first < _MOST_RUNS:
            raise ValueError(f"{word} must run upwards, over at most {_MOST_RUNS:,} numbers")
        expanded += map(str, range(first, last + 1))
    return expanded


def combinations(grid: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Returns each combination of the values of a grid, the last setting moving fastest.

    Raises:
        ValueError: there are more than 10,000.
    """
    count = 1
    for values in grid.values():
        count *= len(values)
    if count > _MOST_RUNS:
        raise ValueError(f"{count:,} combinations are more than {_MOST_RUNS:,}")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def flags_of(settings: dict[str, Any]) -> list[str]:
    """Returns settings as the words of a command line."""
    words: list[str] = []
    for name, value in settings.items():
        if isinstance(value, list | tuple):
            words += [flag_of(name), *map(str, value)]
        else:
            text = str(value).lower() if isinstance(value, bool) else value
            words.append(f"{flag_of(name)}={text}")
    return words


def _number_or_word(word: str) -> float | str:
    """Returns a value as it is compared: 1e-3 and 0.001 are one, true and True."""
    word = " ".join(word.split())
    if word.lower() in ("true", "false", "none"):
        return word.lower()
    try:
        return float(word)
    except ValueError:
        return word
