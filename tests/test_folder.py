"""The run folder: unique, recognisable, and never half written."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastrl.agents.load import find_saved
from fastrl.runs import folder as folder_module
from fastrl.runs.checkpoint import Checkpoints
from fastrl.runs.folder import (
    create_run_folder,
    open_run_folder,
    owned,
    read_config,
    replaced_file,
    write_config,
)


def test_run_folder_has_the_documented_shape(tmp_path):
    folder = create_run_folder(tmp_path, "ppo", "LunarLander-v2", "tuned", 3)
    algo, time_name, name = folder.relative_to(tmp_path).parts
    assert (algo, name) == ("ppo", "LunarLander-v2_tuned_3")
    assert len(time_name) == len("2026-01-31_23-59-59")
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoints", "videos"]


def test_two_runs_of_one_second_get_two_folders(tmp_path, monkeypatch):
    class FrozenClock(folder_module.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 31, 23, 59, 59)

    monkeypatch.setattr(folder_module, "datetime", FrozenClock)
    folders = [create_run_folder(tmp_path, "ppo", "E-v0", "x", 1) for _ in range(3)]
    assert [folder.parent.name for folder in folders] == [
        "2026-01-31_23-59-59",
        "2026-01-31_23-59-59-1",
        "2026-01-31_23-59-59-2",
    ]


def test_runs_started_at_once_never_share_a_folder(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(
            pool.map(lambda _: create_run_folder(tmp_path, "ppo", "E-v0", "x", 1), range(32))
        )
    assert len(set(folders)) == 32


@pytest.mark.parametrize("env_id", ["ALE/Pong-v5", "module:Env-v0", "../../x", "a\\b c"])
def test_an_env_id_stays_one_safe_component(tmp_path, env_id):
    folder = create_run_folder(tmp_path, "ppo", env_id, "x", 1)
    assert len(folder.resolve().relative_to(tmp_path.resolve()).parts) == 3
    assert not set(folder.name) & set(":/\\ ")


def test_a_name_without_a_letter_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot name a folder"):
        create_run_folder(tmp_path, "..", "E-v0", "x", 1)


def test_a_folder_that_does_not_exist_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="does not exist") as error:
        open_run_folder(tmp_path / "nothing")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "read", [open_run_folder, read_config, lambda path: find_saved(Path(path))]
)
def test_a_path_of_an_unknown_user_is_refused_in_one_line(read):
    with pytest.raises(ValueError, match=r"^~nobody-of-that-name/run: "):
        read("~nobody-of-that-name/run")


def test_a_folder_without_config_is_no_run_folder(tmp_path):
    with pytest.raises(ValueError, match=r"is not a run folder: it has no config\.yaml"):
        open_run_folder(tmp_path)


def test_a_file_is_no_run_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        open_run_folder(tmp_path / "file")


def test_an_opened_run_has_the_config_it_was_created_with(tmp_path):
    folder = create_run_folder(tmp_path, "ppo", "E-v0", "x", 1)
    write_config(folder / "config.yaml", {"seed": 1})
    run = open_run_folder(str(folder))
    assert (run.path, run.config) == (folder, {"seed": 1})
    assert run.checkpoints.is_dir()
    assert run.videos.is_dir()


def test_a_run_without_checkpoints_says_so(tmp_path):
    folder = create_run_folder(tmp_path, "ppo", "E-v0", "x", 1)
    write_config(folder / "config.yaml", {})
    with pytest.raises(ValueError, match="has no whole checkpoint"):
        Checkpoints(open_run_folder(folder).checkpoints).newest()


_TEXT = st.text("ab1e-+.:#'\"\n\t é{[~", max_size=6)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(config=st.dictionaries(st.text("abc_", min_size=1), _VALUES, max_size=5))
def test_a_config_reads_back_as_it_was_written(tmp_path_factory, config):
    path = tmp_path_factory.getbasetemp() / "roundtrip.yaml"
    write_config(path, config)
    assert read_config(path) == config


def test_a_config_keeps_its_order_and_turns_tuples_to_lists(tmp_path):
    write_config(tmp_path / "c.yaml", {"z": (64, 64), "a": {"inner": (1,)}})
    config = read_config(tmp_path / "c.yaml")
    assert list(config) == ["z", "a"]
    assert config == {"z": [64, 64], "a": {"inner": [1]}}


@pytest.mark.parametrize("text", ["3e-4", "3E-4", "+3e-4", ".3e-3", "3.e-4", "0.0003"])
def test_a_number_written_with_an_exponent_is_a_number(tmp_path, text):
    (tmp_path / "c.yaml").write_text(f"learning_rate: {text}\nname: '3e-4'\nother: e4\n")
    config = read_config(tmp_path / "c.yaml")
    assert config == {"learning_rate": 3e-4, "name": "3e-4", "other": "e4"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [1", "not a YAML file"),
        ("- 1\n- 2", "must map names"),
        ("1: 2", "must map names"),
        ("a: &x [1]\nb: [*x, *x]", "may not have aliases such as [*]x"),
        ("a: &x {y: 1}\nb: {<<: [*x, *x]}", "may not have aliases such as [*]x"),
        ("&x [*x]", "may not have aliases such as [*]x"),
        (f"seed: 0x{'f' * 5000}", "a value is wrong: .*4300 digits"),
        ("a: 1\n'a': 2", "'a' is set twice"),
        ("a: {b: 1, b: 2}", "'b' is set twice"),
        ("a: !!bool x", "a value is wrong"),
        ("a: !!timestamp x", "a value is wrong"),
        ("a: !!int x", "a value is wrong"),
        ("a: 2001-02-30", "a value is wrong"),
        ("a: !!map x", "a value is wrong"),
        ("{[1]: 2}", "a name is a list or a mapping"),
        ("a: " + "[" * 50_000, "nested too deeply"),
        ("a: " + "{b: " * 20_000, "nested too deeply"),
        ("a: [" + "1, " * 40_000 + "]", "characters are more than 100,000"),
        ("a: !!python/object/apply:os.getpid []", "not a YAML file"),
    ],
)
def test_a_file_that_is_no_config_is_refused_in_one_line(tmp_path, text, reason):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=reason) as error:
        read_config(tmp_path / "c.yaml")
    assert "\n" not in str(error.value)


def test_a_huge_file_of_settings_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "c.yaml", "wb") as file:
        file.truncate(2**33)
    with pytest.raises(ValueError, match=r"8,589,934,592 bytes are more than 400,000"):
        read_config(tmp_path / "c.yaml")


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(TypeError), replaced_file(path) as file:
        file.write("text into a binary file")  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "pipe", "device"])
def test_only_a_regular_file_is_replaced(tmp_path, kind):
    path, target = tmp_path / "file", tmp_path / "target"
    if kind == "link":
        target.write_text("old")
    if "link" in kind:
        path.symlink_to(target)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/null")
    before = path.lstat()
    told = "only a regular file may be replaced"
    with pytest.raises(ValueError, match=told), replaced_file(path) as file:
        file.write(b"new")
    assert path.lstat() == before


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_have_the_mode_of_the_users_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        Checkpoints(tmp_path).save_last({"counters": {"env_steps": 1}})
        write_config(tmp_path / "config.yaml", {})
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~mask}


def test_writing_clears_its_own_leftovers_but_not_those_of_another_file(tmp_path):
    mine, other = tmp_path / ".a.7.fastrl-tmp", tmp_path / ".b.7.fastrl-tmp"
    mine.touch()
    other.touch()
    with replaced_file(tmp_path / "a") as file:
        file.write(b"x")
    assert not mine.exists()
    assert other.exists()


def test_reading_a_config_needs_no_torch():
    code = "import sys, fastrl.runs.folder; assert 'torch' not in sys.modules"
    path = os.pathsep.join(entry for entry in sys.path if entry)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})


def test_a_folder_has_one_writer_at_a_time(tmp_path):
    with owned(tmp_path), pytest.raises(ValueError, match="another process"), owned(tmp_path):
        pass
    with owned(tmp_path):
        pass
