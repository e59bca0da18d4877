import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastrl.runs.folder import owned
from fastrl.runs.owner import is_owned, owned_by_this_process, process_of, read_process, stop

WRITER = """
import sys, time
from pathlib import Path
from fastrl.runs.owner import owned_by_this_process
with owned_by_this_process(Path(sys.argv[1])):
    print("owned", flush=True)
    time.sleep(60)
"""


def start_writer(folder: Path) -> subprocess.Popen[str]:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    )
    assert writer.stdout is not None and writer.stdout.readline() == "owned\n"
    return writer


def test_a_folder_is_owned_while_its_writer_lives(tmp_path):
    assert is_owned(tmp_path) is False
    with owned_by_this_process(tmp_path):
        assert is_owned(tmp_path) is True
        process = read_process(tmp_path)
        assert process is not None and process.pid == os.getpid() and process.is_alive
    assert is_owned(tmp_path) is False and read_process(tmp_path) is None


def test_a_killed_writer_leaves_its_name_and_owns_nothing(tmp_path):
    writer = start_writer(tmp_path)
    assert is_owned(tmp_path) is True
    writer.kill()
    writer.wait()
    process = read_process(tmp_path)
    assert is_owned(tmp_path) is False and process is not None and not process.is_alive
    with pytest.raises(ValueError, match="no process writes this run"):
        stop(tmp_path)


def test_a_process_is_told_from_later_ones_of_its_number(tmp_path):
    writer = start_writer(tmp_path)
    process = process_of(writer.pid)
    assert process is not None and process.is_alive and process.pid == writer.pid
    writer.kill()
    writer.wait()
    assert not process.is_alive and process_of(writer.pid) is None


def test_stop_signals_the_writer(tmp_path):
    writer = start_writer(tmp_path)
    assert stop(tmp_path, signal.SIGTERM).pid == writer.pid
    assert writer.wait(10) == -signal.SIGTERM


def test_asking_never_keeps_a_writer_from_its_folder(tmp_path):
    code = "import sys\nfrom pathlib import Path\nfrom fastrl.runs.owner import is_owned\n"
    code += "while True: is_owned(Path(sys.argv[1]))"
    asking = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    try:
        time.sleep(0.3)
        for _ in range(200):
            with owned(tmp_path):
                pass
    finally:
        asking.kill()
        asking.wait()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"start_ticks": 1}, "no longer writes"),  # the number was given to another process
        ({"pid": os.getppid()}, "no longer writes"),
        ({"host": "elsewhere"}, "on elsewhere, not here"),
        ({"boot": "an earlier start"}, "not here"),
        ({"pid": -1}, "cannot be reached|no longer writes"),
        ({"pid": 10**30}, "cannot be reached"),
        ({"pid": "1"}, "damaged"),
        ({"more": 1}, "damaged"),
    ],
)
def test_no_other_process_is_signalled(tmp_path, monkeypatch, change, words):
    sent = []
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *args: sent.append(args))
    with owned_by_this_process(tmp_path):
        path = tmp_path / "process.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with pytest.raises(ValueError, match=words):
            stop(tmp_path)
    assert sent == []


def test_a_process_that_does_not_have_the_folder_open_is_not_signalled(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *args: sent.append(args))
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()
    with owned_by_this_process(own):
        (other / "process.json").write_bytes((own / "process.json").read_bytes())
    writer = start_writer(own)
    (other / "process.json").write_bytes((own / "process.json").read_bytes())
    code = "import fcntl, os, sys, time\nfd = os.open(sys.argv[1], os.O_RDONLY)\n"
    code += "fcntl.flock(fd, fcntl.LOCK_EX)\nprint('locked', flush=True)\ntime.sleep(60)"
    locker = subprocess.Popen(
        [sys.executable, "-c", code, str(other)], stdout=subprocess.PIPE, text=True
    )
    assert locker.stdout is not None and locker.stdout.readline() == "locked\n"
    try:
        with pytest.raises(ValueError, match="no longer writes"):
            stop(other)
    finally:
        for process in (writer, locker):
            process.kill()
            process.wait()
    assert sent == []
