"""TensorBoard beside the studio: one process, found again while it runs, ended with the studio."""

from __future__ import annotations

import socket
import sys
import types

import pytest

from fastrl.studio import tensorboard
from fastrl.studio.tensorboard import TensorBoard

SERVER = """#!{python}
import socket, sys, time
assert sys.argv[1:3] == ["-m", "tensorboard.main"]
port = int(sys.argv[sys.argv.index("--port") + 1])
assert sys.argv[sys.argv.index("--host") + 1] == "127.0.0.1"
server = socket.create_server(("127.0.0.1", port))
time.sleep(60)
"""


@pytest.fixture
def use(tmp_path, monkeypatch):
    """Returns a function that makes a program TensorBoard's interpreter."""

    def put(code: str) -> None:
        program = tmp_path / "program"
        program.write_text(code.format(python=sys.executable))
        program.chmod(0o700)
        monkeypatch.setattr(tensorboard, "sys", types.SimpleNamespace(executable=str(program)))

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
    use("#!{python}\nraise SystemExit(3)\n")
    with pytest.raises(ValueError, match="TensorBoard ended with status 3"):
        TensorBoard(tmp_path).url()
