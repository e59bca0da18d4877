"""The page of a run, in every state that a run folder may be in; no browser."""

from __future__ import annotations

import asyncio
import json

import pytest
from nicegui import ui
from quick import slow

from fastrl.studio.run_view import RunView
from studio.playing import make_run, play, until

METRICS = "env_steps,Rewards/rew_avg_100,Mine/x\n64,10.5,1\n128,20.5,2\n"


def summary_of(steps: int) -> str:
    return json.dumps({"algo": "ppo", "total_env_steps": steps, "interrupted": False})


def test_curves_come_in_groups_with_what_they_mean(desk):
    address = make_run(desk.log_dir)
    folder = desk.log_dir / address
    (folder / "metrics.csv").write_text(METRICS)
    (folder / "summary.json").write_text(summary_of(128))

    async def story(user):
        await user.open(f"/run/{address}")
        await user.should_see("finished", retries=80)
        await user.should_see("mean return of the last 100 training episodes", retries=80)
        await user.should_see("Own metrics", retries=80)
        charts = {chart.props["aria-label"]: chart for chart in user.find(ui.echart).elements}
        (series,) = charts["curve of Rewards/rew_avg_100"].options["series"]
        assert series["data"] == ([64, 10.5], [128, 20.5])

    play(desk, story)


def test_names_of_metrics_and_runs_are_text(desk):
    evil = "<img src=x onerror=alert(1)>"
    address = make_run(desk.log_dir)
    folder = desk.log_dir / address
    (folder / "metrics.csv").write_text(f"env_steps,{evil}\n1,2\n")
    (folder / "config.yaml").write_text(f'algo: ppo\nenv_id: "{evil}"\n{evil}: 1\n')

    async def story(user):
        await user.open(f"/run/{address}")
        await user.should_see(evil, retries=80)
        for element in user.find(ui.element).elements:
            assert element.tag not in ("script", "img")
            assert "innerHTML" not in element.props

    play(desk, story)


def test_a_run_with_only_a_config_is_shown_as_such(desk):
    address = make_run(desk.log_dir)

    async def story(user):
        await user.open(f"/run/{address}")
        await user.should_see("failed", retries=80)
        await user.should_see("no metrics yet", retries=80)

    play(desk, story)


def test_a_damaged_run_says_what_is_wrong(desk):
    address = make_run(desk.log_dir)
    folder = desk.log_dir / address
    (folder / "config.yaml").write_text("a: [")
    (folder / "metrics.csv").write_bytes(b"\xff\xfe\x00")

    async def story(user):
        await user.open(f"/run/{address}")
        await user.should_see("damaged", retries=80)
        await user.should_see("config.yaml: ", retries=80)

    play(desk, story)


def test_an_empty_folder_and_none_are_shown_as_such(desk):
    (desk.log_dir / "empty").mkdir(parents=True)

    async def story(user):
        await user.open("/run/empty")
        await user.should_see("config.yaml is missing", retries=80)
        response = await user.http_client.get("/run/nothing/there")
        assert response.status_code == 404

    play(desk, story)


def test_what_differs_from_the_preset_is_told(desk):
    address = make_run(desk.log_dir)
    text = "algo: ppo\nenv_id: CartPole-v1\nseed: 3\nnum_envs: 8\nnum_steps: 64\n"
    (desk.log_dir / address / "config.yaml").write_text(text)

    async def story(user):
        await user.open(f"/run/{address}")
        user.find(kind=ui.tab, content="Settings").click()
        await user.should_see("differs: num_steps=64", retries=80)

    play(desk, story)


def test_a_page_says_that_its_run_was_deleted_meanwhile(desk):
    address = make_run(desk.log_dir)

    async def story(user):
        await user.open(f"/run/{address}")
        await user.should_see("ppo on CartPole-v1", retries=80)
        await asyncio.to_thread(desk.trash, address)
        await user.should_see("it was moved or deleted", retries=80)
        await user.should_not_see("config.yaml is missing")

    play(desk, story)


def make_resumable(desk) -> str:
    """Makes a run with a checkpoint; returns its address."""
    address = make_run(desk.log_dir)
    checkpoints = desk.log_dir / address / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    (checkpoints / "last.pt").write_bytes(b"")
    return address


async def ask_to_resume(user, address: str) -> None:
    """Opens the page of a run, and its dialog on resuming."""
    await user.open(f"/run/{address}")
    user.find(marker="Resume").click()
    await user.should_see("Resume 1 run", retries=30)


def test_a_run_is_resumed_to_the_steps_that_were_asked_for(desk):
    address = make_resumable(desk)

    async def story(user):
        await ask_to_resume(user, address)
        user.find(kind=ui.input).type("8192")
        user.find(marker="sure").click()
        await until(lambda: desk.jobs.all())

    play(desk, story)
    job = desk.jobs.all()[0].job
    assert (job.run, job.words[-2:]) == (address, ("--total-timesteps", "8192"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        slow(("abc", "must be a whole number, not 'abc'")),
        ("0", "total_timesteps must be at least 1, not 0"),
    ],
)
def test_a_wrong_number_of_steps_is_told_beside_its_field_and_resumes_nothing(desk, text, words):
    address = make_resumable(desk)

    async def story(user):
        await ask_to_resume(user, address)
        (field,) = user.find(kind=ui.input, content="environment steps").elements
        field.value = text
        user.find(marker="sure").click()
        await until(lambda: field.error)
        assert field.error == words and desk.jobs.all() == []
        field.value = " "
        user.find(marker="sure").click()
        await until(lambda: desk.jobs.all())

    play(desk, story)
    assert "--total-timesteps" not in desk.jobs.all()[0].job.words


def test_a_run_page_does_not_follow_a_link_for_its_output(desk):
    address = make_run(desk.log_dir)
    secret = desk.log_dir.parent / "secret.txt"
    secret.write_text("secret")
    job = desk.jobs.add("ppo", ("",), "mine", address)
    desk.jobs.output_of(job).symlink_to(secret)
    assert RunView(desk, address).output() == ""
