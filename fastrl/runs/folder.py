"""The run folder: where it is, its `config.yaml`, and files that are replaced in one step.

    <log_dir>/<algo>/<time>/<env>_<exp>_<seed>/
        config.yaml  metrics.csv  summary.json  events.out.tfevents.*  checkpoints/  videos/

Imports no torch, so that the command line can read a config before it pays for one.
"""

import contextlib
import dataclasses
import fcntl
import glob
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from fastrl.config.values import ConfigDumper, ConfigLoader

CONFIG_NAME = "config.yaml"
CHECKPOINTS_NAME = "checkpoints"
VIDEOS_NAME = "videos"

_TEMPORARY_SUFFIX = ".fastrl-tmp"


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A folder that an earlier run wrote, and its config."""

    path: Path
    config: dict[str, Any]

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints."""
        return self.path / CHECKPOINTS_NAME

    @property
    def videos(self) -> Path:
        """The folder of the run's videos."""
        return self.path / VIDEOS_NAME


def working_folder() -> Path:
    """Returns the folder that relative paths begin in, absolute; empty if it was removed.

    To be asked before there are environments: some change it.
    """
    with contextlib.suppress(FileNotFoundError):
        return Path.cwd()
    return Path()


def expanded(path: str | Path) -> Path:
    """Returns a path with `~` or `~user` at its beginning written out.

    Raises:
        ValueError: There is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from error


def create_run_folder(
    log_dir: str | Path, algo: str, env_id: str, exp_name: str, seed: int
) -> Path:
    """Creates a new run's folder, with `checkpoints/` and `videos/` in it.

    Runs that start in the same second get time folders ending in `-1`, `-2`, ...; creating the time
    folder is what claims it, so this also holds between processes.

    Returns:
        `<log_dir>/<algo>/<YYYY-mm-dd_HH-MM-SS>/<env>_<exp>_<seed>`.
    """
    parent = expanded(log_dir) / _safe_name(algo)
    parent.mkdir(parents=True, exist_ok=True)
    time_name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    attempt = 0
    while True:
        time_folder = parent / (f"{time_name}-{attempt}" if attempt else time_name)
        try:
            time_folder.mkdir(exist_ok=False)
            break
        except FileExistsError:
            attempt += 1
    folder = time_folder / f"{_safe_name(env_id)}_{_safe_name(exp_name)}_{seed}"
    folder.mkdir()
    (folder / CHECKPOINTS_NAME).mkdir()
    (folder / VIDEOS_NAME).mkdir()
    return folder


def open_run_folder(path: str | Path) -> RunFolder:
    """Opens a folder that a run wrote.

    Raises:
        ValueError: The folder does not exist, or is not a run folder.
    """
    folder = expanded(path)
    if not folder.exists():
        raise ValueError(f"{folder} does not exist; expected the folder of a run")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; expected the folder of a run")
    if not (folder / CONFIG_NAME).is_file():
        raise ValueError(f"{folder} is not a run folder: it has no {CONFIG_NAME}")
    return RunFolder(folder, read_config(folder / CONFIG_NAME))


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing into a run folder meanwhile; the system ends it with us.

    Raises:
        ValueError: Another process has the folder.
    """
    handle = os.open(folder, os.O_RDONLY)  # the folder itself: a lock file would be one more file
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"{folder} is being written by another process") from error
        yield
    finally:
        os.close(handle)


def write_config(path: str | Path, config: dict[str, Any]) -> None:
    """Writes a plain dict as YAML in its own order; tuples become lists."""
    plain = _without_tuples(config)
    text = yaml.dump(plain, Dumper=ConfigDumper, sort_keys=False, allow_unicode=True)
    with replaced_file(path) as file:
        file.write(text.encode())


def read_config(path: str | Path) -> dict[str, Any]:
    """Reads a YAML file of settings as a plain dict; an empty file is an empty dict.

    Raises:
        ValueError: The file is missing, is not YAML, or is not a mapping of names to values.
    """
    path = expanded(path)
    if not path.is_file():
        fault = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"{path} {fault}; expected a YAML file of settings")
    try:
        # The loader is a SafeLoader: it builds plain values only.
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=ConfigLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not a YAML file: {reason}") from error
    if config is None:
        return {}
    if not isinstance(config, dict) or not all(isinstance(name, str) for name in config):
        raise ValueError(f"{path} must map names to values, as `learning_rate: 3e-4` does")
    return config


@contextlib.contextmanager
def replaced_file(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file to write to, which takes the place of `path` in one step.

    The bytes go to a temporary name in the same folder, are synced, and are renamed; then the
    folder is synced. Whoever opens `path`, at any time and after any crash, finds the old file or
    the new one, both whole. If the body raises, `path` is as it was. What a killed writer of the
    same `path` left behind is removed first.
    """
    path = Path(path)
    remove_temporaries(path.parent, path.name)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def remove_temporaries(folder: Path, name: str | None = None) -> None:
    """Removes what killed writers of `name` left in a folder (None: of any name).

    Without a name this is only for a folder with one writer: it would remove the temporaries of
    others who are still writing.
    """
    pattern = "*" if name is None else glob.escape(name) + ".*"
    for leftover in folder.glob(f".{pattern}{_TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Makes a rename in this folder survive a power cut, where folders can be opened."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _safe_name(name: str) -> str:
    """One path component: `ALE/Pong-v5` becomes `ALE-Pong-v5`."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-")
    if not safe.strip("."):
        raise ValueError(f"{name!r} cannot name a folder; use letters, digits, '.', '_' or '-'")
    return safe


def _without_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_tuples(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_tuples(item) for item in value]
    return value
