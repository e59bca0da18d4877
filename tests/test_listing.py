import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastrl.config.values import read_yaml
from fastrl.runs import listing
from fastrl.runs.listing import find_runs, is_run_folder
from fastrl.runs.owner import owned_by_this_process
from fastrl.runs.plain_files import read_settings

CONFIG = """\
algo: ppo
env_id: CartPole-v1
exp_name: default
seed: {seed}
total_timesteps: 1000
num_envs: 4
num_steps: 10
learning_rate: 3e-4
hidden_sizes:
- 64
- 64
env_kwargs: []
target_return: null
"""
METRICS = """\
env_steps,Rewards/rew_avg_100,Time/step_per_second,Test/cumulative_reward,Time/wall_seconds
40,10.0,20.0,,12.0
80,12.0,40.0,,14.0
80,,,50.0,15.0
120,11.0,40.0,,16.0
120,,,45.0,17.0
"""


@pytest.fixture(autouse=True)
def _nothing_is_known():
    listing._listing_of.cache_clear()


def make_run(log_dir: Path, seed: int = 1, name: str = "", **summary) -> Path:
    folder = log_dir / "ppo" / "2026-11-30_10-00-00" / (name or f"CartPole-v1_default_{seed}")
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG.format(seed=seed))
    (folder / "metrics.csv").write_text(METRICS)
    if summary:
        values = {"total_env_steps": 120, "interrupted": False, "wall_seconds": 18.0}
        (folder / "summary.json").write_text(json.dumps({**values, **summary}))
    return folder


def only_run(log_dir: Path):
    (run,) = find_runs(log_dir)
    return run


def test_a_folder_that_does_not_exist_has_no_runs(tmp_path):
    assert find_runs(tmp_path / "nothing") == []


def test_a_file_is_no_folder_of_runs(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is not a folder"):
        find_runs(tmp_path / "file")


def test_a_finished_run_is_described(tmp_path):
    folder = make_run(tmp_path, seed=3, steps_per_second=41.5)
    for name in ("best.pt", "last.pt", "step_000000000080.pt", ".last.pt.1.fastrl-tmp"):
        (folder / "checkpoints" / name).write_bytes(b"1234")
    (folder / "videos").mkdir()
    (folder / "videos" / "step_000000000080.mp4").touch()
    run = only_run(tmp_path)
    assert (run.path, run.state, run.problems) == (folder, "finished", ())
    assert (run.algo, run.env_id, run.seed, run.exp_name) == ("ppo", "CartPole-v1", 3, "default")
    assert run.settings["hidden_sizes"] == [64, 64] and run.settings["learning_rate"] == 3e-4
    assert (run.env_steps, run.total_env_steps, run.progress) == (120, 1000, 1.0)
    assert (run.train_return, run.test_return, run.best_return) == (11.0, 45.0, 50.0)
    assert (run.steps_per_second, run.wall_seconds, run.seconds_left) == (41.5, 18.0, None)
    assert [(x.path.name, x.env_steps, x.size) for x in run.checkpoints] == [
        ("best.pt", None, 4),
        ("last.pt", None, 4),
        ("step_000000000080.pt", 80, 4),
    ]
    assert [x.env_steps for x in run.videos] == [80]
    assert run.started == time.mktime((2026, 11, 30, 10, 0, 0, 0, 0, -1))
    assert run.ended == (folder / "summary.json").stat().st_mtime


def test_a_run_that_is_written_is_running(tmp_path):
    folder = make_run(tmp_path)
    with owned_by_this_process(folder):
        run = only_run(tmp_path)
        assert run.state == "running" and run.ended is None
        assert run.process is not None and run.process.pid == os.getpid()
        assert run.seconds_left == pytest.approx((1000 - 120) * 5 / 80)
        assert run.progress == 0.12
    assert only_run(tmp_path).state == "failed"


def test_a_reason_to_stop_cannot_command_a_terminal(tmp_path):
    make_run(tmp_path, stop_reason="done\x1b[2J" + "x" * 1000)
    detail = only_run(tmp_path).detail
    assert detail.startswith("done\\x1b[2J") and len(detail) < 300


def test_a_run_that_has_only_begun_is_running(tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    with owned_by_this_process(folder):
        assert only_run(tmp_path).state == "running"


def test_a_run_that_is_resumed_is_running_in_spite_of_its_summary(tmp_path):
    folder = make_run(tmp_path, interrupted=True)
    os.utime(folder / "summary.json", (1, 1))
    assert only_run(tmp_path).state == "stopped"
    with owned_by_this_process(folder):
        run = only_run(tmp_path)
        assert run.state == "running" and run.summary is None


def test_a_run_that_went_on_and_was_killed_has_failed(tmp_path):
    make_run(tmp_path, interrupted=True, total_env_steps=80)
    assert only_run(tmp_path).state == "failed"


def test_a_killed_run_says_so(tmp_path):
    folder = make_run(tmp_path)
    with owned_by_this_process(folder):
        named = (folder / "process.json").read_bytes()
    (folder / "process.json").write_bytes(named)
    run = only_run(tmp_path)
    assert (run.state, run.detail, run.process) == ("failed", "killed", None)


def test_a_run_on_a_file_system_without_locks_is_judged_by_its_process(tmp_path, monkeypatch):
    monkeypatch.setattr("fastrl.runs.reading.is_owned", lambda folder: None)
    monkeypatch.setattr("fastrl.runs.listing.is_owned", lambda folder: None)
    folder = make_run(tmp_path)
    with owned_by_this_process(folder):
        assert only_run(tmp_path).state == "running"
        path = folder / "process.json"
        values = json.loads(path.read_text())
        path.write_text(json.dumps(values | {"host": "elsewhere"}))
        run = only_run(tmp_path)
        assert run.state == "running" and run.detail.startswith("on elsewhere, last heard of")
        path.write_text(json.dumps(values | {"host": "elsewhere", "started": 1.0}))
        for name in ("metrics.csv", "checkpoints"):
            os.utime(folder / name, (1, 1))
        assert only_run(tmp_path).state == "failed"


@pytest.mark.parametrize(
    ("name", "contents", "words"),
    [
        ("config.yaml", b"", "empty or cut"),
        ("config.yaml", b"algo: ppo\nenv_id: Cart", "cut off"),
        ("config.yaml", b"algo: [\n", "config.yaml"),
        ("config.yaml", b"\xff\xfe\n", "config.yaml"),
        ("config.yaml", b"- 1\n", "does not map"),
        ("config.yaml", b"env_id: x\n", "does not name an algorithm"),
        ("config.yaml", b"a: &x 1\nb: *x\n", "alias"),
        ("config.yaml", b"a" * 500_000, "bytes"),
        ("summary.json", b"{", "summary.json"),
        ("summary.json", b"[1]", "not a mapping"),
        ("summary.json", b"[" * 100_000, "summary.json"),
        ("metrics.csv", b"a,b\n1,2\n", "no first column"),
    ],
)
def test_damage_is_named_and_no_other_run_suffers(tmp_path, name, contents, words):
    folder = make_run(tmp_path, seed=1, eval_return_mean=1.0)
    make_run(tmp_path, seed=2, eval_return_mean=1.0)
    (folder / name).write_bytes(contents)
    states = {run.path.name[-1]: run for run in find_runs(tmp_path)}
    assert states["1"].state == "damaged" and states["2"].state == "finished"
    assert words in states["1"].detail and states["1"].detail.isprintable()


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv", "summary.json"])
def test_a_link_is_not_followed(tmp_path, name):
    folder = make_run(tmp_path / "logs", eval_return_mean=1.0)
    (folder / name).rename(tmp_path / "target")
    (folder / name).symlink_to(tmp_path / "target")
    run = only_run(tmp_path / "logs")
    assert run.state == "damaged" and "is a link" in run.detail


def test_linked_folders_are_passed_over(tmp_path):
    make_run(tmp_path / "elsewhere")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "link").symlink_to(tmp_path / "elsewhere")
    assert find_runs(tmp_path / "logs") == []
    folder = make_run(tmp_path / "logs")
    (folder / "checkpoints").rmdir()
    (folder / "checkpoints").symlink_to(tmp_path / "elsewhere")
    run = only_run(tmp_path / "logs")
    assert run.checkpoints == () and "link" in run.problems[0]


def test_a_linked_checkpoint_is_not_listed(tmp_path):
    folder = make_run(tmp_path)
    (folder / "checkpoints" / "last.pt").symlink_to("/etc/passwd")
    assert only_run(tmp_path).checkpoints == ()


def test_folders_that_cannot_be_read_are_passed_over(tmp_path, monkeypatch):
    make_run(tmp_path)
    scan = os.scandir

    @contextmanager
    def guarded(path):
        if str(path).endswith("ppo"):
            raise PermissionError
        with scan(path) as entries:
            yield entries

    monkeypatch.setattr(os, "scandir", guarded)
    assert find_runs(tmp_path) == []


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv", "hparams.yaml"])
def test_a_single_file_makes_no_run(tmp_path, name):
    (tmp_path / name).touch()
    make_run(tmp_path)
    assert not is_run_folder(tmp_path) and len(find_runs(tmp_path)) == 1


def test_hidden_folders_are_passed_over(tmp_path):
    make_run(tmp_path / ".trash")
    assert find_runs(tmp_path) == []


def test_only_what_changed_is_read_again(tmp_path):
    first, second = make_run(tmp_path, 1, eval_return_mean=1), make_run(tmp_path, 2)
    for folder in (first, second):
        os.utime(folder / "checkpoints", (1, 1))
    before = {run.path: run for run in find_runs(tmp_path)}
    with open(second / "metrics.csv", "a") as file:
        file.write("160,13.0,40.0,,18.0\n")
    after = {run.path: run for run in find_runs(tmp_path)}
    assert after[first] is before[first]
    assert (before[second].env_steps, after[second].env_steps) == (120, 160)


def test_new_and_removed_runs_are_noticed_at_once(tmp_path):
    for seed in (1, 2, 3):
        folder = make_run(tmp_path, seed)
        assert len(find_runs(tmp_path)) == seed
    folder.rename(tmp_path / ".gone")
    assert len(find_runs(tmp_path)) == 2


def test_five_hundred_runs_take_well_under_a_second(tmp_path):
    rows = "".join(f"{step},1.0,2.0,,{step}\n" for step in range(160, 10_000, 100))
    for seed in range(500):
        folder = make_run(tmp_path, seed, name=str(seed), eval_return_mean=1.0)
        (folder / "metrics.csv").write_text(METRICS + rows)
        os.utime(folder / "checkpoints", (1, 1))  # one that has just changed is read each time
    start = time.process_time()
    assert len(find_runs(tmp_path)) == 500
    first = time.process_time() - start
    start = time.process_time()
    find_runs(tmp_path)
    again = time.process_time() - start
    assert first < 3 and again < 0.3, (first, again)  # far from what it takes: 0.3 and 0.02


@pytest.mark.parametrize(
    "text",
    [
        "a: 3e-4\nb: [1, x]\nc:\n- 1\n- y: 2\nd: {e: 1}\n",
        "a: 'x\n\n  y'\nb: |\n  text\n\n  more\nc: 1\n",
        "{a: 1, b: 2}\n",
        "---\na: 1\n",
        "# comment\na: 1  # comment\n",
        "a: !!python/tuple [1, 2]\n",
        '"a": 1\nb: yes\n',
    ],
)
def test_settings_are_read_as_by_the_command_line(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert read_settings(path) == read_yaml(text) == read_settings(path)


def test_settings_of_two_runs_share_no_list(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("a: [1]\nb: {c: [1]}\n")
    read_settings(path)["a"].append(2)
    assert read_settings(path)["a"] == [1]


def test_listing_needs_no_torch():
    code = "import sys, fastrl.runs.listing; assert 'torch' not in sys.modules"
    path = os.pathsep.join(entry for entry in sys.path if entry)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})
