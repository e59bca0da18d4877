"""Files from elsewhere run no code: it is imported only if the user names or signed it."""

from __future__ import annotations

import itertools
import re
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from quick import quick

from fastrl import PPO, cli, evaluate, export
from fastrl.config.trust import check_named, code_named_in, signature_of
from fastrl.envs.make import make_env
from fastrl.runs.checkpoint import load_checkpoint, save_checkpoint

SMALL: dict[str, Any] = {
    "num_envs": 2,
    "num_steps": 16,
    "per_rank_batch_size": 32,
    "hidden_sizes": (4,),
    "eval_episodes": 0,
    "total_timesteps": 64,
    "accelerator": "cpu",
    "engine": "eager",
}
MODULE = """
import gymnasium, pathlib
pathlib.Path(__file__).with_name("imported").touch()
from os import system  # of Python, by another name
def make(marker=""):
    return gymnasium.make("CartPole-v1")
class NoEnvironment:
    def __init__(self, **kwargs):
        pathlib.Path(__file__).with_name("called").touch()
def none():
    return 3
"""


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """Returns the user's folder of settings, which is empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def module(tmp_path, monkeypatch) -> Path:
    """Returns the folder of the module `theirs`, which leaves a file there when it is imported."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "theirs.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    yield tmp_path / "modules"
    sys.modules.pop("theirs", None)


@pytest.fixture
def run(home, module, tmp_path) -> Path:
    """Returns the folder of a run of this user's on code of theirs, after which it is forgotten."""
    settings = {**SMALL, "env_kwargs": {"marker": "x"}, "log_dir": tmp_path / "logs"}
    result = PPO("theirs:make", preset="none", **settings).learn().result
    assert result is not None
    sys.modules.pop("theirs")
    (module / "imported").unlink()
    return result.folder


def by_evaluate(run: Path, *words: str) -> int:
    return evaluate.main([str(run), "--episodes", "1", *words])


def by_evaluating_a_file(run: Path, *words: str) -> int:
    return evaluate.main([str(run / "checkpoints" / "last.pt"), "--episodes", "1", *words])


def by_export(run: Path, *words: str) -> int:
    return export.main([str(run), "--out", str(run / "policy.pt"), *words])


def by_resume(run: Path, *words: str) -> int:
    return cli.main("ppo", ["--resume", str(run), "--total-timesteps", "128", *words])


COMMANDS: list[Callable[..., int]] = [by_evaluate, by_evaluating_a_file, by_export, by_resume]


def edit_config(run: Path, **changes: Any) -> None:
    path = run / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def edit_checkpoint(run: Path, **changes: Any) -> None:
    path = run / "checkpoints" / "last.pt"
    state = load_checkpoint(path)
    state["agent"]["config"].update(changes)
    save_checkpoint(path, state)


def refusal(capsys) -> str:
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1
    return told


TRUST, NAME_AGAIN = ["--trust"], ["--env-id", "theirs:make"]


@pytest.mark.parametrize("command", quick(COMMANDS, by_resume, by_export))
def test_runs_of_this_user_are_tested_exported_and_resumed_without_a_word(run, command):
    assert command(run) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_runs_of_another_user_import_nothing(run, module, home, command, capsys):
    shutil.rmtree(home)
    assert command(run) == 2
    told = refusal(capsys)
    assert "wants to run theirs:make(marker=x), but is signed by another user" in told
    assert "name it again (--env-id" in told and "--trust" in told
    assert not (module / "imported").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    quick(
        itertools.product(COMMANDS, [TRUST, NAME_AGAIN]),
        (by_resume, TRUST),
        (by_evaluate, NAME_AGAIN),
    ),
)
def test_runs_of_another_user_run_what_is_trusted_or_named_again(run, home, command, words):
    shutil.rmtree(home)
    assert command(run, *words) == 0


@pytest.mark.parametrize("command", [by_evaluate, by_export])
def test_trust_holds_too_where_the_class_is_named(run, home, command):
    shutil.rmtree(home)
    assert command(run, "--agent", "fastrl.ppo:PPO") == 2
    assert command(run, "--agent", "fastrl.ppo:PPO", "--trust") == 0


EDITS = [
    {"env_id": "theirs:other"},
    {"env_kwargs": ["marker=y"]},
    {"env_id": "os:system", "env_kwargs": ["command=exit 1"]},
    {"env_id": "CartPole-v1", "env_kwargs": ["maker=theirs:make"]},
    {"env_id": "CartPole-v1", "env_kwargs": [r'maker={a: ["theirs\x3amake"]}']},
]


@pytest.mark.parametrize(
    ("command", "changes"),
    quick(
        itertools.product(COMMANDS, EDITS),
        *itertools.product([by_resume], EDITS),
        (by_export, EDITS[0]),
    ),
    ids=lambda x: x.__name__ if callable(x) else repr(x),
)
def test_signature_is_of_the_code_and_of_its_arguments(run, module, command, changes, capsys):
    (edit_config if command is by_resume else edit_checkpoint)(run, **changes)
    assert command(run) == 2
    assert "is signed by another user, or was changed since" in refusal(capsys)
    assert not (module / "imported").exists()


@pytest.mark.parametrize("arguments", [5, [1], "x"])
def test_arguments_that_are_none_are_refused_by_name(arguments):
    with pytest.raises(ValueError, match="env_kwargs must be a list of texts"):
        code_named_in({"env_kwargs": arguments})
    assert code_named_in({"env_kwargs": {"a": "evil:make"}}) == {"env_kwargs": ["a=evil:make"]}


def test_link_in_the_folder_of_a_run_is_not_written_through(run, tmp_path, capsys):
    (tmp_path / "mine").write_text("as it was")
    (run / "metrics.csv").unlink()
    (run / "metrics.csv").symlink_to(tmp_path / "mine")
    assert by_resume(run) == 2
    assert "metrics.csv is a link; only a regular file may be replaced" in refusal(capsys)
    assert (tmp_path / "mine").read_text() == "as it was"


@pytest.mark.parametrize("name", ["checkpoints", "videos"])
def test_folder_that_is_a_link_to_that_of_another_run_is_not_written_to(
    run, tmp_path, capsys, name
):
    (run / name).rename(tmp_path / "of_another")
    (run / name).symlink_to(tmp_path / "of_another")
    before = {path: path.read_bytes() for path in (tmp_path / "of_another").iterdir()}
    assert by_resume(run) == 2
    assert f"{name} is a link; a run writes to folders of its own" in refusal(capsys)
    assert {path: path.read_bytes() for path in (tmp_path / "of_another").iterdir()} == before


def test_signature_that_is_taken_away_or_of_another_kind_signs_nothing(run, module):
    path = run / "checkpoints" / "last.pt"
    state = load_checkpoint(path)
    for signature in (None, 3, "", "0" * 64, "\u00e9", [state["signature"]], b"x".hex()):
        save_checkpoint(path, {**state, "signature": signature})
        with pytest.raises(ValueError, match="wants to run theirs:make"):
            PPO.load(path)
    assert not (module / "imported").exists()


def test_loading_from_python_takes_trust_or_the_name(run, module, home):
    shutil.rmtree(home)
    with pytest.raises(ValueError, match=r"wants to run theirs:make\(marker=x\)"):
        PPO.load(run)
    with pytest.raises(ValueError, match="wants to run theirs:make"):
        PPO.load(run, env_kwargs={"marker": "mine"})
    assert not (module / "imported").exists()
    assert PPO.load(run, trust=True).envs[0].env_id == "theirs:make"
    assert PPO.load(run, "CartPole-v1", env_kwargs={}).envs[0].env_id == "CartPole-v1"
    assert PPO.load(run, env_id="CartPole-v1", env_kwargs={}).config.env_id == "CartPole-v1"


def test_class_of_a_script_is_signed_together_with_its_environment(home, module, monkeypatch):
    class Mine(PPO):
        pass

    Mine.__module__, Mine.__qualname__ = "__main__", "Mine"
    script = ModuleType("__main__")
    monkeypatch.setattr(script, "Mine", Mine, raising=False)
    monkeypatch.setitem(sys.modules, "__main__", script)
    Mine("theirs:make", preset="none", **SMALL).save(module / "agent.pt")
    assert type(Mine.load(module / "agent.pt")) is Mine
    shutil.rmtree(home)
    with pytest.raises(ValueError, match="wants to run theirs:make"):
        Mine.load(module / "agent.pt")


PARTS_OF_PYTHON = ["os:system", "subprocess:run", "builtins:exec", "pip:main"]


@pytest.mark.parametrize("env_id", quick(PARTS_OF_PYTHON, "os:system", "pip:main"))
def test_trust_makes_no_environment_of_a_part_of_python(run, env_id, capsys):
    edit_checkpoint(run, env_id=env_id, env_kwargs=["command=exit 1"])
    assert by_evaluate(run, "--trust") == 2
    assert "comes with Python and has no environments" in refusal(capsys)


@pytest.mark.parametrize("env_id", ["this:x", "os.path:join", "antigravity:CartPole-v1", "os:"])
def test_part_of_python_is_not_even_imported(env_id):
    before = set(sys.modules)
    with pytest.raises(ValueError, match="comes with Python"):
        make_env(env_id, 1)
    assert not {"this", "antigravity"} & (set(sys.modules) - before)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("system", "comes with Python"),
        ("NoEnvironment", "is a class, but not a gymnasium.Env"),
        ("none", "it returned a int, not a gymnasium.Env"),
        ("pathlib", "has no callable"),
    ],
)
def test_what_is_imported_must_be_or_make_an_environment(module, name, fault):
    with pytest.raises(ValueError, match=fault):
        make_env(f"theirs:{name}", 1)
    assert not (module / "called").exists()


# Files of settings


@pytest.mark.parametrize(
    "text",
    [
        "env_id: os:system",
        "env_id: 'subprocess:run'\nenv_kwargs: {args: 'exit 1'}",
        "env_id: importlib:import_module",
        "env_id: CartPole-v1\nenv_kwargs: {maker: 'os:system'}",
        "env_id: CartPole-v1\nenv_kwargs: ['maker=[{x: \"os:system\"}]']",
    ],
)
def test_file_of_settings_names_no_part_of_python(text, tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(text)
    assert cli.main("ppo", ["--config", str(tmp_path / "a.yaml")]) == 2
    assert "a part of Python itself" in refusal(capsys)


def test_file_of_settings_that_the_user_gives_may_name_modules(tmp_path):
    (tmp_path / "a.yaml").write_text("env_id: toy_envs:EndlessEnv\nenv_kwargs: {time_limit: 5}")
    assert cli.parse("ppo", ["--config", str(tmp_path / "a.yaml")]).config.env_kwargs


def test_config_of_a_run_is_a_file_of_settings(run):
    command = cli.parse("ppo", ["--config", str(run / "config.yaml")])
    assert command.config.env_id == "theirs:make"


def test_trust_that_nothing_asks_for_is_refused():
    with pytest.raises(
        ValueError, match="--trust has no effect without --resume, --config or --preset FILE"
    ):
        cli.parse("ppo", ["--trust"])


# The key

CODE = {"env_id": "my.module:make", "env_kwargs": ["a=1"]}


def test_key_is_the_users_alone_and_is_made_once(home):
    first = signature_of(CODE)
    (key,) = (home / "fastrl").iterdir()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert signature_of(CODE) == first and re.fullmatch("[0-9a-f]{64}", first["signature"])
    assert signature_of({**CODE, "env_kwargs": []}) != first
    check_named(CODE, first["signature"], "file")


def test_what_names_no_code_needs_no_key(home):
    assert signature_of({"env_id": "CartPole-v1", "env_kwargs": ["a=http://x", "b=12:30"]}) == {}
    assert code_named_in({}) == {} and not home.exists()


def spoil_by_mode(key: Path) -> None:
    key.chmod(0o644)


def spoil_by_link(key: Path) -> None:
    shutil.move(key, key.with_name("other"))
    key.symlink_to(key.with_name("other"))


def spoil_by_length(key: Path) -> None:
    key.write_bytes(b"")


@pytest.mark.parametrize("spoil", [spoil_by_mode, spoil_by_link, spoil_by_length])
def test_key_that_others_may_know_signs_nothing(home, spoil, caplog):
    signature = signature_of(CODE)["signature"]
    spoil(home / "fastrl" / "key")
    assert signature_of(CODE) == {}
    assert "this run is not signed as yours" in caplog.text
    with pytest.raises(ValueError, match="wants to run"):
        check_named(CODE, signature, "file")


def test_run_goes_on_unsigned_where_no_key_can_be_written(home, caplog):
    home.write_text("a file where the folder should be")
    assert signature_of(CODE) == {}
    assert signature_of(CODE) == {} and caplog.text.count("\n") == 1
    with pytest.raises(ValueError, match="was not signed as a run of yours"):
        check_named(CODE, None, "file")
