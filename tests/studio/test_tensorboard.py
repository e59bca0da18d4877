"""TensorBoard beside the studio: one process, found again while it runs, ended with the studio."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest

from fastrl.studio.tensorboard import TensorBoard

SERVER = """
import socket, sys, time
port = int(sys.argv[sys.argv.index("--port") + 1])
assert sys.argv[sys.argv.index("--host") + 1] == "127.0.0.1"
server = socket.create_server(("127.0.0.1", port))
time.sleep(60)
"""
STUDIO = """
import os, signal, sys
from pathlib import Path
from fastrl.studio.tensorboard import TensorBoard

print(TensorBoard(Path(sys.argv[1])).url(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def use(tmp_path, monkeypatch):
    """Returns a function that puts a program in the place of TensorBoard."""

    def put(code: str) -> None:
        package = tmp_path / "modules" / "tensorboard"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "main.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package.parent), *sys.path]))

    return put


def answers(url: str) -> bool:
    port = int(url.rpartition(":")[2].strip("/"))
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_it_answers_once_and_ends_with_the_studio(tmp_path, use):
    use(SERVER)
    board = TensorBoard(tmp_path)
    url = board.url()
    assert answers(url) and board.url() == url
    board.close()
    assert not answers(url)
    board.close()


def test_one_that_does_not_start_is_told(tmp_path, use):
    use("raise SystemExit(3)")
    with pytest.raises(ValueError, match="TensorBoard ended with status 3"):
        TensorBoard(tmp_path).url()


def test_it_ends_when_the_studio_is_killed(tmp_path, use):
    use(SERVER)
    words = [sys.executable, "-c", STUDIO, str(tmp_path)]
    url = subprocess.run(words, capture_output=True, text=True).stdout
    assert url.startswith("http://127.0.0.1:")
    end = time.monotonic() + 20
    while answers(url.strip()) and time.monotonic() < end:
        time.sleep(0.05)
    assert not answers(url.strip())
