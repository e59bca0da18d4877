"""The desk: what the pages of one studio share, and what can be done with runs."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from fastrl.config.trust import check_named
from fastrl.runs.folder import CONFIG_NAME, LABELS, RunFolder, open_run_folder
from fastrl.studio.addresses import path_of
from fastrl.studio.alive import send_signal
from fastrl.studio.jobs import Job, JobFolder, Progress
from fastrl.studio.queue import Queue


class Desk:
    """A log folder with its runs, jobs and queue.

    Its methods read and write files: pages call them by `run.io_bound`, off the event loop.

    Args:
        log_dir: the log folder; made if it does not exist.
        at_once: how many jobs run at the same time; None: one per core.
    """

    def __init__(self, log_dir: Path, at_once: int | None = None) -> None:
        log_dir.mkdir(parents=True, exist_ok=True)
        self.log_dir = log_dir.resolve()
        self.jobs = JobFolder(self.log_dir)
        self.queue = Queue(self.jobs, at_once)

    def open(self) -> None:
        """Begins to start the jobs of the queue."""
        self.queue.open()

    def close(self) -> None:
        """Ends the threads; processes of runs go on."""
        self.queue.close()

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
        if (folder / CONFIG_NAME).is_symlink():
            raise ValueError(f"{CONFIG_NAME} of this run is a link")
        return open_run_folder(folder)

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

    def stop(self, address: str) -> None:
        """Asks a run to save and end.

        Raises:
            ValueError: no process of it was found.
        """
        for progress in reversed(self.jobs_of(address)):
            if progress.state == "running" and send_signal(
                progress.pid, progress.birth, signal.SIGINT
            ):
                return
        raise ValueError("no process of this run was found on this machine")

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


ALGORITHMS = ("ppo", "a2c", "ppo_recurrent", "sac", "droq")


def _trusting(trust: bool) -> tuple[str, ...]:
    return ("--trust",) if trust else ()
