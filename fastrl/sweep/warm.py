"""A process that has imported an algorithm, and forks for each run: which spares it the imports.

python -m fastrl.sweep.warm ALGO, started by `Forge`; it reads a line of JSON for each run.

Linux alone offers what this needs: a run is handed over to the process that asked for it, as its
child, by way of an intermediate one that ends at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fastrl.processes.launch import ask_for_death_signal
from fastrl.processes.signals import signals_held

_SET_CHILD_SUBREAPER = 36
_SECONDS_TO_IMPORT = 120.0
_SECONDS_TO_HAND_OVER = 10.0


def is_possible() -> bool:
    """Returns whether this system can hand a run over."""
    return sys.platform.startswith("linux")


class Forge:
    """Makes runs out of a process that has done the imports; a context.

    Args:
        algo: module name of the algorithm.
    """

    def __init__(self, algo: str) -> None:
        self._set_subreaper(True)
        with signals_held():
            self._server = subprocess.Popen(
                [sys.executable, "-m", "fastrl.sweep.warm", algo],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )

    @staticmethod
    def _set_subreaper(is_on: bool) -> None:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, int(is_on))

    def start(
        self, words: Sequence[str], log: str, environment: Mapping[str, str], cores: Any
    ) -> int | None:
        """Starts a run in a session of its own, as a child of this process.

        Args:
            words: the command line after the algorithm.
            log: path of the file that gets what it prints.
            environment: variables that differ from those of this process.
            cores: those that it may use; None: all.

        Returns:
            The process; None if the server is gone, and a run has to do its own imports.
        """
        asked = {"words": list(words), "log": log, "environment": dict(environment)}
        assert self._server.stdin is not None and self._server.stdout is not None
        try:
            self._server.stdin.write(json.dumps({**asked, "cores": cores}) + "\n")
            self._server.stdin.flush()
            answer = self._server.stdout.readline()
        except OSError:
            return None
        return int(answer) if answer.strip().isdigit() else None

    def close(self) -> None:
        """Ends the server; runs go on."""
        self._set_subreaper(False)
        for pipe in (self._server.stdin, self._server.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._server.kill()
        self._server.wait()


def serve(algo: str) -> None:
    """Imports an algorithm, and then forks for each line that asks for a run."""
    ask_for_death_signal(signal.SIGKILL)
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the imports print is no answer
    asker = os.getppid()
    _import(algo)
    for line in sys.stdin:
        asked = json.loads(line)
        reader, writer = os.pipe()
        intermediate = os.fork()
        if intermediate == 0:
            run = os.fork()
            if run == 0:
                os.close(reader)
                os.close(writer)
                answers.close()
                _run(algo, asked, asker)
            os.write(writer, str(run).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            run_number = pipe.read()
        os.waitpid(intermediate, 0)
        print(run_number, file=answers, flush=True)


def _import(algo: str) -> None:
    """Imports what every run does, and keeps the garbage collector from going through it."""
    import gc
    from importlib import import_module

    gc.set_threshold(100_000)
    for name in (f"fastrl.{algo}", "envpool", "lightning.fabric", "fastrl.training.trainer"):
        import_module(name)
    gc.freeze()


def _run(algo: str, asked: Mapping[str, Any], asker: int) -> None:
    """Becomes a run; does not return."""
    status = 1
    try:
        os.setsid()
        deadline = time.monotonic() + _SECONDS_TO_HAND_OVER
        while os.getppid() != asker and time.monotonic() < deadline:
            time.sleep(0.001)
        ask_for_death_signal(signal.SIGTERM)
        if os.getppid() != asker:  # it ended meanwhile
            os._exit(1)
        os.environ.update(asked["environment"])
        if asked["cores"] is not None:
            os.sched_setaffinity(0, asked["cores"])
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  for as long as the process lives
        sys.argv = [f"fastrl.{algo}", *asked["words"]]
        from fastrl.cli import main

        status = main(algo, asked["words"])
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1])
