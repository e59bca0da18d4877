"""The desk: what the pages of one studio share, and what can be done with runs."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

from fastrl.config.describing import ALGORITHMS, config_class_of
from fastrl.config.trust import check_named
from fastrl.runs import owner
from fastrl.runs.folder import CONFIG_NAME, LABELS, RunFolder
from fastrl.runs.listing import find_runs
from fastrl.runs.plain_files import read_settings
from fastrl.runs.run import Run
from fastrl.studio.addresses import address_of, is_address, path_of
from fastrl.studio.drafts import Draft
from fastrl.studio.jobs import Job, JobFolder, Progress
from fastrl.studio.queue import Queue
from fastrl.studio.rows import Row, row_of
from fastrl.studio.tensorboard import TensorBoard
from fastrl.studio.trash import TRASH_NAME, restore, trash

_LEAST_PAUSE = 0.8  # seconds between two looks at all folders
_LOOKS_PER_PAUSE = 30  # a look may take a 30th of the time: the cores are for training


class Desk:
    """A log folder with its runs, jobs and queue.

    Its methods read and write files: pages call them by `asyncio.to_thread`, off the event loop.

    Args:
        log_dir: the log folder; made if it does not exist.
        at_once: how many jobs run at the same time; None: one per core.
    """

    def __init__(self, log_dir: Path, at_once: int | None = None) -> None:
        log_dir.mkdir(parents=True, exist_ok=True)
        self.log_dir = log_dir.resolve()
        self.jobs = JobFolder(self.log_dir)
        self.queue = Queue(self.jobs, at_once, self._num_other_runs)
        self._looking = threading.Lock()
        self._runs: list[Run] = []
        self._rows: dict[str, tuple[Run, Row]] = {}
        self.left_out: list[str] = []
        """What would be the addresses of the runs that have none."""
        self._look_again = 0.0
        self._has_looked = False
        self.tensorboard = TensorBoard(self.log_dir)

    def open(self) -> None:
        """Begins to start the jobs of the queue, and to read the folders of runs."""
        self.queue.open()
        threading.Thread(target=self.rows, name="fastrl-first-look", daemon=True).start()

    def close(self) -> None:
        """Ends the threads and TensorBoard; processes of runs go on."""
        self.queue.close()
        self.tensorboard.close()

    def runs(self) -> list[Run]:
        """Returns all runs, newest first; those of the last look if that was just now."""
        with self._looking:
            if time.monotonic() >= self._look_again:
                start = time.monotonic()
                self._runs = find_runs(self.log_dir)
                # The first look reads all, later ones what is new.
                seconds = time.monotonic() - start if self._has_looked else 0.0
                self._has_looked = True
                pause = max(_LEAST_PAUSE, _LOOKS_PER_PAUSE * seconds)
                self._look_again = time.monotonic() + pause
            return self._runs

    def rows(self) -> list[Row]:
        """Returns the rows of all runs, newest first; a run that is as it was has the same row.

        Those without an address (see `addresses.is_address`) are in `left_out` instead.
        """
        runs, known = self.runs(), self._rows
        rows: dict[str, tuple[Run, Row]] = {}
        left_out: list[str] = []
        for run in runs:
            address = address_of(self.log_dir, run.path)
            if not is_address(address):
                left_out.append(address)
                continue
            before = known.get(str(run.path))
            if before is None or before[0] is not run:
                before = (run, row_of(run, self.log_dir))
            rows[str(run.path)] = before
        self._rows, self.left_out = rows, left_out
        return [row for _, row in rows.values()]

    @property
    def known_rows(self) -> list[Row]:
        """The rows of the last look, without looking again."""
        return [row for _, row in self._rows.values()]

    def look_again(self) -> None:
        """Makes the next question for runs read their folders, however short ago the last did."""
        self._look_again = 0.0

    def _num_other_runs(self) -> int:
        """Returns how many runs are under way that the queue did not start."""
        pids = {progress.process.pid for progress in self.jobs.all() if progress.process}
        running = [run for run in self.runs() if run.state == "running"]
        return sum(run.process is None or run.process.pid not in pids for run in running)

    def folder(self, address: str) -> Path:
        """Returns the folder of a run, which may be damaged.

        Raises:
            ValueError: there is no run at this address.
        """
        path = path_of(self.log_dir, address)
        if not path.is_dir():
            raise ValueError("this is the address of a file, not of a run")
        return path

    def run_at(self, address: str) -> RunFolder:
        """Returns a run folder with its config.

        Raises:
            ValueError: there is no run at this address, or its config cannot be read.
        """
        folder = self.folder(address)
        try:
            return RunFolder(folder, read_settings(folder / CONFIG_NAME))
        except OSError as error:
            raise ValueError(f"{CONFIG_NAME} of this run cannot be read: {error}") from error

    def jobs_of(self, address: str) -> list[Progress]:
        """Returns the jobs of a run, the newest last."""
        return [progress for progress in self.jobs.all() if progress.run == address]

    def submit(
        self,
        command: str,
        words: tuple[str, ...],
        title: str,
        run: str = "",
        settings: dict[str, Any] | None = None,
    ) -> Job:
        """Queues a command of fastrl; arguments as `JobFolder.add`."""
        job = self.jobs.add(command, words, title, run, settings)
        self.queue.hurry()
        return job

    def start_runs(self, draft: Draft) -> list[Job]:
        """Queues the runs of a draft, which was checked."""
        jobs, task = [], config_class_of(draft.algo).env_id
        for settings in draft.settings_of_runs():
            seed = f", seed {settings['seed']}" if "seed" in settings else ""
            title = f"{draft.algo} on {settings.get('env_id', task)}{seed}"
            settings = {**settings, "log_dir": str(self.log_dir)}
            words = tuple(draft.source_words())
            jobs.append(self.submit(draft.algo, words, title, settings=settings))
        return jobs

    def stop(self, address: str) -> None:
        """Asks a run to save and end.

        Raises:
            ValueError: no process of it was found.
        """
        folder = self.folder(address)
        try:
            owner.stop(folder)
        except ValueError:  # it is still starting, or ranks of it are
            if not any(map(self._stop_job, reversed(self.jobs_of(address)))):
                raise
        self.look_again()

    def _stop_job(self, progress: Progress) -> bool:
        process = progress.process
        return process is not None and owner.signal_to(process, signal.SIGTERM)

    def trash(self, address: str) -> None:
        """Moves a run to the trash, from where `restore` brings it back.

        Raises:
            ValueError: a process writes it, or a job of it is under way.
            OSError: it cannot be moved.
        """
        folder = self.folder(address)
        if not any(run.path == folder for run in self.runs()):
            raise ValueError(f"{address} is not a run")
        if any(progress.state in ("waiting", "running") for progress in self.jobs_of(address)):
            raise ValueError(f"{address} has a job in the queue; stop it first")
        trash(self.log_dir, folder)
        self.look_again()

    def trashed(self) -> list[Row]:
        """Returns the rows of the runs in the trash, newest first, with addresses below it."""
        root = self.log_dir / TRASH_NAME
        return [row_of(run, root) for run in find_runs(root)]

    def restore(self, address: str) -> str:
        """Brings a run back from the trash; returns its address.

        Raises:
            ValueError: there is none at this address, or another run took its place.
            OSError: it cannot be moved.
        """
        restored = restore(self.log_dir, address)
        self.look_again()
        return restored

    def resume(self, address: str, words: tuple[str, ...] = (), trust: bool = False) -> Job:
        """Queues the continuation of a run; `words` are further flags."""
        algo = self._algo_of(address)
        words = ("--resume", str(self.folder(address)), *_trusting(trust), *words)
        return self.submit(algo, words, f"resume {address}", address)

    def evaluate(self, address: str, words: tuple[str, ...] = (), trust: bool = False) -> Job:
        """Queues a greedy test of a run; `words` are further arguments of `fastrl.evaluate`."""
        self._algo_of(address)
        words = (str(self.folder(address)), *_trusting(trust), *words)
        return self.submit("evaluate", words, f"evaluate {address}", address)

    def export(self, address: str, words: tuple[str, ...] = (), trust: bool = False) -> Job:
        """Queues the export of a run's policy; `words` are further arguments of `fastrl.export`."""
        self._algo_of(address)
        words = (str(self.folder(address)), *_trusting(trust), *words)
        return self.submit("export", words, f"export {address}", address)

    def code_to_trust(self, address: str) -> str:
        """Returns what to ask the user before a run is played: which code it would import.

        Empty if it names none, or if it was signed as a run of this user's.

        Raises:
            ValueError: there is no run at this address, or its config cannot be read.
        """
        config = dict(self.run_at(address).config)
        labels = {name: config.pop(name) for name in LABELS & config.keys()}
        named = {**config, "agent": labels.get("agent", "")}
        try:
            check_named(named, labels.get("signature"), address)
        except ValueError as error:
            return str(error)
        return ""

    def _algo_of(self, address: str) -> str:
        algo = self.run_at(address).config.get("algo")
        if not isinstance(algo, str) or algo not in ALGORITHMS:
            raise ValueError(
                f"its {CONFIG_NAME} names no algorithm of {', '.join(ALGORITHMS)}, but {algo!r}"
            )
        return algo


def _trusting(trust: bool) -> tuple[str, ...]:
    return ("--trust",) if trust else ()
