"""The whole program: `python -m fastrl.ppo`, its output, and one line for each mistake."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fastrl.cli import main
from fastrl.config.ppo import PPOConfig
from fastrl.runs.checkpoint import save_checkpoint

TINY = shlex.split(
    "--preset none --num-envs 2 --num-steps 16 --per-rank-batch-size 32 --update-epochs 1 "
    "--hidden-sizes 8 --accelerator cpu --engine eager --eval-episodes 2 --total-timesteps 128"
)


def run_python(*words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        input=typed,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A finished run in a process of its own, with RuntimeWarnings as errors, and its folder."""
    log_dir = tmp_path_factory.mktemp("logs")
    program = ["-W", "error::RuntimeWarning", "-m", "fastrl.ppo"]
    done = run_python(*program, "--env-id", "CartPole-v1", "--log-dir", str(log_dir), *TINY)
    assert done.returncode == 0, done.stderr
    (folder,) = log_dir.glob("ppo/*/*")
    return done, folder


# The list of programs


def test_reader_that_went_away_ends_the_list_without_a_word():
    process = subprocess.Popen(
        [sys.executable, "-m", "fastrl"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert (process.wait(60), process.stderr.read()) == (141, "")
    process.stderr.close()


# A run that goes well


def test_run_says_nothing_on_stderr(run):
    assert run[0].stderr == ""


def test_output_that_is_no_terminal_gets_a_few_plain_lines(run):
    lines = run[0].stdout.splitlines()
    assert len(lines) <= 12
    assert "\x1b" not in run[0].stdout and "\r" not in run[0].stdout


def test_output_begins_with_the_task_and_ends_with_the_folder(run):
    lines = run[0].stdout.splitlines()
    assert lines[0] == "ppo on CartPole-v1, seed 42"
    assert lines[-1] == f"run folder: {run[1]}"


def test_folder_holds_all_that_was_promised(run):
    names = {path.name.partition(".")[0] for path in run[1].iterdir()}
    assert names == {"config", "metrics", "summary", "events", "checkpoints", "videos"}


def test_saved_config_starts_the_same_run_again(run, tmp_path):
    settings = yaml.safe_load((run[1] / "config.yaml").read_text())
    assert settings.pop("algo") == "ppo"
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump({**settings, "log_dir": str(tmp_path)}))
    assert main("ppo", ["--config", str(file), "--preset", "none"]) == 0
    (again,) = tmp_path.glob("ppo/*/*")
    first, second = (json.loads((x / "summary.json").read_text()) for x in (run[1], again))
    for name in ("train_return_mean", "eval_return_mean", "valid_env_steps"):
        assert first[name] == second[name]


@pytest.mark.slow
def test_class_of_the_package_is_the_class_that_trained(tmp_path):
    code = (
        "import runpy, sys, fastrl.training.trainer as trainer; seen = []\n"
        "fit = trainer.AgentTrainer.fit\n"
        "def noted(self, agent, env=None): seen.append(agent); return fit(self, agent, env)\n"
        "trainer.AgentTrainer.fit = noted\n"
        "try: runpy.run_module('fastrl.ppo', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "import fastrl; assert type(seen[0]) is fastrl.PPO, type(seen[0])"
    )
    done = run_python("-c", code, *TINY, "--log-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_import_of_the_package_imports_no_torch():
    code = "import sys, fastrl; fastrl.__version__; sys.exit('torch' in sys.modules)"
    assert run_python("-c", code).returncode == 0


def test_mistakes_and_help_are_answered_before_torch_is_imported(tmp_path):
    code = (
        "import sys\nfrom fastrl.cli import main\n"
        f"for words in (['--help'], ['--env', 'x'], ['--resume', {str(tmp_path)!r}]):\n"
        "    try: main('ppo', words)\n"
        "    except SystemExit: pass\n"
        "    if 'torch' in sys.modules: sys.exit(f'imported for {words}')\n"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


# One line for each mistake


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on stderr that a mistake gets."""
    assert main("ppo", words) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: ") and stderr.count("\n") == 1, stderr
    return stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--env-id LunarLander-v1", "other versions: LunarLander-v2"),
        ("--env-id CartPol-v1", "nearest: CartPole-v1"),
        ("--env-id no_such_module:make", "no module 'no_such_module'"),
        ("--env-id SearchAndRescue-v0", "SearchAndRescue-v0: action space Box"),
        ("--env-id toy_envs:RaisingEnv", "toy_envs:RaisingEnv: step of env 0 raised"),
        ("--env-id toy_envs:NanEnv", "toy_envs:NanEnv: environment 0 returned a non-finite"),
        ("--per-rank-batch-size 33", "per_rank_batch_size=33 is larger than a rollout"),
        ("--num-envs 0", "num_envs must be at least 1, not 0"),
        ("--num-envs 3 --num-pools 2", "num_envs must be even, not 3"),
        ("--total-timesteps 31", "total_timesteps=31 is less than one rollout of 32 steps"),
        ("--share-data", "share_data has no effect with one rank"),
        ("--strategy ddp", "strategy=ddp has no effect"),
        ("--learning-rate 1e30", "CartPole-v1: Gradients/grad_norm is|CartPole-v1: Loss/"),
        ("--mask-vel --env-id FrozenLake-v1", "FrozenLake-v1"),
    ],
)
def test_mistake_is_answered_in_one_line(tmp_path, capsys, words, expected):
    flags = dict(zip(TINY[::2], TINY[1::2], strict=True))
    tiny = [word for flag in flags if flag not in words for word in (flag, flags[flag])]
    line = answer(capsys, *tiny, "--log-dir", str(tmp_path), *words.split())
    assert any(part in line for part in expected.split("|")), line


def test_unwritable_log_dir_is_answered_in_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    line = answer(capsys, *TINY, "--log-dir", str(tmp_path / "file"))
    assert str(tmp_path / "file") in line


def test_config_with_an_unknown_name_is_answered_in_one_line(tmp_path, capsys):
    (tmp_path / "settings.yaml").write_text("learning_rat: 1e-3\n")
    line = answer(capsys, "--config", str(tmp_path / "settings.yaml"))
    assert "did you mean learning_rate" in line


def test_folder_that_is_no_run_is_answered_in_one_line(tmp_path, capsys):
    assert "is not a run folder" in answer(capsys, "--resume", str(tmp_path))
    assert "does not exist" in answer(capsys, "--resume", str(tmp_path / "nowhere"))


@pytest.fixture
def killed_run(tmp_path: Path) -> Path:
    """The folder of a run that wrote its config and nothing else."""
    (tmp_path / "checkpoints").mkdir()
    settings = PPOConfig(env_id="CartPole-v1", hidden_sizes=(8,), accelerator="cpu").to_dict()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"algo": "ppo", **settings}))
    return tmp_path


def test_run_without_a_checkpoint_is_answered_in_one_line(killed_run, capsys):
    assert "has no whole checkpoint" in answer(capsys, "--resume", str(killed_run))


def test_truncated_checkpoint_is_answered_in_one_line(run, killed_run, capsys):
    whole = (run[1] / "checkpoints" / "last.pt").read_bytes()
    (killed_run / "checkpoints" / "last.pt").write_bytes(whole[: len(whole) // 2])
    assert "is cut short" in answer(capsys, "--resume", str(killed_run))


@pytest.mark.parametrize(
    "kind", ["pickle", "text", "other state", "other agent", "episodes", "recent_returns"]
)
def test_foreign_checkpoint_is_answered_in_one_line(killed_run, capsys, kind):
    path = killed_run / "checkpoints" / "last.pt"
    if kind == "pickle":
        import torch

        torch.save({"counters": {"env_steps": 1}}, path)
    elif kind == "text":
        path.write_text("not a checkpoint")
    elif kind == "other agent":
        state = {"counters": {"env_steps": 1}, "agent": 3, "torch_random": 0}
        save_checkpoint(path, state)
    elif kind in ("episodes", "recent_returns"):  # counters of a wrong type
        import torch

        counters = {"env_steps": 1, kind: {"a": 1}}
        save_checkpoint(path, {"counters": counters, "agent": {}, "torch_random": torch.zeros(1)})
    else:
        save_checkpoint(path, {"counters": {"env_steps": 1, "surprises": 2}})
    assert "checkpoint" in answer(capsys, "--resume", str(killed_run))


def test_truncated_run_folder_checkpoint_gives_way_to_an_older_one(run, tmp_path, capsys):
    words = [*TINY, "--log-dir", str(tmp_path), "--checkpoint-every", "32"]
    assert main("ppo", words) == 0
    (folder,) = tmp_path.glob("ppo/*/*")
    last = folder / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:100])
    assert main("ppo", ["--resume", str(folder), "--total-timesteps", "160"]) == 0
    assert json.loads((folder / "summary.json").read_text())["total_env_steps"] == 160
