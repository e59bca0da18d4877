"""The arithmetic of the comparison with rivals, on made-up numbers; no rival is needed."""

import dataclasses
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def load(monkeypatch):
    """Returns the importer of a module of `benchmarks.peers`, from this source tree."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.peers.{name}")


@pytest.fixture
def table(load):
    return load("table")


@pytest.fixture
def command(load):
    return load("__main__")


def test_spread_is_median_least_and_greatest(table):
    assert table.spread((30.0, 10.0, 25.0)) == table.Spread(25.0, 10.0, 30.0)


def test_spread_of_nothing_is_refused(table):
    with pytest.raises(ValueError, match="no values"):
        table.spread(())


def test_more_steps_per_second_are_faster(table):
    ours = table.Series("ours", (300.0, 200.0, 400.0))
    theirs = table.Series("theirs", (100.0, 200.0, 160.0))
    # medians 300 and 160; rounds 3, 1 and 2.5
    assert table.times_faster(ours, theirs, "steps_per_second") == table.Spread(1.875, 1.0, 3.0)


def test_fewer_seconds_are_faster(table):
    ours = table.Series("ours", (2.0, 4.0, 5.0))
    theirs = table.Series("theirs", (8.0, 8.0, 20.0))
    # medians 4 and 8; rounds 4, 2 and 4
    assert table.times_faster(ours, theirs, "seconds") == table.Spread(2.0, 2.0, 4.0)


def test_ratio_is_below_one_where_ours_loses(table):
    ours, theirs = table.Series("ours", (50.0,)), table.Series("theirs", (100.0,))
    assert table.times_faster(ours, theirs, "steps_per_second").median == 0.5


@pytest.mark.parametrize("values", [(1.0, 2.0), ()])
def test_ratio_of_different_rounds_is_refused(table, values):
    ours, theirs = table.Series("ours", (1.0,)), table.Series("theirs", values)
    with pytest.raises(ValueError, match="theirs"):
        table.times_faster(ours, theirs, "seconds")


def test_ratio_to_zero_is_refused(table):
    ours, theirs = table.Series("ours", (1.0,)), table.Series("theirs", (0.0,))
    with pytest.raises(ValueError, match="above 0"):
        table.times_faster(ours, theirs, "steps_per_second")


def test_table_has_one_row_per_system_and_no_ratio_for_ours(table):
    ours = table.Series("fastrl 1.0", (40_000.0, 41_000.0, 39_000.0), "2 pools")
    theirs = table.Series("rival 2.0", (20_000.0, 20_500.0, 26_000.0))
    lines = table.markdown("W0: made up", [ours, theirs], "steps_per_second").splitlines()
    assert lines[0] == "**W0: made up**"
    assert lines[4] == "| fastrl 1.0 | 40,000 | 39,000 - 41,000 |  | 2 pools |"
    assert lines[5] == "| rival 2.0 | 20,500 | 20,000 - 26,000 | 1.95x (1.50 - 2.00) |  |"
    assert len(lines) == 6


def test_seconds_are_shown_with_a_decimal(table):
    lines = table.markdown("W0", [table.Series("fastrl", (9.97,))], "seconds").splitlines()
    assert "| seconds |" in lines[2]
    assert lines[4] == "| fastrl | 10.0 | 10.0 - 10.0 |  |  |"


def answer(system, value, num_parameters):
    settings = {"environment": "Toy-v1", "threads": 1, "compile": True}
    versions = {system: "1.0", "torch": "2.0"}
    facts = {"value": value, "num_parameters": num_parameters}
    return {**facts, "settings": settings, "versions": versions}


def result_of(load, theirs, failed):
    work = load("works").WORKS["W1"]
    runs = {"fastrl": [answer("fastrl", 20.0, 100)], "rival": theirs}
    return {"work": dataclasses.asdict(work), "title": "W1", "runs": runs, "failed": failed}


def test_networks_of_different_sizes_are_told(load, command):
    text = command.table_of(result_of(load, [answer("rival", 10.0, 90)], {}))
    assert "Parameters differ: {'fastrl': 100, 'rival': 90}." in text


def test_networks_of_one_size_need_no_word(load, command):
    text = command.table_of(result_of(load, [answer("rival", 10.0, 100)], {}))
    assert "Parameters" not in text
    assert (
        "| rival 1.0 | 10 | 10 - 10 | 2.00x (2.00 - 2.00) | Toy-v1; 1 thread; torch.compile |"
        in text
    )


def test_rival_that_failed_is_told_and_has_no_row(load, command):
    text = command.table_of(result_of(load, [], {"rival": "it broke"}))
    assert "rival failed and is left out." in text
    assert "| rival" not in text


def test_loop_has_one_iteration_more_than_is_timed(load):
    work = dataclasses.replace(load("works").WORKS["W1"], warmup_updates=2, num_updates=3)
    assert work.total_steps == (2 + 3 + 1) * 64 * 128


def test_whole_process_has_the_published_number_of_steps(load):
    assert load("works").WORKS["W3"].total_steps == 65_536


def test_stopwatch_leaves_the_warm_up_out(load, monkeypatch):
    stopwatch = load("stopwatch")
    times = iter([0.0, 100.0, 102.0, 104.0])
    monkeypatch.setattr(stopwatch, "perf_counter", lambda: next(times))
    work = {"warmup_updates": 1, "num_updates": 2, "num_envs": 4, "num_steps": 10}
    clock = stopwatch.Stopwatch(work)
    for _ in range(4):
        clock.tick()
    assert clock.steps_per_second == 2 * 4 * 10 / 4.0


def test_settings_of_a_work_can_be_changed(load):
    work = load("works").WORKS["W3"].changed(["num_updates=8", "shared_network=true", "gamma=0.9"])
    assert (work.num_updates, work.shared_network, work.gamma) == (8, True, 0.9)


@pytest.mark.parametrize(
    "words", ["epochs=3", "hidden_sizes=3", "num_envs", "shared_network=maybe"]
)
def test_wrong_settings_of_a_work_are_refused(load, words):
    with pytest.raises(ValueError, match=r"cannot set|invalid literal|true or false"):
        load("works").WORKS["W1"].changed([words])


def test_our_flags_are_accepted_by_our_command_line(load):
    from fastrl.cli import parse

    for work in load("works").WORKS.values():
        flags = load("fastrl_work").command_line(work.to_dict())
        config = parse(work.algo, flags).config
        assert config.total_timesteps == work.total_steps
        assert config.hidden_sizes == work.hidden_sizes
