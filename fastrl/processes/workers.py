"""Worker processes that answer requests: started fresh, talked to through shared memory.

A worker is a new Python, not a fork: a fork of a process with threads (torch's, EnvPool's) may
wait for ever for a lock that a thread held. Nor does it import the main module again, as those of
multiprocessing do: a script needs no `if __name__ == "__main__"`.

Requests and answers lie in memory that both map, and a socket carries only the bell that announces
them. So an exception that comes between any two steps, of Ctrl-C, leaves nothing half read.

Imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence

from fastrl.processes.machine import available_cores

HEADER_BYTES = 64
"""Of each worker, at the start of the shared memory; the rest is the caller's."""

_SECONDS_TO_CLOSE = 10.0  # of a worker that waits for requests
_SECONDS_TO_FINISH = 1.0  # of one that still works on one
_SECONDS_TO_ANSWER = 15.0  # after which a silent worker is named
_BELL = b"\0"
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from {module} import main; main(*map(int, sys.argv[2:]))"
)

# Columns of a header, int64: number, kind and bytes of the latest request, then of its answer.
_ASKED, _KIND, _ASKED_BYTES, _ANSWERED, _STATUS, _ANSWER_BYTES = range(6)
_COLUMNS = HEADER_BYTES // 8


class WorkerError(Exception):
    """A worker ended, or could not start; the message says which and how."""


class Workers:
    """Processes of one kind; `serve` is their side."""

    def __init__(self, module: str, names: Sequence[str], say: Callable[[str], None]) -> None:
        """Starts one process per name.

        Args:
            module: whose `main` a process runs, with the numbers that `serve` takes.
            names: of the processes, for errors.
            say: is given the lines that they log; it must not refer to the owner of this object.
        """
        self._names, self._say = list(names), say
        self.memory = anonymous_file(HEADER_BYTES * len(names))
        self._header = memoryview(mmap.mmap(self.memory, 0)).cast("q")
        self._requests = [anonymous_file() for _ in names]
        self._answers = [anonymous_file() for _ in names]
        self._bells: list[socket.socket] = []
        self._children: list[subprocess.Popen[bytes]] = []
        self._texts = [b""] * len(names)
        self._poll, self._index_of = select.poll(), dict[int, int]()
        files = [self.memory, *self._requests, *self._answers]
        owned = (os.getpid(), self._bells, self._children, self._header, files, say)
        self._end = weakref.finalize(self, _end, *owned)
        try:
            for index in range(len(names)):
                self._start(module, index)
        except BaseException:
            self._end()
            raise

    def _start(self, module: str, index: int) -> None:
        bell, far_bell = socket.socketpair()
        self._bells.append(bell)
        self._poll.register(bell, select.POLLIN)
        self._index_of[bell.fileno()] = index
        files = [far_bell.fileno(), self.memory, self._requests[index], self._answers[index]]
        paths = json.dumps([os.path.abspath(path) for path in sys.path])
        code = _PROGRAM.format(module=module)
        num_threads = max(1, available_cores() // len(self._names))
        with far_bell:
            self._children.append(
                subprocess.Popen(
                    [sys.executable, "-c", code, paths, *map(str, [index, os.getpid(), *files])],
                    stdin=subprocess.DEVNULL,
                    pass_fds=files,
                    process_group=0,  # Ctrl-C in a terminal is for the main process alone
                    env={"OMP_NUM_THREADS": str(num_threads), **os.environ},
                )
            )

    @property
    def pids(self) -> list[int]:
        """Ids of the processes."""
        return [child.pid for child in self._children]

    def ask(self, index: int, kind: int, request: bytes = b"") -> None:
        """Sends a request to a worker, once it has answered the one before.

        Args:
            index: of the worker.
            kind: of the request.
            request: what it needs besides.

        Raises:
            WorkerError: it has ended.
        """
        self._wait([index])
        at = index * _COLUMNS
        self._header[at + _ASKED_BYTES] = _write(self._requests[index], request)
        self._header[at + _KIND] = kind
        try:
            self._header[at + _ASKED] += 1
            self._bells[index].send(_BELL)
        except OSError as error:
            raise self._ended(index) from error
        except BaseException:  # Ctrl-C, maybe between the two: twice does no harm
            self._bells[index].send(_BELL)
            raise

    def answer(self, index: int) -> tuple[int, bytes]:
        """Waits for a worker's answer to the latest request; returns its status and the answer.

        Raises:
            WorkerError: it has ended.
        """
        self._wait([index])
        at = index * _COLUMNS
        size = self._header[at + _ANSWER_BYTES]
        return self._header[at + _STATUS], _read(self._answers[index], size)

    def settle(self) -> None:
        """Waits until no worker is at work any more; WorkerError if one has ended."""
        self._wait(range(len(self._names)))

    def close(self) -> None:
        """Lets the workers end, and waits until they have; may be called more than once."""
        self._end()

    def _wait(self, indices: Sequence[int]) -> None:
        header, seconds, is_told = self._header, _SECONDS_TO_ANSWER, False
        places = [index * _COLUMNS for index in indices]
        while waits := [at for at in places if header[at + _ANSWERED] != header[at + _ASKED]]:
            rung = self._poll.poll(1000 * seconds)
            if not rung and not is_told:  # else the worker itself said what it is doing
                who = ", ".join(self._names[at // _COLUMNS] for at in waits)
                self._say(f"{who}: no answer for {seconds:.0f} s")
                seconds *= 2
            for number, _ in rung:
                is_told |= self._hear(self._index_of[number])

    def _hear(self, index: int) -> bool:
        """Takes in what a worker sent; returns whether there was a line for the log."""
        try:
            data = self._bells[index].recv(2**16)
        except OSError:
            data = b""
        if not data:
            raise self._ended(index)
        *lines, self._texts[index] = (self._texts[index] + data.replace(_BELL, b"")).split(b"\n")
        for line in lines:
            self._say(line.decode(errors="replace"))
        return bool(lines)

    def _ended(self, index: int) -> WorkerError:
        child = self._children[index]
        try:
            status = child.wait(timeout=_SECONDS_TO_FINISH)
        except subprocess.TimeoutExpired:
            return WorkerError(f"{self._names[index]} closed its connection")
        how = f"ended with status {status}"
        if status < 0:
            with contextlib.suppress(ValueError):
                how = f"was ended by {signal.Signals(-status).name}"
        return WorkerError(f"{self._names[index]} {how}")


def _end(
    owner: int,
    bells: list[socket.socket],
    children: list[subprocess.Popen[bytes]],
    header: memoryview,
    files: list[int],
    say: Callable[[str], None],
) -> None:
    """Ends workers: those that wait for requests see that none will come; others are killed."""
    if owner != os.getpid():
        return  # a fork of the process whose workers they are
    try:
        places = range(0, len(children) * _COLUMNS, _COLUMNS)
        is_idle = all(header[at + _ANSWERED] == header[at + _ASKED] for at in places)
        deadline = time.monotonic() + (_SECONDS_TO_CLOSE if is_idle else _SECONDS_TO_FINISH)
        for bell in bells:
            with contextlib.suppress(OSError):
                bell.shutdown(socket.SHUT_WR)
        for bell, child in zip(bells, children, strict=False):
            text = b""
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                while True:
                    bell.settimeout(max(1e-3, deadline - time.monotonic()))
                    if not (data := bell.recv(2**16)):
                        break
                    text += data
                child.wait(max(1e-3, deadline - time.monotonic()))
            for line in text.replace(_BELL, b"").splitlines():
                say(line.decode(errors="replace"))
    finally:
        for child in children:
            if child.poll() is None:
                with contextlib.suppress(OSError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        for bell in bells:
            bell.close()
        for number in files:
            os.close(number)


def serve(
    index: int,
    parent: int,
    bell: int,
    memory: int,
    request: int,
    answer: int,
    handle: Callable[[int, bytes], tuple[int, bytes]],
) -> None:
    """Answers requests until the main process closes the socket, or is gone.

    Args:
        index: of this worker.
        parent: id of the main process.
        bell: socket, as the descriptor of a file; so are the next three.
        memory: shared by all workers, with their headers.
        request: file with what the main process sends.
        answer: file with what this one does.
        handle: takes kind and content of a request; returns a status, and the answer.
    """
    header = memoryview(mmap.mmap(memory, 0)).cast("q")
    at = index * _COLUMNS
    threading.Thread(target=_end_with, args=[parent], daemon=True).start()
    with socket.socket(fileno=os.dup(bell)) as sock, contextlib.suppress(OSError):
        # An OSError: the code of this process closed what it did not open.
        while sock.recv(64):
            if header[at + _ANSWERED] == header[at + _ASKED]:
                continue
            content = _read(request, header[at + _ASKED_BYTES])
            status, words = handle(header[at + _KIND], content)
            header[at + _ANSWER_BYTES] = _write(answer, words)
            header[at + _STATUS] = status
            header[at + _ANSWERED] = header[at + _ASKED]
            sock.send(_BELL)


def tell(bell: int, line: str) -> None:
    """Sends a line of a worker to the log of its main process, whatever this process is doing."""
    data = " ".join(line.replace("\0", " ").split()).encode(errors="replace") + b"\n"
    with contextlib.suppress(OSError):
        os.write(bell, data)


def _end_with(parent: int) -> None:
    """Ends this process with its parent, even in the middle of a request."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)


def anonymous_file(size: int = 0) -> int:
    """Returns the descriptor of a new file of zeros that has no name and ends with its users."""
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("fastrl")
    else:
        with tempfile.TemporaryFile() as file:
            number = os.dup(file.fileno())
    os.ftruncate(number, size)
    return number


def _write(number: int, data: bytes) -> int:
    """Makes `data` the content of a file, which mostly is empty; returns its length."""
    if data:
        view, done = memoryview(data), 0
        while done < len(data):
            done += os.pwrite(number, view[done:], done)
    return len(data)


def _read(number: int, size: int) -> bytes:
    """Returns the content of a file, and frees its memory."""
    if not size:
        return b""
    parts, done = [], 0
    while done < size:
        parts.append(os.pread(number, size - done, done))
        done += len(parts[-1])
    os.ftruncate(number, 0)
    return b"".join(parts)
