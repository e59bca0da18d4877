"""Learning evidence: records of runs, and the results, curves, table and plot made of them."""

from __future__ import annotations

import importlib
import json
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from fastrl.cli import parse
from fastrl.presets import __main__ as listing
from fastrl.presets import algorithms, load_presets, load_results
from fastrl.runs.folder import write_config

ROOT = Path(__file__).parent.parent


@pytest.fixture
def learning(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules of `benchmarks.learning`, from this source tree."""
    monkeypatch.syspath_prepend(str(ROOT))
    names = ("__main__", "plots", "records", "report", "training")
    modules: dict[str, ModuleType] = {
        name: importlib.import_module(f"benchmarks.learning.{name}") for name in names
    }
    return SimpleNamespace(command=modules.pop("__main__"), **modules)


@pytest.fixture
def make_record(learning):
    """Returns a maker of records, alike but for what it is told."""

    def make(seed: int = 1, return_mean: float = 100.0, **changes: Any) -> Any:
        facts: dict[str, Any] = {
            "algo": "ppo",
            "env_id": "CartPole-v1",
            "settings": load_presets("ppo")["CartPole-v1"],
            "return_std": 1.0,
            "eval_episodes": 100,
            "steps": 99_840,
            "wall_seconds": 10.0 * seed,
            "cpu_seconds": 20.0,
            "machine": "a machine, 2 cores",
            "commit": "abc1234",
            "versions": {"torch": "2"},
            "curve": [(1000, 10.0), (2000, 20.0 * seed)],
        }
        return learning.records.Record(seed=seed, return_mean=return_mean, **{**facts, **changes})

    return make


def run_command(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.learning", *words, "--out", str(out)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


# Records and what they come to


def test_record_survives_its_file(learning, make_record, tmp_path):
    record = make_record()
    learning.records.save(record, tmp_path / "records")
    assert learning.records.load(tmp_path / "records") == [record]


def test_file_that_is_no_record_is_named(learning, tmp_path):
    (tmp_path / "x.json").write_text('{"seed": 1, "curve": []}')
    with pytest.raises(ValueError, match=r"x\.json is not a record"):
        learning.records.load(tmp_path)


def test_summary_is_mean_and_spread_over_the_seeds(learning, make_record):
    runs = [make_record(3, 130.0), make_record(1, 100.0), make_record(2, 100.0)]
    summary = learning.records.summarise(runs)
    assert summary["return_mean"] == 110.0
    assert summary["return_std"] == pytest.approx(300**0.5, abs=0.01)  # (100 + 100 + 400) / 2
    assert summary["seeds"] == [1, 2, 3] and summary["returns"] == [100.0, 100.0, 130.0]
    assert summary["wall_seconds"] == 20.0


@pytest.mark.parametrize(
    ("returns", "iqm", "worst"),
    [
        ([5.0], 5.0, 5.0),
        ([3.0, 1.0, 8.0], 4.0, 1.0),  # of three, none is left out
        ([9.0, 2.0, 4.0, -50.0], 3.0, -50.0),
        ([float(value) for value in (7, 0, 1, 90, 5, 3, 4, 80, 6, 2)], 4.5, 0.0),  # 2 to 7
    ],
)
def test_interquartile_mean_leaves_out_the_ends(learning, returns, iqm, worst):
    statistics = learning.records.statistics_of(returns)
    assert statistics["return_iqm"] == iqm and statistics["return_worst"] == worst
    low, high = statistics["return_interval"]
    assert min(returns) <= low <= iqm <= high <= max(returns)


def test_interval_covers_the_interquartile_mean_of_many_seeds_as_often_as_it_says(learning):
    draws = np.random.default_rng(1).normal(size=(40, 30))
    intervals = [learning.records.statistics_of(row)["return_interval"] for row in draws]
    # A percentile bootstrap of 30 is a little narrow: about 93 of 100.
    assert 33 <= sum(low <= 0 <= high for low, high in intervals) <= 40


def test_seconds_of_a_machine_with_other_work_are_unknown(learning, make_record):
    unknown = {"wall_seconds": None, "cpu_seconds": None}
    summary = learning.records.summarise([make_record(1, **unknown), make_record(2, **unknown)])
    assert summary["wall_seconds"] is None and summary["cpu_seconds"] is None
    results = {"ppo": {"CartPole-v1": summary}}
    assert " s |" not in learning.report.markdown(results, {})  # no column without a figure
    results["ppo"]["Acrobot-v1"] = learning.records.summarise([make_record(1)])
    assert "| ? / ? |" in learning.report.markdown(results, {})


@pytest.mark.parametrize("change", [{"steps": 5}, {"settings": {}}, {"eval_episodes": 3}])
def test_runs_that_differ_in_more_than_the_seed_make_no_summary(learning, make_record, change):
    with pytest.raises(ValueError, match=f"differ in {next(iter(change))}"):
        learning.records.summarise([make_record(1), make_record(2, **change)])


@pytest.mark.parametrize("num_rows", [3, 50, 51, 1000])
def test_thinned_curve_keeps_order_and_both_ends(learning, tmp_path, num_rows):
    path = tmp_path / "metrics.csv"
    lines = [f"{10 * row},{row / 2}" for row in range(num_rows)]
    # The last row is that of a greedy test, and the first one of a rollout without an end.
    path.write_text("\n".join(["env_steps,Rewards/rew_avg_100", "0,", *lines, "99999,"]))
    curve = learning.records.read_curve(path)
    assert len(curve) == min(num_rows, learning.records.MAX_POINTS)
    assert curve[0] == (0, 0.0) and curve[-1] == (10 * (num_rows - 1), (num_rows - 1) / 2)
    assert curve == sorted(set(curve))


def test_curves_survive_their_file(learning, tmp_path):
    curves = {("ppo", "B-v1", 2): [(1, -0.5), (2, 3.25)], ("a2c", "A-v1", 1): [(5, 1.0)]}
    learning.records.write_curves(tmp_path / "curves.csv", curves)
    assert learning.records.read_curves(tmp_path / "curves.csv") == curves


# The report


def test_table_shows_the_spread_over_seeds_beside_what_others_publish(learning, make_record):
    runs = [make_record(1, 5000.4), make_record(2, 6000.4)]
    results = {"ppo": {"HalfCheetah-v4": learning.records.summarise(runs)}}
    anchors = {
        "HalfCheetah-v4": {"ppo": [[1443, 46, 100_000, "X"], [9, None, 3_000_000, "Y"]]},
        "Hopper-v4": {"ppo": [[1, None, 1, "Z"]]},
    }
    row = learning.report.markdown(results, anchors).splitlines()[-1]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        *("HalfCheetah-v4", "ppo", "0.1M", "5,500", "5,500 (5,000 to 6,000)", "5,000"),
        *("2: 1-2", "15 / 20", "a machine, 2 cores, abc1234", "X 1,443; Y 9.0 at 3.0M"),
    ]


def test_update_replaces_what_was_measured_and_keeps_the_rest(learning, make_record, tmp_path):
    report = learning.report.report_in(tmp_path)
    other = {"env_id": "Acrobot-v1"}
    learning.report.update(report, [make_record(1), make_record(2), make_record(1, 7.0, **other)])
    learning.report.update(report, [make_record(5, 300.0)])
    results = yaml.safe_load(report.results.read_text())
    assert {env_id: x["returns"] for env_id, x in results["ppo"].items()} == {
        "CartPole-v1": [300.0],
        "Acrobot-v1": [7.0],
    }
    curves = learning.records.read_curves(report.curves)
    assert set(curves) == {("ppo", "CartPole-v1", 5), ("ppo", "Acrobot-v1", 1)}
    assert report.table.read_text() == learning.report.markdown(
        results, learning.report.read_anchors()
    )


def test_table_changes_only_what_is_between_the_marks(learning, tmp_path):
    begin, end = learning.report.BEGIN, learning.report.END
    path = tmp_path / "README.md"
    path.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    learning.report.write_table(path, "new\n")
    learning.report.write_table(path, "newer\n")
    assert path.read_text() == f"before\n{begin}\n\nnewer\n\n{end}\nafter\n"
    path.write_text(f"before\n{begin}\nafter\n")
    with pytest.raises(ValueError, match="without the other"):
        learning.report.write_table(path, "new\n")


def test_same_data_draw_the_same_picture_and_other_data_another(learning, tmp_path):
    anchors = learning.report.read_anchors()

    def picture(last: float) -> bytes:
        curves = {("ppo", "CartPole-v1", seed): [(1, 0.0), (9, last * seed)] for seed in (1, 2)}
        learning.plots.draw(curves, ["CartPole-v1"], anchors, tmp_path / "plot.png")
        return (tmp_path / "plot.png").read_bytes()

    first = picture(10.0)
    assert first.startswith(b"\x89PNG")
    assert picture(10.0) == first != picture(40.0)


def test_band_lies_between_the_seeds_where_all_have_values(learning):
    steps, low, middle, high = learning.plots.band(
        [[(10, 0.0), (20, 10.0), (30, 20.0)], [(20, 30.0), (40, 50.0)]]
    )
    assert steps.tolist() == [20, 30]
    np.testing.assert_allclose([low, middle, high], [[10, 20], [20, 30], [30, 40]])


# The command


@pytest.mark.slow
def test_command_trains_and_writes_the_whole_report(learning, tmp_path):
    sizes = ["total_timesteps=512", "num_steps=32", "eval_episodes=2", "hidden_sizes=8"]
    words = ["CartPole-v1", "--seeds", "3", "5", "--processes", "2", "--set", *sizes]
    done = run_command(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    results = yaml.safe_load((tmp_path / "results.yaml").read_text())["ppo"]["CartPole-v1"]
    assert results["seeds"] == [3, 5] and results["eval_episodes"] == 2
    assert results["steps"] == 512 and results["settings"]["hidden_sizes"] == [8]
    assert results["cpu_seconds"] > 0 and results["wall_seconds"] > 0
    records = learning.records.load(tmp_path / "records")
    assert [record.return_mean for record in records] == pytest.approx(results["returns"], abs=0.01)
    curves = learning.records.read_curves(tmp_path / "curves.csv")
    assert sorted(seed for *_, seed in curves) == [3, 5]
    assert (tmp_path / "table.md").read_text() in done.stdout
    assert (tmp_path / "curves.png").stat().st_size > 1000


MASKED = "CartPole-v1 --mask-vel --gamma=0.9"


def test_flags_make_another_task_of_an_id(learning):
    (job,) = learning.command.jobs(learning.command.arguments([MASKED, "--seeds", "3"]))
    assert job.preset == {**load_presets("ppo")["CartPole-v1"], "mask_vel": True, "gamma": 0.9}


@pytest.mark.slow
def test_what_trains_is_the_task_that_the_flags_make(learning, tmp_path):
    sizes = ["total_timesteps=512", "num_steps=32", "eval_episodes=2", "hidden_sizes=8"]
    assert run_command(tmp_path, MASKED, "--seeds", "3", "--set", *sizes).returncode == 0
    (record,) = learning.records.load(tmp_path / "records")
    assert record.env_id == MASKED and record.settings["gamma"] == 0.9
    (config,) = tmp_path.glob("runs/ppo/*/*/config.yaml")
    told = yaml.safe_load(config.read_text())
    assert told["mask_vel"] and told["gamma"] == 0.9 and told["env_id"] == "CartPole-v1"


def test_run_that_fails_is_named_with_its_reason(tmp_path):
    done = run_command(tmp_path, "CartPole-v1", "--seeds", "1", "--set", "gamma=2")
    assert done.returncode == 1
    assert "failed: ppo_CartPole-v1_1 ended with status 2" in done.stderr
    assert "gamma must be between 0 and 1, not 2" in done.stderr


def test_what_is_on_record_is_not_run_again(learning, make_record, tmp_path, monkeypatch):
    asked: list[str] = []

    def train(jobs, folder, num_processes, on_end):
        asked.extend(job.name for job in jobs)

    monkeypatch.setattr(learning.command, "train", train)
    learning.records.save(make_record(1), tmp_path / "records")
    learning.records.save(make_record(2, settings={"gamma": 0.5}), tmp_path / "records")

    def run(*words: str) -> int:
        options = ["CartPole-v1", "--seeds", "1", "2", "--out", str(tmp_path), *words]
        return learning.command.run(learning.command.arguments(options))

    assert run() == 1  # as seed 2 is on record with other settings, and was not made
    assert asked == ["ppo_CartPole-v1_2"]
    asked.clear()
    run("--again")
    assert asked == ["ppo_CartPole-v1_1", "ppo_CartPole-v1_2"]


def test_finished_run_of_the_very_preset_is_taken_in(learning, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    config = parse("ppo", ["--env-id", "CartPole-v1", "--seed", "3", "--eval-every", "0"]).config
    settings = {"algo": "ppo", **config.to_dict()}
    summary = {
        "eval_return_mean": 12.0,
        "eval_return_std": 1.0,
        "eval_episodes": 100,
        "total_env_steps": 99_840,
        "wall_seconds": 5.0,
        "interrupted": False,
        "versions": {},
        "machine": {"cpu": "a machine", "cores": 1},
    }
    write_config(run / "config.yaml", settings)
    with pytest.raises(ValueError, match="not finished"):
        learning.training.take_in(run)
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "metrics.csv").write_text("env_steps,Rewards/rew_avg_100\n256,9.5\n")
    job, record = learning.training.take_in(run)
    assert job.name == record.name == "ppo_CartPole-v1_3"
    assert record.return_mean == 12.0 and record.cpu_seconds is None
    assert record.wall_seconds is None and record.commit is None
    assert record.settings == load_presets("ppo")["CartPole-v1"]
    words = ["CartPole-v1", "--seeds", "3", "--out", str(tmp_path / "out"), "--runs", str(run)]
    assert learning.command.run(learning.command.arguments(words)) == 0
    with pytest.raises(ValueError, match="not among the runs asked for"):
        learning.command.run(learning.command.arguments([*words, "--seeds", "4"]))
    write_config(run / "config.yaml", {**settings, "gamma": 0.5})
    with pytest.raises(ValueError, match=r"has gamma=0\.5; the preset of ppo for Cart"):
        learning.training.take_in(run)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["NoSuch-v1"], "ppo has no preset for NoSuch-v1"),
        (["CartPole-v1 --nosuch 1"], "--nosuch"),
        (["CartPole-v1", "--algo", "nosuch"], "invalid choice: 'nosuch'"),
        (
            ["CartPole-v1", "--publish", "--set", "gamma=0.5"],
            "--publish is for presets as they are",
        ),
        (["CartPole-v1", "--set", "gamma"], "--set takes NAME=VALUE, not 'gamma'"),
        (["CartPole-v1", "--seeds", "1", "1"], "holds a seed twice"),
        (["CartPole-v1", "--processes", "0"], "--processes must be at least 1, not 0"),
    ],
)
def test_mistake_is_told(learning, words, message):
    with pytest.raises(ValueError) as caught:
        learning.command.jobs(learning.command.arguments(words))
    assert message in str(caught.value)


# What is published


@pytest.mark.slow
def test_every_listed_command_measures_its_own_preset(learning):
    for entry in listing.listing(algorithms()):
        words = shlex.split(entry["command"])[3:]
        jobs = learning.command.jobs(learning.command.arguments(words))
        assert {(job.algo, job.env_id) for job in jobs} == {(entry["algo"], entry["env_id"])}
        flags = set(entry["env_id"].split()[1:])
        assert all((job.preset == entry["settings"]) == (not flags) for job in jobs)


def test_published_results_are_of_the_presets_as_they_are():
    for entry in listing.listing(algorithms()):
        assert entry["is_current"] or entry["result"] is None, f"{entry['algo']} {entry['env_id']}"


def test_published_table_and_curves_are_of_the_published_results(learning):
    published, results = learning.report.PUBLISHED, load_results()
    table = learning.report.markdown(results, learning.report.read_anchors())
    begin, end = learning.report.BEGIN, learning.report.END
    assert f"{begin}\n\n{table}\n{end}" in published.table.read_text(encoding="utf-8")
    claimed = {
        (algo, env_id, seed)
        for algo, tasks in results.items()
        for env_id, result in tasks.items()
        for seed in result["seeds"]
    }
    assert set(learning.records.read_curves(published.curves)) == claimed
