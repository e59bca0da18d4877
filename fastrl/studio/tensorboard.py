"""TensorBoard beside the studio: started when it is asked for, ended with the studio.

It reads a pipe that the studio alone holds, so it also ends when the studio is killed.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

_HOST = "127.0.0.1"
_START_SECONDS = 60.0
_PROGRAM = """
import os, runpy, sys, threading

def end_with_the_studio():
    os.read(0, 1)
    os._exit(0)

threading.Thread(target=end_with_the_studio, daemon=True).start()
runpy.run_module("tensorboard.main", run_name="__main__")
"""


class TensorBoard:
    """A TensorBoard process over a log folder, at most one.

    Args:
        log_dir: the log folder.
    """

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._url = ""

    def url(self) -> str:
        """Returns the address of a TensorBoard that answers; starts it if none does.

        Raises:
            ValueError: it does not start.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._end()
                self._start()
            return self._url

    def close(self) -> None:
        """Ends the process, if there is one."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._process = None

    def _start(self) -> None:
        with socket.socket() as probe:
            probe.bind((_HOST, 0))
            port = probe.getsockname()[1]
        words = ["--logdir", str(self._log_dir), "--host", _HOST, "--port", str(port)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            if (status := self._process.poll()) is not None:
                raise ValueError(f"TensorBoard ended with status {status}; is it installed?")
            with (
                contextlib.suppress(OSError),
                socket.create_connection((_HOST, port), timeout=1),
            ):
                self._url = f"http://{_HOST}:{port}/"
                return
            time.sleep(0.2)
        self._end()
        raise ValueError(f"TensorBoard did not answer within {_START_SECONDS:.0f} s")
