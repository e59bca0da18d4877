"""The pages of sweeps, over folders as `python -m fastrl.sweep` writes them; no browser."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import os
import shutil

import pytest
from quick import quick

pytest.importorskip("nicegui")

from nicegui import ui

from fastrl.studio.desk import Desk
from fastrl.studio.pages.sweeps import words_of
from fastrl.sweep.reading import list_sweeps
from fastrl.sweep.request import Asked
from fastrl.sweep.trial import Trial, TrialRun, folder_of
from studio.playing import play, until

NAME = "2026-11-30_08-00-00"
EVIL = "<img src=x onerror=alert(1)>"


def make_sweep(desk: Desk, **more) -> str:
    """Makes the folder of a sweep with three trials; returns its address."""
    folder = desk.log_dir / "sweeps" / NAME
    folder.mkdir(parents=True)
    asked = {"kind": "search", "algo": "ppo", "flags": (), "env_id": "CartPole-v1", "minutes": 1.0}
    Asked(**{**asked, **more}).save(folder)
    for number, value in enumerate((20.0, 90.0, None)):
        state = "running" if value is None else "complete"
        run = TrialRun(1, "", state, value, 2.0)
        settings = {"learning_rate": 10.0 ** -(number + 2)}
        own = {"state": state, "runs": (run,), "value": value, "seconds": 2.0}
        Trial(number, settings, **own, folder=folder_of(folder, number)).save()
    (folder / "best.yaml").write_text("algo: ppo\nenv_id: CartPole-v1\nlearning_rate: 0.001\n")
    return f"sweeps/{NAME}"


def test_sweeps_are_listed_with_their_best(desk):
    make_sweep(desk)

    async def story(user):
        await user.open("/sweeps")
        await user.should_see("ppo on CartPole-v1, " + NAME, retries=80)
        await user.should_see("stopped")
        await user.should_see("2 trials · 0:00 · best 90.0")

    play(desk, story)


@pytest.mark.parametrize(
    ("kind", "num_over", "words"),
    [("search", 2, "2 trials"), ("search", 1, "1 trial"), ("grid", 2, "2 combinations")],
)
def test_what_a_sweep_tried_is_counted_in_its_own_word(desk, kind, num_over, words):
    make_sweep(desk, kind=kind)
    (found,) = list_sweeps(desk.log_dir)
    found = dataclasses.replace(found, trials=found.trials[:num_over])
    assert words_of(desk, found)[3].split(" · ")[0] == words


def test_trials_are_drawn_and_the_best_is_named(desk):
    address = make_sweep(desk)

    async def story(user):
        await user.open(f"/sweep/{address}")
        await user.should_see("best: trial 1, return 90.0", retries=80)
        await user.should_see("learning_rate=0.001")
        charts = {chart.props["aria-label"]: chart for chart in user.find(ui.echart).elements}
        series = {x["name"]: x["data"] for x in charts["Returns of the trials"].options["series"]}
        assert series["complete"] == ([0, 20.0], [1, 90.0])

    play(desk, story)


def train_the_best(desk, address):
    """Presses the button of a sweep's page, and waits for the jobs."""
    desk.queue.at_once = 0

    async def story(user):
        await user.open(f"/sweep/{address}")
        await user.should_see("best: trial 1", retries=80)
        user.find("Train the best with 5 seeds").click()
        await until(lambda: len(desk.jobs.all()) == 5)

    play(desk, story)


def test_the_best_is_queued_with_five_seeds(desk):
    train_the_best(desk, make_sweep(desk))
    seeds = []
    for progress in desk.jobs.all():
        text = (desk.jobs.path / progress.job.id / "settings.yaml").read_text()
        assert progress.job.command == "ppo" and "learning_rate: 0.001" in text
        seeds.append(next(line for line in text.splitlines() if line.startswith("seed")))
    assert seeds == [f"seed: {seed}" for seed in (1, 2, 3, 4, 5)]


BUTTONS = ["Go on", "Train the best with 5 seeds"]


@pytest.mark.parametrize(
    ("button", "answer", "place"),
    quick(
        itertools.product(BUTTONS, ["Trust it", "Cancel"], ["sweep.yaml", "best.yaml"]),
        *[("Go on", "Trust it", "sweep.yaml"), (BUTTONS[1], "Cancel", "best.yaml")],
    ),
)
def test_code_that_the_sweep_of_another_user_names_is_asked_about(
    desk, monkeypatch, tmp_path, button, answer, place
):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "theirs"))
    flags = ("--env-id", "evil:make") if place == "sweep.yaml" else ()
    address = make_sweep(desk, flags=flags)
    if place == "best.yaml":
        (desk.log_dir / address / place).write_text("algo: ppo\nenv_id: evil:make\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    desk.queue.at_once = 0
    num_jobs = 1 if button == "Go on" else 5

    async def story(user):
        await user.open(f"/sweep/{address}")
        await user.should_see("best: trial 1", retries=80)
        user.find(button).click()
        if (button, place) != ("Go on", "best.yaml"):  # which that does not read
            await user.should_see("wants to run evil:make()", retries=80)
            user.find(answer).click()
            if answer == "Cancel":
                await user.should_not_see("wants to run evil:make()", retries=80)
                return
        await until(lambda: len(desk.jobs.all()) == num_jobs)

    play(desk, story)
    jobs = [progress.job for progress in desk.jobs.all()]
    if (button, place) == ("Go on", "sweep.yaml"):
        assert [job.words[2:] for job in jobs] == ([("--trust",)] if answer == "Trust it" else [])


@pytest.mark.parametrize("in_file", quick([False, True], True))
def test_the_best_of_a_class_of_ones_own_is_queued_as_that_class(desk, tmp_path, in_file):
    file = tmp_path / "own.yaml"
    file.write_text("agent: my_ppo:PenaltyPPO\n")
    flags = ("--config", str(file)) if in_file else ("--agent", "my_ppo:PenaltyPPO")
    train_the_best(desk, make_sweep(desk, flags=flags))
    for progress in desk.jobs.all():
        assert progress.job.words[-2:] == ("--agent", "my_ppo:PenaltyPPO")


def test_a_sweep_is_started_from_the_form(desk):
    desk.queue.at_once = 0

    async def story(user):
        await user.open("/sweeps")
        await user.should_see("Start sweep", retries=80)
        user.find("Start sweep").click()
        await until(lambda: len(desk.jobs.all()) == 1)

    play(desk, story)
    (progress,) = desk.jobs.all()
    assert progress.job.command == "sweep"
    assert progress.job.words[:3] == ("ppo", "--env-id", "CartPole-v1")
    assert progress.job.words[-2:] == ("--minutes", "5")


def test_what_the_form_of_a_sweep_lacks_is_told_beside_its_field(desk):
    async def story(user):
        await user.open("/sweeps")
        await user.should_see("Start sweep", retries=80)
        task = next(x for x in user.find(ui.input).elements if x.props["label"] == "env_id")
        minutes = next(x for x in user.find(ui.number).elements if x.props["label"] == "minutes")
        task.value, minutes.value = " ", None
        user.find("Start sweep").click()
        await until(lambda: task.error and minutes.error)
        assert "CartPole-v1" in task.error and "trials at most" in minutes.error
        task.value, minutes.value = "CartPole-v1", 1
        user.find("Start sweep").click()
        await until(lambda: desk.jobs.all())
        assert task.error is None and minutes.error is None

    desk.queue.at_once = 0
    play(desk, story)


def test_a_sweep_without_an_address_is_counted_and_hides_no_others(desk):
    make_sweep(desk, command="\ud800", env_id="\ud800")
    named = desk.log_dir / "sweeps" / os.fsdecode(b"latin\xe9")
    shutil.copytree(desk.log_dir / "sweeps" / NAME, named)

    async def story(user):
        await user.open("/sweeps")
        await user.should_see(f"ppo on \ud800, {NAME}", retries=80)
        await user.should_see("1 sweep is left out")
        await user.should_see("sweeps/latin\\udce9")
        assert (await user.http_client.get(f"/sweep/sweeps/{NAME}")).status_code == 200

    play(desk, story)


DEEP = "[" * 5000 + "]" * 5000
HUGE = "9" * 400
IN_A_RUN = (
    *('"folder": 5', '"folder": "\\u0000"', '"folder": "\\ud800"', '"folder": "loop"'),
    *('"folder": "../../../../.."', '"mean_return": "x"', '"steps": []', '"seed": {}'),
)
IN_THE_BEST = (
    *('{"mean": NaN}', '{"mean": 1, "interval": ["a", null]}', '{"mean": []}'),
    f'{{"mean": {HUGE}}}',
)
DAMAGES: dict[tuple[str, str], tuple[str, ...]] = {
    ("trials/0001/trial.json", "value"): ('"x"', "[1]", "{}", "NaN", "1e999", HUGE),
    ("trials/0001/trial.json", "seconds"): ('"x"', "[]", "NaN", "null"),
    ("trials/0001/trial.json", "note"): ("[]", "5", '"\\ud800"'),
    ("trials/0001/trial.json", "name"): ("{}", '"\\ud800"'),
    ("trials/0001/trial.json", "number"): (HUGE, "1e30", "-1", "0", "true"),
    ("trials/0001/trial.json", "tests"): ("5", '["x"]'),
    ("trials/0001/trial.json", "settings"): (
        *('{"learning_rate": "x"}', '{":a": {"b": [NaN]}}', '{"\\ud800": 1}', "[]", DEEP),
    ),
    ("trials/0001/trial.json", "runs"): (
        *(f'[{{"seed": 1, "state": "complete", {x}}}]' for x in IN_A_RUN),
    ),
    ("status.json", "seconds"): ("NaN", "1e999", HUGE, '"x"', "-5", DEEP),
    ("status.json", "error"): ('["\\ud800"]', "{}"),
    ("summary.json", "best"): ("[]", "null", '{"number": []}', DEEP),
    ("summary.json", "confirmation"): (
        *("[]", "5", '{"best": 5}'),
        *(f'{{"best": {x}}}' for x in IN_THE_BEST),
    ),
}


QUICK_DAMAGES = [("trials/0001/trial.json", "settings"), ("status.json", "seconds")]
QUICK_DAMAGES += [("summary.json", "best")]


def make_damaged(desk: Desk, folder: str, file: str, name: str, text: str) -> None:
    """Makes a sweep of twelve trials, in a file of which a fact is a text that it cannot be."""
    damaged = desk.log_dir / "sweeps" / folder
    shutil.copytree(desk.log_dir / "sweeps" / NAME, damaged)
    for number in range(3, 12):  # with fewer, no importance is worked out
        run = (TrialRun(1, "", "complete", number, 2.0),)
        own = {"state": "complete", "runs": run, "value": float(number), "seconds": 2.0}
        Trial(
            number, {"learning_rate": 0.1**number}, **own, folder=folder_of(damaged, number)
        ).save()
    (damaged / "trials" / "0001" / "loop").symlink_to("loop")
    path = damaged / file
    facts = json.loads(path.read_text()) if path.exists() else {}
    facts[name] = "PLACE"
    path.write_text(json.dumps(facts).replace('"PLACE"', text))


@pytest.mark.parametrize(("file", "name"), quick(DAMAGES, *QUICK_DAMAGES))
def test_a_damaged_sweep_hides_no_others_and_has_a_page(desk, caplog, file, name):
    make_sweep(desk)
    texts = DAMAGES[file, name]
    for index, text in enumerate(texts):
        make_damaged(desk, f"damaged_{index}", file, name, text)

    async def story(user):
        await user.open("/sweeps")
        for index in range(len(texts)):
            await user.should_see(f"ppo on CartPole-v1, damaged_{index}", retries=80)
        await user.should_see("2 trials · 0:00 · best 90.0")
        for index, text in enumerate(texts):
            await user.open(f"/sweep/sweeps/damaged_{index}")
            await user.should_see("Settings and returns", retries=80)
            await asyncio.sleep(0.1)
            assert not [x for x in caplog.records if x.levelname == "ERROR"], text[:100]

    play(desk, story, seconds=60)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("name", ["status.json", "summary.json", "trials/0001/trial.json"])
def test_a_pipe_in_a_sweep_holds_up_nothing(desk, name):
    path = desk.log_dir / make_sweep(desk) / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert len(list_sweeps(desk.log_dir)) == 1


def test_words_of_a_sweep_are_text_and_damaged_ones_are_told(desk):
    address = make_sweep(desk, env_id=EVIL)
    folder = desk.log_dir / address / "trials"
    (folder / "0001" / "trial.json").write_text(json.dumps({"number": EVIL}))

    async def story(user):
        await user.open(f"/sweep/{address}")
        await user.should_see(EVIL, retries=80)
        await user.should_see("cannot be read")
        assert not [x for x in user.find(ui.element).elements if x.tag in ("script", "img")]
        response = await user.http_client.get("/sweep/sweeps/none")
        assert response.status_code == 404

    play(desk, story)
