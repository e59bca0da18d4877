"""The table of runs: what it shows of folders in any state, and what it sends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time

import pytest

pytest.importorskip("nicegui")

from nicegui import ui

from fastrl.runs.metrics_table import TRAIN_RETURN
from fastrl.studio import jobs as jobs_module
from fastrl.studio.rows import changes, counted
from studio.playing import ask, element, make_run, make_unsendable, play, until

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(autouse=True)
def idle(monkeypatch):
    monkeypatch.setattr(jobs_module, "command_line", lambda job: ["true"])


def write_metrics(desk, address, *rows):
    text = f"env_steps,{TRAIN_RETURN}\n" + "".join(f"{x},{y}\n" for x, y in rows)
    (desk.log_dir / address / "metrics.csv").write_text(text)


def test_only_what_changed_is_sent():
    old = [{"address": "a", "steps": 1}, {"address": "b", "steps": 1}, {"address": "c", "steps": 1}]
    new = [{"address": "d", "steps": 1}, {"address": "a", "steps": 1}, {"address": "b", "steps": 2}]
    found = changes({row["address"]: row for row in old}, new)
    assert found.add == [new[0]] and found.update == [new[2]] and found.remove == [{"address": "c"}]
    assert not changes({row["address"]: row for row in new}, new)


def test_runs_are_counted_by_state():
    assert counted([{"state": "failed"}, {"state": "running"}]) == "1 running, 1 failed"
    assert counted([]) == "no runs yet"


def test_a_row_has_what_the_folder_says(desk):
    address = make_run(desk.log_dir)
    write_metrics(desk, address, (256, 20.5), (512, 30.5))
    summary = {"total_env_steps": 512, "wall_seconds": 3.5, "steps_per_second": 200.0}
    (desk.log_dir / address / "summary.json").write_text(json.dumps(summary))
    row = desk.rows()[0]
    told = {
        "address": address,
        "state": "finished",
        "task": "CartPole-v1",
        "algo": "ppo",
        "seed": 1,
    }
    told |= {"return": 30.5, "best": 30.5, "steps": 512, "rate": 200.0, "seconds": 3.5}
    assert {name: row[name] for name in told} == told


def test_a_run_as_it_was_has_the_same_row(desk):
    address = make_run(desk.log_dir)
    write_metrics(desk, address, (256, 20.5))
    make_run(desk.log_dir, "other_1", "t1")
    time.sleep(2.1)  # a folder that was just written may change within a tick of its clock
    before = {row["address"]: row for row in desk.rows()}
    desk.look_again()
    after = {row["address"]: row for row in desk.rows()}
    assert before.keys() == after.keys() and all(before[x] is after[x] for x in before)


def damage(desk):
    """Makes run folders that are damaged in all kinds of ways; returns their addresses."""
    addresses = []
    for number, (name, text) in enumerate(
        [
            ("config.yaml", "algo: [ppo\n"),
            ("config.yaml", ""),
            ("config.yaml", "- a\n- b\n"),
            ("config.yaml", "algo: ppo\nenv_id: {a: b}\nseed: [1]\nexp_name: 3\n"),
            ("summary.json", "{"),
            ("summary.json", '[1, {"a": NaN}]'),
            ("metrics.csv", "not,a,table\n1,2\n"),
            ("metrics.csv", "env_steps,x\n1e99,nan\nabc,\n"),
            ("process.json", '{"pid": 1}'),
        ]
    ):
        address = make_run(desk.log_dir, f"damaged_{number}", f"d{number}")
        (desk.log_dir / address / name).write_text(text)
        addresses.append(address)
    binary = make_run(desk.log_dir, "binary", "d99")
    (desk.log_dir / binary / "config.yaml").write_bytes(b"\x00\xff\xfe" * 100)
    return [*addresses, binary]


def test_damaged_runs_are_shown_and_hide_no_others(desk):
    damaged = damage(desk)
    good = make_run(desk.log_dir)
    rows = {row["address"]: row for row in desk.rows()}
    assert rows.keys() == {*damaged, good}
    assert rows[damaged[0]]["state"] == "damaged" and rows[damaged[0]]["detail"]

    async def story(client):
        for path in ("/", *(f"/run/{address}" for address in damaged)):
            assert (await client.get(path)).status_code == 200

    ask(desk, story)


def test_damaged_runs_start_nothing(desk):
    for address in damage(desk)[:3]:
        for work in (desk.resume, desk.evaluate, desk.export, desk.stop):
            with pytest.raises(ValueError):
                work(address)
    assert desk.jobs.all() == []


def test_what_a_browser_cannot_hold_hides_no_runs(desk):
    odd, good = make_unsendable(desk.log_dir), make_run(desk.log_dir)
    make_run(desk.log_dir, os.fsdecode(b"latin\xe9_1"), "o99")
    rows = {row["address"]: row for row in desk.rows()}
    assert rows.keys() == {*odd, good}
    assert rows[odd[2]]["label"] == "\\ud800" and rows[odd[3]]["seed"] is None
    for row in rows.values():
        assert json.loads(json.dumps(row, allow_nan=False).encode()) == row
        assert all(abs(x) <= 2**53 for x in row.values() if isinstance(x, int))
    for address in odd:
        with contextlib.suppress(ValueError):
            desk.code_to_trust(address)
    compared = "&".join(f"run={address}" for address in odd)
    desk.jobs.add("ppo", ("\ud800",), "\ud800", odd[0])

    async def story(user):
        await user.open("/")
        await user.should_see("1 run is left out", retries=80)
        await user.should_see("latin\\udce9_1")
        for path in ("/", f"/compare?{compared}", *(f"/run/{address}" for address in odd)):
            assert (await user.http_client.get(path)).status_code == 200, path

    play(desk, story)


def test_all_tabs_show_what_a_browser_cannot_hold(desk, caplog):
    async def story(user):
        for address in make_unsendable(desk.log_dir):
            await user.open(f"/run/{address}")
            for tab in ("Films", "Log", "Settings", "Files"):
                user.find(kind=ui.tab, content=tab).click()
                await asyncio.sleep(0.05)

    play(desk, story, 60)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_script_in_names_stays_text(desk):
    address = make_run(desk.log_dir)
    quoted = json.dumps(SCRIPT)
    config = f"algo: ppo\nenv_id: {quoted}\nexp_name: {quoted}\nseed: 1\n"
    (desk.log_dir / address / "config.yaml").write_text(config)
    desk.jobs.add("ppo", (), SCRIPT)

    async def story(client):
        await asyncio.to_thread(desk.rows)
        for path in ("/", f"/run/{address}", f"/run/{SCRIPT}", f"/new?like={SCRIPT}&algo={SCRIPT}"):
            page = await client.get(path)
            assert "<script>alert" not in page.text and "<img src=x" not in page.text

    ask(desk, story)


def test_the_first_page_does_not_wait_for_folders(desk, monkeypatch):
    def slow():
        time.sleep(5)
        return []

    monkeypatch.setattr(desk, "rows", slow)
    monkeypatch.setattr(desk, "open", lambda: None)

    async def story(client):
        start = time.monotonic()
        assert (await client.get("/")).status_code == 200
        assert time.monotonic() - start < 2

    ask(desk, story)


def test_five_hundred_runs_are_looked_at_seldom(desk):
    for number in range(20):
        make_run(desk.log_dir, f"run_{number}", f"t{number}")
    first = desk.runs()
    assert desk.runs() is first  # a second tab, a moment later
    assert len(first) == 20


def test_trials_of_sweeps_are_shown_on_demand(desk):
    run = make_run(desk.log_dir)
    make_run(desk.log_dir / "sweeps" / "t0", "trial_1", "t1")

    async def story(user):
        await asyncio.to_thread(desk.rows)
        await user.open("/")
        shown = next(iter(user.find(ui.aggrid).elements)).options["rowData"]
        assert [row["address"] for row in shown] == [run]
        calls = await sent_to(user)
        element(user, "trials").value = True
        await until(lambda: calls)
        assert calls[0][1]["add"][0]["address"].startswith("sweeps/t0/")

    play(desk, story)


async def sent_to(page, seconds=3.0):
    """Returns the calls of the table's methods that a page gets from now on."""
    calls = []
    grid = next(iter(page.find(ui.aggrid).elements))
    grid.run_grid_method = lambda name, *arguments: calls.append((name, *arguments))
    return calls


def test_two_tabs_show_the_same(desk):
    first = make_run(desk.log_dir)
    write_metrics(desk, first, (1, 1.0))

    async def story(client):
        from nicegui.testing.user import User

        one, two = User(client), User(client)
        await asyncio.to_thread(desk.rows)
        await one.open("/")
        await two.open("/")
        calls = [await sent_to(one), await sent_to(two)]
        second = await asyncio.to_thread(make_run, desk.log_dir, "new_1", "t1")
        await until(lambda: all(calls))
        for sent in calls:
            name, transaction = sent[0]
            assert name == "applyTransaction"
            assert [row["address"] for row in transaction["add"]] == [second]
        desk.trash(first)
        await until(lambda: all(len(sent) > 1 for sent in calls))
        assert all(sent[1][1]["remove"] == [{"address": first}] for sent in calls)

    ask(desk, story)


def test_marked_runs_are_evaluated_after_the_dialog(desk):
    address = make_run(desk.log_dir)

    async def story(user):
        await asyncio.to_thread(desk.rows)
        await user.open("/")

        async def selected():
            return [{"address": address}, {"address": "../../etc"}]

        grid = next(iter(user.find(ui.aggrid).elements))
        grid.get_selected_rows = selected
        user.find(marker="Evaluate").click()
        await user.should_see("Evaluate 1 run", retries=30)
        user.find(marker="sure").click()
        await until(lambda: desk.jobs.all())

    play(desk, story)
    job = desk.jobs.all()[0].job
    assert (job.command, job.run) == ("evaluate", address)
    assert job.words == (str(desk.log_dir / address), "--episodes", "100")


def test_a_run_that_names_code_of_others_is_played_only_if_trusted(desk):
    address = make_run(desk.log_dir)
    (desk.log_dir / address / "config.yaml").write_text("algo: ppo\nenv_id: evil:make\nseed: 1\n")
    assert "evil:make" in desk.code_to_trust(address)
    assert "--trust" not in desk.resume(address).words
    assert "--trust" in desk.resume(address, trust=True).words


def test_a_trash_that_is_no_folder_is_told(desk):
    (desk.log_dir / ".trash").write_text("")

    async def story(user):
        await user.open("/")
        user.find("Trash").click()
        await user.should_see("is not a folder", retries=30)

    play(desk, story)


def test_the_queue_says_what_failed_and_why(desk):
    job = desk.jobs.add("ppo", (), "ppo on Nothing-v0")
    desk.jobs.output_of(job).write_text("loading\nerror: there is no Nothing-v0\n")
    desk.jobs.end(job, 2)

    async def story(user):
        await user.open("/")
        assert element(user, "queue")
        await user.should_see("ppo on Nothing-v0", retries=30)
        await user.should_see("error: there is no Nothing-v0")
        user.find("Output").click()
        await user.should_see("loading", retries=30)

    play(desk, story)


def test_the_first_look_at_many_runs_does_not_put_off_the_next(desk, monkeypatch):
    def slow_look(log_dir):
        time.sleep(0.2)
        return [object()]

    monkeypatch.setattr("fastrl.studio.desk.find_runs", slow_look)
    monkeypatch.setattr("fastrl.studio.desk._LEAST_PAUSE", 0.0)
    desk.runs()
    assert desk._look_again <= time.monotonic()
    desk.runs()
    assert desk._look_again > time.monotonic() + 5
