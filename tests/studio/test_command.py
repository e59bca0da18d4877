"""`python -m fastrl.studio`: its flags, and its server as a process."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

pytest.importorskip("nicegui")

from fastrl.processes.errors import how_to_install
from fastrl.studio import __main__ as command


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--port", "70000"], "at most 65,535"),
        (["--port", "x"], "invalid int"),
        (["--at-once", "0"], "at least 1"),
        (["--host", ""], "--host is empty"),
        (["--log-dir", __file__], "is not a folder"),
        (["--unknown"], "unknown flag --unknown"),
        (["--port", "1", "--port", "2"], "given twice"),
    ],
)
def test_a_wrong_flag_costs_one_line(flags, words, capsys):
    assert command.main(flags) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1


def test_without_nicegui_a_line_names_the_extra(monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert command.main([]) == 2
    assert how_to_install("studio") in capsys.readouterr().err


def test_it_is_this_machine_alone_unless_told_otherwise():
    assert command.parse([]).host == "127.0.0.1"


def test_a_port_in_use_costs_one_line(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        flags = ["--log-dir", str(tmp_path), "--no-browser", "--port", str(taken.getsockname()[1])]
        assert command.main(flags) == 2
    assert "give another --port" in capsys.readouterr().err


def test_the_form_and_the_table_import_no_torch():
    code = "import sys, fastrl.studio.app; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@contextlib.contextmanager
def served(tmp_path, *flags):
    """Serves a log folder in a process; yields the process and the address that it printed."""
    words = ["--log-dir", str(tmp_path / "logs"), "--port", "0", "--no-browser", *flags]
    process = subprocess.Popen(
        [sys.executable, "-m", "fastrl.studio", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env={x: y for x, y in os.environ.items() if not x.startswith("PYTEST")},
    )
    try:
        yield process, re.search(r"http://\S+", process.stdout.readline())[0]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def status_at(address, *handlers):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), *handlers)
    for _ in range(200):
        try:
            with opener.open(address, timeout=10) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:  # it does not listen yet
            time.sleep(0.05)
    raise AssertionError("the server did not come up")


def test_the_server_answers_and_ends_with_ctrl_c(tmp_path):
    with served(tmp_path) as (process, address):
        assert address.startswith("http://127.0.0.1:") and "token" not in address
        assert status_at(address) == 200
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=20)
    assert process.returncode == 0 and rest == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs"]


@pytest.mark.slow
def test_at_another_address_the_server_asks_for_its_token(tmp_path):
    with served(tmp_path, "--host", "0.0.0.0") as (_, address):
        address, _, token = address.replace("0.0.0.0", "127.0.0.1").partition("/?token=")
        assert len(token) > 40
        assert status_at(address) == 403
        cookies = urllib.request.HTTPCookieProcessor()
        assert status_at(f"{address}/?token={token}", cookies) == 200
        assert status_at(f"{address}/new", cookies) == 200
