"""The queue starts what there are cores for, and survives the studio."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from quick import quick

pytest.importorskip("nicegui")

from fastrl.runs.owner import process_of, signal_to
from fastrl.studio import jobs as jobs_module
from fastrl.studio.jobs import JobFolder
from fastrl.studio.queue import Queue

SECONDS = 6  # after which a test has hung


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Jobs whose words are Python code; their processes are gone when the test ends."""
    monkeypatch.setattr(jobs_module, "command_line", lambda job: [sys.executable, "-c", *job.words])
    folder = JobFolder(tmp_path)
    yield folder
    for progress in folder.all():
        if progress.process is not None:
            signal_to(progress.process, signal.SIGKILL)


def state_of(folder, job):
    return next(x for x in folder.all() if x.job == job).state


def wait_for(queue, folder, job, *states):
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        queue.tick()
        if (state := state_of(folder, job)) in states:
            return state
        time.sleep(0.02)
    raise AssertionError(f"{job.title} is {state_of(folder, job)} after {SECONDS} s")


SLEEP = "import time; print('up', flush=True); time.sleep(60)"


def wait_until_up(folder, job):
    """Waits until a job that sleeps is past the start of Python, where Ctrl-C is an error."""
    end = time.monotonic() + SECONDS
    while not folder.output_of(job).read_bytes():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_jobs_run_in_the_order_given_and_no_more_at_once_than_allowed(folder):
    first = folder.add("ppo", (SLEEP,), "first")
    second = folder.add("ppo", ("",), "second")
    queue = Queue(folder, at_once=1)
    queue.tick()
    assert [x.state for x in folder.all()] == ["running", "waiting"]
    wait_until_up(folder, first)
    queue.cancel(first)
    wait_for(queue, folder, first, "stopped")
    assert wait_for(queue, folder, second, "done") == "done"


def test_runs_of_others_take_cores_too(folder):
    job = folder.add("ppo", ("",), "mine")
    queue = Queue(folder, at_once=2, num_others=lambda: 2)
    queue.tick()
    assert state_of(folder, job) == "waiting"


def test_an_evaluation_does_not_wait_for_trainings_nor_they_for_it(folder):
    training = folder.add("ppo", (SLEEP,), "training")
    tests = [folder.add("evaluate", (SLEEP,), f"test {number}") for number in range(2)]
    queue = Queue(folder, at_once=1, num_others=lambda: 0)
    queue.tick()
    states = [state_of(folder, job) for job in (training, *tests)]
    assert states == ["running", "running", "waiting"]


def test_a_job_that_ends_badly_says_so_and_keeps_what_it_printed(folder):
    job = folder.add("ppo", ("print('error: no'); raise SystemExit(2)",), "bad")
    queue = Queue(folder, at_once=1)
    assert wait_for(queue, folder, job, "done", "failed") == "failed"
    assert next(x for x in folder.all() if x.job == job).status == 2
    assert folder.output_of(job).read_text() == "error: no\n"


def test_the_next_studio_goes_on_with_the_queue(folder, tmp_path):
    running = folder.add("ppo", (SLEEP,), "running")
    waiting = folder.add("ppo", ("",), "waiting")
    first = Queue(folder, at_once=1)
    first.tick()
    first.close()
    after = JobFolder(tmp_path)
    second = Queue(after, at_once=1)
    second.tick()
    assert [x.state for x in after.all()] == ["running", "waiting"]
    pid = after.all()[0].process.pid
    second.cancel(running)
    os.waitpid(pid, 0)  # the first studio, whose child it is, is this process
    assert wait_for(second, after, waiting, "done") == "done"
    assert state_of(after, running) == "gone"


def test_only_one_studio_of_two_starts_the_jobs(folder, tmp_path):
    job = folder.add("ppo", (SLEEP,), "once")
    first, second = Queue(folder, at_once=1), Queue(JobFolder(tmp_path), at_once=5)
    first.tick()
    later = folder.add("ppo", ("",), "later")
    second.tick()
    assert (state_of(folder, job), state_of(folder, later)) == ("running", "waiting")
    first.close()
    assert wait_for(second, folder, later, "done") == "done"


def test_only_one_studio_of_two_starts_jobs_after_their_folder_was_removed(folder, tmp_path):
    folder.add("ppo", ("",), "before")
    first, second = Queue(folder, at_once=1), Queue(JobFolder(tmp_path), at_once=1)
    first.tick()
    shutil.rmtree(tmp_path / ".studio")
    job = folder.add("ppo", (SLEEP,), "after")
    second.tick()
    later = folder.add("ppo", ("",), "later")
    first.at_once = 2
    first.tick()
    assert (state_of(folder, job), state_of(folder, later)) == ("running", "waiting")


def test_a_process_outlives_the_studio_that_started_it(folder, tmp_path):
    code = (
        "import sys; from pathlib import Path;"
        "from fastrl.studio import jobs; from fastrl.studio.queue import Queue;"
        "jobs.command_line = lambda job: [sys.executable, '-c', *job.words];"
        "folder = jobs.JobFolder(Path(sys.argv[1])); Queue(folder, 1).tick();"
        "print(folder.all()[0].process.pid)"
    )
    folder.add("ppo", (SLEEP,), "long")
    words = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=SECONDS * 3)
    progress = folder.all()[0]
    pid = progress.process.pid
    assert progress.state == "running" and pid == int(done.stdout)
    assert os.getsid(pid) == pid  # closing the terminal does not end it


def test_a_job_that_waits_can_be_taken_out(folder):
    job = folder.add("ppo", (SLEEP,), "unwanted")
    queue = Queue(folder, at_once=1)
    queue.cancel(job)
    queue.tick()
    assert state_of(folder, job) == "cancelled"
    with pytest.raises(ValueError, match="ended already"):
        queue.cancel(job)


def test_a_number_that_was_given_anew_is_not_signalled():
    process = subprocess.Popen([sys.executable, "-c", SLEEP])
    try:
        known = process_of(process.pid)
        for other in ({"start_ticks": known.start_ticks + 1}, {"boot": "earlier"}, {"host": "x"}):
            assert not signal_to(dataclasses.replace(known, **other), signal.SIGTERM)
        assert known.is_alive
        assert signal_to(known, signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
    assert not known.is_alive and not signal_to(known, signal.SIGTERM)


def test_damaged_jobs_stop_nothing(folder):
    job = folder.add("ppo", ("",), "good")
    for name, text in (("a", "{"), ("b", "[]"), ("c", '{"id": 1}'), ("z", None)):
        (folder.path / name).mkdir()
        if text is not None:
            (folder.path / name / "job.json").write_text(text)
    strange = folder.add("ppo", ("",), "strange")
    (folder.path / strange.id / "process.json").write_text('{"pid": "x", "a": 1}')
    assert [x.job for x in folder.all()] == [job]
    assert wait_for(Queue(folder, 1), folder, job, "done") == "done"


def damage(kind, path):
    """Damages a job's folder in one of many ways."""
    if kind == "removed":
        shutil.rmtree(path)
    elif kind in ("a file", "a link"):
        shutil.rmtree(path)
        path.write_text("") if kind == "a file" else path.symlink_to(path.parent)
    elif kind.startswith("a folder: "):
        (path / kind.removeprefix("a folder: ")).unlink(missing_ok=True)
        (path / kind.removeprefix("a folder: ")).mkdir()
    elif kind.startswith("a pipe: "):
        (path / kind.removeprefix("a pipe: ")).unlink(missing_ok=True)
        os.mkfifo(path / kind.removeprefix("a pipe: "))
    else:
        name, _, text = kind.partition(": ")
        (path / name).write_text(text)


DEEP = "[" * 5000 + "]" * 5000
KINDS = [
    *("removed", "a file", "a link", "a pipe: output.txt", "a pipe: job.json"),
    *(f"a folder: {x}.json" for x in ("job", "started", "ended", "process")),
    *("a folder: output.txt", "a folder: settings.yaml"),
    *(f"{x}.json: {DEEP}" for x in ("job", "started", "ended", "process")),
    *(f'ended.json: {{"status": {x}}}' for x in ("[]", "{}", '"x"', "NaN", "1e999", "true")),
    *("job.json: {}", "job.json: null", "started.json: []", "process.json: {}"),
]


QUICK_KINDS = ["removed", "a pipe: job.json", "a folder: ended.json", f"started.json: {DEEP}"]
QUICK_KINDS += ['ended.json: {"status": NaN}', "job.json: null", "process.json: {}"]


@pytest.mark.parametrize("kind", quick(KINDS, *QUICK_KINDS), ids=lambda kind: kind[:40])
@pytest.mark.parametrize("when", ["it waits", "it runs", "it was seen"])
def test_a_job_whose_folder_is_damaged_holds_up_no_other(folder, kind, when):
    queue = Queue(folder, at_once=1)
    wait_for(queue, folder, folder.add("ppo", ("",), "before"), "done")
    code = "import time; time.sleep(0.2)" if when == "it runs" else ""
    job = folder.add("ppo", (code,), "damaged", settings={"seed": 1})
    if when == "it runs":
        queue.tick()
    elif when == "it was seen":
        folder.all()
    damage(kind, folder.path / job.id)
    later = folder.add("ppo", ("",), "later")
    assert wait_for(queue, folder, later, "done") == "done"
    assert "before" in [progress.job.title for progress in folder.all()]
    assert all(isinstance(folder.last_line(progress.job), str) for progress in folder.all())


def test_a_job_that_cannot_even_be_noted_as_failed_holds_up_no_other(folder, monkeypatch):
    written = jobs_module._write

    def write(path, facts):
        if path.parent.name == job.id:
            raise OSError("read-only")
        written(path, facts)

    job = folder.add("ppo", ("",), "bad")
    later = folder.add("ppo", ("",), "later")
    monkeypatch.setattr(jobs_module, "_write", write)
    queue = Queue(folder, at_once=1)
    assert wait_for(queue, folder, later, "done") == "done"
    assert state_of(folder, job) == "waiting"
    monkeypatch.undo()  # the disk is whole again
    monkeypatch.setattr(jobs_module, "command_line", lambda job: ["true"])
    assert wait_for(queue, folder, job, "done") == "done"


def test_a_process_that_cannot_be_noted_is_ended(folder, monkeypatch):
    written, pids = jobs_module._write, []

    def write(path, facts):
        if path.name == "process.json":
            pids.append(facts["pid"])
            raise OSError("the disk is full")
        written(path, facts)

    monkeypatch.setattr(jobs_module, "_write", write)
    job = folder.add("ppo", (SLEEP,), "lost")
    queue = Queue(folder, at_once=1)
    assert wait_for(queue, folder, job, "failed") == "failed"
    assert "the disk is full" in folder.printed(job)
    assert process_of(pids[0]) is None


def test_a_folder_of_jobs_that_is_none_has_no_jobs(tmp_path):
    (tmp_path / ".studio").mkdir()
    (tmp_path / ".studio" / "jobs").write_text("")
    folder = JobFolder(tmp_path)
    Queue(folder, at_once=1).tick()
    assert folder.all() == []
    with pytest.raises((ValueError, OSError)):
        folder.add("ppo", ("",), "mine")


@pytest.mark.parametrize("given_here", [True, False])
@pytest.mark.parametrize("name", ["job.json", "settings.yaml"])
def test_a_job_that_is_changed_while_it_waits_is_not_started(folder, tmp_path, name, given_here):
    job = folder.add("ppo", ("print('ran')",), "mine", settings={"env_id": "a:make"})
    seen = folder if given_here else JobFolder(tmp_path)
    assert [x.state for x in seen.all()] == ["waiting"]
    path = folder.path / job.id / name
    path.write_text(path.read_text().replace("print('ran')", "evil").replace("a:make", "evil:make"))
    assert [x.state for x in seen.all()] == ["refused"]
    with pytest.raises(ValueError, match="not signed"):
        seen.start(seen.all()[0].job)
    Queue(seen, at_once=1).tick()
    assert [x.state for x in seen.all()] == ["refused"]


def test_the_run_of_a_job_is_the_one_that_its_output_names(folder, tmp_path):
    run = tmp_path / "ppo" / "t0" / "run_1"
    job = folder.add("ppo", (f"print('run folder: {run}')",), "new")
    wait_for(Queue(folder, 1), folder, job, "done")
    assert folder.all()[0].run == "ppo/t0/run_1"


def test_an_output_that_names_another_place_has_no_run(folder, tmp_path):
    job = folder.add("ppo", (f"print('run folder: {tmp_path}/../elsewhere')",), "new")
    wait_for(Queue(folder, 1), folder, job, "done")
    assert folder.all()[0].run == ""


def copied(folder, tmp_path):
    """Returns the jobs of a copy of the log folder, as another user or place has it."""
    shutil.copytree(folder.log_dir / ".studio", tmp_path / "copy" / ".studio")
    return JobFolder(tmp_path / "copy")


def test_jobs_that_came_with_a_folder_are_not_started(folder, tmp_path):
    job = folder.add("ppo", ("print('ran')",), "of somebody else")
    other = copied(folder, tmp_path)
    queue = Queue(other, at_once=1)
    queue.tick()
    assert state_of(other, job) == "refused" and not other.output_of(job).exists()
    queue.cancel(job)
    assert state_of(other, job) == "cancelled"


@pytest.mark.parametrize("name", ["job.json", "settings.yaml"])
def test_jobs_that_were_changed_are_not_started(folder, tmp_path, name):
    job = folder.add("ppo", ("print('ran')",), "mine", settings={"env_id": "a:make"})
    path = folder.path / job.id / name
    path.write_text(path.read_text().replace("mine", "evil").replace("a:make", "evil:make"))
    later = JobFolder(tmp_path)
    Queue(later, at_once=1).tick()
    assert [x.state for x in later.all()] == ["refused"]


def test_without_a_key_a_studio_starts_the_jobs_that_it_was_given(folder, monkeypatch):
    monkeypatch.setattr(jobs_module, "sign_text", lambda text: "")
    job = folder.add("ppo", ("",), "mine")
    wait_for(Queue(folder, 1), folder, job, "done")
    later = folder.add("ppo", ("",), "later")
    assert state_of(JobFolder(folder.log_dir), later) == "refused"


def test_links_in_the_folder_of_jobs_lead_nowhere(folder, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    job = folder.add("ppo", ("",), "mine")
    folder.output_of(job).symlink_to(secret)
    assert folder.printed(job) == ""
    other = JobFolder(tmp_path / "other")
    other.log_dir.mkdir()
    (other.log_dir / ".studio").symlink_to(folder.log_dir / ".studio")
    assert other.all() == []
    with pytest.raises(ValueError, match="link"):
        other.add("ppo", ("",), "mine")


def test_the_end_of_an_output_is_what_a_terminal_shows(folder):
    job = folder.add("ppo", ("",), "mine")
    folder.output_of(job).write_bytes(b"first\nstep 1\rstep 2\r\nlast \xff\n")
    assert folder.printed(job) == "first\nstep 2\nlast \ufffd\n"


def test_the_end_of_a_long_output_begins_with_a_whole_line(folder):
    job = folder.add("ppo", ("",), "mine")
    folder.output_of(job).write_text("first\nsecond\nthird\n")
    assert folder.printed(job) == "first\nsecond\nthird\n"
    assert folder.printed(job, 8) == "third\n"
    folder.output_of(job).write_bytes(b"step 1\rstep 2\rstep 3")
    assert folder.printed(job, 10) == "step 3"
