"""Charts of a sweep: what is drawn of which trials."""

from fastrl.studio.sweep_charts import (
    best_so_far,
    importance_chart,
    parallel_chart,
    progress_chart,
)
from fastrl.sweep.trial import Trial

RANGES = {
    "learning_rate": {"kind": "log", "low": 1e-4, "high": 1e-2},
    "num_steps": {"kind": "powers of two", "low": 16, "high": 256},
    "hidden_sizes": {"kind": "choices", "values": [[64, 64], [32]]},
}


def trial(number: int, value: float | None, state="complete", **settings) -> Trial:
    usual = {"learning_rate": 1e-3, "num_steps": 32, "hidden_sizes": [64, 64], "anneal_lr": True}
    return Trial(number, {**usual, **settings}, state=state, value=value, seconds=1.0)


TRIALS = [
    trial(0, 10.0),
    trial(1, None, "running"),
    trial(2, 5.0, "pruned", hidden_sizes=[32]),
    trial(3, 30.0, learning_rate=1e-2),
    trial(4, 20.0),
]
RANKED = [TRIALS[3], TRIALS[4], TRIALS[0]]


def test_best_so_far_follows_the_ranking():
    values = [[0, 10.0], [1, 10.0], [2, 10.0], [3, 30.0], [4, 30.0]]
    assert best_so_far(TRIALS, RANKED) == values
    assert best_so_far(TRIALS[1:], RANKED[:2]) == [[3, 30.0], [4, 30.0]]
    assert best_so_far(TRIALS[1:2], []) == []


def test_each_state_has_its_dots():
    options = progress_chart(TRIALS, RANKED)
    data = {series["name"]: list(series["data"]) for series in options["series"]}
    assert data["complete"] == [[0, 10.0], [3, 30.0], [4, 20.0]]
    assert data["pruned"] == [[2, 5.0]] and data["running"] == []


def test_axes_are_on_the_scale_on_which_settings_are_tried():
    options = parallel_chart(TRIALS, RANGES, ["num_steps"])
    axes = {axis["name"]: axis for axis in options["parallelAxis"]}
    order = [*axes]
    assert (order[0], order[-1]) == ("num_steps", "return")
    assert axes["learning_rate"]["type"] == "log"
    assert axes["num_steps"]["logBase"] == 2
    assert axes["hidden_sizes"]["data"] == ["32", "64 64"]
    assert axes["anneal_lr"]["data"] == ["true"]
    place = [*axes].index("hidden_sizes")
    rows = options["series"][0]["data"]
    assert [row[place] for row in rows] == ["64 64", "32", "64 64", "64 64"]
    assert [row[-1] for row in rows] == [10.0, 5.0, 30.0, 20.0]


def test_no_trials_are_drawn_as_none():
    assert parallel_chart([], {})["series"][0]["data"] == ()
    assert importance_chart({})["series"] == []


def test_importance_is_in_percent():
    options = importance_chart({":x": 0.5, "y": 0.123})
    assert options["series"][0]["data"] == (50.0, 12.3)
    assert options["yAxis"]["data"] == [":x", "y"]
