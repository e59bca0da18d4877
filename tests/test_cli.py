"""The command line: what a line of flags becomes, and how mistakes are answered."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import tyro
import yaml

import fastrl
from fastrl import cli
from fastrl.__main__ import main as list_commands
from fastrl.config.command import Command, describe
from fastrl.config.other_names import OTHER_NAMES
from fastrl.config.ppo import PPOConfig
from fastrl.config.resume import CHANGEABLE, spell
from fastrl.config.sac import SACConfig
from fastrl.presets import load_presets, preset_for, resolve
from fastrl.runs.checkpoint import save_checkpoint

# A flag is an interface: to add or rename one, say so in the changelog.
PPO_FLAGS = """
accelerator action_repeat activation_function adam_beta1 adam_beta2 adam_eps agent anneal_clip_coef
anneal_ent_coef anneal_lr backend callback capture_video checkpoint_every clip_coef clip_schedule
clip_vloss config critic_hidden_sizes cuda decoupled describe devices dry_run encoder engine
ent_coef ent_schedule env_id env_kwargs eval_episodes eval_every exp_name
exploration_resample_steps frame_stack freeze_normalization gae_lambda gamma gray_scale
hidden_sizes info_action_mask info_metrics keep_checkpoints kl_stop learning_rate log_dir
log_std_init logger lr_schedule mask_vel max_grad_norm network network_kwargs normalize_advantages
num_env_threads num_envs num_nodes num_players num_pools num_steps num_threads num_trainers
num_workers obs_keys obs_kind observation_clip observation_epsilon observation_normalization
ortho_init overlap per_rank_batch_size player_on_gpu precision preset print_config quiet
rank_timeout recompute_advantages resize resume reward_scaling scale_images seed share_data
shared_network squash_actions state_dependent_exploration state_dependent_std strategy target_kl
target_return torch_deterministic total_timesteps trust update_epochs vector vf_clip_coef
vf_clip_rule vf_coef weight_decay
"""

# Settings that no preset has, for a task that has one.
SAVED = PPOConfig(
    env_id="LunarLander-v2", seed=7, num_envs=6, total_timesteps=20_000, hidden_sizes=(32,)
)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """The folder of a run with the settings SAVED."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(SAVED.to_dict()))
    return tmp_path / "run"


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[Command]:
    """Collects the commands that `main` hands to the algorithm, which returns 0."""
    received: list[Command] = []

    def algorithm_main(command: Command) -> int:
        received.append(command)
        return 0

    _put_algorithm(monkeypatch, algorithm_main)
    return received


def _put_algorithm(monkeypatch: pytest.MonkeyPatch, algorithm_main: object) -> None:
    real_import = cli.import_module
    module = types.SimpleNamespace(main=algorithm_main)
    monkeypatch.setattr(
        cli, "import_module", lambda name: module if name == "fastrl.ppo" else real_import(name)
    )


def _help(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        cli.parse("ppo", [*argv, "--help"])
    assert exit_.value.code == 0
    return capsys.readouterr().out


def _yaml_file(folder: Path, text: str) -> str:
    path = folder / "settings.yaml"
    path.write_text(text)
    return str(path)


def test_flag_list_is_frozen(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = set(re.findall(r"(?<=--)[a-z][a-z0-9-]*", _help(capsys))) - {"help"}
    names = {name.replace("-", "_") for name in shown if not name.startswith("no-")}
    assert sorted(names) == PPO_FLAGS.split()


def test_help_parsing_and_mistakes_import_no_torch() -> None:
    words = [["--help"], ["--env-id", "LunarLander-v2"], ["--seed", "x"]]
    code = (
        "import sys\nfrom fastrl import cli\n"
        f"for argv in {words}:\n"
        "    try: cli.parse('ppo', argv)\n"
        "    except (SystemExit, ValueError): pass\n"
        "    if 'torch' in sys.modules: sys.exit(3)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_help_shows_the_preset_of_the_named_task_as_defaults(capsys) -> None:
    preset = preset_for("ppo", "LunarLander-v2")
    assert preset["num_envs"] != PPOConfig().num_envs
    plain, tuned = _help(capsys), _help(capsys, "--env-id", "LunarLander-v2")
    assert f"per rank. (default: {PPOConfig().num_envs})" in " ".join(plain.split())
    assert f"per rank. (default: {preset['num_envs']})" in " ".join(tuned.split())


def test_help_comes_in_spite_of_mistakes(capsys) -> None:
    assert "--num-envs" in _help(capsys, "--no-such-flag", "--config", "absent.yaml")


@pytest.mark.parametrize("spelling", [["--num-envs", "8"], ["--num_envs", "8"], ["--num-envs=8"]])
def test_flag_spellings_are_equal(spelling: list[str]) -> None:
    assert cli.parse("ppo", spelling).explicit == {"num_envs": 8}


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--anneal-lr"], True),
        (["--no-anneal-lr"], False),
        (["--no_anneal_lr"], False),
        (["--anneal-lr", "True"], True),
        (["--anneal-lr", "false"], False),
        (["--anneal-lr=no"], False),
        (["--anneal_lr", "yes"], True),
    ],
)
def test_switches_are_read_in_every_style(words: list[str], value: bool) -> None:
    command = cli.parse("ppo", [*words, "--seed", "1"])
    assert command.config.anneal_lr is value
    assert command.explicit == {"anneal_lr": value, "seed": 1}


def test_cuda_is_short_for_the_accelerator() -> None:
    assert cli.parse("ppo", ["--cuda", "--seed", "1"]).config.accelerator == "cuda"


@pytest.mark.parametrize("none", ["None", "none"])
def test_typed_values_are_read(none: str) -> None:
    argv = f"--hidden-sizes 32 16 --target-return -100 --total-timesteps 2e5 --target-kl {none}"
    config = cli.parse("ppo", argv.split()).config
    assert config.hidden_sizes == (32, 16)
    assert config.target_return == -100.0
    assert config.total_timesteps == 200_000 and isinstance(config.total_timesteps, int)
    assert config.target_kl is None


def test_flags_win_over_file_over_preset_over_defaults(tmp_path: Path) -> None:
    preset = preset_for("ppo", "LunarLander-v2")
    path = _yaml_file(tmp_path, "env_id: LunarLander-v2\nlearning_rate: 3e-4\nseed: 5\n")
    command = cli.parse("ppo", ["--config", path, "--seed", "9"])
    assert command.config.seed == 9
    assert command.config.learning_rate == 3e-4
    assert command.config.num_envs == preset["num_envs"]
    assert command.config.vf_coef == PPOConfig().vf_coef
    assert command.explicit == {"env_id": "LunarLander-v2", "learning_rate": 3e-4, "seed": 9}
    expected = {name: value for name, value in preset.items() if name != "learning_rate"}
    assert command.preset_settings == expected


def test_preset_belongs_to_the_task_of_the_flag_before_that_of_the_file(tmp_path: Path) -> None:
    path = _yaml_file(tmp_path, "env_id: LunarLander-v2\n")
    command = cli.parse("ppo", ["--config", path, "--env-id", "CartPole-v1"])
    assert command.preset_settings == preset_for("ppo", "CartPole-v1")


def test_preset_of_the_default_task_is_applied() -> None:
    assert cli.parse("ppo", []).preset_settings == preset_for("ppo", PPOConfig().env_id)


def test_preset_none_leaves_the_defaults() -> None:
    command = cli.parse("ppo", ["--preset", "none"])
    assert command.config == PPOConfig()
    assert command.preset_settings == {} and command.explicit == {}


def test_settings_are_checked_only_once_merged(tmp_path: Path) -> None:
    # The file alone is wrong: 1 x 8 rows cannot fill the default minibatch.
    path = _yaml_file(tmp_path, "num_envs: 1\nnum_steps: 8\n")
    argv = ["--config", path, "--preset", "none", "--per-rank-batch-size", "8"]
    assert cli.parse("ppo", argv).config.per_rank_batch_size == 8


def test_error_says_which_settings_the_preset_chose() -> None:
    with pytest.raises(ValueError, match="the preset set num_envs, num_steps; --preset"):
        cli.parse("ppo", ["--per-rank-batch-size", "1000"])


def test_batch_size_of_the_preset_is_cut_to_a_rollout_of_the_users_size() -> None:
    command = cli.parse("ppo", ["--num-envs", "1"])
    assert preset_for("ppo", "CartPole-v1")["per_rank_batch_size"] == 256
    assert command.config.per_rank_batch_size == command.config.num_steps == 32
    told = "per_rank_batch_size=32, the size of a rollout, instead of the preset's 256"
    assert told in describe(command).splitlines()
    assert "per_rank_batch_size" not in command.preset_settings


def test_batch_size_of_the_preset_is_cut_for_environments_that_were_handed_over() -> None:
    env = types.SimpleNamespace(env_id="CartPole-v1", num_envs=1)
    command = resolve(PPOConfig, "ppo", env, "auto", {})
    assert command == dataclasses.replace(cli.parse("ppo", ["--num-envs", "1"]), explicit={})
    with pytest.raises(ValueError, match="per_rank_batch_size=64 is larger than a rollout"):
        resolve(PPOConfig, "ppo", env, "auto", {"per_rank_batch_size": 64})


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ("--nmu-envs 3", "unknown flag --nmu-envs; did you mean --num-envs?"),
        ("--zzz", "unknown flag --zzz; --help lists all"),
        ("-n 3", "unknown flag -n; --help lists all"),
        ("stray", "'stray' stands before any flag; settings look like --seed 1"),
        ("--num-envs x", "--num-envs takes a whole number, not 'x'"),
        ("--num-envs 1.5", "--num-envs takes a whole number, not '1.5'"),
        ("--seed 1 2", "--seed takes a whole number, not '1 2'"),
        ("--seed", "--seed takes a whole number, and got nothing"),
        ("--gamma x --seed 1", "--gamma takes a number, not 'x'"),
        ("--target-kl x", "--target-kl takes a number or None, not 'x'"),
        ("--backend a", "--backend takes one of auto, envpool, gymnasium, not 'a'"),
        (
            "--preset a",
            "--preset takes one of auto, none, source-003, source-004, or a FILE.yaml, not 'a'",
        ),
        ("--anneal-lr maybe", "--anneal-lr takes true, false or nothing, not 'maybe'"),
        ("--no-anneal-lr 3", "--no-anneal-lr takes no value, not '3'"),
        ("--hidden-sizes x", "--hidden-sizes takes whole numbers separated by spaces, not 'x'"),
        ("--env-kwargs --seed 1", "--env-kwargs takes words separated by spaces, and got nothing"),
        ("--obs-keys", "--obs-keys takes words separated by spaces, and got nothing"),
        ("--seed 1 --seed 2", "--seed is given twice; give it once"),
        ("--num-envs=2 --num_envs 2", "--num-envs is given twice; give it once"),
        ("--anneal-lr --no-anneal-lr", "--anneal-lr is given twice; give it once"),
        ("--cuda --accelerator cpu", "--accelerator is given twice; give it once"),
        ("--rank-timeout 3", "rank_timeout=3.0 has no effect with one rank"),
        ("--eval-every 9 --eval-episodes 0", "eval_every=9 has no effect with eval_episodes=0"),
        (
            "--keep-checkpoints 9 --checkpoint-every 0",
            "keep_checkpoints=9 has no effect with checkpoint_every=0",
        ),
        (
            "--num-env-threads 2 --backend gymnasium",
            "num_env_threads=2 has no effect with gymnasium's environments, which have no threads",
        ),
        ("--gamma 2 --preset none", "gamma must be between 0 and 1, not 2.0"),
        ("--config absent.yaml", "absent.yaml does not exist; expected a YAML file of settings"),
        ("--config /", "/ is a folder; expected a YAML file of settings"),
        ("--resume absent", "absent does not exist; expected the folder of a run"),
    ],
)
def test_mistake_is_one_line_and_exit_code_2(argv: str, line: str, commands, capsys) -> None:
    assert cli.main("ppo", argv.split()) == 2
    assert capsys.readouterr() == ("", f"error: {line}\n")
    assert commands == []


@pytest.mark.parametrize(
    ("algo", "flag", "ours"),
    [
        ("ppo", "--lr", "--learning-rate"),
        ("sac", "--lr", "--policy-lr or --q-lr"),
        ("sac", "--learning-rate", "--policy-lr or --q-lr"),
        ("ppo", "--n-steps", "--num-steps"),
        ("droq", "--n-envs", "--num-envs"),
        ("ppo", "--n_envs", "--num-envs"),
        ("a2c", "--batch-size", "--per-rank-batch-size"),
        ("ppo_recurrent", "--n-epochs", "--update-epochs"),
        ("ppo", "--total-steps", "--total-timesteps"),
        ("ppo", "--env", "--env-id"),
        ("ppo", "--clip-range", "--clip-coef"),
    ],
)
def test_flags_of_other_libraries_are_answered_with_ours(algo, flag, ours) -> None:
    with pytest.raises(ValueError, match=f"^unknown flag {flag}; did you mean {ours}\\?$"):
        cli.parse(algo, [flag, "1"])


def test_settings_of_other_libraries_are_answered_with_ours() -> None:
    with pytest.raises(ValueError, match="unknown setting 'batch_size'; did you mean per_rank_b"):
        PPOConfig.from_dict({"batch_size": 64})


def test_preset_is_not_blamed_for_an_unknown_setting() -> None:
    with pytest.raises(ValueError, match=r"'lr'; did you mean learning_rate\?$"):
        resolve(PPOConfig, "ppo", "CartPole-v1", "auto", {"lr": 1e-3})


def test_names_of_other_libraries_are_none_of_ours_and_mean_some() -> None:
    all_names = set()
    for algo in ("ppo", "a2c", "ppo_recurrent", "sac", "droq"):
        names = {entry.name for entry in dataclasses.fields(cli.config_class_of(algo))}
        all_names |= names
        for other, ours in OTHER_NAMES.items():
            assert other not in names or other in ours
    assert all({*ours} <= all_names for ours in OTHER_NAMES.values())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("policy_kwargs", "; did you mean hidden_sizes or activation_function"),
        ("num_minibatches", "per_rank_batch_size? (rows of a minibatch, not their number)"),
        ("horizon_length", "; did you mean num_steps?"),
        ("mini_epochs", "; did you mean update_epochs?"),
        ("e_clip", "; did you mean clip_coef?"),
        ("num_learning_epochs", "; did you mean update_epochs?"),
        ("use_sde", "; did you mean state_dependent_exploration?"),
        ("sde_sample_freq", "; did you mean exploration_resample_steps?"),
        ("verbose", "'verbose'; --quiet prints the last line alone"),
    ],
)
def test_every_name_of_another_library_has_an_answer_from_python_and_as_a_flag(name, words) -> None:
    with pytest.raises(ValueError) as from_python:
        resolve(PPOConfig, "ppo", "CartPole-v1", "auto", {name: 1})
    assert words in str(from_python.value) and "known are" not in str(from_python.value)
    with pytest.raises(ValueError) as from_flag:
        cli.parse("ppo", ["--" + name.replace("_", "-"), "1"])
    assert str(from_flag.value).startswith(f"unknown flag --{name.replace('_', '-')}; ")
    assert "--help lists" not in str(from_flag.value)


def test_gradient_steps_are_answered_with_ours_of_the_algorithm() -> None:
    for algo, ours in (("sac", "--replay-ratio"), ("ppo", "--update-epochs")):
        with pytest.raises(ValueError, match=f"; did you mean {ours}\\?"):
            cli.parse(algo, ["--gradient-steps", "1"])


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("num_evs: 3", "unknown setting 'num_evs'; did you mean num_envs"),
        ("num_envs: x", "num_envs must be a whole number, not 'x'"),
        ("env_id: [a]", "env_id must be text, not ['a']"),
        ("a: [1\nb: 2", "is not a YAML file"),
        ("- 1", "must map names to values"),
    ],
)
def test_wrong_file_is_one_line_that_names_it(text, part, tmp_path, commands, capsys) -> None:
    path = _yaml_file(tmp_path, text)
    assert cli.main("ppo", ["--config", path]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"error: {path}") and part in output.err
    assert output.err.count("\n") == 1 and output.out == ""


def test_unreadable_file_is_one_line(monkeypatch, commands, capsys) -> None:
    def refuse(path: str) -> dict:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("fastrl.presets.layers.read_config", refuse)
    assert cli.main("ppo", ["--config", "secret.yaml"]) == 2
    assert capsys.readouterr().err == "error: [Errno 13] Permission denied: 'secret.yaml'\n"


def test_algorithm_gets_the_command_and_gives_the_exit_code(monkeypatch) -> None:
    received: list[Command] = []
    _put_algorithm(monkeypatch, lambda command: received.append(command) or 4)
    assert cli.main("ppo", ["--seed", "3"]) == 4
    assert received == [cli.parse("ppo", ["--seed", "3"])]


def _raise(error: BaseException):
    def algorithm_main(command: Command) -> int:
        raise error

    return algorithm_main


def test_value_error_of_the_algorithm_is_one_line(monkeypatch, capsys) -> None:
    monkeypatch.delenv("FASTRL_TRACEBACK", raising=False)
    _put_algorithm(monkeypatch, _raise(ValueError("no such task\n  'Foo-v0'")))
    assert cli.main("ppo", []) == 2
    assert capsys.readouterr().err == "error: no such task 'Foo-v0'\n"


def test_traceback_is_shown_on_request(monkeypatch, capsys) -> None:
    monkeypatch.setenv("FASTRL_TRACEBACK", "1")
    _put_algorithm(monkeypatch, _raise(ValueError("wrong")))
    assert cli.main("ppo", []) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback") and lines[-1] == "error: wrong"


def test_bug_of_the_algorithm_is_not_hidden(monkeypatch) -> None:
    _put_algorithm(monkeypatch, _raise(AssertionError("bug")))
    with pytest.raises(AssertionError, match="bug"):
        cli.main("ppo", [])


def test_interrupt_is_one_line_and_exit_code_130(monkeypatch, capsys) -> None:
    _put_algorithm(monkeypatch, _raise(KeyboardInterrupt()))
    assert cli.main("ppo", []) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_later_file_of_settings_wins_over_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("seed: 1\ngamma: 0.9\nenv_id: LunarLander-v2")
    (tmp_path / "b.yaml").write_text("gamma: 0.8\nnum_envs: 2")
    a, b = str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")
    expected = {"seed": 1, "gamma": 0.8, "env_id": "LunarLander-v2", "num_envs": 2}
    for words in (
        ["--config", a, "--config", b],
        ["--config", a, b],
        [f"--config={a}", f"--config={b}"],
    ):
        command = cli.parse("ppo", [*words, "--vf-coef", "0.3"])
        assert command.explicit == {**expected, "vf_coef": 0.3}
    assert cli.parse("ppo", ["--config", b, "--config", a]).config.gamma == 0.9


def test_wrong_one_of_many_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("seed: 1")
    (tmp_path / "b.yaml").write_text("seed: x")
    words = ["--config", str(tmp_path / "a.yaml"), "--config", str(tmp_path / "b.yaml")]
    with pytest.raises(ValueError, match=r"b\.yaml: seed must be a whole number, not 'x'"):
        cli.parse("ppo", words)
    with pytest.raises(ValueError, match=r"b\.yaml: seed must be a whole number, not 'x'"):
        cli.parse("ppo", [words[2], words[3], words[0], words[1]])


@pytest.mark.parametrize(
    ("algo", "argv", "words"),
    [
        ("ppo", "--num-envs 2000000000", "num_envs=2000000000, num_steps="),
        (
            "ppo",
            "--num-envs 60000 --num-steps 2000000 --total-timesteps 1000000000000",
            "num_envs=",
        ),
        ("ppo", "--hidden-sizes 2000000 2000000", "hidden_sizes=[2000000, 2000000]"),
        ("sac", "--buffer-size 2000000000 --total-timesteps 200000000000", "buffer_size="),
        ("sac", "--num-critics 2000000000", "num_critics=2000000000"),
        ("sac", "--per-rank-batch-size 2000000000", "per_rank_batch_size=2000000000"),
        ("a2c", "--num-envs 2000000000 --total-timesteps 20000000000", "num_envs=2000000000"),
        (
            "ppo",
            "--devices 1000 --num-envs 1000000 --total-timesteps 1000000000000",
            "in each of 1000 processes",
        ),
    ],
)
def test_what_no_machine_has_memory_for_is_refused_at_once(algo, argv, words, monkeypatch) -> None:
    monkeypatch.setattr("fastrl.processes.memory.total_memory", lambda: 16 * 2**30)
    if "total" not in argv:
        argv += " --total-timesteps 9000000000000"
    with pytest.raises(
        ValueError, match=r"cannot fit: at least [\d,]+ bytes are needed, and this ma"
    ) as told:
        cli.parse(algo, argv.split())
    assert words in str(told.value)


@pytest.mark.parametrize("algo", ["ppo", "a2c", "ppo_recurrent", "sac", "droq"])
def test_presets_fit_into_little_memory(algo, monkeypatch) -> None:
    monkeypatch.setattr("fastrl.processes.memory.total_memory", lambda: 2 * 2**30)
    for env_id in load_presets(algo):
        cli.parse(algo, ["--env-id", env_id])


def test_rate_of_a_temperature_that_is_not_tuned_has_no_effect() -> None:
    with pytest.raises(ValueError, match=r"alpha_lr=0\.1 has no effect with tune_alpha=false"):
        cli.parse("sac", ["--alpha-lr", "0.1", "--no-tune-alpha"])
    task = ["--env-id", "LunarLanderContinuous-v2"]  # whose preset has one
    assert cli.parse("sac", [*task, "--no-tune-alpha"]).config.alpha_lr != SACConfig.alpha_lr


def test_effect_is_asked_of_settings_from_python_too() -> None:
    with pytest.raises(ValueError, match="eval_every=9 has no effect with eval_episodes=0"):
        resolve(PPOConfig, "ppo", "CartPole-v1", "auto", {"eval_every": 9, "eval_episodes": 0})
    resolve(PPOConfig, "ppo", "CartPole-v1", "auto", {"eval_every": 0, "eval_episodes": 0})


@pytest.mark.parametrize("kept", [0, 30, 70, -1, -2, -7])
def test_cut_config_is_taken_from_the_checkpoint(kept: int, run_folder: Path) -> None:
    (run_folder / "checkpoints").mkdir()
    agent = {"config": SAVED.to_dict()}
    state = {"algo": "ppo", "counters": {"env_steps": 1}, "agent": agent}
    save_checkpoint(run_folder / "checkpoints" / "last.pt", state)
    whole = (run_folder / "config.yaml").read_text()
    (run_folder / "config.yaml").write_text(whole[:kept])
    with contextlib.suppress(ValueError):  # what is no setting is refused in any case
        assert cli.parse("ppo", ["--resume", str(run_folder)]).config == SAVED


def test_cut_config_without_a_checkpoint_is_refused(run_folder: Path) -> None:
    (run_folder / "config.yaml").write_text("")
    with pytest.raises(
        ValueError, match=r"config\.yaml is incomplete, and .* has no whole checkpoint"
    ):
        cli.parse("ppo", ["--resume", str(run_folder)])


def test_resume_takes_the_saved_settings_and_no_preset(run_folder: Path) -> None:
    command = cli.parse("ppo", ["--resume", str(run_folder)])
    assert command.config == SAVED
    assert command.resume == str(run_folder)
    assert command.preset_settings == {} and command.explicit == {}


FLAGS = ["--" + name.replace("_", "-") for name in CHANGEABLE]
# Of these, one alone has no effect.
NEEDS_MORE = (
    "--devices",
    "--num-nodes",
    "--rank-timeout",
    "--num-workers",
    "--freeze-normalization",
)


@pytest.mark.parametrize(
    "flag",
    [x for x in FLAGS if x not in NEEDS_MORE],
)
def test_resumed_run_may_change(flag: str, run_folder: Path) -> None:
    special = {"--capture-video": "True", "--engine": "eager", "--vector": "async"}
    special |= {
        "--num-threads": "9",
        "--num-env-threads": "9",
        "--callback": "a:b",
        "--logger": "csv",
    }
    value = special.get(flag, "5.0" if flag == "--target-return" else "9999")
    command = cli.parse("ppo", ["--resume", str(run_folder), flag, value])
    name = flag[2:].replace("-", "_")
    assert spell(getattr(command.config, name)).capitalize() == value.capitalize()
    assert command.explicit == {name: getattr(command.config, name)}
    assert command.config.replace(**{name: getattr(SAVED, name)}) == SAVED


def test_resumed_run_may_have_processes(run_folder: Path) -> None:
    words = ["--vector", "async", "--num-workers", "2"]
    command = cli.parse("ppo", ["--resume", str(run_folder), *words])
    assert command.config == SAVED.replace(vector="async", num_workers=2)


@pytest.mark.parametrize(
    ("words", "was"),
    [
        ("--seed 8", "7"),
        ("--env-id CartPole-v1", "LunarLander-v2"),
        ("--hidden-sizes 64 64", "32"),
        ("--anneal-lr", "false"),
    ],
)
def test_resumed_run_may_not_change(words: str, was: str, run_folder: Path, capsys) -> None:
    assert cli.main("ppo", ["--resume", str(run_folder), *words.split()]) == 2
    assert capsys.readouterr().err == (
        f"error: {words.split()[0]} cannot change in a resumed run, where it is {was}; "
        f"what may change: {', '.join(FLAGS)}\n"
    )


def test_another_number_of_ranks_goes_on_with_the_same_global_sizes(run_folder: Path) -> None:
    config = cli.parse("ppo", ["--resume", str(run_folder), "--devices", "2"]).config
    assert 2 * config.num_envs == SAVED.num_envs
    assert 2 * config.per_rank_batch_size == SAVED.per_rank_batch_size
    assert config.num_updates == SAVED.num_updates


def test_ranks_that_cannot_share_evenly_are_refused(run_folder: Path) -> None:
    with pytest.raises(ValueError, match="which 7 ranks cannot share evenly"):
        cli.parse("ppo", ["--resume", str(run_folder), "--devices", "7"])


def test_resumed_run_may_be_told_what_it_is(run_folder: Path) -> None:
    command = cli.parse("ppo", ["--resume", str(run_folder), "--seed", "7", "--num-envs", "6"])
    assert command.config.seed == 7
    command = cli.parse("ppo", ["--resume", str(run_folder), "--no-share-data"])
    assert command.config == SAVED


@pytest.mark.parametrize("name", ["num_envs", "per_rank_batch_size"])
def test_a_size_that_other_ranks_share_cannot_stay_as_it_was(name: str, run_folder: Path) -> None:
    flag, size = f"--{name.replace('_', '-')}", getattr(SAVED, name)
    told = f"{flag} {size} has no effect: 2 ranks share what the run has, {size // 2} each"
    with pytest.raises(ValueError, match=told):
        cli.parse("ppo", ["--resume", str(run_folder), "--devices", "2", flag, str(size)])


@pytest.mark.parametrize("words", [["--config", "x.yaml"], ["--preset", "auto"]])
def test_resume_refuses_other_sources(words: list[str], run_folder: Path) -> None:
    with pytest.raises(ValueError, match=f"{words[0]} has no effect: --resume takes the settings"):
        cli.parse("ppo", ["--resume", str(run_folder), *words])


def test_resume_refuses_a_run_of_another_algorithm(run_folder: Path) -> None:
    with open(run_folder / "config.yaml", "a") as file:
        file.write("algo: sac\n")
    with pytest.raises(ValueError, match="is a run of sac, not ppo"):
        cli.parse("ppo", ["--resume", str(run_folder)])


def test_description_names_task_seed_preset_and_the_users_settings() -> None:
    argv = "--env-id LunarLander-v2 --seed 3 --no-anneal-lr --hidden-sizes 32 16"
    first, *rest = describe(cli.parse("ppo", argv.split())).splitlines()
    assert first == "ppo on LunarLander-v2, seed 3, 999,424 steps in rollouts of 8,192"
    assert rest[0].startswith("preset LunarLander-v2: ")
    assert rest[-1] == "you set: anneal_lr=false hidden_sizes=32,16"
    assert "anneal_lr" not in " ".join(rest[:-1])
    assert all(len(line) <= 100 for line in rest)


def test_description_of_a_resumed_run_names_it(run_folder: Path) -> None:
    lines = describe(cli.parse("ppo", ["--resume", str(run_folder)])).splitlines()
    assert lines[0].startswith("ppo on LunarLander-v2, seed 7")
    assert lines[1] == f"resume {run_folder}"


def test_description_says_that_no_preset_applies() -> None:
    command = cli.parse("ppo", ["--preset", "none"])
    assert describe(command).splitlines()[1] == "preset: none"


def test_description_says_that_another_version_of_the_task_has_a_preset() -> None:
    lines = describe(cli.parse("ppo", ["--env-id", "HalfCheetah-v5"])).splitlines()
    told = "preset: none for HalfCheetah-v5 (HalfCheetah-v4 has one); the defaults are not tuned"
    assert lines[1].startswith(told)


def test_an_algorithm_behind_the_package_is_spelt_right(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["fastrl", "ppo"])
    assert list_commands() == 2
    assert "did you mean python -m fastrl.ppo?" in capsys.readouterr().err


def test_every_command_that_is_a_package_is_listed(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["fastrl"])
    assert list_commands() == 0
    listed = capsys.readouterr().out
    packages = [path.parent.name for path in Path(fastrl.__file__).parent.glob("*/__main__.py")]
    assert packages and all(f"python -m fastrl.{name} " in listed for name in packages)


def test_the_package_lists_its_names() -> None:
    assert {"PPO", "SAC", "AgentTrainer", "make_env"} <= set(dir(fastrl))


def test_a_fault_of_pythons_parser_is_asked_again(monkeypatch):
    asked, calls = tyro.cli, []

    def faulty(*arguments, **how):
        calls.append(1)
        if len(calls) == 1:
            raise SystemError("AST constructor recursion depth mismatch (before=36, after=117)")
        return asked(*arguments, **how)

    monkeypatch.setattr(tyro, "cli", faulty)
    assert cli.main("ppo", ["--env-id", "CartPole-v1", "--seed", "3", "--dry-run"]) == 0
    assert len(calls) == 2
