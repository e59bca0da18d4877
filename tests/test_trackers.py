"""Loggers: the trackers of others get what a run has to say, and never end it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from own_callbacks import Diary, Raises
from test_callbacks import WORDS, agent_in, rows_of, run_folder_in

from fastrl import AgentTrainer, cli
from fastrl.config.run import RunConfig
from fastrl.processes.errors import how_to_install
from fastrl.runs import trackers
from fastrl.runs.trackers import Trackers, check_loggers


class Recorder:
    """Has the methods of Lightning's loggers, and keeps what it is given."""

    def __init__(self, fails_at: int = -1) -> None:
        self.settings: dict[str, Any] = {}
        self.rows: list[tuple[int | None, dict[str, float]]] = []
        self.videos: list[Any] = []
        self.status = ""
        self.fails_at = fails_at

    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        assert isinstance(params, dict)
        self.settings = params

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if len(self.rows) == self.fails_at:
            raise ConnectionError("no network")
        self.rows.append((step, metrics))

    def log_video(self, key: str, videos: list[str], step: int) -> None:
        self.videos.append((key, videos, step))

    def finalize(self, status: str) -> None:
        assert not self.status
        self.status = status


def test_a_logger_gets_settings_rows_and_summary(tmp_path):
    logger = Recorder()
    agent = agent_in(tmp_path, eval_episodes=2, eval_every=128)
    agent.learn(loggers=[logger], callbacks=[Diary()])
    assert logger.settings == {"algo": "ppo", **agent.config.to_dict()}
    table = rows_of(run_folder_in(tmp_path))
    *rows, (step, summary) = logger.rows
    assert len(rows) == len(table) == 6
    for row, (steps, metrics) in zip(table, rows, strict=True):
        assert int(row.pop("env_steps")) == steps
        assert {name: float(x) for name, x in row.items() if x} == metrics
    assert {"Rewards/rew_avg_100", "Test/cumulative_reward", "Diary/count"} <= table[-2].keys()
    assert step == summary["Summary/total_env_steps"] == 256
    assert summary["Summary/stage_seconds/env"] > 0
    assert logger.status == "success"


def test_a_logger_gets_videos(tmp_path):
    logger = Recorder()
    trackers = Trackers((), [logger], tmp_path, False)
    trackers.log_video(tmp_path / "step_1.mp4", 1)
    assert logger.videos == [("video", [str(tmp_path / "step_1.mp4")], 1)]


def test_a_logger_that_fails_is_left_out_with_a_line_and_the_run_goes_on(tmp_path, caplog):
    bad, good = Recorder(fails_at=2), Recorder()
    with caplog.at_level(logging.WARNING, "fastrl"):
        agent_in(tmp_path).learn(loggers=[bad, good])
    (line,) = [record.getMessage() for record in caplog.records if "logger" in record.getMessage()]
    assert line == (
        "the logger Recorder raised ConnectionError and is left out from now on: no network"
    )
    assert (len(bad.rows), len(good.rows), good.status) == (2, 5, "success")


def test_the_end_of_a_run_that_failed_is_told(tmp_path):
    logger = Recorder()
    with pytest.raises(ValueError, match="of mine"):
        agent_in(tmp_path).learn(loggers=[logger], callbacks=[Raises()])
    assert logger.status == "failed"


@pytest.mark.parametrize("given", [[print], [Recorder], ["wandb"], Recorder()])
def test_what_is_no_logger_is_refused(tmp_path, given):
    with pytest.raises(ValueError, match=r"logger(s)? must be"):
        agent_in(tmp_path).learn(loggers=given)
    assert not list(tmp_path.iterdir())


# Which files


@pytest.mark.parametrize("names", [(), ("csv",), ("tensorboard",), ("csv", "tensorboard")])
def test_a_named_file_is_written_alone(tmp_path, names):
    agent_in(tmp_path, logger=names, total_timesteps=64).learn()
    folder = run_folder_in(tmp_path)
    written = {
        "csv": (folder / "metrics.csv").exists(),
        "tensorboard": bool(list(folder.glob("events.out.tfevents.*"))),
    }
    assert written == {name: name in names or not names for name in written}
    assert not (folder / "loggers.json").exists()
    # A resumed run finds its loggers again.
    again = agent_in(tmp_path, logger=names, total_timesteps=128)
    AgentTrainer(resume=folder).fit(again)
    assert (folder / "metrics.csv").exists() == written["csv"]


@pytest.mark.parametrize("names", [("csv", "csv"), ("wandb", "mlflow", "wandb"), ("comet",)])
def test_loggers_that_contradict_or_are_unknown_are_refused(names):
    with pytest.raises(
        ValueError, match=r"logger must (each be one of csv, tens|name each .* once)"
    ):
        RunConfig(logger=names)


def test_a_missing_package_is_one_line_that_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    words = [*WORDS, "--log-dir", str(tmp_path), "--logger", "csv", "--logger", "wandb"]
    assert cli.main("ppo", words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --logger wandb: ") and error.count("\n") == 1
    assert how_to_install("loggers") in error
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_plain_run_imports_no_lightning(tmp_path):
    program = (
        "import sys; from test_callbacks import agent_in; from pathlib import Path\n"
        "agent_in(Path(sys.argv[1]), total_timesteps=64).learn(callbacks=[])\n"
        "print([name for name in sys.modules if name.startswith(('lightning', 'wandb'))])"
    )
    words = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("text", ["{", "3", '{"wandb": 3}', '{"wandb": "../../x"}'])
def test_damaged_ids_are_refused(tmp_path, text):
    (tmp_path / "loggers.json").write_text(text)
    with pytest.raises(ValueError, match=r"loggers.json is damaged"):
        Trackers((), [], tmp_path, True)


# The real ones, without a network


def test_wandb_gets_the_run_and_a_resumed_run_goes_on_in_it(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    agent_in(tmp_path, logger=("wandb",), eval_episodes=1).learn(callbacks=[Diary()])
    folder = run_folder_in(tmp_path)
    run_id = json.loads((folder / "loggers.json").read_text())["wandb"]
    longer = agent_in(tmp_path, logger=("wandb",), eval_episodes=1, total_timesteps=320)
    AgentTrainer(resume=folder).fit(longer)
    assert json.loads((folder / "loggers.json").read_text())["wandb"] == run_id
    runs = sorted(folder.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb"))
    assert len(runs) == 2  # parts of one run, which `wandb sync` puts together
    written = runs[0].read_bytes()
    for name in ("Rewards/rew_avg_100", "Test/cumulative_reward", "Diary/count", "num_envs"):
        assert name.encode() in written, name
    assert b"Summary/eval_return_mean" in written
    assert len(rows_of(folder)) > 5  # our own files are written as well


@pytest.mark.slow
def test_mlflow_gets_the_run_and_a_resumed_run_goes_on_in_it(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = {"logger": ("mlflow",), "eval_episodes": 1, "capture_video": True}
    agent_in(tmp_path, **settings).learn(callbacks=[Diary()])
    folder = run_folder_in(tmp_path)
    run_id = json.loads((folder / "loggers.json").read_text())["mlflow"]
    AgentTrainer(resume=folder).fit(agent_in(tmp_path, **settings, total_timesteps=320))
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = client.get_run(run_id)
    assert run.data.params["num_envs"] == "4" and run.info.status == "FINISHED"
    assert run.data.metrics["Summary/total_env_steps"] == 320
    history = client.get_metric_history(run_id, "Rewards/rew_avg_100")
    assert [point.step for point in history] == [64, 128, 192, 256, 320]
    assert [x.step for x in client.get_metric_history(run_id, "Diary/count")][-1] == 256
    assert any(x.path.endswith(".mp4") for x in client.list_artifacts(run_id, "videos"))


@pytest.mark.slow
def test_trackio_gets_the_run_and_a_resumed_run_goes_on_in_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    agent_in(tmp_path / "logs", logger=("trackio",)).learn(callbacks=[Diary()])
    folder = run_folder_in(tmp_path / "logs")
    run = json.loads((folder / "loggers.json").read_text())["trackio"]
    longer = agent_in(tmp_path / "logs", logger=("trackio",), total_timesteps=320)
    AgentTrainer(resume=folder).fit(longer)
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs("fastrl", run)
    steps = [row["step"] for row in rows if "Rewards/rew_avg_100" in row]
    assert steps == [64, 128, 192, 256, 320]
    assert any(row.get("Summary/total_env_steps") == 320 for row in rows)


def test_a_named_tracker_needs_its_package_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ValueError, match="mlflow"):
        check_loggers(("mlflow",), ())
    check_loggers(("csv",), ())


WORDS_OF_TRACKERS = "printed", "informed", "warned"


class Talkative(Recorder):
    """Says what trackers say: on stdout, by loggers of others, by a variable of the environment."""

    def say(self, what: str) -> None:
        print(f"printed {what}")
        logging.getLogger("mlflow.store.db.utils").info("informed %s", what)
        logging.getLogger("mlflow.store").warning("warned %s", what)
        self.heard = os.environ.get("WANDB_SILENT")

    def finalize(self, status: str) -> None:
        self.say(status)
        super().finalize(status)


@pytest.mark.parametrize("is_silent", [True, False])
def test_named_trackers_say_warnings_alone_where_a_run_is_quiet(
    is_silent, tmp_path, monkeypatch, capsys, caplog
):
    named, own = Talkative(), Talkative()

    def open_named(*_: Any) -> tuple[Any, str]:
        named.say("opened")
        return named, "id"

    monkeypatch.setitem(trackers._OPENERS, "mlflow", open_named)
    monkeypatch.delenv("WANDB_SILENT", raising=False)
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.INFO, "mlflow")
    opened = Trackers(("mlflow",), [own], tmp_path, False, is_silent)
    opened.end({}, 0)
    words = capsys.readouterr().out.splitlines() + caplog.messages
    said = {x: words.count(f"{x} opened") + words.count(f"{x} success") for x in WORDS_OF_TRACKERS}
    # Of one's own object everything is heard: once each.
    least = 1 if is_silent else 3
    assert said == {"printed": least, "informed": least, "warned": 3}
    assert (named.heard, own.heard) == ("true" if is_silent else None, None)
    assert logging.getLogger("mlflow").level == logging.INFO  # as before


@pytest.mark.slow
def test_mlflow_says_nothing_in_a_quiet_run(tmp_path):
    pytest.importorskip("mlflow")
    words = [*WORDS, "--log-dir", str(tmp_path), "--quiet", "--logger", "mlflow"]
    call = [sys.executable, "-m", "fastrl.ppo", *words]
    run = subprocess.run(call, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run.stdout.startswith("run folder: ") and run.stdout.count("\n") == 1
    assert run.stderr == ""
