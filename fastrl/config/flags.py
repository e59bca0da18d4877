"""Flags of a command line as typed values; mistakes are named in a line, by the flag."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, get_args, get_type_hints

from fastrl.config.command import Settings
from fastrl.config.groups import GROUPS, group_of
from fastrl.config.other_names import hint_for
from fastrl.config.run import RunConfig, documentation
from fastrl.config.values import in_words

REPEATABLE = ("config", "callback", "logger")
_BOOLEAN_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, kw_only=True)
class SourceFlags:
    """Flags that tell where settings come from, and are not settings themselves."""

    preset: str = "auto"
    """auto: start from the tuned settings of the task, if it has any. none: from the defaults.
    source-003 (PPO), source-004 (PPO, recurrent PPO, SAC): for any task, the defaults of Lightning
    Fabric's PPO example and of fabricrl. FILE.yaml: from the settings in a file, such as a sweep
    writes."""
    config: tuple[str, ...] = ()
    """YAML files of settings, also given one by one; each overrides those before it and the preset,
    and flags override all. A file may name others in a list defaults, and overrides these."""
    resume: str = ""
    """Run folder to resume, with the settings it was started with."""
    trust: bool = False
    """Import code that the resumed run or the files of settings name, whoever wrote them."""
    dry_run: bool = False
    """Print all settings and where each is from, check them, and write and train nothing."""
    print_config: bool = False
    """Print all settings as YAML that --config takes, and nothing else; train nothing."""
    describe: bool = False
    """Print all settings as JSON: types, choices, ranges, help, defaults, and what the preset of
    --env-id, or the one that --preset names, sets."""
    quiet: bool = False
    """Print only the last line, which names the run folder; and warnings and errors."""
    agent: str = ""
    """Class of your own that trains, as module:Class; it derives from the algorithm's."""


def read_flags(config_class: type[RunConfig], argv: Sequence[str]) -> tuple[Settings, Settings]:
    """Parses a command line; returns the source flags and the settings, as typed values."""
    kinds = get_type_hints(SourceFlags) | get_type_hints(config_class)
    groups = _group_words(argv, kinds)
    given = {name: words for name, words in groups.items() if kinds[name] is not bool}
    for name, words in given.items():
        if not words:  # tyro takes that for an empty list
            raise ValueError(f"{flag_of(name)} takes {_in_words(kinds[name])}, and got nothing")
        if [word.lower() for word in words] == ["none"] and NoneType in get_args(kinds[name]):
            given[name] = ["None"]  # as tyro spells it
    parsed = _ask_tyro(config_class, given, kinds)
    if parsed is None:
        # One of them is wrong. tyro would print a box; for a single line, each is tried alone.
        for name, words in given.items():
            if _ask_tyro(config_class, {name: words}, kinds) is None:
                wrong = " ".join(words)
                raise ValueError(f"{flag_of(name)} takes {_in_words(kinds[name])}, not {wrong!r}")
        raise AssertionError(f"tyro rejects {given} together, but none alone")
    values = {
        name: getattr(parsed, name) if name in given else _boolean(name, words)
        for name, words in groups.items()
    }
    own_names = [entry.name for entry in dataclasses.fields(SourceFlags) if entry.name in values]
    return {name: values.pop(name) for name in own_names}, values


def _group_words(argv: Sequence[str], kinds: Settings) -> dict[str, list[str]]:
    """Returns the words after each flag, by setting."""
    uses: list[tuple[str, list[str]]] = []
    for word in argv:
        if word.startswith("-") and not _is_number(word):
            flag, equals, value = word.partition("=")
            uses.append((flag, [value] if equals else []))
        elif uses:
            uses[-1][1].append(word)
        else:
            raise ValueError(f"{word!r} stands before any flag; settings look like --seed 1")
    groups: dict[str, list[str]] = {}
    for flag, words in uses:
        if flag == "--cuda" and not words:
            flag, words = "--accelerator", ["cuda"]
        name = flag[2:].replace("-", "_") if flag.startswith("--") else ""
        positive = name.removeprefix("no_")
        if name not in kinds and kinds.get(positive) is bool:
            if words:
                raise ValueError(f"{flag} takes no value, not {' '.join(words)!r}")
            name, words = positive, ["false"]
        if name not in kinds:
            raise ValueError(f"unknown flag {flag}{hint_for(name, kinds, dash=True, cutoff=0.7)}")
        if name in groups and name not in REPEATABLE:
            raise ValueError(f"{flag_of(name)} is given twice; give it once")
        groups[name] = [*groups.get(name, ()), *words]
    return groups


def _ask_tyro(
    config_class: type[RunConfig], given: dict[str, list[str]], kinds: Settings
) -> object | None:
    """Returns an object with the value of every flag, or None if tyro rejects the words."""
    import tyro

    args: list[str] = []
    for name, words in given.items():
        if kinds[name] in (int, tuple[int, ...]):
            words = [_whole(word) for word in words]
        # With "=", a value may start with a dash.
        args += [f"{flag_of(name)}={words[0]}"] if len(words) == 1 else [flag_of(name), *words]
    # console_outputs=False does not suppress the boxes for wrong values.
    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
        try:
            return tyro.cli(_form(config_class), args=args, console_outputs=False)
        except SystemError:  # Python 3.11's parser, once in thousands: "AST constructor recursion"
            return tyro.cli(_form(config_class), args=args, console_outputs=False)
    return None


def _form(config_class: type[RunConfig]) -> Any:
    """Returns the dataclass for tyro: the source flags and the settings, without the checks.

    The checks apply to the merged settings: flags may be valid only with the preset or file.
    """
    unchecked = {"__post_init__": lambda self: None}
    return dataclass(frozen=True)(type("Flags", (config_class, SourceFlags), unchecked))


def print_flags(
    config_class: type[RunConfig], values: Settings, program: str, description: str
) -> None:
    """Prints all flags, in groups.

    Args:
        config_class: whose fields are flags.
        values: the defaults that are shown, by name.
        program: how it is started.
        description: stands above the flags.
    """
    import tyro

    # Help texts on single lines, which the terminal wraps.
    texts = documentation(SourceFlags, config_class)
    kinds = get_type_hints(SourceFlags) | get_type_hints(config_class)
    of_sources = {entry.name: entry.default for entry in dataclasses.fields(SourceFlags)}
    groups: dict[str, list[Any]] = {group: [] for group in GROUPS}
    for name, value in {**of_sources, **values}.items():
        kind = Annotated[kinds[name], tyro.conf.arg(help=texts[name])]
        group = "sources" if name in of_sources else group_of(name)
        groups[group].append((name, kind, dataclasses.field(default=value)))
    parts = [
        (
            group,
            Annotated[
                dataclasses.make_dataclass(group, entries),
                tyro.conf.OmitArgPrefixes,
                tyro.conf.arg(help=GROUPS[group]),
            ],
        )
        for group, entries in groups.items()
    ]
    form = dataclasses.make_dataclass("Flags", parts)
    tyro.cli(form, args=["--help"], prog=program, description=description)


def _boolean(name: str, words: list[str]) -> bool:
    """Parses a boolean flag, which is true without a value."""
    value = _BOOLEAN_WORDS.get(" ".join(words).lower()) if words else True
    if value is None:
        raise ValueError(f"{flag_of(name)} takes true, false or nothing, not {' '.join(words)!r}")
    return value


def _in_words(kind: Any) -> str:
    """Describes the values that a flag of this type takes."""
    names: dict[Any, str] = {str: "one word", tuple[str, ...]: "words separated by spaces"}
    names[tuple[int, ...]] = "whole numbers separated by spaces"
    return names.get(kind) or in_words(kind)


def _whole(word: str) -> str:
    """Converts 1e6 to a form that int() reads."""
    is_power = "e" in word.lower() and _is_number(word) and float(word).is_integer()
    return str(int(float(word))) if is_power else word


def _is_number(word: str) -> bool:
    with contextlib.suppress(ValueError):
        return float(word) is not None
    return False


def flag_of(name: str) -> str:
    """Returns the flag of a setting."""
    return "--" + name.replace("_", "-")
