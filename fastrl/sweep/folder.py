"""The folder of a sweep: making it, owning it, its clock, and finding one to go on with."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from fastrl.runs.folder import expanded, owned, replaced_file
from fastrl.runs.owner import PROCESS_NAME, stop
from fastrl.runs.plain_files import read_facts
from fastrl.sweep.request import SWEEP_NAME, Asked

STATUS_NAME = "status.json"
SUMMARY_NAME = "summary.json"
BEST_NAME = "best.yaml"
PHASES = ("search", "final", "confirmation", "grid", "finished", "stopped", "failed")
_WRITE_SECONDS = 2.0
_MOST_STATUS = 100_000  # bytes


def sweeps_folder(log_dir: str | Path) -> Path:
    """Returns the folder of all sweeps."""
    return expanded(log_dir) / "sweeps"


def create(log_dir: str | Path) -> Path:
    """Creates the folder of a new sweep, `<log_dir>/sweeps/<YYYY-mm-dd_HH-MM-SS>`."""
    parent = sweeps_folder(log_dir)
    parent.mkdir(parents=True, exist_ok=True)
    name, attempt = datetime.now().strftime("%Y-%m-%d_%H-%M-%S"), 0
    while True:
        folder = parent / (f"{name}-{attempt}" if attempt else name)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
        attempt += 1


def unfinished(log_dir: str | Path, command: str, say: Callable[[str], None]) -> Path | None:
    """Returns this user's newest sweep of a command line that was cut short and is not running.

    Args:
        log_dir: as of `--log-dir`.
        command: the command line.
        say: prints a line: for each newer one that is not signed as this user's.
    """
    found = sorted(sweeps_folder(log_dir).glob(f"*/{SWEEP_NAME}"), reverse=True)
    for path in found:
        with contextlib.suppress(ValueError, OSError):
            asked, status = Asked.load(path.parent), read_status(path.parent)
            if asked.command != command or status.get("phase") in ("finished", "failed"):
                continue
            with owned(path.parent):  # ValueError: it is running
                if asked.is_own(path.parent):
                    return path.parent
            say(
                f"{path.parent}, of the same command, was cut short, but is not signed as yours; "
                f"go on with it by --resume {path.parent}"
            )
    return None


def newest(log_dir: str | Path, algo: str | None, env_id: str | None) -> Path:
    """Returns the newest sweep of an algorithm and task; None: of any.

    Raises:
        ValueError: there is none.
    """
    for path in sorted(sweeps_folder(log_dir).glob(f"*/{SWEEP_NAME}"), reverse=True):
        with contextlib.suppress(ValueError, OSError):
            asked = Asked.load(path.parent)
            if algo in (None, asked.algo) and env_id in (None, asked.env_id):
                return path.parent
    what = " ".join(filter(None, (algo, env_id and f"on {env_id}")))
    raise ValueError(f"{sweeps_folder(log_dir)} holds no sweep{what and f' of {what}'}")


def read_status(folder: Path) -> dict[str, Any]:
    """Returns `status.json`; {} if there is none yet, or it is damaged."""
    with contextlib.suppress(OSError, ValueError):
        return read_facts(folder / STATUS_NAME, _MOST_STATUS)
    return {}


def write_json(path: Path, values: Any) -> None:
    """Writes JSON atomically; numbers that are not finite are refused."""
    with replaced_file(path) as file:
        file.write(json.dumps(values, indent=1, allow_nan=False).encode() + b"\n")


class Clock:
    """How long a sweep has worked, over all its starts; and where it is, for who looks on.

    Args:
        folder: of the sweep, which this process owns.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / STATUS_NAME
        before = read_status(folder).get("seconds", 0.0)
        self._before = before if isinstance(before, int | float) else 0.0
        self._began, self._written = time.monotonic(), -_WRITE_SECONDS
        self.phase = ""

    @property
    def seconds(self) -> float:
        """Wall time that the sweep has taken, without the time in which it was stopped."""
        return self._before + time.monotonic() - self._began

    def tick(self) -> None:
        """Brings `status.json` up to date, every two seconds."""
        if time.monotonic() - self._written >= _WRITE_SECONDS:
            self.write()

    def enter(self, phase: str) -> None:
        """Notes what the sweep does now."""
        assert phase in PHASES
        self.phase = phase
        self.write()

    def write(self, error: str = "") -> None:
        """Writes `status.json`."""
        self._written = time.monotonic()
        status = {"phase": self.phase, "seconds": round(self.seconds, 2)}
        write_json(self._path, {**status, "updated": round(time.time(), 2), "error": error})


def end_orphans(folder: Path) -> None:
    """Ends runs of a sweep that outlived it, where the system did not end them with it."""
    for name in ("", "trials/", "confirmation/"):
        for path in folder.glob(f"{name}*/*/*/*/{PROCESS_NAME}"):
            with contextlib.suppress(ValueError, OSError):  # it is over
                stop(path.parent, signal.SIGTERM)


@contextlib.contextmanager
def at_work(folder: Path, clock: Clock) -> Iterator[None]:
    """Context of work on a sweep, whose folder this process owns.

    What ends it early is noted in `status.json`.
    """
    end_orphans(folder)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        clock.phase = "stopped"
        clock.write()
        raise
    except BaseException as error:
        clock.phase = "failed"
        clock.write(str(error)[:1000])
        raise
