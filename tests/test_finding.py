"""A dry run refuses modules and names that do not exist, and imports none of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fastrl import cli

MODULE = """
raise SystemExit("imported")
import gymnasium as gym
from somewhere import other, third as renamed
def make_env(): ...
class Env:
    def method(self): ...
def _define():
    global late
    late = 1
if True:
    maker = lambda: inside
    first, (second, *rest) = 1, (2, 3)
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Modules that end the process when they are imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("my_task.py").write_text(MODULE)
    Path("my_package/inner").mkdir(parents=True)
    Path("my_package/__init__.py").write_text(MODULE)
    Path("my_package/inner/task.py").write_text(MODULE)
    Path("starred.py").write_text("from somewhere import *")
    Path("hidden.py").write_text("globals()['make'] = print")
    Path("broken.py").write_text("def (:")


@pytest.mark.parametrize(
    "name",
    [
        "my_task:make_env", "my_task:Env", "my_task:Env.method", "my_task:other", "my_task:renamed",
        "my_task:maker", "my_task:rest", "my_task:late", "my_package:make_env",
        "my_package.inner.task:make_env", "my_task:Task-v0", "starred:any", "hidden:make",
    ],
)  # fmt: skip
def test_what_may_be_there_passes(modules, name):
    cli.parse("ppo", ["--env-id", name, "--dry-run"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--env-id nothere:make", "env_id names nothere:make, but there is no module 'nothere'"),
        ("--env-id my_package.nix:make", "but there is no module 'my_package.nix'"),
        ("--env-id my_task.inner:make", "but there is no module 'my_task.inner'"),
        ("--env-id my_task:make_en", "but my_task has no 'make_en'; did you mean make_env?"),
        ("--env-id my_task:inside", "but my_task has no 'inside'"),
        ("--env-id my_task:method", "but my_task has no 'method'"),
        ("--env-id broken:make", "but broken cannot be read: invalid syntax"),
        ("--env-id os:system", "but os comes with Python and has no environments"),
        ("--agent nothere:Class", "agent names nothere:Class, but there is no module"),
        ("--agent fastrl.ppo:PP", "but fastrl.ppo has no 'PP'; did you mean PPO?"),
        ("--network my_task:nix", "network names my_task:nix, but my_task has no 'nix'"),
        ("--network actor=my_task:Env critic=nix:A", "network names nix:A, but there is no module"),
        (
            "--callback my_task:Env --callback my_task:nix",
            "callback names my_task:nix, but my_task",
        ),
        ("--lr-schedule nothere:f", "lr_schedule names nothere:f, but there is no module"),
    ],
)
def test_what_is_not_there_is_refused(modules, words, message):
    with pytest.raises(ValueError) as told:
        cli.parse("ppo", [*words.split(), "--dry-run"])
    assert message in str(told.value)


def test_the_file_that_names_what_is_not_there_is_told(modules):
    Path("a.yaml").write_text("env_id: nothere:make")
    with pytest.raises(ValueError, match=r"^env_id=nothere:make \(from a\.yaml\): env_id names "):
        cli.parse("ppo", ["--config", "a.yaml", "--dry-run"])


def test_a_dry_run_imports_neither_torch_nor_what_is_named(modules):
    code = (
        "import sys\nfrom fastrl import cli\n"
        "status = cli.main('ppo', ['--dry-run', '--env-id', 'my_package.inner.task:make_env'])\n"
        "sys.exit(3 if {'torch', 'my_package'} & sys.modules.keys() else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
