"""Where things are written: only regular files are replaced, and only those that were named."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from fastrl import PPO, export
from hostile.rule import play


def device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes device nodes")


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(path.name)  # relative: the length of such a name is bounded


def link_to_file(path: Path) -> None:
    Path("precious").write_text("kept")
    path.symlink_to("precious")


PLACES: dict[str, Callable[[Path], None]] = {
    "a folder": Path.mkdir,
    "a device": device,
    "a pipe": os.mkfifo,
    "a socket": bound_socket,
    "a link to a file": link_to_file,
    "a link to nothing": lambda path: path.symlink_to("absent"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to a device": lambda path: path.symlink_to("/dev/null"),
}


@pytest.fixture(scope="module")
def agent() -> PPO:
    return PPO("CartPole-v1", num_envs=1, hidden_sizes=(8,), accelerator="cpu", preset="none")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("way", ["export", "save"])
def test_what_is_no_regular_file_is_not_replaced(agent: PPO, way: str, place: str) -> None:
    path = Path("policy.pt")
    PLACES[place](path)
    before = path.lstat().st_mode
    agent.save("agent.pt")

    def work() -> int:
        if way == "export":
            return export.main(["agent.pt", "--out", str(path)])
        agent.save(path)
        return 0

    outcome = play(work, seconds=10)
    assert (outcome.fault, outcome.status) == ("", 2)
    assert path.lstat().st_mode == before and "policy.pt" in outcome.err
    assert not Path("absent").exists()
    assert place != "a link to a file" or Path("precious").read_text() == "kept"


def test_export_does_not_replace_what_it_reads(agent: PPO) -> None:
    agent.save("agent.pt")
    before = Path("agent.pt").read_bytes()
    outcome = play(lambda: export.main(["agent.pt", "--out", "agent.pt"]), seconds=10)
    assert (outcome.fault, outcome.status) == ("", 2)
    assert Path("agent.pt").read_bytes() == before
