"""Checkpoints: plain values and tensors only, written so that killing the process damages none.

A checkpoint is a nested dict of tensors, numbers, strings, bools and None. Loading runs no code
from the file. A file is replaced atomically: it is always the old one or the new one.
"""

import contextlib
import logging
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fastrl.runs.folder import remove_temporaries, replaced_file

FORMAT = "fastrl"
FORMAT_VERSION = 2

_PLAIN_TYPES = (bool, int, float, str, type(None))
_STEP_FILE = re.compile(r"step_(\d{12,})\.pt")

_log = logging.getLogger("fastrl")


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Saves a nested dict; `path` is replaced atomically.

    Tensors may be on any device. Of a view only its own elements are saved.

    Args:
        path: the file; its folder must exist.
        state: nested dicts (with str or int keys), lists and tuples of tensors, int, float, str,
            bool and None.

    Raises:
        TypeError: `state` holds a value of another type; the message names its key.
        OSError: the file cannot be written, for example because the disk is full.
    """
    assert "format" not in state and "format_version" not in state, "these keys are added here"
    plain = _plain(state, "")
    with replaced_file(path) as file, _cause_of_failure(path):
        torch.save({"format": FORMAT, "format_version": FORMAT_VERSION, **plain}, file)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Loads a checkpoint with all tensors on the CPU; runs no code from the file.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is damaged, not a checkpoint, or of a newer format.
    """
    state = _read(Path(path), mmap=False)
    _check_sums(Path(path))
    if state.pop("format_version") == 1:
        _begin_optimizers_anew(path, state.get("agent"))
    return state


def _begin_optimizers_anew(path: str | Path, agent: Any) -> None:
    """Puts the optimisers' state back to its beginning: it was saved in another order of weights.

    Adam's moments and its steps are 0 then, the running square of RMSprop is 1.
    """
    parts = agent.values() if isinstance(agent, dict) else ()
    states = [part for part in parts if isinstance(part, dict) and "square" in part]
    for state in states:
        for tensor in filter(torch.is_tensor, state.values()):
            tensor.fill_(0 if "steps" in state else 1)
    if states:
        _log.warning("%s is of an earlier fastrl: its optimisers begin anew", path)


def settings_in_newest(folder: Path, algo: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Returns the settings in the newest checkpoint of a run, its labels, and the file.

    Raises:
        ValueError: there is no whole checkpoint of this algorithm with settings.
    """
    path = Checkpoints(folder).newest()
    state = _read(path, mmap=True)
    learner = state.get("agent")
    settings = learner.get("config") if isinstance(learner, dict) else None
    if state.get("algo") != algo or not isinstance(settings, dict):
        raise ValueError(f"{path} holds no settings of {algo}")
    labels = {"agent": state.get("class") or "", "algo": algo}
    labels |= {name: state[name] for name in ("handed_over", "signature") if name in state}
    return settings, labels, str(path)


class Checkpoints:
    """The checkpoints of one run: `last.pt`, `best.pt` and the newest `step_<env steps>.pt`.

    Only one process may write at a time.

    Args:
        folder: folder of the checkpoints; created on the first save.
        keep: number of periodic checkpoints to keep, at least 1.
    """

    def __init__(self, folder: str | Path, keep: int = 1) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}; at least 1 periodic checkpoint must be kept")
        self.folder = Path(folder)
        self.keep = keep

    def save_periodic(self, state: dict[str, Any], env_steps: int) -> Path:
        """Saves `step_<12 digits>.pt`, then removes the oldest ones beyond `keep`.

        Files of later steps are removed too: the run was resumed from before them.
        """
        path = self._save(f"step_{env_steps:012d}.pt", state)
        by_steps = self._periodic()
        past = sorted(steps for steps in by_steps if steps <= env_steps)
        for steps in by_steps.keys() - set(past[-self.keep :]):
            by_steps[steps].unlink(missing_ok=True)
        return path

    def save_best(self, state: dict[str, Any]) -> Path:
        """Saves `best.pt`."""
        return self._save("best.pt", state)

    def save_last(self, state: dict[str, Any]) -> Path:
        """Saves `last.pt`."""
        return self._save("last.pt", state)

    def newest(self) -> Path:
        """Returns the intact checkpoint with the most `["counters"]["env_steps"]`.

        A damaged file is skipped with a warning. In a tie `last.pt` wins, and `best.pt` loses.

        Raises:
            ValueError: there is no intact checkpoint.
        """
        reasons = []
        found: list[tuple[int, Path]] = []
        for path in (
            self.folder / "last.pt",
            *self._periodic().values(),
            self.folder / "best.pt",
        ):
            if not path.is_file():
                continue
            try:
                # Memory-mapped: a replay buffer of gigabytes costs nothing here.
                found.append((_env_steps(path, _read(path, mmap=True)), path))
            except ValueError as error:
                reasons.append(str(error))
        chosen = None
        for _, path in sorted(found, key=lambda pair: pair[0], reverse=True):
            try:
                _check_sums(path)
            except ValueError as error:
                reasons.append(str(error))
                continue
            chosen = path
            break
        if chosen is None:
            details = f" ({'; '.join(reasons)})" if reasons else ""
            raise ValueError(f"{self.folder} has no whole checkpoint{details}")
        for reason in reasons:
            _log.warning("skipping a checkpoint: %s; using %s", reason, chosen.name)
        return chosen

    def _save(self, name: str, state: dict[str, Any]) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_temporaries(self.folder)
        path = self.folder / name
        save_checkpoint(path, state)
        return path

    def _periodic(self) -> dict[int, Path]:
        matches = ((_STEP_FILE.fullmatch(path.name), path) for path in self.folder.glob("step_*"))
        return {int(match[1]): path for match, path in matches if match}


def check_plain(state: dict[str, Any]) -> None:
    """Raises TypeError if `save_checkpoint` could not save this; the message names the key."""
    _plain(state, "")


@contextlib.contextmanager
def _cause_of_failure(path: str | Path) -> Iterator[None]:
    """Replaces a RuntimeError of torch's writer by the OSError that caused it, with the path."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error.__context__, OSError):
            raise
        raise OSError(error.__context__.errno, error.__context__.strerror, str(path)) from error


def _plain(value: Any, key: str) -> Any:
    """Copies containers, moves tensors to the CPU, and raises TypeError for any other type."""
    # Exact types: a NumPy float64 is a subclass of float, but cannot be loaded back.
    if type(value) in _PLAIN_TYPES:
        return value
    if isinstance(value, torch.Tensor):
        return _plain_tensor(value, key)
    if isinstance(value, dict):
        for name in value:
            if type(name) not in (str, int):
                raise TypeError(f"checkpoint key {key}[{name!r}] is no str or int")
            assert not _is_wrapped(name), f"checkpoint key {key}[{name!r}]: save the raw module's"
        return {name: _plain(item, f"{key}[{name!r}]") for name, item in value.items()}
    if type(value) is list:
        return [_plain(item, f"{key}[{index}]") for index, item in enumerate(value)]
    if type(value) is tuple:
        return tuple(_plain(item, f"{key}[{index}]") for index, item in enumerate(value))
    raise TypeError(
        f"checkpoint value {key} is a {type(value).__module__}.{type(value).__qualname__}; "
        "allowed: tensor, dict, list, tuple, int, float, str, bool, None"
    )


def _plain_tensor(tensor: torch.Tensor, key: str) -> torch.Tensor:
    plain = tensor.detach()
    if type(plain) is not torch.Tensor or plain.layout is not torch.strided:
        raise TypeError(f"checkpoint value {key} is a {type(plain).__name__} of {plain.layout}")
    plain = plain.cpu()
    # torch.save writes the whole storage of a view: for one row of a buffer, the whole buffer.
    if plain.untyped_storage().nbytes() > plain.numel() * plain.element_size():
        plain = plain.clone()
    return plain


def _is_wrapped(name: str | int) -> bool:
    """Returns whether a parameter's name has a prefix of torch.compile or of a DDP wrapper."""
    return isinstance(name, str) and ("_orig_mod." in name or name.startswith("module."))


def _read(path: Path, mmap: bool) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a checkpoint file")
    if not path.is_file():
        raise ValueError(f"{path} is a folder or device; expected a checkpoint file")
    # Our files are zip archives; torch would also try its older, less strict formats.
    with _damage_as_value_error(path):
        is_zip = zipfile.is_zipfile(path)
    if not is_zip:
        raise ValueError(f"{path} is cut short or is not a fastrl checkpoint")
    check_parts(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        # torch's own message explains how to run the code in the file.
        raise ValueError(
            f"{path} is not a fastrl checkpoint: it holds more than tensors and plain values"
        ) from error
    except Exception as error:  # torch raises many types here, all undocumented
        reason = str(error).strip().split("\n")[0][:200]
        raise ValueError(f"{path} is damaged or not a fastrl checkpoint: {reason}") from error
    kind = state.pop("format", None) if isinstance(state, dict) else None
    if not isinstance(kind, str) or kind != FORMAT:  # comparing a tensor would give a tensor
        raise ValueError(f"{path} is not a fastrl checkpoint")
    _check_read(path, state)
    version = state.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise ValueError(
            f"{path} has format_version {version!r}; this fastrl reads up to {FORMAT_VERSION}"
        )
    return state


def check_parts(path: Path) -> None:
    """Raises ValueError, before anything is read, if the parts are larger than the file.

    A small file of compressed or overlapping parts can fill any memory; ours have neither.
    """
    with _damage_as_value_error(path), zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise ValueError(f"{path} is not a fastrl checkpoint: it is compressed")
    names = {part.filename for part in parts}
    if len(names) < len(parts) or sum(part.file_size for part in parts) > path.stat().st_size:
        raise ValueError(f"{path} is not a fastrl checkpoint: its parts overlap")


def _check_read(path: Path, state: dict[str, Any]) -> None:
    """Raises ValueError for values of other types, and for more of them than the file has bytes.

    A value can stand in many places of a state, so that a small file holds billions.
    """
    most, count, pending = path.stat().st_size, 0, [state]
    while pending:
        value = pending.pop()
        count += 1
        if isinstance(value, dict):
            pending += [*value.keys(), *value.values()]
            if not all(type(name) in (str, int) for name in value):
                raise ValueError(f"{path} is not a fastrl checkpoint: its names are not strings")
        elif isinstance(value, list | tuple):
            pending += value
        elif isinstance(value, torch.Tensor):
            is_plain = type(value) is torch.Tensor and value.layout is torch.strided
            if not is_plain or value.numel() * value.element_size() > most:
                raise ValueError(f"{path} is not a fastrl checkpoint: a tensor in it is not plain")
        elif type(value) not in _PLAIN_TYPES:
            kind = type(value).__name__
            raise ValueError(f"{path} is not a fastrl checkpoint: it holds a {kind}")
        if count > most:
            raise ValueError(f"{path} is not a fastrl checkpoint: it holds itself")


def _check_sums(path: Path) -> None:
    """Verifies the checksum of each part of the file, which torch.load does not."""
    with _damage_as_value_error(path), zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{path} is damaged: the checksum of {damaged} is wrong")


@contextlib.contextmanager
def _damage_as_value_error(path: Path) -> Iterator[None]:
    """Turns the errors of zipfile for damaged files into a ValueError that names the file."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # of many types, as with torch
        raise ValueError(f"{path} is damaged: {error}") from error


def _env_steps(path: Path, state: dict[str, Any]) -> int:
    counters = state.get("counters")
    env_steps = counters.get("env_steps") if isinstance(counters, dict) else None
    if not isinstance(env_steps, int):
        raise ValueError(f"{path} holds no counters.env_steps")
    return env_steps
