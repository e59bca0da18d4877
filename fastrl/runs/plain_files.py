"""Reading of run folders that may come from anybody: regular files of a bounded size, no links.

Imports no torch.
"""

from __future__ import annotations

import json
import os
import re
import stat
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastrl.config.values import MOST_BYTES, read_yaml

MOST_SUMMARY = 2**20
"""Bytes that the summary of a run may have."""

_MOST_DIGITS = 300  # of a whole number: a float goes up to 1e308
_SETTING = re.compile(r"([A-Za-z_]\w*):(?: |$)")
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe would wait for ever


def open_plain(path: Path) -> tuple[int, os.stat_result]:
    """Opens a regular file for reading.

    Returns:
        Its descriptor, which the caller closes, and its status.

    Raises:
        ValueError: it is a link, a folder, a device or a pipe.
        OSError: it is missing, or may not be read.
    """
    if path.is_symlink():  # asked first for the message; O_NOFOLLOW makes sure
        raise ValueError(f"{path.name} is a link, which is not followed")
    descriptor = os.open(path, _OPEN)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise ValueError(f"{path.name} is not a regular file")
    return descriptor, status


def read_plain(path: Path, most_bytes: int) -> bytes:
    """Returns the contents of a regular file.

    Raises:
        ValueError: as `open_plain`, or it has more than `most_bytes`.
        OSError: as `open_plain`.
    """
    descriptor, status = open_plain(path)
    with open(descriptor, "rb") as file:
        if status.st_size > most_bytes:
            raise ValueError(f"{path.name} has {status.st_size:,} bytes, more than {most_bytes:,}")
        return file.read(most_bytes)


def read_facts(path: Path, most_bytes: int) -> dict[str, Any]:
    """Returns the mapping that a JSON file holds.

    Whole numbers of more than 300 digits are infinite floats; all others fit into a float.

    Raises:
        ValueError: as `read_plain`; it is no mapping in JSON, or cannot be read as one.
        OSError: as `open_plain`.
    """
    try:
        facts = json.loads(read_plain(path, most_bytes), parse_int=_whole)
    except RecursionError as error:
        raise ValueError(f"{path.name} is nested too deeply") from error
    if not isinstance(facts, dict):
        raise ValueError(f"{path.name} is not a mapping")
    return facts


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


def read_settings(path: Path) -> dict[str, Any]:
    """Returns what `runs.folder.read_config` does, many times faster for the configs of many runs.

    Raises:
        ValueError: as `read_plain`; it is cut, or no mapping of names to values in YAML.
        OSError: as `open_plain`.
    """
    text = read_plain(path, MOST_BYTES).decode()
    if not text.endswith("\n"):
        raise ValueError(f"{path.name} is empty or cut off")
    settings = _by_parts(text)
    if settings is None:
        settings = read_yaml(text)
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise ValueError(f"{path.name} does not map names to values")
    return settings


def _by_parts(text: str) -> dict[str, Any] | None:
    """Reads a mapping setting by setting, or returns None if the whole must be read at once.

    Runs have most of their settings in common, so nearly all parts were read before.
    """
    parts: list[str] = []
    for line in text.splitlines(keepends=True):
        if _SETTING.match(line):
            parts.append(line)
        elif parts and line[0] in " -" and not line.startswith("---"):
            parts[-1] += line
        else:
            return None
    settings: dict[str, Any] = {}
    for part in parts:
        try:
            read = _read_part(part)
        except ValueError:  # the error of the whole tells more
            return None
        name = part.partition(":")[0]
        if not isinstance(read, dict) or list(read) != [name] or name in settings:
            return None
        value = read[name]
        settings[name] = list(value) if isinstance(value, list) else value
    return settings


@lru_cache(maxsize=50_000)
def _read_part(part: str) -> Any:
    return read_yaml(part)
