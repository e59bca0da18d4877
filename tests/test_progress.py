"""The live line: tidy on a terminal, a plain line now and then without one."""

import io
import math
import os
import re
import subprocess
import sys

import pytest

from fastrl import PPO, SAC
from fastrl.runs.progress import Progress, _status, waiting


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def as_terminal(monkeypatch) -> Terminal:
    """Makes stderr a terminal; not a fixture, because pytest sets stderr anew after those."""
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_no_line_is_live_when_stderr_is_no_terminal(capsys):
    with Progress(1000) as progress:
        progress.update(500, 100.0, 1.0)
    assert not progress.enabled
    assert capsys.readouterr() == ("", "")


def test_plain_line_is_printed_every_half_minute_when_stderr_is_no_terminal(monkeypatch, capsys):
    seconds = [100.0]
    monkeypatch.setattr("fastrl.runs.progress.perf_counter", lambda: seconds[0])
    shown = []
    with Progress(1000) as progress:
        for now, env_steps in [(129, 1), (130, 2), (131, 3), (159, 4), (161, 5), (190, 6)]:
            seconds[0] = now
            progress.update(env_steps, 1.0, -2.5)
            if out := capsys.readouterr().out:
                shown.append((now, out))
    assert [now for now, _ in shown] == [130, 161]
    assert shown[0][1] == "2/1,000 steps  1/s  return -2.5  left 16:38\n"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("kind", "task"), [(PPO, "CartPole-v1"), (SAC, "Pendulum-v1")])
def test_lines_come_between_rows_of_metrics_too(kind, task, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("fastrl.runs.progress._SECONDS_BETWEEN_LINES", 0.0)
    sizes = {"num_envs": 2, "num_steps": 16, "per_rank_batch_size": 16, "total_timesteps": 96}
    rare = {"learning_starts": 32, "log_every": 1_000_000} if kind is SAC else {}
    small = {"hidden_sizes": (8,), "accelerator": "cpu", "eval_episodes": 0, **sizes, **rare}
    kind(task, preset="none", log_dir=tmp_path, **small).learn()
    lines = re.findall(r"^\d+/96 steps", capsys.readouterr().out, re.MULTILINE)
    assert lines == ["32/96 steps", "64/96 steps", "96/96 steps"]


def test_nothing_is_shown_when_stderr_is_closed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    with Progress(100) as progress:
        progress.update(50, 10.0)
    assert capsys.readouterr() == ("", "")


def test_print_goes_to_stdout_when_stderr_is_no_terminal(capsys):
    with Progress(1000) as progress:
        progress.print("[0] saved")
    assert capsys.readouterr() == ("[0] saved\n", "")


def test_rich_is_not_imported_when_the_line_is_off():
    code = (
        "import sys\nfrom fastrl.runs.progress import Progress\n"
        "with Progress(10, enabled=False) as progress: progress.update(5, 1.0)\n"
        "assert 'rich' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=_environment())


def test_the_line_shows_steps_speed_return_and_time_left(monkeypatch):
    terminal = as_terminal(monkeypatch)
    with Progress(1000) as progress:
        progress.update(100, 100.0, -2.5)
        progress.update(500, 100.0, -2.5)
    shown = terminal.getvalue()
    for part in ("500/1,000 steps", "100/s", "return -2.5", "left 0:05"):
        assert part in shown


def test_the_last_news_stay_on_the_line_however_soon_they_come(monkeypatch):
    terminal = as_terminal(monkeypatch)
    with Progress(1000) as progress:
        for env_steps in range(1, 1001):
            progress.update(env_steps, 100.0)
    assert "1,000/1,000 steps" in terminal.getvalue()


def test_the_cursor_is_given_back_after_an_exception(monkeypatch):
    terminal = as_terminal(monkeypatch)
    with pytest.raises(KeyboardInterrupt), Progress(1000):
        raise KeyboardInterrupt
    assert terminal.getvalue().rfind("\x1b[?25h") > terminal.getvalue().rfind("\x1b[?25l") >= 0
    assert sys.stderr is terminal


def test_a_stdout_that_is_a_file_keeps_what_is_printed(monkeypatch, capsys):
    terminal = as_terminal(monkeypatch)
    with Progress(1000) as progress:
        progress.print("for the file")
        print("and this")
    assert capsys.readouterr().out == "for the file\nand this\n"
    assert "for the file" not in terminal.getvalue()


def test_prints_of_others_go_above_the_line(monkeypatch):
    terminal = as_terminal(monkeypatch)
    monkeypatch.setattr(sys, "stdout", terminal)
    with Progress(1000) as progress:
        progress.update(500, 100.0, 1.0)
        print("[bold] from elsewhere")
        progress.update(600, 100.0, 1.0)
    shown = terminal.getvalue()
    assert "[bold] from elsewhere" in shown
    assert "steps" in shown[shown.index("from elsewhere") :]


def test_updates_outside_the_with_do_nothing(monkeypatch):
    terminal = as_terminal(monkeypatch)
    progress = Progress(1000)
    progress.update(500, 100.0, 1.0)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("speed", [0.0, float("nan"), float("inf")])
def test_a_senseless_speed_is_left_out(speed):
    assert _status(5, 10, speed, None) == "5/10 steps"


def test_a_mean_return_of_no_episodes_is_left_out():
    assert "return" not in _status(5, 10, 1.0, float("nan"))


def test_time_left_counts_in_hours_when_it_is_long():
    assert _status(0, 3661, 1.0, None, 3661).endswith("left 1:01:01")


@pytest.mark.parametrize(
    ("updates", "expected"),
    [
        ([(20, 1.0), (30, 1.0)], 0),  # beyond the end: never negative
        ([(1, 1 / 3600)], math.nan),  # the first update alone waited for a compiler
        ([(1, 1 / 3600), (5, 5 / 3602)], 2.5),  # two steps a second since then
        ([(4, math.inf), (5, 0.0)], math.nan),
    ],
)
def test_time_left_is_that_of_the_latest_steps(updates, expected):
    progress = Progress(10, enabled=False)
    for env_steps, speed in updates:
        progress.update(env_steps, speed)
    assert progress._seconds_left(*updates[-1]) == pytest.approx(expected, nan_ok=True)


def test_stage_has_a_bar_on_a_terminal(monkeypatch):
    terminal = as_terminal(monkeypatch)
    with Progress(None) as progress, progress.stage("evaluation", "episodes") as show:
        show(3, 100, 1234)
        assert progress._line is not None
        progress._line.refresh()
    assert "evaluation: 3/100 episodes, step 1,234" in terminal.getvalue()


def test_long_stage_has_a_line_now_and_then_without_a_terminal(monkeypatch, capsys):
    seconds = [0.0]
    monkeypatch.setattr("fastrl.runs.progress.perf_counter", lambda: seconds[0])
    with Progress(1000) as progress, progress.stage("evaluation", "episodes") as show:
        for second in range(1, 50):
            seconds[0] = float(second)
            show(second, 100)
    assert capsys.readouterr().out == "".join(
        f"evaluation: {second}/100 episodes\n" for second in (5, 35)
    )


def test_waiting_is_one_line_without_a_terminal(capsys):
    with waiting("compiling"):
        pass
    assert capsys.readouterr() == ("compiling\n", "")


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
