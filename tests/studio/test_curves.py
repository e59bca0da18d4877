"""Curves as a page draws them: thinned, told apart, and only new points sent."""

import json
import math

import pytest

from fastrl.runs.metrics_table import MetricsTable
from fastrl.studio.curves import Curve, chart, line, thinned


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("env_steps,x\n")
    return MetricsTable(path)


def grow(table: MetricsTable, rows) -> None:
    with open(table.path, "a") as file:
        file.writelines(f"{step},{value}\n" for step, value in rows)
    table.update()


def test_only_new_points_are_given(table):
    curve = Curve("x")
    grow(table, [(1, 1.5), (2, "")])
    change = curve.take(table, table.steps)
    assert change is not None and change.points == [[1, 1.5]] and not change.is_all
    assert curve.take(table, table.steps) is None
    grow(table, [(3, 2.5)])
    change = curve.take(table, table.steps)
    assert change is not None and change.points == [[3, 2.5]] and not change.is_all


@pytest.mark.parametrize("num_rows", [1, 7, 8, 9, 100, 1001])
def test_points_stay_few_and_are_means_of_all_rows(table, num_rows):
    curve, drawn = Curve("x", most=8), []
    for step in range(1, num_rows + 1):
        grow(table, [(step, step)])
        if change := curve.take(table, table.steps):
            drawn = change.points if change.is_all else drawn + change.points
    assert drawn == curve.points and len(drawn) <= 8
    stride = round(drawn[0][0])
    assert stride & (stride - 1) == 0  # it doubled
    for index, (x, y) in enumerate(drawn):
        assert x == (index + 1) * stride
        assert y == pytest.approx(x - (stride - 1) / 2)


def test_numbers_that_are_none_are_left_out(table):
    curve = Curve("x")
    grow(table, [(1, "nan"), (2, "inf"), (3, 3.0)])
    change = curve.take(table, table.steps)
    assert change is not None and change.points == [[3, 3.0]]
    assert thinned([1, 2, math.inf], [math.nan, 2.0, 3.0]) == [[2, 2.0]]


def test_means_of_the_largest_numbers_are_finite(table):
    curve = Curve("x", most=2)
    grow(table, [(step, 1e308) for step in range(1, 8)])
    change = curve.take(table, table.steps)
    assert change is not None and change.points == [[4, 1e308]]
    assert thinned([1, 2, 3, 4], [1e308] * 4, most=2) == [[2, 1e308], [4, 1e308]]


def test_a_resumed_run_is_drawn_anew(table):
    curve = Curve("x")
    grow(table, [(1, 1.0), (2, 2.0), (3, 3.0)])
    curve.take(table, table.steps)
    grow(table, [(2, 5.0)])  # it went back to step 2
    change = curve.take(table, table.steps)
    assert change is not None and change.is_all and change.points == [[1, 1.0], [2, 5.0]]


def test_thinning_keeps_the_mean():
    xs = list(range(1, 1001))
    points = thinned(xs, [float(x) for x in xs], most=100)
    assert len(points) == 100 and points[0] == [10, 5.5] and points[-1] == [1000, 995.5]
    assert thinned([], []) == []


def test_names_are_values_of_options_and_never_keys():
    name = ":alert(1)<img src=x onerror=alert(1)>"
    options = chart([line(name, [[0, 1.0]], "#000")], "steps", legend=True)

    def keys(value):
        if isinstance(value, dict):
            return {*value, *(key for item in value.values() for key in keys(item))}
        return {key for item in value for key in keys(item)} if isinstance(value, list) else set()

    assert not [key for key in keys(options) if key.startswith(":") or name in key]
    assert options["tooltip"]["renderMode"] == "richText"
    assert name in json.dumps(options)
