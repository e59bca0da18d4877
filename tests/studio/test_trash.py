"""A deleted run is moved, never lost, and never one that is being written."""

from __future__ import annotations

import pytest

pytest.importorskip("nicegui")

from fastrl.runs.folder import owned
from studio.playing import make_run


def texts(folder):
    return {x.name: x.read_text() for x in folder.rglob("*") if x.is_file()}


def test_a_deleted_run_comes_back_as_it_was(desk):
    address = make_run(desk.log_dir)
    before = texts(desk.log_dir / address)
    desk.trash(address)
    assert not (desk.log_dir / address).exists() and desk.runs() == []
    assert [row["address"] for row in desk.trashed()] == [address]
    assert desk.restore(address) == address
    assert texts(desk.log_dir / address) == before and desk.trashed() == []


def test_runs_of_the_same_name_are_both_kept(desk):
    address = make_run(desk.log_dir)
    desk.trash(address)
    make_run(desk.log_dir)
    desk.trash(address)
    assert sorted(row["address"] for row in desk.trashed()) == [address, f"{address}~1"]
    assert desk.restore(f"{address}~1") == address
    with pytest.raises(ValueError, match="already"):
        desk.restore(address)
    assert [row["address"] for row in desk.trashed()] == [address]


def test_a_run_that_is_written_stays(desk):
    address = make_run(desk.log_dir)
    with owned(desk.log_dir / address), pytest.raises(ValueError, match="another process"):
        desk.trash(address)
    assert (desk.log_dir / address).is_dir()


def test_a_run_with_a_job_in_the_queue_stays(desk):
    address = make_run(desk.log_dir)
    desk.evaluate(address)
    with pytest.raises(ValueError, match="job in the queue"):
        desk.trash(address)


@pytest.mark.parametrize("address", ["ppo", "ppo/t0", "..", ".trash", "settings", "ppo/t0/x"])
def test_only_runs_are_deleted(desk, address):
    make_run(desk.log_dir)
    (desk.log_dir / "settings").mkdir()
    with pytest.raises(ValueError):
        desk.trash(address)


@pytest.mark.parametrize("address", ["..", "../x", "/etc", "", "ppo/../../x"])
def test_nothing_comes_back_from_elsewhere(desk, address):
    make_run(desk.log_dir)
    with pytest.raises(ValueError):
        desk.restore(address)


@pytest.mark.parametrize("linked", [".trash", ".trash/ppo"])
def test_a_trash_that_is_a_link_takes_nothing(desk, tmp_path, linked):
    address = make_run(desk.log_dir)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (desk.log_dir / linked).parent.mkdir(exist_ok=True)
    (desk.log_dir / linked).symlink_to(elsewhere)
    with pytest.raises(ValueError, match="link"):
        desk.trash(address)
    assert (desk.log_dir / address).is_dir() and not list(elsewhere.iterdir())
