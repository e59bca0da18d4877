"""Sweeps with runs that take a tenth of a second (`sweep_runs.py`): what is made, and survives."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from quick import quick

from fastrl.cli import parse
from fastrl.config.trust import check_named
from fastrl.runs.owner import read_process, stop
from fastrl.sweep.__main__ import main
from fastrl.sweep.folder import create
from fastrl.sweep.reading import importance, list_sweeps, read_sweep
from fastrl.sweep.trial import Trial, load_trials

PROGRAM = str(Path(__file__).with_name("sweep_program.py"))
ROOT = Path(__file__).parents[1]
GRID = ("ppo", "--learning-rate", "1e-3", "1e-2", "--seed", "1..3")
ONE_SEED = (*GRID[:-1], "1")  # two runs, where a test is not about their number
SEARCH = ("ppo", "--search", "learning-rate", "gamma", "--total-timesteps", "1000")


@pytest.fixture(autouse=True)
def quick_runs(monkeypatch):
    runs = str(Path(__file__).with_name("sweep_runs.py"))
    monkeypatch.setattr("fastrl.sweep.processes.program_of", lambda algo: [sys.executable, runs])
    monkeypatch.setattr("fastrl.sweep.pool.is_possible", lambda: False)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def no_curves(monkeypatch):
    """Draws no curves, which takes longer than the runs."""
    monkeypatch.setattr("fastrl.sweep.grid.draw", lambda groups, path: None)


def sweep_of(log_dir: Path):
    (folder,) = (log_dir / "sweeps").iterdir()
    return read_sweep(folder)


def small(*words: str, env_id: str = "fast", log_dir: Path) -> list[str]:
    rollouts = ("--num-envs", "1", "--num-steps", "16", "--per-rank-batch-size", "16")
    return [*words, *rollouts, "--env-id", env_id, "--log-dir", str(log_dir)]


# Grids.


def test_a_grid_trains_every_combination_with_every_seed(tmp_path, capsys):
    assert main(small(*GRID, log_dir=tmp_path)) == 0
    sweep = sweep_of(tmp_path)
    assert (sweep.state, sweep.progress) == ("finished", 1.0)
    assert [trial.settings for trial in sweep.trials] == [
        {"learning_rate": 1e-3},
        {"learning_rate": 1e-2},
    ]
    for trial in sweep.trials:
        assert {run.seed: run.folder[-2:] for run in trial.runs} == {1: "_1", 2: "_2", 3: "_3"}
    run = sweep.trials[1].complete_runs[0]
    assert sweep.trials[1].folder.name == "learning_rate=0.01"
    assert (sweep.trials[1].folder / run.folder / "metrics.csv").is_file()
    assert sweep.trials[0].value > sweep.trials[1].value
    table = (sweep.folder / "table.csv").read_text().splitlines()
    assert table[0].endswith(",learning_rate")
    assert [row.split(",")[-1] for row in table[1:]] == ["0.001", "0.01"]
    assert "--learning-rate=0.01" in capsys.readouterr().out.rpartition("group")[2]


@pytest.mark.slow
def test_a_grid_draws_its_curves(tmp_path):
    pytest.importorskip("matplotlib")
    main(small(*GRID, log_dir=tmp_path))
    assert (sweep_of(tmp_path).folder / "curves.png").stat().st_size > 1000


@pytest.mark.usefixtures("no_curves")
def test_a_run_that_fails_does_not_end_the_grid(tmp_path, capsys):
    assert main(small(*ONE_SEED, env_id="diverging", log_dir=tmp_path)) == 0
    states = {trial.settings["learning_rate"]: trial.state for trial in sweep_of(tmp_path).trials}
    assert states == {1e-3: "complete", 1e-2: "failed"}
    assert "failed: the training diverged" in capsys.readouterr().out


def test_a_grid_whose_runs_all_fail_ends_with_their_line(tmp_path, capsys):
    assert main(small(*ONE_SEED, env_id="failing", log_dir=tmp_path)) == 2
    assert "error: every run failed: the training diverged" in capsys.readouterr().err
    assert sweep_of(tmp_path).state == "failed"


# Searches.


@pytest.fixture
def has_optuna():
    pytest.importorskip("optuna")


@pytest.mark.slow
@pytest.mark.usefixtures("has_optuna")
def test_a_search_finds_what_beats_the_defaults_and_confirms_it(tmp_path, capsys):
    assert main(small(*SEARCH, "--trials", "25", "--processes", "2", log_dir=tmp_path)) == 0
    sweep = sweep_of(tmp_path)
    assert (sweep.state, len(sweep.trials)) == ("finished", 25)
    assert sweep.trials[0].name == "defaults"
    assert Counter(trial.state for trial in sweep.trials)["pruned"] > 0
    assert sweep.best.value > sweep.trials[0].value - 1e-9
    best = yaml.safe_load((sweep.folder / "best.yaml").read_text())
    assert (best["algo"], best["env_id"], best["total_timesteps"]) == ("ppo", "fast", 1000)
    assert best["learning_rate"] == sweep.best.settings["learning_rate"]
    assert "seed" not in best
    sides = sweep.confirmation
    assert sides["best"]["seeds"] == sides["defaults"]["seeds"] == [1001, 1002, 1003, 1004, 1005]
    assert next(iter(sweep.summary["importance"])) in ("learning_rate", "gamma")
    said = capsys.readouterr().out
    assert "preset file:" in said
    assert "fresh seeds" in said
    shares = re.findall(r"pruned: return \S+ after (.*) of the steps", said)
    assert shares and set(shares) <= {"12.5 %", "25 %", "50 %"}


@pytest.mark.slow
@pytest.mark.usefixtures("has_optuna")
def test_a_search_with_a_class_of_ones_own_says_how_to_train_that_class(tmp_path, capsys):
    flags = ("--trials", "3", "--confirm", "0", "--agent", "my_ppo:PenaltyPPO")
    assert main(small(*SEARCH, *flags, log_dir=tmp_path)) == 0
    file = sweep_of(tmp_path).folder / "best.yaml"
    assert "--agent my_ppo:PenaltyPPO" in file.read_text()
    line = f"train with it: python -m fastrl.ppo --agent my_ppo:PenaltyPPO --preset {file}"
    assert line in capsys.readouterr().out.splitlines()


@pytest.mark.slow
@pytest.mark.usefixtures("has_optuna")
def test_leading_trials_get_all_seeds(tmp_path):
    main(small(*SEARCH, "--trials", "15", "--seed", "1..2", log_dir=tmp_path))
    sweep = sweep_of(tmp_path)
    num_seeds = [len(trial.complete_runs) for trial in sweep.ranked]
    assert num_seeds[0] == 2
    assert set(num_seeds[5:]) <= {1}


@pytest.mark.slow
@pytest.mark.usefixtures("has_optuna")
def test_a_trial_that_fails_does_not_end_the_search(tmp_path):
    words = small(*SEARCH, "--trials", "12", "--confirm", "0", env_id="diverging", log_dir=tmp_path)
    assert main(words) == 0
    failed = [trial for trial in sweep_of(tmp_path).trials if trial.state == "failed"]
    assert failed
    assert {trial.note for trial in failed} == {"the training diverged"}
    assert all(trial.settings["learning_rate"] > 1e-3 for trial in failed)


@pytest.mark.usefixtures("has_optuna")
def test_a_search_whose_first_trials_fail_alike_ends_with_their_line(tmp_path, capsys):
    words = small(*SEARCH, "--trials", "50", env_id="failing", log_dir=tmp_path)
    assert main(words) == 2
    assert "trials failed alike: the training diverged" in capsys.readouterr().err
    assert len(sweep_of(tmp_path).trials) < 6


@pytest.mark.slow
@pytest.mark.usefixtures("has_optuna")
def test_a_setting_that_the_task_refuses_stays_at_its_default(tmp_path, capsys):
    words = small(*SEARCH, "--trials", "9", "--confirm", "0", env_id="refusing", log_dir=tmp_path)
    assert main([*words, "--processes", "1"]) == 0
    trials = sweep_of(tmp_path).trials
    assert sum(trial.state == "failed" for trial in trials) == 1
    assert {trial.settings["gamma"] for trial in trials if trial.state != "failed"} == {0.99}
    assert "gamma stays at its default" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("has_optuna")
def test_seconds_to_a_return_can_be_what_counts(tmp_path):
    goal = ("--objective", "seconds", "--target-return", "50", "--trials", "12")
    assert main(small(*SEARCH, *goal, "--processes", "2", log_dir=tmp_path)) == 0
    sweep = sweep_of(tmp_path)
    seconds = [trial.seconds for trial in sweep.ranked]
    assert seconds[0] <= min(seconds) + 1
    assert sweep.confirmation["best"]["seconds_interval"] is not None


@pytest.mark.slow
@pytest.mark.usefixtures("has_optuna")
def test_return_and_seconds_can_be_optimised_together(tmp_path):
    goal = ("--objective", "return-and-seconds", "--trials", "14", "--confirm", "0")
    assert main(small(*SEARCH, *goal, "--processes", "2", log_dir=tmp_path)) == 0
    assert sweep_of(tmp_path).state == "finished"


@pytest.mark.slow
@pytest.mark.usefixtures("has_optuna")
def test_a_search_ends_in_its_time_with_its_confirmation(tmp_path):
    words = small(*SEARCH, "--minutes", "0.1", "--processes", "2", env_id="slow", log_dir=tmp_path)
    began = time.monotonic()
    assert main(words) == 0
    assert time.monotonic() - began < 6 + 8  # what is under way at the end of a phase comes on top
    assert sweep_of(tmp_path).confirmation["best"]["returns"]


# What is cut short.


def begin(words: list[str], tmp_path: Path, sigint: Any = signal.SIG_DFL) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, PROGRAM, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, sigint),  # whatever started the tests
    )


def wait_for(condition, seconds: float = 60.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def processes_that_name(text: str) -> list[int]:
    """Returns the processes whose command line holds a text, but for this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text.encode() in path.read_bytes() and path.parent.name != str(os.getpid()):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def group_of(process: int) -> list[int]:
    """Returns the processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == process and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def trials_in(log_dir: Path) -> list[Trial]:
    folders = list((log_dir / "sweeps").glob("*"))
    return load_trials(folders[0])[0] if folders else []


@pytest.mark.slow
@pytest.mark.usefixtures("has_optuna")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_ended_goes_on_and_no_trial_is_lost_or_counted_twice(tmp_path, number):
    words = small(
        *(*SEARCH, "--trials", "7", "--confirm", "0", "--processes", "2"),
        env_id="slow",
        log_dir=tmp_path,
    )
    process = begin(words, tmp_path)
    try:
        wait_for(lambda: sum(trial.is_over for trial in trials_in(tmp_path)) >= 2)
        wait_for(lambda: any(not trial.is_over for trial in trials_in(tmp_path)))
        process.send_signal(number)
        output, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    wait_for(lambda: not processes_that_name(str(tmp_path)))  # the runs went with it
    assert process.returncode == {9: -9, 2: 130, 15: 143}[number], output
    before = {trial.number: trial for trial in trials_in(tmp_path)}
    assert sweep_of(tmp_path).state == "stopped"
    again = begin(words, tmp_path)  # the same command
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output
    assert "going on with" in output
    sweep = sweep_of(tmp_path)  # there is still one folder
    assert [trial.number for trial in sweep.trials] == list(range(7))
    assert all(trial.is_over for trial in sweep.trials)
    for number, trial in before.items():
        assert sweep.trials[number].settings == trial.settings
        if trial.is_over:
            assert sweep.trials[number].runs[0] == trial.runs[0]
    assert sum(trial.name == "defaults" for trial in sweep.trials) == 1
    journal = (sweep.folder / "journal.log").read_text().splitlines()
    told = [json.loads(line) for line in journal]
    ends = Counter(line["trial_id"] for line in told if line.get("op_code") == 6 and line["state"])
    assert set(ends.values()) == {1}


@pytest.mark.usefixtures("has_optuna")
@pytest.mark.parametrize(
    "place",
    quick(
        ["fastrl.sweep.search.Search._end", "fastrl.sweep.study.Study.tell"],
        "fastrl.sweep.study.Study.tell",
    ),
)
def test_a_trial_that_was_complete_when_the_sweep_was_ended_is_not_made_again(
    tmp_path, monkeypatch, place
):
    words = small(*SEARCH, "--trials", "3", "--confirm", "0", "--seed", "1", log_dir=tmp_path)

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place, interrupted)
        assert main([*words, "--processes", "1"]) == 130
    before = sweep_of(tmp_path).trials[0].complete_runs
    assert main([*words, "--processes", "1"]) == 0
    trials = sweep_of(tmp_path).trials
    assert trials[0].complete_runs == before
    assert [trial.state for trial in trials] == ["complete"] * 3


@pytest.mark.slow
@pytest.mark.usefixtures("has_optuna")
def test_a_finished_sweep_goes_on_when_it_gets_more_trials(tmp_path):
    words = small(*SEARCH, "--trials", "3", "--confirm", "0", log_dir=tmp_path)
    assert main(words) == 0
    folder = sweep_of(tmp_path).folder
    assert main(["--resume", str(folder), "--trials", "5"]) == 0
    assert len(sweep_of(tmp_path).trials) == 5


@pytest.mark.slow
@pytest.mark.usefixtures("has_optuna")
def test_the_same_command_begins_anew_after_the_end_and_where_it_is_told_to(tmp_path):
    words = small(*SEARCH, "--trials", "2", "--confirm", "0", log_dir=tmp_path)
    assert main(words) == 0
    assert main(words) == 0
    assert main([*words, "--anew"]) == 0
    assert len(list_sweeps(tmp_path)) == 3


@pytest.mark.slow
def test_a_grid_that_was_killed_makes_only_the_runs_that_are_left(tmp_path):
    words = small(*GRID, "--processes", "1", env_id="slow", log_dir=tmp_path)
    process = begin(words, tmp_path)
    try:
        wait_for(lambda: any(trial.complete_runs for trial in trials_in(tmp_path)))
    finally:
        process.kill()
        process.communicate()
    before = trials_in(tmp_path)[0].complete_runs[0]
    assert main(words) == 0
    trial = sweep_of(tmp_path).trials[0]
    assert trial.complete_runs[0] == before
    assert len(list((trial.folder / "ppo").glob(f"*/slow_default_{before.seed}"))) == 1


@pytest.mark.usefixtures("no_curves")
def test_a_user_without_a_key_sweeps_a_task_of_his_own(tmp_path, monkeypatch, capsys):
    blocked = tmp_path / "config"
    blocked.write_text("")  # the folder of the key can neither be read nor made
    monkeypatch.setenv("XDG_CONFIG_HOME", str(blocked))
    assert main(small(*ONE_SEED, "--agent", "my:Own", log_dir=tmp_path)) == 0, (
        capsys.readouterr().err
    )


def test_the_processes_of_a_stopped_run_are_gone(tmp_path):
    from fastrl.sweep.pool import Job, Pool

    with Pool(1) as pool:
        words = ("--env-id", "endless")
        running = pool.start(Job("ppo", words, tmp_path, 1))
        group = running.process.pid
        wait_for(lambda: len(group_of(group)) == 2)  # the run and its child
        assert os.getpgid(0) != group
        pool.stop(running)
        wait_for(lambda: not group_of(group), 5)  # a killed child is seen for a moment
        assert pool.has_room


@pytest.mark.slow
@pytest.mark.usefixtures("has_optuna")
def test_the_processes_of_a_pruned_trial_are_gone(tmp_path):
    main(small(*SEARCH, "--trials", "14", "--confirm", "0", env_id="slow", log_dir=tmp_path))
    pruned = [trial for trial in sweep_of(tmp_path).trials if trial.state == "pruned"]
    assert pruned
    assert processes_that_name(str(tmp_path)) == []


@pytest.mark.usefixtures("no_curves")
def test_a_sweep_that_runs_is_left_alone(tmp_path, capsys):
    from fastrl.runs.folder import owned

    main(small(*ONE_SEED, log_dir=tmp_path))
    folder = sweep_of(tmp_path).folder
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with owned(folder):
        assert main(["--resume", str(folder), "--processes", "7"]) == 2
    assert "is being written by another process" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_folder_that_is_no_sweep_is_left_as_it_is(tmp_path, capsys):
    assert main(["--resume", str(tmp_path)]) == 2
    assert "it has no sweep.yaml" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "handler", quick([signal.SIG_DFL, signal.SIG_IGN], signal.SIG_IGN), ids=["shell", "background"]
)
def test_a_sweep_names_its_process_by_which_it_is_stopped(tmp_path, handler):
    words = small(*GRID, "--processes", "1", env_id="endless", log_dir=tmp_path)
    process = begin(words, tmp_path, handler)
    wait_for(lambda: list(tmp_path.glob("sweeps/*/*/ppo")))
    folder = sweep_of(tmp_path).folder
    assert stop(folder).pid == process.pid
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert sweep_of(tmp_path).state == "stopped"
    assert read_process(folder) is None
    assert processes_that_name(str(tmp_path)) == []


# Sweeps from elsewhere.


@pytest.fixture
def theirs(tmp_path, monkeypatch) -> Path:
    """Returns the folder of another user's grid on code of theirs, which was cut short."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "theirs"))
    with monkeypatch.context() as patch:
        patch.setattr("fastrl.sweep.grid._train", lambda *arguments: os.kill(os.getpid(), 2))
        assert main(small(*ONE_SEED, env_id="evil:make", log_dir=tmp_path)) == 130
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    return sweep_of(tmp_path).folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "words",
    [(), ("--trial", "0"), ("--trial", "0", "--seed", "1..2"), ("--trial", "0", "--dry-run")],
    ids=" ".join,
)
def test_a_sweep_of_another_user_runs_no_code_unless_it_is_trusted(theirs, words, tmp_path, capsys):
    before = contents(theirs)
    assert main(["--resume", str(theirs), *words]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith(f"error: {theirs} wants to run evil:make(), but is not signed")
    assert contents(theirs) == before


@pytest.mark.usefixtures("no_curves")
def test_a_sweep_that_was_trusted_is_gone_on_with(theirs, tmp_path):
    assert main(["--resume", str(theirs), "--trust"]) == 0
    assert sweep_of(tmp_path).state == "finished"
    assert main(["--resume", str(theirs)]) == 0


@pytest.mark.usefixtures("no_curves")
def test_a_sweep_of_another_user_is_not_what_the_same_command_goes_on_with(
    theirs, tmp_path, capsys
):
    before = contents(theirs)
    assert main(small(*ONE_SEED, env_id="evil:make", log_dir=tmp_path)) == 0
    told = capsys.readouterr().out
    assert f"{theirs}, of the same command, was cut short, but is not signed as yours" in told
    assert "going on with" not in told
    assert contents(theirs) == before
    assert len(list_sweeps(tmp_path)) == 2


@pytest.mark.usefixtures("no_curves")
def test_a_grid_trains_what_was_asked_for_whatever_its_trials_say(tmp_path):
    words = small(*ONE_SEED, log_dir=tmp_path)
    main(words)
    trial = sweep_of(tmp_path).trials[0]
    changed = {**vars(trial), "settings": {"callback": ["evil:A"]}, "runs": (), "state": "waiting"}
    Trial(**changed).save()
    assert main(["--resume", str(sweep_of(tmp_path).folder)]) == 0
    assert sweep_of(tmp_path).trials[0].settings == trial.settings


@pytest.mark.slow
@pytest.mark.usefixtures("has_optuna")
def test_a_search_does_not_train_with_what_it_did_not_try(tmp_path, capsys):
    main(small(*SEARCH, "--trials", "2", "--confirm", "0", log_dir=tmp_path))
    sweep = sweep_of(tmp_path)
    for trial in sweep.trials:
        with open(trial.folder / "settings.yaml", "a") as file:
            file.write("callback: [evil:A]\n")
    for words in (("--trial", "best"), ("--trials", "4")):
        assert main(["--resume", str(sweep.folder), *words]) == 2
        assert "sets callback=['evil:A'], which this sweep does not try" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("has_optuna")
def test_the_preset_file_of_a_search_on_own_code_is_signed(tmp_path):
    words = small(*SEARCH, "--trials", "2", "--confirm", "0", env_id="my:make", log_dir=tmp_path)
    assert main(words) == 0
    file = sweep_of(tmp_path).folder / "best.yaml"
    settings = yaml.safe_load(file.read_text())
    check_named(settings, settings["signature"], file)
    assert parse("ppo", ["--preset", str(file)]).config.env_id == "my:make"


# What was found.


@pytest.mark.slow
@pytest.mark.usefixtures("has_optuna")
def test_trial_trains_with_what_a_trial_found(tmp_path, capfd):
    main(small(*SEARCH, "--trials", "3", "--confirm", "0", log_dir=tmp_path))
    sweep = sweep_of(tmp_path)
    words = ["--trial", "1", "--log-dir", str(tmp_path), "--gamma", "0.5", "--dry-run"]
    assert main(words) == 0
    said = capfd.readouterr().out
    rate = sweep.trials[1].settings["learning_rate"]
    assert f"learning_rate={rate}  ({sweep.trials[1].folder}/settings.yaml)" in said
    assert "gamma=0.5  (yours)" in said
    assert main(["--trial", "7", "--log-dir", str(tmp_path)]) == 2
    assert "has the trials 0 to 2, or best" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("has_optuna")
def test_trial_with_several_seeds_is_a_grid_of_them(tmp_path):
    main(small(*SEARCH, "--trials", "2", "--confirm", "0", log_dir=tmp_path))
    first = sweep_of(tmp_path).folder
    words = ["--trial", "best", "--resume", str(first), "--seed", "1..4"]
    assert main([*words, "--log-dir", str(tmp_path)]) == 0
    sweep = list_sweeps(tmp_path)[0]
    assert [run.seed for run in sweep.trials[0].complete_runs] == [1, 2, 3, 4]


# Reading.


def test_settings_that_decide_are_told_from_those_that_do_not():
    trials = [
        Trial(number, {"rate": 10.0 ** -(number % 5), "word": "ab"[number % 2]}, state="complete")
        for number in range(20)
    ]
    trials = [Trial(**{**vars(x), "value": -abs(x.number % 5 - 2.0)}) for x in trials]
    shares = importance(trials)
    assert list(shares) == ["rate", "word"]
    assert shares["rate"] > 0.8
    assert shares["word"] < 0.1
    assert importance(trials[:5]) == {}


@pytest.mark.usefixtures("no_curves")
def test_what_is_damaged_is_named_and_the_rest_is_read(tmp_path):
    main(small(*ONE_SEED, log_dir=tmp_path))
    sweep = sweep_of(tmp_path)
    (sweep.trials[0].folder / "trial.json").write_text('{"number": 0}')
    (sweep.folder / "summary.json").write_text("{")
    (sweep.folder / "status.json").write_text("[]")
    again = sweep_of(tmp_path)
    assert [trial.number for trial in again.trials] == [1]
    assert len(again.faults) == 1
    assert again.state == "stopped"
    (sweep.folder / "sweep.yaml").write_text("kind: search\n")
    with pytest.raises(ValueError, match="damaged"):
        read_sweep(sweep.folder)
    assert list_sweeps(tmp_path) == []


def test_folders_of_sweeps_that_begin_at_once_differ(tmp_path):
    assert len({create(tmp_path) for _ in range(3)}) == 3
