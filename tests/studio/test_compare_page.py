"""Curves of several runs: which belong together, their mean and spread, and what the page does."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlencode

import pytest

pytest.importorskip("nicegui")

from fastrl.runs.metrics_table import TRAIN_RETURN
from fastrl.runs.run import Run
from fastrl.studio.comparing import comparison, groups_of, mean_and_spread
from studio.playing import element, make_run, play, until


def run_with(algo="ppo", **settings):
    settings = {"env_id": "CartPole-v1", "gamma": 0.9, **settings}
    return Run(Path("x"), "finished", "", settings=settings, labels={"algo": algo})


def test_runs_that_differ_in_their_seeds_alone_are_a_group():
    runs = [run_with(seed=1), run_with(seed=1, gamma=0.5), run_with(seed=2, log_dir="other")]
    found = groups_of(runs)
    assert [group.members for group in found] == [(0, 2), (1,)]
    assert [group.name for group in found] == ["ppo gamma=0.9", "ppo gamma=0.5"]


def test_groups_are_named_by_what_tells_them_apart():
    runs = [run_with(), run_with("a2c"), run_with(env_id="Pendulum-v1")]
    names = [group.name for group in groups_of(runs)]
    assert names == ["CartPole-v1 ppo", "CartPole-v1 a2c", "Pendulum-v1 ppo"]
    assert groups_of([run_with()])[0].name == "CartPole-v1"


def test_the_mean_goes_as_far_as_all_seeds_do():
    mean, least, most = mean_and_spread([([0, 10], [0, 10]), ([0, 20], [10, 10])])
    assert mean[0] == [0, 5] and mean[-1] == [10, 10]
    assert least[0] == [0, 0] and most[0] == [0, 10]
    middle = len(mean) // 2
    assert mean[middle][1] == pytest.approx((mean[middle][0] + 10) / 2)


@pytest.mark.parametrize("curves", [[], [([], [])], [([0, 1], [1, 1]), ([5, 6], [1, 1])]])
def test_curves_that_share_nothing_have_no_mean(curves):
    assert mean_and_spread(curves) == ([], [], [])


def test_a_single_point_is_a_mean_too():
    assert mean_and_spread([([3], [1]), ([3], [2])])[0] == [[3, 1.5]]


def test_a_band_lies_between_least_and_most():
    groups = groups_of([run_with(seed=1), run_with(seed=2)])
    curves = [([0, 10], [-5, -5]), ([0, 10], [5, 5])]
    mean, low, band = comparison(groups, curves, ["red"], "steps")["series"]
    assert mean["name"] == "CartPole-v1 (2 seeds)" and mean["data"][0] == [0, 0]
    assert low["data"][0] == [0, -5] and band["data"][0] == [0, 10]
    assert low["stack"] == band["stack"] and band["stackStrategy"] == "all"
    assert len(comparison(groups, curves, ["red"], "steps", with_seeds=True)["series"]) == 2


def test_the_page_follows_runs_and_says_which_are_none(desk):
    addresses = [make_run(desk.log_dir, f"run_{seed}", f"t{seed}") for seed in (1, 2)]
    tables = [desk.log_dir / address / "metrics.csv" for address in addresses]
    for table in tables:
        table.write_text(f"env_steps,{TRAIN_RETURN}\n1,1.0\n2,2.0\n")
    query = urlencode([("run", address) for address in [*addresses, "../../etc", "<b>no</b>"]])

    async def story(user):
        await user.open(f"/compare?{query}")
        await user.should_see("this is not the address")
        options = element(user, "comparison").options
        assert options["series"][0]["data"][-1] == [2, 2.0]
        with tables[0].open("a") as first, tables[1].open("a") as second:
            first.write("3,9.0\n")
            second.write("3,9.0\n")
        await until(
            lambda: element(user, "comparison").options["series"][0]["data"][-1] == [3, 9.0]
        )
        element(user, "axis").value = "seconds"
        assert element(user, "comparison").options["xAxis"]["name"] == "seconds"

    play(desk, story)


def test_without_runs_the_page_says_what_to_do(desk):
    async def story(user):
        await user.open("/compare")
        await user.should_see("then press Compare")

    play(desk, story)
