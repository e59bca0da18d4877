"""Runs as processes: started from the form's draft, stopped, resumed, exported."""

from __future__ import annotations

import signal
import time

import pytest

pytest.importorskip("nicegui")

from fastrl.runs.owner import signal_to
from fastrl.studio.drafts import Draft

pytestmark = pytest.mark.slow


@pytest.fixture
def working(desk):
    """A desk whose queue works; nothing that it started outlives the test."""
    desk.queue.open()
    yield desk
    desk.queue.close()
    for progress in desk.jobs.all():
        if progress.process is not None:
            signal_to(progress.process, signal.SIGKILL)


def until(is_so, seconds=90):
    end = time.monotonic() + seconds
    while not (found := is_so()):
        assert time.monotonic() < end, f"not so after {seconds} s"
        time.sleep(0.1)
    return found


def row_of(desk, state):
    desk.look_again()
    rows = [row for row in desk.rows() if row["state"] == state]
    return rows[0] if rows else None


def test_a_run_is_started_stopped_resumed_and_exported(working):
    settings = {"env_id": "CartPole-v1", "total_timesteps": 50_000_000, "eval_episodes": 0}
    working.start_runs(Draft("ppo", "auto", settings, (3,)))
    row = until(lambda: (row := row_of(working, "running")) and row["steps"] > 0 and row)
    assert (row["task"], row["seed"]) == ("CartPole-v1", 3)
    address = row["address"]
    assert [x.state for x in working.jobs_of(address)] == ["running"]
    with pytest.raises(ValueError):
        working.trash(address)
    working.stop(address)
    row = until(lambda: row_of(working, "stopped"))
    assert row["address"] == address and row["steps"] < 50_000_000
    until(lambda: [x.state for x in working.jobs_of(address)] == ["stopped"])

    more = str(row["steps"] + 20_000)
    working.resume(address, ("--total-timesteps", more))
    row = until(lambda: row_of(working, "finished"))
    assert row["address"] == address
    working.export(address, ("--format", "torchscript"))
    until(
        lambda: (
            (working.log_dir / address / "policy.ts").exists()
            or list((working.log_dir / address).glob("policy.*"))
        )
    )
    until(lambda: [x.state for x in working.jobs_of(address)][-1] == "done")
    working.trash(address)
    assert working.rows() == []


def test_a_task_that_does_not_exist_fails_with_its_line(working):
    working.start_runs(Draft("ppo", "auto", {"env_id": "NoSuchTask-v0"}))
    until(lambda: working.jobs.all()[0].state == "failed")
    output = working.jobs.output_of(working.jobs.all()[0].job).read_text()
    assert "error:" in output and "NoSuchTask-v0" in output
