"""Run folders: their paths, `config.yaml`, and atomic replacement of files.

    <log_dir>/<algo>/<time>/<env>_<exp>_<seed>/
        config.yaml  metrics.csv  summary.json  events.out.tfevents.*  checkpoints/  videos/
        process.json  (while a process writes)

Imports no torch, so that the command line can read a config quickly.
"""

import contextlib
import dataclasses
import fcntl
import glob
import os
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from fastrl.config.values import MOST_BYTES, ConfigDumper, read_yaml
from fastrl.processes.errors import one_line

CONFIG_NAME = "config.yaml"
CHECKPOINTS_NAME = "checkpoints"
VIDEOS_NAME = "videos"
# What config.yaml says besides the settings: the algorithm; the class that is trained, where it is
# the user's own; whether environments were handed over that no id describes.
LABELS = frozenset({"algo", "agent", "handed_over", "signature"})

_TEMPORARY_SUFFIX = ".fastrl-tmp"
_NUM_ATTEMPTS, _SECONDS_BETWEEN_ATTEMPTS = 10, 0.013  # to lock a folder


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of an earlier run, and its config."""

    path: Path
    config: dict[str, Any]

    @property
    def is_cut(self) -> bool:
        """Whether `config.yaml` ends in the middle of a line, as none does that was written."""
        return not (self.path / CONFIG_NAME).read_bytes().endswith(b"\n")

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints."""
        return self.path / CHECKPOINTS_NAME

    @property
    def videos(self) -> Path:
        """The folder of the run's videos."""
        return self.path / VIDEOS_NAME


def working_folder() -> Path:
    """Returns the current folder as an absolute path; an empty path if it was removed.

    Must be called before environments are created: some change the current folder.
    """
    with contextlib.suppress(FileNotFoundError):
        return Path.cwd()
    return Path()


def expanded(path: str | Path) -> Path:
    """Returns a path with a leading `~` or `~user` expanded.

    Raises:
        ValueError: the user does not exist, or this is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"expected the path of a file or folder, not a {type(path).__name__}")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from error


def create_run_folder(
    log_dir: str | Path, algo: str, env_id: str, exp_name: str, seed: int
) -> Path:
    """Creates the folder of a new run, with `checkpoints/` and `videos/` in it.

    Runs that start in the same second get time folders with the suffixes `-1`, `-2`, ... This is
    safe between processes, because creating the time folder is atomic.

    Returns:
        `<log_dir>/<algo>/<YYYY-mm-dd_HH-MM-SS>/<env>_<exp>_<seed>`.
    """
    parent = expanded(log_dir) / _safe_name(algo)
    try:
        str(parent.absolute()).encode()
    except UnicodeEncodeError:
        raise ValueError(f"log_dir: {parent.absolute()} is not UTF-8, as runs need it") from None
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
    """Opens the folder of an earlier run.

    Raises:
        ValueError: the folder does not exist, or is not a run folder.
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
    """Context in which no other process may own this run folder; a lock of the operating system.

    It is tried for a moment, since `runs.owner.is_owned` has a shared lock for microseconds.

    Raises:
        ValueError: another process owns the folder.
    """
    handle = os.open(folder, os.O_RDONLY)  # locks the folder itself: no need for a lock file
    try:
        for attempt in range(_NUM_ATTEMPTS):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if attempt == _NUM_ATTEMPTS - 1:
                    message = f"{folder} is being written by another process"
                    raise ValueError(message) from error
                time.sleep(_SECONDS_BETWEEN_ATTEMPTS)
        yield
    finally:
        os.close(handle)


def write_config(path: str | Path, config: dict[str, Any]) -> None:
    """Writes a plain dict as YAML, in the order of the dict; tuples become lists."""
    with replaced_file(path) as file:
        file.write(config_text(config).encode())


def config_text(config: dict[str, Any], *, is_ascii: bool = False) -> str:
    """Returns a plain dict as YAML, in the order of the dict; tuples become lists."""
    plain = _without_tuples(config)
    return yaml.dump(plain, Dumper=ConfigDumper, sort_keys=False, allow_unicode=not is_ascii)


def read_config(path: str | Path) -> dict[str, Any]:
    """Reads a YAML file of settings as a plain dict, which is empty for an empty file.

    Raises:
        ValueError: the file is missing, is not YAML, or is not a mapping of names to values.
    """
    path = expanded(path)
    if not path.is_file():
        fault = "is a folder" if path.is_dir() else "does not exist"
        fault = fault if path.is_dir() or not path.exists() else "is a device or pipe"
        raise ValueError(f"{path} {fault}; expected a YAML file of settings")
    try:
        if path.stat().st_size > MOST_BYTES:  # before it fills the memory
            raise ValueError(f"{path.stat().st_size:,} bytes are more than {MOST_BYTES:,}")
        config = read_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError is one
        raise ValueError(f"{path} is not a YAML file of settings: {one_line(error)}") from error
    if config is None:
        return {}
    if not isinstance(config, dict) or not all(isinstance(name, str) for name in config):
        raise ValueError(f"{path} must map names to values, as `learning_rate: 3e-4` does")
    return config


@contextlib.contextmanager
def replaced_file(path: str | Path) -> Iterator[BinaryIO]:
    """Opens a binary file for writing that replaces `path` atomically when the context ends.

    The bytes go to a temporary file in the same folder, which is synced and renamed; then the
    folder is synced. Whoever opens `path`, at any time and after any crash, finds the complete old
    or new file. If the body raises, `path` stays unchanged. Temporary files that killed writers of
    the same `path` left behind are removed first.

    Raises:
        ValueError: at `path` is something else than a regular file.
        OSError: the file cannot be written.
    """
    path = Path(path)
    check_replaceable(path)
    remove_temporaries(path.parent, path.name)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error  # a quota, say
        raise
    _sync_folder(path.parent)


def check_replaceable(path: Path) -> None:
    """Raises ValueError if there is something at `path` that is not a regular file.

    A link, device, pipe or folder is somebody's; a file in its place would take it away.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "device or pipe"
        raise ValueError(f"{path} is a {kind}; only a regular file may be replaced")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not os.access(parent, os.W_OK):
        raise ValueError(f"{path} cannot be written: the folder {parent} is read-only for you")


def check_run_files(folder: Path) -> None:
    """Raises ValueError if a file that a resumed run will replace is no regular file.

    Nor may its folders be links: what another run has there would be replaced and removed.
    """
    for name in (CHECKPOINTS_NAME, VIDEOS_NAME):
        if (folder / name).is_symlink():
            raise ValueError(f"{folder / name} is a link; a run writes to folders of its own")
    for name in (CONFIG_NAME, "metrics.csv", "summary.json", "process.json"):
        check_replaceable(folder / name)
    for name in ("last.pt", "best.pt"):
        check_replaceable(folder / CHECKPOINTS_NAME / name)


def remove_temporaries(folder: Path, name: str | None = None) -> None:
    """Removes the temporary files that killed writers of `name` left behind (None: of any name).

    Without a name, the folder must have a single writer: this would also remove the temporary files
    of others that are still writing.
    """
    pattern = "*" if name is None else glob.escape(name) + ".*"
    for leftover in folder.glob(f".{pattern}{_TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Makes a rename in this folder survive a power failure, where the system supports that."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _safe_name(name: str) -> str:
    """Returns a name as a single path component: `ALE/Pong-v5` becomes `ALE-Pong-v5`."""
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
