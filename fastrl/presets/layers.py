"""Files of settings, the files that they name in `defaults`, and where each setting came from.

A file's own settings override those of the files that it names, of which later ones override
earlier ones.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastrl.config.describing import ALGORITHMS, config_class_of
from fastrl.config.resume import spell
from fastrl.config.schedules import without_overridden
from fastrl.config.trust import check_given
from fastrl.processes.errors import one_line
from fastrl.runs.folder import LABELS, expanded, read_config

_DEFAULTS = "defaults"
_MOST_FILES = 100  # that one file may lead to
_EXAMPLE = "[task/lander.yaml, network/wide.yaml]"

Settings = dict[str, Any]


@dataclass(frozen=True)
class Layers:
    """The settings of some files, merged."""

    settings: Settings = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    """The file that each setting is from, such as "optimizer/adam.yaml, named in base.yaml"."""
    agent: str = ""
    """Class that trains, as module:Class, if a file names one."""


@dataclass(frozen=True)
class _File:
    """A file, as it was named."""

    name: str
    path: Path
    named_in: _File | None = None

    def __str__(self) -> str:
        return self.name if self.named_in is None else f"{self.name}, named in {self.named_in}"

    @property
    def line(self) -> list[_File]:
        """The file that the user named, and so on down to this one."""
        return [*(self.named_in.line if self.named_in else ()), self]


def read_layers(
    paths: Sequence[str], algo: str, *, trust: bool = False, named_again: Collection[str] = ()
) -> Layers:
    """Reads files of settings; each overrides those before it.

    Args:
        paths: of the files.
        algo: module name of the algorithm.
        trust: the user trusts the files, whatever they name.
        named_again: settings that the user gives, so that the files' own are not used.

    Raises:
        ValueError: a file that cannot be used, or a setting of the wrong type.
        OSError: a file cannot be read.
    """
    merged = Layers()
    for path in paths:
        for file, content in _files_of(path):
            settings, agent = _settings_in(content, algo, str(file))
            named = {**settings, "agent": agent}
            if not trust:
                rest = {name: x for name, x in named.items() if name not in named_again}
                check_given(rest, file)
            lower = without_overridden(merged.settings, settings)
            origins = {name: merged.origins[name] for name in lower}
            merged = Layers(
                settings=lower | settings,
                origins=origins | dict.fromkeys(settings, str(file)),
                agent=agent or merged.agent,
            )
    return merged


@contextlib.contextmanager
def naming_files(layers: Layers, used: Collection[str]) -> Iterator[None]:
    """Context in which an error about settings says which files they are from.

    Args:
        layers: the files' settings.
        used: names of those that nothing overrides.
    """
    try:
        yield
    except ValueError as error:
        said = [
            f"{name}={spell(layers.settings[name])} (from {origin})"
            for name, origin in layers.origins.items()
            if name in used and re.search(rf"\b{name}\b", str(error))
        ]
        if not said:
            raise
        raise ValueError(f"{', '.join(said)}: {error}") from error


def is_file(preset: Any) -> bool:
    """Returns whether a preset is named by a file."""
    return isinstance(preset, str | Path) and str(preset).endswith((".yaml", ".yml"))


def read_preset(
    path: str, algo: str, *, trust: bool = False, named_again: Collection[str] = ()
) -> Layers:
    """Reads the file of a preset; arguments and errors as of `read_layers`."""
    layers = read_layers([path], algo, trust=trust, named_again=named_again)
    if layers.agent:
        raise ValueError(f"{path}: a preset has settings alone; give --agent {layers.agent}")
    return layers


def _settings_in(content: Settings, algo: str, where: str) -> tuple[Settings, str]:
    """Returns the settings of a file, and the agent that it names."""
    settings = {name: value for name, value in content.items() if name not in LABELS}
    if (of := content.get("algo", algo)) != algo:
        raise ValueError(f"{where} has settings of {of}, not of {algo}")
    agent = content.get("agent", "")
    if not isinstance(agent, str):
        raise ValueError(f"{where}: agent must be text, not {agent!r}")
    config_class = config_class_of(algo)
    known = _names_of(algo)
    for name in settings:
        others = [other for other in ALGORITHMS if name in _names_of(other)]
        if name not in known and others:
            raise ValueError(f"{where}: {name} is a setting of {', '.join(others)}, not of {algo}")
    return config_class.typed(settings, where), agent


def _names_of(algo: str) -> set[str]:
    return {entry.name for entry in dataclasses.fields(config_class_of(algo))}


# Files that name files


def _files_of(path: str) -> list[tuple[_File, Settings]]:
    """Returns a file and all that it leads to, lowest first, each with what it says."""
    found: list[tuple[_File, Settings]] = []
    file = _File(path, expanded(path))
    _add_files(file, _resolved(file.path.parent), {}, found)
    return found


def _add_files(
    file: _File, root: Path, seen: dict[Path, _File], found: list[tuple[_File, Settings]]
) -> None:
    """Adds to `found` the files that a file names, and then itself.

    Args:
        file: the file.
        root: folder that the files must be in.
        seen: files that were named so far, by their resolved paths.
        found: files in their order.
    """
    content = _read(file)
    seen[_resolved(file.path)] = file
    for name in _names_in_defaults(content.pop(_DEFAULTS, []), file):
        inner = _File(name, file.path.parent / name, file)
        target, line = _resolved(inner.path), file.line
        around = [_resolved(outer.path) for outer in line]
        if target in around:
            names = [outer.name for outer in line[around.index(target) :]]
            raise ValueError(f"{_DEFAULTS} go round in a circle: {' -> '.join([*names, name])}")
        if not target.is_relative_to(root):
            raise ValueError(
                f"{file}: {_DEFAULTS} may name files in {root} alone, not {name!r}; give other "
                "files by --config, each overrides those before it"
            )
        if target in seen:
            raise ValueError(
                f"{file}: {name!r} is named a second time; it is {seen[target]}, and what is read "
                "twice would override what stands between"
            )
        if len(seen) >= _MOST_FILES:
            raise ValueError(f"{file.line[0]} leads to more than {_MOST_FILES} files")
        _add_files(inner, root, seen, found)
    found.append((file, content))


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path))  # `Path.resolve` raises an error for links in a circle


def _read(file: _File) -> Settings:
    try:
        return read_config(str(file.path))
    except (ValueError, OSError) as error:
        if file.named_in is None:
            raise
        raise ValueError(f"{one_line(error)} (it is {file})") from error


def _names_in_defaults(names: object, file: _File) -> list[str]:
    """Returns the names of files in `defaults`.

    Raises:
        ValueError: it is no list of such names.
    """
    if not isinstance(names, list):
        raise ValueError(f"{file}: {_DEFAULTS} must list files, as {_EXAMPLE}, not {names!r}")
    for name in names:
        if name == "_self_":
            raise ValueError(
                f"{file}: leave _self_ out of {_DEFAULTS}: a file's own settings always override "
                "those of the files that it names"
            )
        if not isinstance(name, str) or not name:
            raise ValueError(f"{file}: {_DEFAULTS} must list files, as {_EXAMPLE}, not {name!r}")
        if Path(name).is_absolute() or name.startswith("~") or "\0" in name:
            raise ValueError(
                f"{file}: {_DEFAULTS} must name files relative to its folder, not {name!r}"
            )
    return names
