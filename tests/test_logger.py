"""Metrics: the table can be read at any time, and TensorBoard shows the same numbers."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from fastrl.runs.logger import Logger, machine_facts, versions, write_summary


def read_table(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def read_events(folder):
    """All events of a folder, in the order TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    files = sorted(folder.glob("events.out.tfevents.*"))
    return [event for file in files for event in LegacyEventFileLoader(str(file)).Load()]


def scalars(folder, tag):
    """The points of one tag that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def test_each_call_is_one_row_with_env_steps_first(tmp_path):
    with Logger(tmp_path) as logger:
        logger.log({"Loss/value_loss": 0.1, "n": 2}, 128)
        logger.log({"Loss/value_loss": 1 / 3, "n": 3}, 256)
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines == ["env_steps,Loss/value_loss,n", "128,0.1,2", f"256,{1 / 3!r},3"]


def test_a_metric_that_appears_later_widens_the_table(tmp_path):
    with Logger(tmp_path) as logger:
        logger.log({"a": 1.0}, 1)
        logger.log({"b": 2.0}, 2)
        logger.log({"a": 3.0, "c": 4.0}, 3)
    assert read_table(tmp_path) == [
        {"env_steps": "1", "a": "1.0", "b": "", "c": ""},
        {"env_steps": "2", "a": "", "b": "2.0", "c": ""},
        {"env_steps": "3", "a": "3.0", "b": "", "c": "4.0"},
    ]


def test_every_row_is_in_the_file_as_soon_as_it_is_logged(tmp_path):
    logger = Logger(tmp_path)
    for step in range(1, 4):
        logger.log({"a": 1.0, f"new_{step}": 2.0}, step)
        table = read_table(tmp_path)
        assert [row["env_steps"] for row in table] == [str(done) for done in range(1, step + 1)]
    logger.close()


def test_a_value_that_is_not_finite_is_told_from_a_missing_one(tmp_path):
    with Logger(tmp_path) as logger:
        logger.log({"a": math.nan, "b": math.inf, "c": -math.inf}, 1)
        logger.log({"a": 1.0}, 2)
    first, second = read_table(tmp_path)
    assert (first["a"], first["b"], first["c"]) == ("nan", "inf", "-inf")
    assert (second["b"], second["c"]) == ("", "")


def test_numpy_numbers_are_written_as_numbers(tmp_path):
    with Logger(tmp_path) as logger:
        numbers: dict[str, Any] = {"a": np.float32(0.5), "b": np.float64(0.25), "c": np.int64(3)}
        logger.log(numbers, 1)
    assert read_table(tmp_path) == [{"env_steps": "1", "a": "0.5", "b": "0.25", "c": "3"}]


def test_a_value_that_is_no_number_is_named(tmp_path):
    with Logger(tmp_path) as logger, pytest.raises(AssertionError, match="Loss/x is a ndarray"):
        logger.log({"Loss/x": np.zeros(1)}, 1)  # pyright: ignore[reportArgumentType]


def test_a_folder_with_metrics_is_refused_unless_resumed(tmp_path):
    with Logger(tmp_path) as logger:
        logger.log({"a": 1.0}, 1)
    with pytest.raises(ValueError, match="exists already"):
        Logger(tmp_path)


def test_resuming_drops_what_lies_beyond_the_resumed_step(tmp_path):
    with Logger(tmp_path) as logger:
        for step in (10, 20, 30, 40):
            logger.log({"a": float(step)}, step)
    with Logger(tmp_path, resume=True, resume_step=25) as logger:
        logger.log({"a": -1.0, "b": 5.0}, 35)
    assert [(row["env_steps"], row["a"], row["b"]) for row in read_table(tmp_path)] == [
        ("10", "10.0", ""),
        ("20", "20.0", ""),
        ("35", "-1.0", "5.0"),
    ]
    assert scalars(tmp_path, "a") == [(10, 10.0), (20, 20.0), (35, -1.0)]


def test_resuming_keeps_the_rows_of_the_resumed_step_itself(tmp_path):
    with Logger(tmp_path) as logger:
        logger.log({"a": 1.0}, 20)
    with Logger(tmp_path, resume=True, resume_step=20) as logger:
        logger.log({"a": 2.0}, 20)
    assert [row["a"] for row in read_table(tmp_path)] == ["1.0", "2.0"]


def test_resuming_without_a_step_drops_from_the_first_step_logged(tmp_path):
    with Logger(tmp_path) as logger:
        for step in (10, 20, 30):
            logger.log({"a": float(step)}, step)
    with Logger(tmp_path, resume=True) as logger:
        assert len(read_table(tmp_path)) == 3
        logger.log({"a": -1.0}, 20)
    assert [row["a"] for row in read_table(tmp_path)] == ["10.0", "-1.0"]
    assert scalars(tmp_path, "a") == [(10, 10.0), (20, -1.0)]


def test_resuming_a_run_that_logged_nothing_works(tmp_path):
    with Logger(tmp_path, resume=True, resume_step=5) as logger:
        logger.log({"a": 1.0}, 10)
    assert len(read_table(tmp_path)) == 1


@pytest.mark.parametrize("tail", ["30,3", "30", "30,3.0,4.0\n", "\0\0\0\0"])
def test_a_torn_last_row_is_dropped_on_resume(tmp_path, tail):
    (tmp_path / "metrics.csv").write_text("env_steps,a\n10,1.0\n" + tail)
    with Logger(tmp_path, resume=True, resume_step=50) as logger:
        logger.log({"a": 6.0}, 60)
    assert [row["env_steps"] for row in read_table(tmp_path)] == ["10", "60"]


def test_a_foreign_table_is_refused(tmp_path):
    (tmp_path / "metrics.csv").write_text("time,a\n1,2\n")
    with pytest.raises(ValueError, match="not a metrics table"):
        Logger(tmp_path, resume=True)


def test_a_failed_widening_leaves_the_old_table_whole(tmp_path, monkeypatch):
    logger = Logger(tmp_path)
    logger.log({"a": 1.0}, 1)
    before = (tmp_path / "metrics.csv").read_bytes()

    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        logger.log({"b": 1.0}, 2)
    assert (tmp_path / "metrics.csv").read_bytes() == before
    logger.close()


def test_a_killed_run_leaves_a_table_of_whole_rows(tmp_path):
    code = (
        "import sys, os, signal\nfrom fastrl.runs.logger import Logger\n"
        "logger = Logger(sys.argv[1])\n"
        "for step in range(500): logger.log({'a': 1.5, f'b{step // 100}': 2.5}, step)\n"
        f"os.kill(os.getpid(), {int(signal.SIGKILL)})"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": path}
    )
    assert killed.returncode == -signal.SIGKILL
    table = read_table(tmp_path)
    assert [int(row["env_steps"]) for row in table] == list(range(500))
    assert all(row["a"] == "1.5" for row in table)


def test_tensorboard_reads_the_same_points(tmp_path):
    with Logger(tmp_path) as logger:
        logger.log({"Rewards/rew_avg": 0.5, "Info/learning_rate": 0.25}, 128)
        logger.log({"Rewards/rew_avg": 1.5}, 256)
    found = [
        (event.step, value.tag, value.simple_value)
        for event in read_events(tmp_path)
        for value in event.summary.value
    ]
    assert found == [
        (128, "Rewards/rew_avg", 0.5),
        (128, "Info/learning_rate", 0.25),
        (256, "Rewards/rew_avg", 1.5),
    ]


def test_tensorboard_shows_text_as_text(tmp_path):
    with Logger(tmp_path) as logger:
        logger.log_text("config", "**seed** 1 é", 0)
    (value,) = [value for event in read_events(tmp_path) for value in event.summary.value]
    assert value.tag == "config"
    assert value.metadata.plugin_data.plugin_name == "text"
    assert value.tensor.string_val[0].decode() == "**seed** 1 é"


def test_closing_twice_is_harmless(tmp_path):
    logger = Logger(tmp_path)
    logger.close()
    logger.close()


def test_logging_does_not_import_torch():
    code = "import sys, fastrl.runs.logger; assert not {'torch', 'tensorboard'} & set(sys.modules)"
    path = os.pathsep.join(entry for entry in sys.path if entry)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})


def test_summary_is_sorted_valid_json_that_ends_with_a_newline(tmp_path):
    write_summary(
        tmp_path, {"b": math.nan, "a": np.float32(0.5), "c": {"y": (1, True), "x": np.int64(2)}}
    )
    text = (tmp_path / "summary.json").read_text()
    assert text.endswith("}\n")
    summary = json.loads(text, parse_constant=pytest.fail)
    assert summary == {"a": 0.5, "b": None, "c": {"x": 2, "y": [1, True]}}
    assert list(summary) == ["a", "b", "c"]


def test_machine_facts_are_plain_and_plausible():
    facts = machine_facts()
    assert facts["cores"] >= 1  # pyright: ignore[reportOperatorIssue]
    assert facts["cpu"]
    assert facts["python"] == ".".join(str(part) for part in sys.version_info[:3])
    json.dumps(facts)


def test_versions_name_each_package_and_none_for_an_absent_one():
    found = versions()
    assert set(found) == {"fastrl", "torch", "lightning", "gymnasium", "envpool", "numpy"}
    assert found["numpy"] == np.__version__
