import numpy as np
import pytest

from fastrl.ops.intervals import (
    bootstrap_band,
    bootstrap_interval,
    interquartile_mean,
    stratified_interval,
)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0], 3.0),
        ([1.0, 2.0, 9.0], 4.0),
        ([9.0, 1.0, 2.0, 4.0], 3.0),
        ([100.0, 3.0, 1.0, 2.0, 4.0, -50.0, 5.0], 3.0),
        ([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 100.0], 5.5),
    ],
)
def test_interquartile_mean_leaves_out_a_quarter_at_either_end(values, expected):
    assert interquartile_mean(np.array(values)) == expected


def test_interquartile_mean_takes_each_row_for_itself():
    rows = np.array([[0.0, 1.0, 3.0, 50.0], [4.0, 4.0, -9.0, 4.0]])
    assert interquartile_mean(rows).tolist() == [2.0, 4.0]


def test_interval_of_the_interquartile_mean_is_not_moved_by_one_seed_that_fails():
    values = np.array([*np.linspace(99.0, 101.0, 19), -1000.0])
    low, high = bootstrap_interval(values, statistic=interquartile_mean)
    assert 98 < low < 100 < high < 101
    assert bootstrap_interval(values)[0] < 0


def test_interval_of_the_interquartile_mean_covers_as_often_as_it_says():
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        values = generator.standard_t(2, 40)
        low, high = bootstrap_interval(values, 0.9, interquartile_mean)
        covered += low <= 0 <= high
    assert 80 <= covered <= 98


def test_stratified_interval_of_one_task_is_that_of_its_seeds():
    values = np.random.default_rng(1).normal(size=30)
    expected = bootstrap_interval(values, statistic=interquartile_mean)
    assert stratified_interval([values]) == pytest.approx(expected, abs=0.02)


def test_stratified_interval_draws_seeds_and_not_tasks():
    tasks = [np.full(5, 0.0), np.full(5, 1.0)]  # they differ, but no seeds do
    assert stratified_interval(tasks) == (0.5, 0.5)
    low, high = bootstrap_interval(np.concatenate(tasks), statistic=interquartile_mean)
    assert low < 0.5 < high


def test_stratified_interval_of_single_seeds_is_none():
    assert np.isnan(stratified_interval([np.ones(1), np.zeros(1)])).all()


@pytest.mark.parametrize(
    ("groups", "level"),
    [([], 0.9), ([np.ones(0)], 0.9), ([np.ones((2, 2))], 0.9), ([np.ones(2)], 1)],
)
def test_stratified_interval_of_nothing_is_refused(groups, level):
    with pytest.raises(ValueError, match="expected"):
        stratified_interval(groups, level)


def test_band_is_the_interval_at_each_point():
    values = np.random.default_rng(2).normal(size=(7, 12)) + np.arange(7)[:, None]
    low, high = bootstrap_band(values)
    for point, row in enumerate(values):
        expected = bootstrap_interval(row)
        assert (low[point], high[point]) == pytest.approx(expected, abs=0.08)


def test_band_of_many_points_is_that_of_a_few():
    values = np.random.default_rng(2).normal(size=(300, 30))
    low, high = bootstrap_band(values, statistic=interquartile_mean)
    one_low, one_high = bootstrap_band(values[200:201], statistic=interquartile_mean)
    assert (low[200], high[200]) == pytest.approx((one_low[0], one_high[0]), rel=1e-12)


def test_band_of_one_run_is_none():
    assert np.isnan(bootstrap_band(np.ones((4, 1)))).all()
    assert bootstrap_band(np.ones((0, 3)))[0].shape == (0,)


@pytest.mark.parametrize(("shape", "level"), [((3,), 0.9), ((3, 0), 0.9), ((3, 2), 0.0)])
def test_band_of_no_runs_is_refused(shape, level):
    with pytest.raises(ValueError, match="expected"):
        bootstrap_band(np.ones(shape), level)
