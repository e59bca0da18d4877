"""Curves of several runs: the chart of groups of seeds, and what the page does."""

from __future__ import annotations

from urllib.parse import urlencode

import numpy as np
import pytest

pytest.importorskip("nicegui")

from fastrl.compare.curves import Curve
from fastrl.runs.metrics_table import TRAIN_RETURN
from fastrl.studio.comparing import comparison
from studio.playing import element, make_run, play, until


def curve(num_runs, *values):
    x, runs = np.array([0.0, 10.0]), tuple((np.array([0.0, 10.0]), np.array(y)) for y in values)
    every = np.array(values, float).reshape(-1, 2)
    return Curve("group", num_runs, x, every.mean(0), every.min(0), every.max(0), runs)


def test_a_band_lies_between_the_ends_of_the_interval():
    mean, low, band = comparison([curve(2, [-5, -5], [5, 7])], ["red"], "steps")["series"]
    assert mean["name"] == "group (2 seeds)" and mean["data"] == ([0, 0], [10, 1])
    assert low["data"] == ([0, -5], [10, -5]) and band["data"] == ([0, 10], [10, 12])
    # Values of both signs are stacked only if they are told to be.
    assert low["stack"] == band["stack"] and band["stackStrategy"] == "all"


def test_a_single_run_is_a_line_without_a_band():
    assert len(comparison([curve(1, [1, 2])], ["red"], "steps")["series"]) == 1


def test_each_seed_can_be_a_line_and_one_entry_of_the_legend_is_theirs():
    options = comparison([curve(2, [1, 2], [3, 4])], ["red"], "steps", with_seeds=True)
    assert [entry["data"][-1] for entry in options["series"]] == [[10, 2], [10, 4]]
    assert options["legend"]["data"] == ["group"]


def test_a_group_without_points_draws_nothing():
    empty = np.empty(0)
    nothing = Curve("group", 0, empty, empty, empty, empty, ())
    assert all(not x["data"] for x in comparison([nothing], ["red"], "steps")["series"])


def test_the_page_follows_runs_and_says_which_are_none(desk):
    addresses = [make_run(desk.log_dir, f"run_{seed}", f"t{seed}") for seed in (1, 2)]
    tables = [desk.log_dir / address / "metrics.csv" for address in addresses]
    for table in tables:
        table.write_text(f"env_steps,{TRAIN_RETURN}\n1,1.0\n2,2.0\n")
    damaged = make_run(desk.log_dir, "damaged", "t3")
    (desk.log_dir / damaged / "config.yaml").write_text("algo: [")
    wrong = ["../../etc", "<b>no</b>"]
    query = urlencode([("run", address) for address in [*addresses, damaged, *wrong]])

    async def story(user):
        await user.open(f"/compare?{query}")
        await user.should_see("this is not the address")
        await user.should_see(damaged)

        def last_point():
            return element(user, "comparison").options["series"][0]["data"][-1]

        assert last_point() == [2, 2.0]
        with tables[0].open("a") as first, tables[1].open("a") as second:
            first.write("3,9.0\n")
            second.write("3,9.0\n")
        await until(lambda: last_point() == [3, 9.0])
        element(user, "axis").value = "seconds"
        await until(lambda: element(user, "comparison").options["xAxis"]["name"] == "seconds")

    play(desk, story)


def test_without_runs_the_page_says_what_to_do(desk):
    async def story(user):
        await user.open("/compare")
        await user.should_see("then press Compare")

    play(desk, story)
