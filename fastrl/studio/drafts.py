"""A run that is being configured: what the user typed, checked and written as flags and YAML."""

from __future__ import annotations

import re
import shlex
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from fastrl.cli import parse
from fastrl.config.bounds import check_bound
from fastrl.config.describing import config_class_of
from fastrl.config.flags import flag_of, read_flags
from fastrl.config.values import ConfigDumper, read_value
from fastrl.presets.layers import read_layers
from fastrl.processes.errors import one_line

_MOST_SEEDS = 100
_RANGE = re.compile(r"(\d{1,18})\s*(?:\.\.|-)\s*(\d{1,18})")
_parsing = threading.Lock()  # tyro redirects what is printed, of all threads


@dataclass(frozen=True)
class Draft:
    """A run as the form has it."""

    algo: str
    """Module name of the algorithm."""
    preset: str = "auto"
    """As of `--preset`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the user set, typed, by name; the rest is left to preset and defaults."""
    seeds: tuple[int, ...] = ()
    """A run for each; empty: one run, with the seed of the settings."""
    log_dir: str = ""
    """Log folder, for the command line; empty for the default one."""
    agent: str = ""
    """Class that trains in place of the algorithm's own, as module:Class."""

    def settings_of_runs(self) -> list[dict[str, Any]]:
        """Returns the settings of each run that it stands for."""
        return [{**self.settings, "seed": seed} for seed in self.seeds] or [dict(self.settings)]

    def source_words(self) -> list[str]:
        """Returns the flags that are not settings."""
        words = [] if self.preset == "auto" else ["--preset", self.preset]
        return [*words, *(flag_words("agent", self.agent) if self.agent else [])]

    def words(self) -> list[str]:
        """Returns the flags that it stands for, without those of seeds if there are several."""
        settings = self.settings_of_runs()[0]
        if len(self.seeds) > 1:
            del settings["seed"]
        words = self.source_words()
        for name, value in settings.items():
            words += flag_words(name, value)
        return words

    def command_line(self) -> str:
        """Returns what to type into a shell for the same runs."""
        words = [*self.words(), *(["--log-dir", self.log_dir] if self.log_dir else [])]
        line = shlex.join(["python", "-m", f"fastrl.{self.algo}", *words])
        if len(self.seeds) < 2:
            return line
        seeds = " ".join(map(str, self.seeds))
        return f'for seed in {seeds}; do {line} --seed "$seed"; done'

    def yaml(self) -> str:
        """Returns the file of settings that it stands for, for `--config`."""
        settings = self.settings_of_runs()[0]
        if len(self.seeds) > 1:
            del settings["seed"]
        agent = {"agent": self.agent} if self.agent else {}
        plain = {"algo": self.algo, **agent, **_plain(settings)}
        return yaml.dump(plain, Dumper=ConfigDumper, sort_keys=False, allow_unicode=True)


@dataclass(frozen=True)
class Faults:
    """What is wrong with a draft."""

    fields: Mapping[str, str] = field(default_factory=dict)
    """By the name of the setting."""
    others: str = ""
    """What belongs to no field that is shown."""

    def __bool__(self) -> bool:
        return bool(self.fields or self.others)


def typed(algo: str, setting: Mapping[str, Any], text: str) -> Any:
    """Returns the value of a setting that was typed into a field.

    Args:
        algo: module name of the algorithm.
        setting: its description, as of `description_of`.
        text: what was typed; not empty.

    Raises:
        ValueError: it is no such value, or out of range; in words that go beside the field.
    """
    name, kind, text = setting["name"], setting["kind"], text.strip()
    value: Any = text
    if kind.startswith("list") or kind == "mapping":
        if text.startswith("["):
            value = read_value(text)
        elif kind == "list of integers":
            value = [read_value(word) for word in text.replace(",", " ").split()]
        else:
            try:
                value = shlex.split(text)
            except ValueError as error:
                raise ValueError(f"a quotation mark is missing: {text}") from error
    elif kind != "text":
        value = read_value(text)
    config_class = config_class_of(algo)
    try:
        value = config_class.typed({name: value}, "")[name]
    except ValueError as error:
        raise ValueError(str(error).removeprefix(f": {name} ")) from error
    check_bound(config_class, name, value)
    words = value if isinstance(value, tuple) else ()
    if wrong := [word for word in words if isinstance(word, str) and word.startswith("-")]:
        raise ValueError(f"{wrong[0]} would be a flag: no word of a list may begin with -")
    return value


def shown(value: Any) -> str:
    """Returns a value as it is typed into a field."""
    if isinstance(value, list | tuple):
        return shlex.join(map(str, value))
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_seeds(text: str) -> tuple[int, ...]:
    """Returns seeds as typed: `1 2 3`, `1, 2, 3` or `1..5`; () for nothing.

    Raises:
        ValueError: they are not whole numbers of 0 or more, too many, or one comes twice.
    """
    seeds: list[int] = []
    for word in re.sub(r"\s*(\.\.|-)\s*", r"\1", text).replace(",", " ").split():
        if match := _RANGE.fullmatch(word):
            first, last = int(match[1]), int(match[2])
            if not 0 <= last - first < _MOST_SEEDS:
                raise ValueError(f"{word} must rise, over at most {_MOST_SEEDS} seeds")
            seeds += range(first, last + 1)
        elif word.isdecimal() and len(word) <= 18:
            seeds.append(int(word))
        else:
            raise ValueError(f"seeds look like 1 2 3 or 1..5, not {word}")
    if len(seeds) > _MOST_SEEDS or len(set(seeds)) < len(seeds):
        raise ValueError(f"give each seed once, and at most {_MOST_SEEDS}")
    return tuple(seeds)


def flag_words(name: str, value: Any) -> list[str]:
    """Returns the words of a flag with its value."""
    if isinstance(value, bool):
        return [flag_of(name), str(value).lower()]
    if isinstance(value, list | tuple):
        return [flag_of(name), *map(str, value)]
    text = str(value)
    return [f"{flag_of(name)}={text}"] if text.startswith("-") else [flag_of(name), text]


def agent_in(algo: str, words: Sequence[str]) -> str:
    """Returns the class that a command line trains, as module:Class; "" for the algorithm's own.

    Raises:
        ValueError: a mistake in the words, or in a file of settings that they name.
        OSError: such a file cannot be read.
    """
    with _parsing:
        source, _ = read_flags(config_class_of(algo), words)
    return source.get("agent") or read_layers(source.get("config", ()), algo, trust=True).agent


def faults_of(draft: Draft) -> Faults:
    """Returns what the command line would refuse of a draft, each beside the setting it names.

    torch is not imported, nor is any code that the settings name.
    """
    try:
        with _parsing:
            parse(draft.algo, draft.words())
    except ValueError as error:
        words = one_line(error)
    except OSError as error:
        return Faults(others=one_line(error))
    else:
        return Faults()
    known = config_class_of(draft.algo).__dataclass_fields__
    named = [
        name
        for name in known
        if re.search(rf"(?<![\w-])(?:{name}|{re.escape(flag_of(name))})(?![\w-])", words)
    ]
    given = [name for name in named if name in draft.settings] or named
    return Faults(dict.fromkeys(given, words)) if given else Faults(others=words)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {x: list(y) if isinstance(y, tuple) else y for x, y in settings.items()}
