"""The form of a new run: what it checks, what it stands for, and what it starts."""

from __future__ import annotations

import shlex

import pytest
import yaml
from quick import quick

pytest.importorskip("nicegui")

from fastrl.cli import parse
from fastrl.studio import jobs as jobs_module
from fastrl.studio.drafts import Draft, faults_of, flag_words, read_seeds, shown, typed
from fastrl.studio.pages.fields import described
from fastrl.studio.settings_files import read_layered, read_saved, save, saved_names
from studio.playing import ask, element, make_run, play, until


def run_with(desk, config: str) -> str:
    """Makes a run with a `config.yaml`; returns its address."""
    address = make_run(desk.log_dir)
    (desk.log_dir / address / "config.yaml").write_text(config)
    return address


@pytest.fixture(autouse=True)
def started(monkeypatch):
    """Nothing trains: a job's process ends at once."""
    monkeypatch.setattr(jobs_module, "command_line", lambda job: ["true"])


async def fill(user, **values):
    for name, value in values.items():
        element(user, name).value = value


@pytest.mark.parametrize(
    "algo", quick(["ppo", "a2c", "ppo_recurrent", "sac", "droq"], "ppo", "sac")
)
def test_every_setting_is_written_as_it_is_typed(algo):
    settings = described(algo, "", "auto")["settings"]
    for setting in settings:
        default = setting["default"]
        if default not in (None, "", []):
            assert shown(typed(algo, setting, shown(default))) == shown(default), setting["name"]


def test_flags_and_file_stand_for_the_same_run(tmp_path):
    settings = {"env_id": "CartPole-v1", "hidden_sizes": (32, 32), "anneal_lr": False}
    settings |= {"learning_rate": 1e-3, "env_kwargs": ("a=b c",), "exp_name": "-x y"}
    draft = Draft("ppo", "none", settings, (7,))
    (tmp_path / "a.yaml").write_text(draft.yaml())
    by_file = parse("ppo", ["--config", str(tmp_path / "a.yaml"), "--preset", "none"])
    words = shlex.split(draft.command_line())
    assert words[:3] == ["python", "-m", "fastrl.ppo"]
    assert parse("ppo", words[3:]).config == by_file.config
    assert by_file.config.seed == 7 and by_file.config.exp_name == "-x y"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("learning_rate", "-1", "must be at least 0, not -1.0"),
        ("gamma", "1.5", "must be between 0 and 1, not 1.5"),
        ("hidden_sizes", "64 0", r"must each be at least 1, not \[64, 0\]"),
    ],
)
def test_each_value_that_is_out_of_range_is_told_whatever_else_is_wrong(name, text, words):
    settings = {x["name"]: x for x in described("ppo", "", "auto")["settings"]}
    with pytest.raises(ValueError, match=f"^{name} {words}$"):
        typed("ppo", settings[name], text)


def test_a_value_that_begins_with_a_dash_is_no_flag():
    assert flag_words("seed", -1) == ["--seed=-1"]


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("", ()), ("3", (3,)), ("1 2, 5", (1, 2, 5)), ("1..3", (1, 2, 3)), ("1 - 3 9", (1, 2, 3, 9))],
)
def test_seeds_are_read_as_people_write_them(text, seeds):
    assert read_seeds(text) == seeds


@pytest.mark.parametrize("text", ["x", "-1", "1.5", "3..1", "1..1000", "1 1", "1..2 2", "9" * 30])
def test_seeds_that_are_none_are_refused(text):
    with pytest.raises(ValueError):
        read_seeds(text)


def test_a_fault_is_told_beside_its_setting():
    draft = Draft("ppo", "auto", {"num_pools": 2, "num_envs": 3, "gamma": 2.0})
    assert "gamma" in faults_of(draft).fields
    faults = faults_of(Draft("ppo", "auto", {"num_pools": 2, "num_envs": 3}))
    assert set(faults.fields) == {"num_pools", "num_envs"}


def test_a_mistake_is_shown_beside_its_field_and_nothing_starts(desk):
    async def story(user):
        await user.open("/new")
        await fill(user, num_envs="many", gamma="0.9")
        user.find(marker="Start").click()
        await until(lambda: element(user, "num_envs").error)
        assert "whole number" in element(user, "num_envs").error
        assert element(user, "gamma").error is None
        await fill(user, num_envs="8", gamma="7")
        user.find(marker="Start").click()
        await until(lambda: element(user, "gamma").error)
        assert "gamma" in element(user, "gamma").error
        assert element(user, "num_envs").error is None
        assert desk.jobs.all() == []

    play(desk, story)


@pytest.mark.parametrize(
    "word",
    [
        "a=1 --seed=5",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("-h", "--help", "--describe")),
    ],
)
def test_a_word_that_would_be_a_flag_is_refused_beside_its_field(desk, word):
    address = run_with(desk, f"algo: ppo\nenv_kwargs: {word.split()}\nseed: 1\n")

    async def story(user):
        await user.open(f"/new?like={address}")
        await until(lambda: "would be a flag" in (element(user, "env_kwargs").error or ""))
        assert element(user, "seeds").value == "1"

    play(desk, story)


@pytest.mark.parametrize(
    "value", ["nan", *(pytest.param(x, marks=pytest.mark.slow) for x in ("inf", "-inf"))]
)
def test_a_number_that_is_none_is_told_and_the_form_goes_on(desk, value):
    async def story(user):
        await user.open("/new")
        await fill(user, learning_rate=value)
        user.find(marker="Check").click()
        await until(lambda: element(user, "learning_rate").error)
        await fill(user, learning_rate="1e-3")
        user.find(marker="Check").click()
        await until(lambda: not element(user, "learning_rate").error)

    play(desk, story)


def test_a_run_that_cannot_be_queued_says_why_and_start_can_be_pressed_again(desk):
    (desk.log_dir / ".studio").write_text("")

    async def story(user):
        await user.open("/new")
        user.find(marker="Start").click()
        await user.should_see("File exists", retries=80)
        assert element(user, "Start").enabled

    play(desk, story)


def test_start_queues_a_run_for_each_seed(desk):
    desk.queue.close()

    async def story(user):
        await user.open("/new")
        await fill(user, env_id="CartPole-v1", total_timesteps="5000", seeds="1..3")
        await user.should_see("for seed in 1 2 3")
        await user.should_see(f"--log-dir {desk.log_dir}")
        user.find(marker="Start").click()
        await until(lambda: len(desk.jobs.all()) == 3)

    play(desk, story)
    files = sorted(desk.jobs.path.glob("*/settings.yaml"))
    found = [yaml.safe_load(file.read_text()) for file in files]
    assert [settings["seed"] for settings in found] == [1, 2, 3]
    assert all(settings["total_timesteps"] == 5000 for settings in found)
    assert all(settings["log_dir"] == str(desk.log_dir) for settings in found)


def test_an_empty_field_shows_what_the_preset_sets(desk):
    async def story(user):
        await user.open("/new")
        assert "(preset)" in element(user, "gamma").props["placeholder"]
        element(user, "preset").value = "none"
        await until(lambda: "(default)" in element(user, "gamma").props["placeholder"])

    play(desk, story)


def test_settings_are_saved_chosen_edited_and_started_from(desk):
    async def story(user):
        await user.open("/new")
        await fill(user, total_timesteps="1234", **{"file-name": "network/small"})
        user.find(marker="Save settings").click()
        await until((desk.log_dir / "settings" / "network" / "small.yaml").exists)
        await fill(user, total_timesteps="")
        element(user, "chosen-files").set_options(["network/small"], value=["network/small"])
        user.find(marker="Use").click()
        await until(lambda: element(user, "total_timesteps").value == "1234")

    play(desk, story)
    saved = desk.log_dir / "settings" / "network" / "small.yaml"
    assert yaml.safe_load(saved.read_text()) == {"algo": "ppo", "total_timesteps": 1234}


def test_a_run_can_be_the_start_of_another(desk):
    address = run_with(
        desk, "algo: sac\nenv_id: Pendulum-v1\nlearning_starts: 77\nseed: 5\nlog_dir: x\n"
    )

    async def story(user):
        await user.open(f"/new?like={address}")
        await until(lambda: element(user, "env_id").value == "Pendulum-v1")
        assert element(user, "algorithm").value == "sac"
        assert element(user, "learning_starts").value == "77"
        assert element(user, "seeds").value == "5"

    play(desk, story)


def test_a_run_of_a_class_of_ones_own_starts_another_of_that_class(desk):
    desk.queue.close()
    address = run_with(desk, "algo: ppo\nagent: my_ppo:PenaltyPPO\nenv_id: CartPole-v1\nseed: 1\n")

    async def story(user):
        await user.open(f"/new?like={address}")
        await until(lambda: element(user, "agent").value == "my_ppo:PenaltyPPO")
        await until(lambda: "--agent my_ppo:PenaltyPPO" in element(user, "command").text)
        assert "agent: my_ppo:PenaltyPPO" in element(user, "yaml").text
        await until(lambda: "my_ppo:PenaltyPPO" in element(user, "imports").text)
        user.find(marker="Start").click()
        await until(lambda: desk.jobs.all())

    play(desk, story)
    words = list(desk.jobs.all()[0].job.words)
    assert parse("ppo", words).agent == "my_ppo:PenaltyPPO" and "--agent" in words


def test_a_class_in_a_file_of_settings_goes_into_the_form(desk):
    save(desk.log_dir, "mine", "agent: my_ppo:PenaltyPPO\ngamma: 0.9\n")
    save(desk.log_dir, "other", "gamma: 0.8\n")

    async def use(user, name):
        element(user, "chosen-files").set_options([name], value=[name])
        user.find(marker="Use").click()

    async def story(user):
        await user.open("/new")
        await use(user, "mine")
        await until(lambda: element(user, "agent").value == "my_ppo:PenaltyPPO")
        await use(user, "other")  # which says nothing of it
        await until(lambda: element(user, "gamma").value == "0.8")
        assert element(user, "agent").value == "my_ppo:PenaltyPPO"
        element(user, "YAML").value = "agent: x:Y\ngamma: 0.7\n"
        user.find(marker="Text to form").click()
        await until(lambda: element(user, "agent").value == "x:Y")
        element(user, "YAML").value = "gamma: 0.6\n"
        user.find(marker="Text to form").click()
        await until(lambda: element(user, "gamma").value == "0.6")
        assert element(user, "agent").value == ""
        element(user, "YAML").value = "agent: [x]\n"
        user.find(marker="Text to form").click()
        await user.should_see("agent must be text", retries=30)

    play(desk, story)


def test_a_run_whose_environments_were_handed_over_starts_no_other(desk):
    address = run_with(desk, "algo: ppo\nenv_id: CartPole-v1\nhanded_over: true\nseed: 1\n")

    async def story(user):
        await user.open(f"/new?like={address}")
        await until(lambda: "handed over" in element(user, "wrong").text)

    play(desk, story)


def test_the_first_page_has_all_fields(desk):
    async def story(client):
        page = (await client.get("/new")).text
        assert all(f'"aria-label":"{name}"' in page for name in ("env_id", "gamma", "log_std_init"))

    ask(desk, story)


@pytest.mark.parametrize(
    "name", ["", "../x", "/x", "a/../../x", ".x", "a//b", "a b", "x/" * 9 + "x"]
)
def test_settings_are_saved_nowhere_else(desk, name):
    with pytest.raises(ValueError):
        save(desk.log_dir, name, "seed: 1\n")
    assert not (desk.log_dir / "settings").exists()


def test_a_saved_file_is_replaced_only_if_the_user_says_so(desk):
    save(desk.log_dir, "mine", "seed: 1\n")
    with pytest.raises(ValueError, match="already"):
        save(desk.log_dir, "mine", "seed: 2\n")
    assert read_saved(desk.log_dir, "mine") == "seed: 1\n"
    save(desk.log_dir, "mine", "seed: 2\n", replace=True)
    assert read_saved(desk.log_dir, "mine") == "seed: 2\n"
    with pytest.raises(ValueError, match="YAML"):
        save(desk.log_dir, "other", "a: [\n")


def test_files_that_a_settings_file_names_come_with_it(desk):
    save(desk.log_dir, "network/wide", "hidden_sizes: [512]\nseed: 1\n")
    save(desk.log_dir, "base", "algo: sac\ndefaults: [network/wide.yaml]\nseed: 2\n")
    found = read_layered(desk.log_dir, "base", "ppo")
    assert found == {"algo": "sac", "hidden_sizes": (512,), "seed": 2}
    save(desk.log_dir, "escape", "defaults: [../../x.yaml]\n")
    with pytest.raises(ValueError, match="alone"):
        read_layered(desk.log_dir, "escape", "ppo")


def test_links_among_settings_files_are_not_followed(desk, tmp_path):
    (tmp_path / "secret.yaml").write_text("seed: 1\n")
    save(desk.log_dir, "mine", "seed: 1\n")
    (desk.log_dir / "settings" / "linked.yaml").symlink_to(tmp_path / "secret.yaml")
    assert saved_names(desk.log_dir) == ["mine"]
    with pytest.raises(ValueError, match="link"):
        read_saved(desk.log_dir, "linked")
