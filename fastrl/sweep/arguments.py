"""The flags that are the sweep's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastrl.config.values import as_kind, read_value
from fastrl.presets import algorithms
from fastrl.sweep.objective import NAMES
from fastrl.sweep.words import Group, grouped, split

HELP = """\
usage: python -m fastrl.sweep ALGO [--minutes M | --trials N] [flags of ALGO]
       python -m fastrl.sweep ALGO --learning-rate 3e-4 1e-3 --seed 1..5 [flags of ALGO]
       python -m fastrl.sweep --resume FOLDER [--minutes M]
       python -m fastrl.sweep --trial N [--resume FOLDER] [flags of ALGO]

Searches for good settings, or trains every combination of values that are listed.

ALGO is one of {algorithms}; its flags stay as they are for all runs.

a search (without lists, or with --minutes, --trials or --search):
  --minutes M           wall time, its confirmation included (default: 10)
  --trials N            end after so many trials (with --minutes: whichever comes first)
  --search NAME ...     the settings to search (default: all that have a range)
  --objective WHAT      return: the greedy return at the end of a run (default)
                        seconds: fewest seconds to --target-return
                        return-and-seconds: both, and of the best returns the fastest
  --total-timesteps N   steps of a run (default: the preset's, or by the time there is)
  --seed 1..3           seeds of a trial, all of which only leading trials get
  --confirm N           fresh seeds for the best settings and for preset or defaults (default: 5)
  --FLAG VALUE          a setting that is not searched;  --FLAG A B C: try only these values

a grid (values after a flag of ALGO; 1..5 are the numbers from 1 to 5):
  --FLAG A B C          train every combination, each with all seeds of --seed
  --env-id A B          tasks too; lists of several numbers are quoted: "64 64" "128 128"

both:
  --processes N         runs at a time (default: one per core; one, if seconds count)
  --log-dir DIR         the sweep goes to DIR/sweeps/<time> (default: logs)
  --resume FOLDER       go on with a sweep; the command that began it does so as well
  --anew                begin another one, although one of this command can go on
  --trial N             train with the settings of a trial (best: of the best one)
  --trust               with --resume or --trial: run the code that a sweep names, whoever began it
  --dry-run             print what would be tried, and do nothing
"""
OWN = (
    *("--minutes", "--trials", "--search", "--objective", "--confirm", "--processes"),
    *("--resume", "--anew", "--trial", "--dry-run", "--log-dir", "--help"),
)
_MOST_PROCESSES = 1024


@dataclass(frozen=True)
class Options:
    """The sweep's own flags, and the words for the algorithm."""

    algo: str | None = None
    minutes: float | None = None
    trials: int | None = None
    search: tuple[str, ...] = ()
    objective: str | None = None
    confirm: int | None = None
    processes: int | None = None
    resume: str | None = None
    trial: str | None = None
    log_dir: str = "logs"
    anew: bool = False
    trust: bool = False
    dry_run: bool = False
    help: bool = False
    groups: tuple[Group, ...] = field(default=())
    """The flags of the algorithm."""

    @property
    def asks_for_search(self) -> bool:
        """Whether a flag is given that only a search has."""
        asked = (self.minutes, self.trials, self.objective, self.confirm)
        return bool(self.search) or any(value is not None for value in asked)


def read(words: Sequence[str]) -> Options:
    """Reads a command line.

    Raises:
        ValueError: a mistake of the user.
    """
    before, groups = grouped(words)
    goes_on = any(group.flag in ("--resume", "--trial") for group in groups)
    own, others = split(groups, (*OWN, "--trust") if goes_on else OWN)  # else it is the algorithm's
    values = {group.name: group.words for group in own}
    if "help" in values:
        return Options(help=True)
    if len(before) > 1 or (before and before[0] not in algorithms()):
        raise ValueError(
            f"expected one of {', '.join(algorithms())} before the flags, not {' '.join(before)!r}"
        )
    found = {name: _single(name, values[name]) for name in ("resume", "trial") if name in values}
    for name in ("anew", "trust", "dry_run"):
        if values.get(name):
            raise ValueError(f"--{name.replace('_', '-')} takes no value")
    options = Options(
        algo=before[0] if before else None,
        minutes=_number(values, "minutes", float, 0.01, 1e6),
        trials=_number(values, "trials", int, 1, 1_000_000),
        search=tuple(word.replace("-", "_") for word in values.get("search", ())),
        objective=_choice(values, "objective"),
        confirm=_number(values, "confirm", int, 0, 100),
        processes=_number(values, "processes", int, 1, _MOST_PROCESSES),
        resume=found.get("resume"),
        trial=found.get("trial"),
        log_dir=_single("log-dir", values["log_dir"]) if "log_dir" in values else "logs",
        anew="anew" in values,
        trust="trust" in values,
        dry_run="dry_run" in values,
        groups=tuple(others),
    )
    _check(options, values)
    return options


def _check(options: Options, values: dict[str, tuple[str, ...]]) -> None:
    if "search" in values and not options.search:
        raise ValueError("--search takes names of settings, and got nothing")
    if options.trial is not None:
        idle = {*values} - {"trial", "resume", "log_dir", "processes", "trust", "dry_run"}
        if idle:
            raise ValueError(f"--{min(idle).replace('_', '-')} has no effect with --trial")
        return
    if options.resume is not None:
        idle = {*values} - {"resume", "minutes", "trials", "processes", "trust"}
        if idle or options.groups:
            flag = min([f"--{name}" for name in idle] + [x.flag for x in options.groups])
            raise ValueError(
                f"{flag.replace('_', '-')} cannot change in a sweep that goes on; --minutes, "
                "--trials and --processes can"
            )
        return
    if options.algo is None:
        raise ValueError(f"say what to train: one of {', '.join(algorithms())}")


def _single(name: str, words: tuple[str, ...]) -> str:
    if len(words) != 1 or not words[0]:
        raise ValueError(f"--{name} takes one word, not {' '.join(words)!r}")
    return words[0]


def _number(
    values: dict[str, tuple[str, ...]], name: str, kind: type, low: float, high: float
) -> Any:
    if name not in values:
        return None
    word = _single(name, values[name])
    try:
        value = as_kind(kind, read_value(word))
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"--{name} takes {what} from {low:g} to {high:g}, not {word!r}")
    return value


def _choice(values: dict[str, tuple[str, ...]], name: str) -> str | None:
    if name not in values:
        return None
    word = _single(name, values[name])
    if word not in NAMES:
        raise ValueError(f"--{name} takes one of {', '.join(NAMES)}, not {word!r}")
    return word
