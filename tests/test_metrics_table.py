import math
import os
from pathlib import Path

import pytest

from fastrl.runs.logger import Logger
from fastrl.runs.metrics_table import MetricsTable


def logger_of(folder: Path, **settings) -> Logger:
    return Logger(folder, files=["csv"], **settings)


def table_of(folder: Path, **settings) -> MetricsTable:
    return MetricsTable(folder / "metrics.csv", **settings)


def test_a_file_that_does_not_exist_yet_has_no_rows(tmp_path):
    table = table_of(tmp_path)
    assert not table.update() and table.num_rows == 0 and table.names == []


def test_each_call_reads_the_new_rows(tmp_path):
    table = table_of(tmp_path)
    with logger_of(tmp_path) as logger:
        for step in (10, 20, 30):
            logger.log({"a": step / 4}, step)
            assert table.update() and not table.update()
            assert list(table.column("a")) == [x / 4 for x in range(10, step + 1, 10)]
    assert table.generation == 0


def test_only_new_bytes_are_read(tmp_path, monkeypatch):
    path = tmp_path / "metrics.csv"
    path.write_text("env_steps,a\n" + "".join(f"{step},1.0\n" for step in range(10_000)))
    table = table_of(tmp_path)
    table.update()
    read, pread = [], os.pread
    monkeypatch.setattr(os, "pread", lambda *args: read.append(args[1]) or pread(*args))
    with open(path, "a") as file:
        file.write("10000,2.0\n")
    assert table.update() and table.num_rows == 10_001 and sum(read) < 1_000


def test_a_grown_header_is_read_anew_and_older_rows_have_nan(tmp_path):
    table = table_of(tmp_path)
    with logger_of(tmp_path) as logger:
        logger.log({"a": 1.0}, 10)
        table.update()
        logger.log({"Test/cumulative_reward": 5.0}, 10)
        assert table.update()
    assert table.names == ["a", "Test/cumulative_reward"] and table.generation == 1
    assert list(table.steps) == [10, 10]
    assert math.isnan(table.column("Test/cumulative_reward")[0])
    assert table.curve("Test/cumulative_reward") == ([10], [5.0])


def test_a_torn_last_row_is_left_for_later(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("env_steps,a\n10,1.0\n20,2")
    table = table_of(tmp_path)
    table.update()
    assert list(table.steps) == [10]
    with open(path, "a") as file:
        file.write(".5\n")
    table.update()
    assert list(table.column("a")) == [1.0, 2.5] and table.num_damaged == 0


def test_a_torn_header_is_left_for_later(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("env_st")
    table = table_of(tmp_path)
    assert not table.update()
    path.write_text("env_steps,a\n10,1.0\n")
    assert table.update() and list(table.steps) == [10]


def test_rows_that_a_resumed_run_dropped_are_dropped(tmp_path):
    table = table_of(tmp_path)
    with logger_of(tmp_path) as logger:
        for step in (10, 20, 30):
            logger.log({"a": 1.0}, step)
    table.update()
    with logger_of(tmp_path, resume=True, resume_step=10) as logger:
        logger.log({"a": 2.0}, 20)
    assert table.update() and table.generation == 1
    assert table.curve("a") == ([10, 20], [1.0, 2.0])


def test_rows_that_go_back_take_the_place_of_later_ones(tmp_path):
    (tmp_path / "metrics.csv").write_text("env_steps,a\n10,1\n20,2\n30,3\n20,4\n40,5\n")
    table = table_of(tmp_path)
    table.update()
    assert table.curve("a") == ([10, 20, 40], [1.0, 4.0, 5.0])


def test_a_replaced_file_is_noticed_though_it_is_longer(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("env_steps,a\n10,1.0\n20,2.0\n")
    table = table_of(tmp_path)
    table.update()
    with open(path, "r+") as file:  # the same inode, as a number that was given anew
        file.write("env_steps,a\n10,7.0\n20,8.0\n30,9.0\n")
    table.update()
    assert list(table.column("a")) == [7.0, 8.0, 9.0]


def test_a_removed_file_takes_its_rows_along(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("env_steps,a\n10,1.0\n")
    table = table_of(tmp_path)
    table.update()
    path.unlink()
    assert table.update() and table.num_rows == 0 and table.generation == 1


def test_a_cell_of_any_length_is_a_damaged_row(tmp_path):
    path, long = tmp_path / "metrics.csv", "x" * 200_000
    path.write_text(f'env_steps,a\n1,1.0\n2,"{long}"\n3,2.0\n')
    table = MetricsTable(path)
    table.update()
    assert list(table.steps) == [1, 3] and table.num_damaged == 1
    path.write_text(f'env_steps,"{long}"\n1,1.0\n')
    with pytest.raises(ValueError, match="no first column"):
        MetricsTable(path).update()


def test_damaged_rows_are_counted_and_left_out(tmp_path):
    text = "env_steps,a\n10,1.0\n11\nx,2.0\n12,word\n1e400,2\n\x00\n13,inf\n14,\n"
    (tmp_path / "metrics.csv").write_text(text)
    table = table_of(tmp_path)
    table.update()
    assert list(table.steps) == [10, 13, 14] and table.num_damaged == 5
    assert table.curve("a") == ([10, 13], [1.0, math.inf])


def test_rows_read_one_by_one_and_at_once_are_equal(tmp_path):
    path = tmp_path / "metrics.csv"
    lines = ["env_steps,a,b\n", "10,1,\n", "20,,\n", "30,nan,2e3\n", "30,-inf,1\n", "40,0.1,7\n"]
    path.write_text("".join(lines))
    at_once, one_by_one = MetricsTable(path), MetricsTable(path)
    at_once.update()
    for end in range(1, len(lines) + 1):
        path.write_text("".join(lines[:end]))
        one_by_one.update()
    for name in ("a", "b"):
        assert repr(at_once.curve(name)) == repr(one_by_one.curve(name))
        assert repr(at_once.column(name)) == repr(one_by_one.column(name))


@pytest.mark.parametrize("text", ["time,a\n1,2\n", "\n", "env_steps,a,a\n1,2,3\n"])
def test_a_file_that_is_no_table_is_refused(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(ValueError, match=r"metrics\.csv has"):
        table_of(tmp_path).update()


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text("env_steps,a\n1,2\n")
    (tmp_path / "metrics.csv").symlink_to("secret")
    with pytest.raises(ValueError, match="is a link"):
        table_of(tmp_path).update()


def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "metrics.csv")
    with pytest.raises(ValueError, match="not a regular file"):
        table_of(tmp_path).update()


def test_names_with_commas_and_quotes_are_read(tmp_path):
    with logger_of(tmp_path) as logger:
        logger.log({'a, "b"': 1.5}, 10)
    table = table_of(tmp_path)
    table.update()
    assert table.curve('a, "b"') == ([10], [1.5])


def test_only_the_wanted_columns_are_kept(tmp_path):
    (tmp_path / "metrics.csv").write_text("env_steps,a,b\n10,1,x\n")
    table = table_of(tmp_path, only={"a", "c"})
    table.update()
    assert table.names == ["a"] and table.last("a") == 1.0 and table.last("c") is None
    assert math.isnan(table.column("c")[0])


def test_seconds_are_those_of_the_run_and_in_old_files_those_of_the_loop(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("env_steps,Time/step_per_second,Test/x\n100,50,\n200,40,\n200,,3\n")
    old = MetricsTable(path)
    old.update()
    assert list(old.seconds()) == [2.0, 5.0, 5.0] and not old.has_wall_seconds
    assert old.curve("Test/x", "seconds") == ([5.0], [3.0])
    path.write_text("env_steps,Time/step_per_second,Time/wall_seconds\n100,50,9\n200,40,12\n")
    new = MetricsTable(path)
    new.update()
    assert list(new.seconds()) == [9.0, 12.0] and new.has_wall_seconds


def test_an_unknown_axis_is_refused(tmp_path):
    with pytest.raises(ValueError, match="steps or seconds"):
        table_of(tmp_path).curve("a", "hours")
