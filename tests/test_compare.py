import csv
import io
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from quick import quick
from run_folders import make_run

from fastrl.compare.__main__ import main
from fastrl.compare.curves import curve_of
from fastrl.compare.figures import figures_of_group
from fastrl.compare.finding import find_folders
from fastrl.compare.groups import groups_of, measure, named_group
from fastrl.compare.tables import as_text, number
from fastrl.processes.errors import how_to_install
from fastrl.runs.owner import owned_by_this_process


@pytest.fixture(autouse=True)
def _width_of_a_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


def labels_of(folders, by=()):
    return {group.label: group.seeds for group in groups_of(map(measure, folders), by)}


def compared(capsys, *words):
    """Returns what the command prints as JSON."""
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# Finding


def test_all_ways_to_name_a_run_mean_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "logs" / "ppo" / "2026-11-30_10-00-00")
    link = tmp_path / "link"
    link.symlink_to(run)
    words = [run, run / "checkpoints", run / "checkpoints" / "last.pt", run / "metrics.csv"]
    words += ["logs", "logs/ppo/*", "logs/*/*/*", "logs/**/last.pt", link]
    for word in words:
        assert [path.resolve() for path in find_folders([str(word)])] == [run]
    assert len(find_folders([str(word) for word in words])) == 1


def test_a_folder_name_with_brackets_is_no_pattern(tmp_path):
    run = make_run(tmp_path / "a[1]")
    assert find_folders([str(tmp_path / "a[1]")]) == [run]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("nothing", "does not exist"),
        ("empty", "there are none below it"),
        ("file", "belongs to no run"),
        ("no*", "nothing matches"),
        ("emp*", "the 1 paths that match hold no runs"),
    ],
)
def test_a_word_that_means_no_run_is_one_line_and_status_two(
    tmp_path, monkeypatch, capsys, word, told
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert main([word]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert word in captured.err and told in captured.err


# Groups


def test_runs_that_differ_in_their_seeds_form_a_group(tmp_path):
    folders = [make_run(tmp_path, seed) for seed in (3, 1, 2)]
    assert labels_of(folders) == {"ppo CartPole-v1": (1, 2, 3)}


def test_groups_are_named_after_the_settings_that_differ(tmp_path):
    folders = [
        make_run(
            tmp_path / f"{rate} {envs}", seed, settings={"learning_rate": rate, "num_envs": envs}
        )
        for rate, envs in ((1e-3, 1), (3e-4, 1), (3e-4, 2))
        for seed in (1, 2)
    ]
    assert labels_of(folders) == {
        "num_envs=1 learning_rate=0.001": (1, 2),
        "num_envs=1 learning_rate=0.0003": (1, 2),
        "num_envs=2 learning_rate=0.0003": (1, 2),
    }


def test_algorithm_and_task_are_named_where_they_differ(tmp_path):
    folders = [
        make_run(tmp_path / "1"),
        make_run(tmp_path / "2", algo="a2c"),
        make_run(tmp_path / "3", algo="a2c", settings={"gamma": 0.9}),
        make_run(tmp_path / "4", algo="ppo", env_id="Pendulum-v1"),
    ]
    assert list(labels_of(folders)) == [
        "CartPole-v1 ppo",
        "CartPole-v1 a2c gamma=0.99",
        "CartPole-v1 a2c gamma=0.9",
        "Pendulum-v1 ppo",
    ]


@pytest.mark.parametrize("name", ["exp_name", "log_dir"])
def test_where_a_run_writes_makes_no_group_unless_asked(tmp_path, name):
    folders = [make_run(tmp_path / x, 1, settings={name: x}) for x in ("a", "b")]
    assert len(labels_of(folders)) == 1
    assert list(labels_of(folders, [name])) == [f"{name}=a", f"{name}=b"]


def test_a_setting_newer_than_the_run_is_its_default(tmp_path):
    folders = [make_run(tmp_path / "old"), make_run(tmp_path / "new", settings={"gamma": 0.99})]
    assert len(labels_of(folders)) == 1


def test_a_class_of_ones_own_makes_a_group(tmp_path):
    folders = [make_run(tmp_path / x, settings={"agent": x}) for x in ("mine:A", "mine:B")]
    assert list(labels_of(folders)) == ["agent=mine:A", "agent=mine:B"]
    folders.append(make_run(tmp_path / "plain"))
    assert "agent=built-in" in labels_of(folders)


def test_who_signed_a_run_makes_no_group(tmp_path):
    make_run(tmp_path, 1, settings={"signature": "aa"}, env_id="my:make", name="1")
    make_run(tmp_path, 2, settings={"signature": "bb"}, env_id="my:make", name="2")
    make_run(tmp_path, 3, env_id="my:make", name="3")  # whose user has no key
    assert list(labels_of([tmp_path / x for x in "123"]).values()) == [(1, 2, 3)]


def test_values_that_look_alike_get_a_number(tmp_path):
    long = "x" * 100
    folders = [make_run(tmp_path / x, settings={"network": [long + x]}) for x in "ab"]
    first, second = labels_of(folders)
    assert first.endswith("... (1)") and second == first.replace("(1)", "(2)")


def test_a_label_cannot_command_a_terminal(tmp_path):
    folders = [make_run(tmp_path / "1", env_id="a\x1b[2Jb", name="run")]
    assert list(labels_of(folders)) == ["ppo a\\x1b[2Jb"]


# Figures


def test_figures_of_a_group_are_those_of_its_final_tests(tmp_path, capsys):
    for seed, value in enumerate([10.0, 20.0, 30.0, 40.0], 1):
        make_run(tmp_path, seed, greedy=value)
    (group,) = compared(capsys, tmp_path)["groups"]
    assert group["returns"] == [10.0, 20.0, 30.0, 40.0] and group["return_kind"] == "greedy"
    assert (group["mean"], group["iqm"], group["worst"], group["best"]) == (25, 25, 10, 40)
    assert 10 <= group["interval"][0] < 25 < group["interval"][1] <= 40
    assert (group["steps"], group["steps_per_second"], group["seconds"]) == (300, 50, 8)
    assert group["seeds"] == [1, 2, 3, 4] and group["finished"]


def test_a_single_run_has_no_interval(tmp_path, capsys):
    make_run(tmp_path)
    (group,) = compared(capsys, tmp_path)["groups"]
    assert group["interval"] is None and group["iqm_interval"] is None


def test_steps_to_a_return_are_those_of_the_first_row_that_reaches_it(tmp_path, capsys):
    make_run(tmp_path, 1, returns=(10.0, 20.0, 30.0))
    make_run(tmp_path, 2, returns=(20.0, 10.0, 30.0))
    make_run(tmp_path, 3, returns=(10.0, 10.0, 20.0))
    make_run(tmp_path, 4, returns=(10.0, 10.0, 10.0))
    (group,) = compared(capsys, tmp_path, "--target-return", "20")["groups"]
    assert [run["steps_to_target"] for run in group["runs"]] == [200, 100, 300, None]
    assert [run["seconds_to_target"] for run in group["runs"]] == [4, 2, 6, None]
    assert (group["num_reached"], group["steps_to_target"], group["seconds_to_target"]) == (
        3,
        250,
        5,
    )


def test_a_run_without_such_a_row_reached_the_return_where_it_ended_at_its_own_target(
    tmp_path, capsys
):
    """Rows may be rarer than updates, each of which may end the run."""
    ended = {"target_return": 25.0, "steps_to_target": 270, "seconds_to_target": 5.5}
    make_run(tmp_path, 1, returns=(10.0, 20.0), summary=ended)
    make_run(tmp_path, 2, returns=(), summary=ended)
    for target, steps in (("20", 200), ("25", 270), ("26", None)):
        (group,) = compared(capsys, tmp_path, "--target-return", target)["groups"]
        first, second = group["runs"]
        assert first["steps_to_target"] == steps
        assert second["steps_to_target"] == (steps and 270)
        assert second["seconds_to_target"] == (steps and 5.5)
    assert group["num_reached"] == 0


def test_a_run_that_did_not_reach_its_own_target_reached_no_return_by_it(tmp_path, capsys):
    missed = {"target_return": 25.0, "steps_to_target": None, "seconds_to_target": None}
    make_run(tmp_path, returns=(10.0, 20.0), summary=missed)
    (group,) = compared(capsys, tmp_path, "--target-return", "25")["groups"]
    assert (group["num_reached"], group["runs"][0]["steps_to_target"]) == (0, None)


def test_a_target_that_half_of_the_runs_missed_is_never_reached(tmp_path, capsys):
    make_run(tmp_path, 1, returns=(10.0, 20.0))
    make_run(tmp_path, 2, returns=(10.0, 10.0))
    assert main([str(tmp_path), "--target-return", "20"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "1 of 2" in line]
    assert line.split()[-2:] == ["never", "never"]


def test_a_run_without_a_table_does_not_say_when_it_reached_a_return(tmp_path, capsys):
    (make_run(tmp_path) / "metrics.csv").unlink()
    assert main([str(tmp_path), "--target-return", "0"]) == 0
    assert "never" not in capsys.readouterr().out
    make_run(tmp_path, 2, returns=(10.0, 20.0))
    (group,) = compared(capsys, tmp_path, "--target-return", "20")["groups"]
    assert (group["num_reached"], group["steps_to_target"]) == (1, 200)


def test_runs_without_tests_are_compared_by_training_returns_and_it_is_said(tmp_path, capsys):
    for seed in (1, 2):
        make_run(tmp_path, seed, greedy=None, settings={"eval_episodes": 0})
    assert main([str(tmp_path)]) == 0
    assert "last 100 training episodes, since runs have no greedy test" in capsys.readouterr().out
    (group,) = compared(capsys, tmp_path)["groups"]
    assert (group["return_kind"], group["mean"]) == ("training", 30.0)


def test_returns_of_different_kinds_are_told_apart(tmp_path, capsys):
    make_run(tmp_path / "a", greedy=None, settings={"eval_episodes": 0})
    make_run(tmp_path / "b", greedy=50.0)
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if line.startswith("eval_episodes=")]
    assert [(row[0], row[-1]) for row in rows] == [
        ("eval_episodes=100", "greedy"),
        ("eval_episodes=0", "training"),
    ]
    assert "returns of different kinds do not compare" in out


def test_groups_are_in_order_of_their_means_within_a_task(tmp_path, capsys):
    for task in ("A-v0", "B-v0"):
        for rate, value in ((1.0, 10.0), (2.0, 20.0)):
            settings = {"learning_rate": rate}
            make_run(tmp_path / f"{task}{rate}", 1, greedy=value, settings=settings, env_id=task)
    groups = compared(capsys, tmp_path)["groups"]
    assert [(group["env_id"], group["mean"]) for group in groups] == [
        ("A-v0", 20.0),
        ("A-v0", 10.0),
        ("B-v0", 20.0),
        ("B-v0", 10.0),
    ]


# Runs that are not finished


def test_unfinished_runs_are_left_out_of_a_group_with_finished_ones_and_said(tmp_path, capsys):
    make_run(tmp_path, 1, greedy=40.0)
    make_run(tmp_path, 2, greedy=0.0, summary={"interrupted": True})
    make_run(tmp_path, 3, greedy=0.0, summary={"killed": True})
    running = make_run(tmp_path, 4, greedy=0.0, summary={"killed": True})
    with owned_by_this_process(running):
        assert main([str(tmp_path)]) == 0
        out = capsys.readouterr().out
        (group,) = compared(capsys, tmp_path)["groups"]
    assert (
        group["mean"] == 40.0 and [run["counted"] for run in group["runs"]] == [True] + [False] * 3
    )
    assert "default_2: stopped, 300 of 300 steps" in out
    assert "default_3: failed (ended by an error, or killed), 300 of 300 steps" in out
    assert "default_4: running, 300 of 300 steps" in out


def test_a_group_without_a_finished_run_has_a_star(tmp_path, capsys):
    make_run(tmp_path, 1, greedy=12.0, summary={"killed": True})
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1].split()[2:4] == ["1*", "12.0"]
    assert "no run of this group is finished" in out


def test_a_run_that_has_said_nothing_yet_is_no_mistake(tmp_path, capsys):
    make_run(tmp_path, 1, returns=(), greedy=None, summary={"killed": True})
    assert main([str(tmp_path), "--target-return", "5", "--list-runs"]) == 0
    captured = capsys.readouterr()
    assert "left out" in captured.out and captured.err == ""


def test_damaged_runs_are_named_and_the_others_compared(tmp_path, capsys):
    make_run(tmp_path, 1)
    damaged = make_run(tmp_path, 2)
    (damaged / "config.yaml").write_text("algo: [")
    assert main([str(tmp_path)]) == 0
    assert "default_2: damaged: config.yaml" in capsys.readouterr().out
    values = compared(capsys, tmp_path)
    assert len(values["groups"]) == 1 and values["damaged"][0]["path"] == str(damaged)


def test_only_damaged_runs_are_one_line_and_status_two(tmp_path, capsys):
    for seed in (1, 2):
        (make_run(tmp_path, seed) / "config.yaml").write_bytes(b"\xff\n")
    assert main([str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "damaged" in captured.err and "1 more" in captured.err


@pytest.mark.parametrize("value", ["x", None, True, [1], 1e999, -(10**400), {"a": 1}])
@pytest.mark.parametrize(
    "name", ["eval_return_mean", "wall_seconds", "machine", "eval_episodes", "total_env_steps"]
)
def test_a_foreign_summary_ends_nothing(tmp_path, capsys, name, value):
    make_run(tmp_path, 1, summary={name: value})
    assert main([str(tmp_path), "--list-runs", "--target-return", "5"]) == 0


@pytest.mark.parametrize("value", ["x", None, True, [1], 1e300, -(10**400), 10**400, {"a": 1}])
@pytest.mark.parametrize("name", ["total_timesteps", "num_envs", "seed", "env_id", "algo"])
def test_foreign_settings_end_nothing(tmp_path, capsys, name, value):
    make_run(tmp_path, 1)
    make_run(tmp_path, 2, settings={name: value}, summary={"killed": True})
    assert main([str(tmp_path), "--list-runs", "--target-return", "5"]) == 0


def test_seeds_that_occur_twice_and_other_machines_are_said(tmp_path, capsys):
    make_run(tmp_path / "a", 1)
    make_run(tmp_path / "b", 1, summary={"machine": {"cpu": "B"}})
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "more than one run of seed 1" in out and "different processors" in out


# Tables


def test_a_table_of_long_labels_fits_into_a_hundred_columns(tmp_path, capsys):
    for rate in (1.0, 2.0):
        settings = {"learning_rate": rate, "gamma": rate / 4, "network": ["a.long.name:of_a_class"]}
        settings |= {"hidden_sizes": [64] * int(10 * rate), "clip_coef": rate, "vf_coef": rate}
        big = {"steps_per_second": 123456.0, "wall_seconds": 123456.0}
        for seed in (1, 2):
            greedy = -123456.7 * seed
            make_run(tmp_path / str(rate), seed, greedy=greedy, settings=settings, summary=big)
    assert main([str(tmp_path), "--target-return", "1e6"]) == 0
    table = capsys.readouterr().out.split("return:")[0].splitlines()
    assert max(map(len, table)) <= 100
    assert table[1].startswith("A ") and any(line.startswith("A: ") for line in table)


def test_numbers_have_three_digits_that_count():
    shown = [number(x) for x in (0.0123, 0.95, 1.5, -78.91, 1234.56, -12345.6, 0.0, None, math.nan)]
    assert shown == ["0.012", "0.950", "1.50", "-78.9", "1,234.6", "-12,346", "0.0", "-", "-"]


def test_markdown_has_a_row_for_each_group(tmp_path, capsys):
    for rate in (1.0, 2.0):
        make_run(tmp_path / str(rate), settings={"exp_name": "a|b", "learning_rate": rate})
    assert main([str(tmp_path), "--markdown", "--by", "exp_name"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| group | runs | return |") and set(lines[1]) <= set("| -:")
    assert lines[2].startswith("| learning_rate=1.0 |") and lines[4] == ""


def test_csv_has_numbers_and_the_settings_that_differ(tmp_path, capsys):
    for rate in (1.0, 2.0):
        make_run(tmp_path / str(rate), greedy=rate, settings={"learning_rate": rate})
    path = tmp_path / "table.csv"
    assert main([str(tmp_path), "--csv", str(path)]) == 0
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert [(row["mean"], row["learning_rate"], row["seeds"]) for row in rows] == [
        ("2.0", "2.0", "1"),
        ("1.0", "1.0", "1"),
    ]
    capsys.readouterr()
    assert main([str(tmp_path), "--csv", "-"]) == 0
    assert capsys.readouterr().out == path.read_text()


def test_csv_holds_no_formula(tmp_path, capsys):
    for name in ("=1+1", "b"):
        make_run(tmp_path / name, settings={"exp_name": name})
    assert main([str(tmp_path), "--csv", "-", "--by", "exp_name"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["exp_name"] for row in rows} == {"'=1+1", "b"}


def test_figures_can_be_asked_for_groups_put_together_by_hand(tmp_path):
    group = named_group("mine", [make_run(tmp_path, seed, greedy=5.0 * seed) for seed in (1, 2)])
    assert "mine" in as_text([figures_of_group(group)], None)


# Curves and plots


def test_a_curve_is_the_mean_as_far_as_all_runs_go(tmp_path):
    folders = [make_run(tmp_path, 1, (0.0, 10.0, 20.0)), make_run(tmp_path, 2, (20.0, 30.0))]
    curve = curve_of(named_group("x", folders))
    assert (curve.x[0], curve.x[-1], curve.num_runs) == (100, 200, 2)
    np.testing.assert_allclose(curve.middle, np.linspace(10, 20, len(curve.x)))
    assert (curve.low[0], curve.high[0]) == (0, 20)
    assert [len(x) for x, _ in curve.runs] == [3, 2]


def test_a_curve_over_seconds_has_the_same_values(tmp_path):
    curve = curve_of(named_group("x", [make_run(tmp_path, 1)]), axis="seconds")
    assert (curve.x[0], curve.x[-1]) == (2.0, 6.0)
    assert (curve.middle[0], curve.middle[-1]) == (10.0, 30.0) and np.isnan(curve.low).all()


def test_a_curve_of_interquartile_means_leaves_out_the_ends(tmp_path):
    folders = [make_run(tmp_path, seed, (float(x),)) for seed, x in enumerate((-99, 1, 2, 99))]
    assert curve_of(named_group("x", folders), statistic="iqm").middle.tolist() == [1.5]


def test_runs_that_share_no_steps_have_no_mean_and_a_group_without_points_no_curve(tmp_path):
    early, late = make_run(tmp_path, 1, (1.0,)), make_run(tmp_path, 2, (math.nan, 2.0, 3.0))
    curve = curve_of(named_group("x", [early, late]))
    assert len(curve.x) == 0 and len(curve.runs) == 2
    assert curve_of(named_group("x", [early]), "Loss/none").num_runs == 0


@pytest.mark.parametrize("suffix", quick(["png", "svg", "pdf"], "png"))
def test_a_plot_is_drawn(tmp_path, capsys, suffix):
    pytest.importorskip("matplotlib")
    for task in ("A-v0", "B$_v0"):
        for seed in (1, 2):
            make_run(tmp_path / task, seed, env_id=task, name=str(seed))
    make_run(
        tmp_path / "empty", 3, returns=(), greedy=None, env_id="C-v0", summary={"killed": True}
    )
    path = tmp_path / f"curves.{suffix}"
    assert main([str(tmp_path), "--plot", str(path), "--statistic", "iqm"]) == 0
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(start) and f"plot: {path}" in capsys.readouterr().out


def test_any_metric_can_be_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    make_run(tmp_path)
    path = tmp_path / "rate.svg"
    words = ["--plot", str(path), "--metric", "Time/step_per_second"]
    assert main([str(tmp_path), *words]) == 0 and path.exists()


def test_a_missing_matplotlib_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    make_run(tmp_path)
    assert main([str(tmp_path), "--plot", str(tmp_path / "a.png")]) == 2
    assert capsys.readouterr().err == f"error: plots need matplotlib; {how_to_install('plot')}\n"


# Mistakes


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--target-return", "much"], "must be a number, not 'much'"),
        (["--target-return", "yes"], "must be a number"),
        (["--by", "gamma"], "--by gamma: expected some of"),
        (["--metric", "x"], "no effect without --plot"),
        (["--statistic", "iqm"], "no effect without --plot"),
        (["--plot", "curves.txt"], "ends in .png, .svg, .pdf"),
        (["--plot", "nowhere/curves.png"], "does not exist"),
        (["--csv", "nowhere/table.csv"], "does not exist"),
        (["--csv", "-", "--json"], "--csv - prints"),
        (["--markdown", "--json"], "not allowed with"),
        (["--csv", "a", "--csv", "b"], "given twice"),
        (["--nonsense"], "unknown flag --nonsense"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_printed(tmp_path, capsys, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path)
    assert main([".", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and told in captured.err


def test_an_unknown_metric_is_answered_with_near_ones(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    make_run(tmp_path)
    words = ["--plot", str(tmp_path / "a.png"), "--metric", "Rewards/rew_avg100"]
    assert main([str(tmp_path), *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "near: Rewards/rew_avg_100" in captured.err


def test_comparing_needs_neither_torch_nor_matplotlib(tmp_path):
    make_run(tmp_path)
    code = "import sys\nfrom fastrl.compare.__main__ import main\nassert main(sys.argv[1:]) == 0\n"
    code += "assert not {'torch', 'matplotlib', 'gymnasium'} & sys.modules.keys()"
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment)
