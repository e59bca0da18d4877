"""Files of settings that the user chooses, edits and saves: `<log_dir>/settings/`, also in folders.

settings/cartpole.yaml  settings/network/wide.yaml  settings/optimizer/slow.yaml
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from fastrl.config.describing import ALGORITHMS, config_class_of
from fastrl.config.values import read_yaml
from fastrl.presets.layers import read_layers
from fastrl.processes.errors import one_line
from fastrl.runs.folder import LABELS, replaced_file
from fastrl.runs.plain_files import read_plain
from fastrl.studio.addresses import address_of, path_of, plain_folder

SETTINGS_FOLDER = "settings"
_SUFFIX = ".yaml"
_NAME = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,80}/){0,3}[A-Za-z0-9][A-Za-z0-9._-]{0,80}")
_MOST_FILES = 1000
_MOST_BYTES = 100_000  # of a file


def saved_names(log_dir: Path) -> list[str]:
    """Returns the names of the settings files in alphabetical order, without their suffix."""
    root = log_dir / SETTINGS_FOLDER
    names = []
    if root.is_symlink():
        return []
    for folder, folders, files in os.walk(root):  # which follows no links below
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder) / name
            if path.suffix == _SUFFIX and not path.is_symlink() and not name.startswith("."):
                names.append(address_of(root, path).removesuffix(_SUFFIX))
    return sorted(names)[:_MOST_FILES]


def read_saved(log_dir: Path, name: str) -> str:
    """Returns the text of a settings file.

    Raises:
        ValueError: there is none of this name, or it is not text.
        OSError: it cannot be read.
    """
    path = path_of(log_dir, f"{SETTINGS_FOLDER}/{name}{_SUFFIX}")
    return read_plain(path, _MOST_BYTES).decode()


def read_layered(log_dir: Path, name: str, algo: str) -> dict[str, Any]:
    """Returns what a settings file and those in its `defaults` set, its `algo`, and its `agent`.

    Args:
        log_dir: the log folder.
        name: of the file, without suffix.
        algo: of files that do not say theirs.

    Raises:
        ValueError: it is no such file, or one of them cannot be used.
        OSError: one cannot be read.
    """
    algo = settings_in(read_saved(log_dir, name)).get("algo", algo)
    if algo not in ALGORITHMS:
        raise ValueError(f"{name}: algo must be one of {', '.join(ALGORITHMS)}, not {algo!r}")
    path = path_of(log_dir, f"{SETTINGS_FOLDER}/{name}{_SUFFIX}")
    layers = read_layers([str(path)], algo)
    return {**layers.settings, "algo": algo} | ({"agent": layers.agent} if layers.agent else {})


def save(log_dir: Path, name: str, text: str, replace: bool = False) -> Path:
    """Saves a settings file; returns its path.

    Args:
        log_dir: the log folder.
        name: of the file, without suffix; may be in a folder, such as network/wide.
        text: what it says, which is checked.
        replace: a file of this name may be replaced.

    Raises:
        ValueError: the name or the text cannot be used, or there is such a file.
        OSError: it cannot be written.
    """
    name = name.removesuffix(_SUFFIX)
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a settings file; use letters, digits, '-' and '/'")
    settings_in(text)
    *parents, last = name.split("/")
    path = plain_folder(log_dir, SETTINGS_FOLDER, *parents) / f"{last}{_SUFFIX}"
    if path.exists() and not replace:
        raise ValueError(f"there is a settings file {name} already")
    with replaced_file(path) as file:
        file.write(text.encode())
    return path


def settings_in(text: str) -> dict[str, Any]:
    """Returns what a text in YAML sets, by name, not yet typed; labels of runs are among them.

    Raises:
        ValueError: it is not YAML, or not a mapping of names to values.
    """
    try:
        settings = read_yaml(text)
    except ValueError as error:
        raise ValueError(f"this is not YAML: {one_line(error)}") from error
    if settings is None:
        return {}
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise ValueError("settings map names to values, as `learning_rate: 3e-4` does")
    return settings


def typed_settings(algo: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns settings as the algorithm's types, without labels of runs and their log folder.

    Raises:
        ValueError: an unknown name, or a value of the wrong type.
    """
    if "defaults" in settings:
        raise ValueError("a text with `defaults` must be saved first; then press Use")
    left_out = {*LABELS, "log_dir"}
    own = {name: value for name, value in settings.items() if name not in left_out}
    return config_class_of(algo).typed(own, "settings")


def unlike_defaults(algo: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings that are not the algorithm's defaults; arguments as `typed_settings`."""
    default = config_class_of(algo)()
    values = typed_settings(algo, settings)
    return {name: value for name, value in values.items() if value != getattr(default, name)}
