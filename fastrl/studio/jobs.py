"""Jobs: commands of fastrl that the studio starts, each with a folder that outlives the studio.

    <log_dir>/.studio/jobs/<time>-<random>/
        job.json        what is to run, as `Job`, signed by the user
        settings.yaml   the file that `--config` names, of a new run
        started.json    empty: it was started
        process.json    its process, as in a run folder
        output.txt      what it printed
        ended.json      exit status, if it is known

A log folder may come from somebody else, and with it jobs that nobody here has asked for. Only
those are started that were signed with the user's key, for this very folder, or given to this
process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fastrl.config.trust import is_signed, sign_text
from fastrl.processes.signals import STOP_SIGNALS
from fastrl.runs.folder import check_replaceable, replaced_file, write_config
from fastrl.runs.owner import PROCESS_NAME, Process, process_of, read_process
from fastrl.runs.plain_files import open_plain, read_facts, read_plain
from fastrl.studio.addresses import plain_folder

STUDIO_NAME = ".studio"
SETTINGS_NAME = "settings.yaml"
OUTPUT_NAME = "output.txt"
_FOLDER_LINE = re.compile(rb"^run folder: (.+)$", re.MULTILINE)
_CUT_LINE = re.compile(rb"\A[^\r\n]*[\r\n]")
_MOST_READ = 65_536  # bytes of an output: of its end, and of its start, where the run is named
_MOST_FACTS = 100_000  # bytes of a file of facts

State = Literal["waiting", "refused", "running", "done", "stopped", "failed", "cancelled", "gone"]
"""refused: it would wait, but is not this user's. gone: it ended while no studio was there to learn
its exit status."""

_STOPPED = frozenset(sign for number in STOP_SIGNALS for sign in (128 + number, -number))


@dataclass(frozen=True)
class Job:
    """A command of fastrl to run as a process of its own."""

    id: str
    """Name of the job's folder; jobs sort by it in the order in which they were given."""
    command: str
    """Module below `fastrl`, such as ppo or evaluate."""
    words: tuple[str, ...]
    """Arguments of the command."""
    title: str
    """What it is, in words."""
    run: str = ""
    """Address of the run that it works on; empty for a new run."""

    @property
    def given(self) -> float:
        """When it was given, in seconds since 1970; 0 if its name does not say."""
        text = self.id.partition("-")[0]
        return int(text) / 1e9 if text.isdecimal() else 0.0


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    job: Job
    state: State
    process: Process | None = None
    """Its process, while it runs."""
    status: int | None = None
    """Exit status, once it ended and if it is known."""
    run: str = ""
    """Address of its run, as soon as it has one."""


@dataclass
class JobFolder:
    """The folder of all jobs below a log folder.

    Args:
        log_dir: the log folder, absolute.
    """

    log_dir: Path
    _ended: dict[str, Progress] = field(default_factory=dict)  # these change no more
    _run_of: dict[str, str] = field(default_factory=dict)
    _own: set[str] = field(default_factory=set)  # what was signed, or given to this process

    @property
    def path(self) -> Path:
        """Where the jobs' folders are."""
        return self.log_dir / STUDIO_NAME / "jobs"

    def add(
        self,
        command: str,
        words: tuple[str, ...],
        title: str,
        run: str = "",
        settings: dict[str, Any] | None = None,
    ) -> Job:
        """Writes a job down, to be started when a core is free.

        Args:
            command: module below `fastrl`.
            words: arguments of the command.
            title: what it is, in words.
            run: address of the run that it works on.
            settings: of a new run; `--config` names the file of them before `words`.
        """
        name = f"{time.time_ns():020d}-{secrets.token_hex(3)}"
        folder = plain_folder(self.log_dir, STUDIO_NAME, "jobs", name)
        if settings is not None:
            write_config(folder / SETTINGS_NAME, settings)
            words = ("--config", str(folder / SETTINGS_NAME), *words)
        job = Job(name, command, words, title, run)
        text = self._signed_text(job)
        _write(folder / "job.json", {**dataclasses.asdict(job), "signature": sign_text(text)})
        self._own.add(text)
        return job

    def start(self, job: Job) -> subprocess.Popen[bytes]:
        """Starts a job's process in a session of its own, so that it outlives this one.

        Raises:
            ValueError: it is not this user's job, or was changed.
            OSError: it cannot be started.
        """
        folder = self.path / job.id
        if not self._is_own(job, _load(folder / "job.json").get("signature")):
            raise ValueError("this job is not signed as yours")
        check_replaceable(folder / OUTPUT_NAME)  # to open a pipe would wait for its other end
        # Whatever happens next, no later studio starts it again.
        _write(folder / "started.json", {})
        environment = {x: y for x, y in os.environ.items() if not x.startswith("NICEGUI_")}
        with open(folder / OUTPUT_NAME, "ab") as output:
            process = subprocess.Popen(
                command_line(job),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**environment, "PYTHONUNBUFFERED": "1"},
            )
        try:
            if (known := process_of(process.pid)) is not None:
                _write(folder / PROCESS_NAME, dataclasses.asdict(known))
        except BaseException:  # nobody could stop it
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        return process

    def end(self, job: Job, status: int | None) -> None:
        """Writes down that a job ended, or with None that it was cancelled before it started."""
        _write(self.path / job.id / "ended.json", {"status": status})

    def fail(self, job: Job, words: str) -> None:
        """Writes down that a job could not be started, and why."""
        with replaced_file(self.output_of(job)) as file:
            file.write(f"{words}\n".encode())
        self.end(job, 2)

    def all(self) -> list[Progress]:
        """Returns all jobs in the order in which they were given; damaged folders are left out.

        There are none where their folder is none, or cannot be read.
        """
        if any(folder.is_symlink() for folder in (self.path, self.path.parent)):
            return []
        try:
            names = sorted(os.listdir(self.path))
        except OSError:
            return []
        found = (self._ended.get(name) or self._read(name) for name in names)
        return [progress for progress in found if progress is not None]

    def output_of(self, job: Job) -> Path:
        """Returns the file of what a job printed; it may not exist yet."""
        return self.path / job.id / OUTPUT_NAME

    def printed(self, job: Job, most_bytes: int = _MOST_READ) -> str:
        """Returns the end of what a job printed, in whole lines if it can; "" if nothing."""
        try:
            descriptor, status = open_plain(self.output_of(job))
        except (OSError, ValueError):
            return ""
        with open(descriptor, "rb") as file:
            file.seek(max(0, status.st_size - most_bytes))
            data = file.read(most_bytes)
        if status.st_size > most_bytes:
            data = _CUT_LINE.sub(b"", data, 1)
        lines = data.decode("utf-8", "replace").split("\n")
        # A live line overwrites itself: its last words are what a terminal shows.
        return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)

    def last_line(self, job: Job) -> str:
        """Returns the last line that a job printed; "" if it printed none."""
        lines = self.printed(job, 4000).strip().splitlines()
        return lines[-1] if lines else ""

    def _read(self, name: str) -> Progress | None:
        folder = self.path / name
        try:
            facts = _load(folder / "job.json")
            signature = facts.pop("signature", None)
            job = Job(**{**facts, "words": tuple(facts["words"])})
            if job.id != name or not all(map(_is_text, (*vars(job).values(), *job.words))):
                return None
            ended, started = _load(folder / "ended.json"), _load(folder / "started.json")
            process = read_process(folder)
            status = None if ended is None else ended.get("status")
            if not isinstance(status, int | None):
                return None
        except (OSError, ValueError, TypeError, KeyError):
            return None
        run = job.run or self._run_named_in(name)
        if ended is not None:
            progress = Progress(job, _state_of(status), status=status, run=run)
            self._ended[name] = progress
        elif started is not None:
            if process is not None and process.is_alive:
                progress = Progress(job, "running", process, run=run)
            else:
                progress = Progress(job, "gone", run=run)
        else:
            is_own = self._is_own(job, signature)
            progress = Progress(job, "waiting" if is_own else "refused", run=run)
        return progress

    def _is_own(self, job: Job, signature: Any) -> bool:
        """Returns whether a job is this user's, by what its folder says now."""
        try:
            text = self._signed_text(job)
        except (OSError, ValueError):
            return False
        if text not in self._own and is_signed(text, signature):
            self._own.add(text)
        return text in self._own

    def _signed_text(self, job: Job) -> str:
        """Returns all that a job says, with its settings and the folder that it is for.

        Raises:
            ValueError: there is something else than a file of settings, or one that is too long.
            OSError: it cannot be read.
        """
        try:
            settings = read_plain(self.path / job.id / SETTINGS_NAME, _MOST_FACTS)
        except FileNotFoundError:
            settings = b""
        digest = hashlib.sha256(settings).hexdigest()
        return json.dumps([str(self.log_dir), dataclasses.asdict(job), digest], sort_keys=True)

    def _run_named_in(self, name: str) -> str:
        """Returns the address of the run folder that a job's output names; empty if none yet."""
        if name not in self._run_of:
            with contextlib.suppress(OSError, ValueError):
                descriptor, _ = open_plain(self.path / name / OUTPUT_NAME)
                with open(descriptor, "rb") as file:
                    match = _FOLDER_LINE.search(file.read(_MOST_READ))
                if match is not None:
                    folder = Path(os.path.abspath(os.fsdecode(match[1])))
                    if folder.is_relative_to(self.log_dir):
                        self._run_of[name] = folder.relative_to(self.log_dir).as_posix()
        return self._run_of.get(name, "")


def command_line(job: Job) -> list[str]:
    """Returns the words of the process that does a job."""
    return [sys.executable, "-m", f"fastrl.{job.command}", *job.words]


def _state_of(status: int | None) -> State:
    """Returns the state of a job that ended, by its exit status; None if it never began."""
    if status is None:
        return "cancelled"
    return "stopped" if status in _STOPPED else "failed" if status else "done"


def _write(path: Path, facts: dict[str, Any]) -> None:
    with replaced_file(path) as file:
        file.write(json.dumps(facts, indent=1).encode())


def _load(path: Path) -> Any:
    """Returns what a file of facts holds; None if it is one that is written later."""
    try:
        return read_facts(path, _MOST_FACTS)
    except FileNotFoundError:
        if path.name == "job.json":
            raise
        return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str | tuple)
