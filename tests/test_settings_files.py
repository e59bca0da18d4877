"""Files of settings: what they name, in which order they count, and where a mistake came from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from quick import quick

from fastrl import PPO, cli
from fastrl.config.describing import ALGORITHMS
from fastrl.presets import algorithms, load_presets


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, which is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def write(files: dict[str, str]) -> None:
    """Writes files into the current folder."""
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


def parse(words: str, algo: str = "ppo") -> Any:
    return cli.parse(algo, words.split())


GROUPS = {
    "base.yaml": "defaults: [task/lander.yaml, optimizer/adam.yaml]\nnum_envs: 16\nseed: 7\n",
    "task/lander.yaml": "env_id: LunarLander-v2\ntotal_timesteps: 200000\nseed: 5\ngamma: 0.9\n",
    "optimizer/adam.yaml": "learning_rate: 3e-4\ngamma: 0.95\n",
}


# Order


def test_a_files_own_settings_override_those_of_the_files_it_names_and_later_ones_win(folder):
    write(GROUPS)
    command = parse("--config base.yaml")
    assert command.explicit == {
        "env_id": "LunarLander-v2",
        "total_timesteps": 200_000,
        "seed": 7,
        "gamma": 0.95,
        "learning_rate": 3e-4,
        "num_envs": 16,
    }
    assert command.config.num_steps == 256  # of the task's preset
    assert parse("--config base.yaml --gamma 0.8").config.gamma == 0.8
    assert parse("--config base.yaml --config task/lander.yaml").config.gamma == 0.9


def test_names_are_relative_to_the_file_that_names_them(folder):
    write({"conf/a.yaml": "defaults: [in/b.yaml]", "conf/in/b.yaml": "defaults: [../c.yaml]"})
    write({"conf/c.yaml": "seed: 3"})
    assert parse("--config conf/a.yaml").config.seed == 3


def test_one_of_two_names_of_a_schedule_overrides_the_other_across_files(folder):
    write({"a.yaml": "defaults: [b.yaml]\nlr_schedule: cosine", "b.yaml": "anneal_lr: true"})
    config = parse("--config a.yaml").config
    assert (config.lr_schedule, config.anneal_lr) == ("cosine", False)


def test_a_dry_run_names_the_file_of_each_setting(folder, capsys):
    write({**GROUPS, "best.yaml": "num_steps: 128\nclip_coef: 0.1"})
    words = "--config base.yaml --preset best.yaml --seed 1 --clip-coef 0.3 --dry-run"
    assert cli.main("ppo", words.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    for line in (
        "learning_rate=0.0003  (optimizer/adam.yaml, named in base.yaml)",
        "num_envs=16  (base.yaml)",
        "num_steps=128  (preset best.yaml)",
        "seed=1  (yours)",
        "clip_coef=0.3  (yours)",
        "vf_coef=1.0  (default)",
    ):
        assert f"  {line}" in lines


def test_an_empty_file_sets_nothing(folder):
    write({"a.yaml": "", "b.yaml": "# nothing yet\n", "c.yaml": "defaults: []"})
    assert parse("--config a.yaml b.yaml c.yaml").explicit == {}


# Mistakes


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"optimizer/adam.yaml": "learning_rate: -1"},
            "learning_rate=-1.0 (from optimizer/adam.yaml, named in base.yaml): learning_rate must "
            "be at least 0, not -1.0",
        ),
        (
            {"optimizer/adam.yaml": "learning_rate: much"},
            "optimizer/adam.yaml, named in base.yaml: learning_rate must be a number, not 'much'",
        ),
        (
            {"optimizer/adam.yaml": "learning_rat: 1"},
            "optimizer/adam.yaml, named in base.yaml: unknown setting 'learning_rat'; did you",
        ),
        (
            {"optimizer/adam.yaml": "per_rank_batch_size: 999999"},
            "per_rank_batch_size=999999 (from optimizer/adam.yaml, named in base.yaml), "
            "num_envs=16 (from base.yaml): per_rank_batch_size=999999 is larger than a rollout",
        ),
        (
            {"optimizer/adam.yaml": "num_workers: 3"},
            "num_workers=3 (from optimizer/adam.yaml, named in base.yaml): num_workers=3 has no",
        ),
        (
            {"optimizer/adam.yaml": "algo: sac"},
            "optimizer/adam.yaml, named in base.yaml has settings of sac, not of ppo",
        ),
        (
            {"optimizer/adam.yaml": "policy_lr: 1e-3"},
            "optimizer/adam.yaml, named in base.yaml: policy_lr is a setting of sac, droq, not of",
        ),
        ({"optimizer/adam.yaml": "agent: [a]"}, "named in base.yaml: agent must be text, not"),
        (
            {"base.yaml": "defaults: [task/nix.yaml]"},
            "task/nix.yaml does not exist; expected a YAML file of settings (it is task/nix.yaml, "
            "named in base.yaml)",
        ),
        ({"base.yaml": "defaults: [task]"}, "task is a folder; expected a YAML file of settings"),
        ({"base.yaml": "defaults: [base.yaml]"}, "circle: base.yaml -> base.yaml"),
        (
            {"optimizer/adam.yaml": "defaults: [../task/lander.yaml]", "base.yaml": "defaults: "
             "[optimizer/adam.yaml]", "task/lander.yaml": "defaults: [../optimizer/adam.yaml]"},
            "defaults go round in a circle: optimizer/adam.yaml -> ../task/lander.yaml -> "
            "../optimizer/adam.yaml",
        ),
        (
            {"base.yaml": "defaults: [task/lander.yaml, task/../task/lander.yaml]"},
            "base.yaml: 'task/../task/lander.yaml' is named a second time; it is task/lander.yaml, "
            "named in base.yaml",
        ),
        (
            {"optimizer/adam.yaml": "defaults: [../task/lander.yaml]"},
            "'../task/lander.yaml' is named a second time; it is task/lander.yaml, named in base",
        ),
        (
            {"base.yaml": "defaults: task/lander.yaml"},
            "base.yaml: defaults must list files, as [task/lander.yaml, network/wide.yaml], not "
            "'task/lander.yaml'",
        ),
        ({"base.yaml": "defaults:"}, "base.yaml: defaults must list files, as"),
        ({"base.yaml": "defaults: [task: lander]"}, "not {'task': 'lander'}"),
        ({"base.yaml": "defaults: [3]"}, "base.yaml: defaults must list files, as"),
        ({"base.yaml": "defaults: ['']"}, "base.yaml: defaults must list files, as"),
        ({"base.yaml": 'defaults: ["a\\0b"]'}, "must name files relative to its folder, not 'a"),
        ({"base.yaml": "defaults: [_self_, task/lander.yaml]"}, "leave _self_ out of defaults"),
        ({"base.yaml": "defaults: [/etc/passwd]"}, "relative to its folder, not '/etc/passwd'"),
        ({"base.yaml": "defaults: [../x.yaml]"}, "alone, not '../x.yaml'; give other files by"),
        ({"base.yaml": "defaults: [~root/x.yaml]"}, "relative to its folder, not '~root/x.yaml'"),
        ({"task/lander.yaml": "seed: 1\nseed: 2"}, "'seed' is set twice"),
        ({"task/lander.yaml": "a: &x 1\nseed: *x"}, "settings may not have aliases such as *x"),
        ({"task/lander.yaml": "- seed: 1"}, "lander.yaml must map names to values"),
        ({"task/lander.yaml": "1: 2"}, "lander.yaml must map names to values"),
        ({"task/lander.yaml": "env_kwargs: [{a: 1}]"}, "env_kwargs must be a list of texts"),
        ({"task/lander.yaml": "seed: {a: 1}"}, "seed must be a whole number, not {'a': 1}"),
        ({"task/lander.yaml": "seed: !!python/object/apply:os.getcwd []"}, "is not a YAML file"),
        ({"task/lander.yaml": "seed: \x07"}, "is not a YAML file of settings"),
        ({"task/lander.yaml": "seed: 1\na: b: c"}, "settings: line 2: mapping values are"),
        ({"task/lander.yaml": f"exp_name: {'x' * 100_000}"}, "are more than 100,000 (it is task/"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_is_one_line_that_says_where_it_is(folder, capsys, files, message):
    write({**GROUPS, **files})
    assert cli.main("ppo", ["--config", "base.yaml", "--dry-run"]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("error: ") and output.err.count("\n") == 1
    assert message in output.err


def test_files_that_are_no_text_or_no_files_are_refused(folder, capsys):
    write(GROUPS)
    Path("task/lander.yaml").write_bytes(b"exp_name: \xff\xfe")
    with pytest.raises(ValueError, match=r"codec can't decode .*it is task/lander\.yaml, named"):
        parse("--config base.yaml")
    Path("task/lander.yaml").unlink()
    os.mkfifo("task/lander.yaml")
    with pytest.raises(ValueError, match="is a device or pipe; expected a YAML file"):
        parse("--config base.yaml")
    Path("task/lander.yaml").unlink()
    Path("task/lander.yaml").symlink_to("lander.yaml")
    with pytest.raises(ValueError, match="does not exist"):
        parse("--config base.yaml")


def test_a_file_that_may_not_be_read_is_named(folder, monkeypatch):
    write(GROUPS)
    real = Path.read_text

    def read_text(path: Path, *args: Any, **words: Any) -> str:
        if path.name == "lander.yaml":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **words)

    monkeypatch.setattr(Path, "read_text", read_text)
    with pytest.raises(ValueError, match=r"denied: .*it is task/lander\.yaml, named in base"):
        parse("--config base.yaml")


def test_links_that_lead_out_of_the_folder_are_not_followed(folder, tmp_path_factory):
    write(GROUPS)
    outside = tmp_path_factory.mktemp("outside") / "x.yaml"
    outside.write_text("seed: 1")
    Path("task/lander.yaml").unlink()
    Path("task/lander.yaml").symlink_to(outside)
    with pytest.raises(ValueError, match=r"defaults may name files in .* alone, not 'task/lander"):
        parse("--config base.yaml")
    assert parse(f"--config {outside}").config.seed == 1


def test_a_chain_of_files_has_an_end(folder):
    write({f"{n}.yaml": f"defaults: [{n + 1}.yaml]" for n in range(150)})
    with pytest.raises(ValueError, match=r"^0\.yaml leads to more than 100 files$"):
        parse("--config 0.yaml")


def test_a_flag_that_is_wrong_is_not_blamed_on_a_file(folder):
    write(GROUPS)
    with pytest.raises(ValueError, match=r"^learning_rate must be at least 0, not -3\.0$"):
        parse("--config base.yaml --learning-rate -3")


@pytest.mark.parametrize("name", ["task/lander.yaml", "base.yaml"])
@pytest.mark.parametrize("flag", ["--config", "--preset"])
def test_no_layer_may_name_a_part_of_python(folder, name, flag):
    text = GROUPS[name].replace("seed: 7", "callback: ['os:system']")
    text = text.replace("env_id: LunarLander-v2", "env_id: subprocess:run")
    write({**GROUPS, name: text})
    with pytest.raises(ValueError, match=r"base\.yaml wants to run .* a part of Python itself"):
        parse(f"{flag} base.yaml")


def test_no_preset_that_python_reads_may_name_a_part_of_python(folder):
    write({"best.yaml": "callback: ['os:system']"})
    with pytest.raises(ValueError, match=r"best\.yaml wants to run os:system.* a part of Python"):
        PPO("CartPole-v1", preset="best.yaml")


# Presets in files


def test_a_preset_of_a_file_lies_under_files_and_flags_and_replaces_that_of_the_task(folder):
    write({"best.yaml": "algo: ppo\nenv_id: LunarLander-v2\nnum_envs: 16\ngamma: 0.9\nseed: 3"})
    write({"mine.yaml": "gamma: 0.8"})
    command = parse("--preset best.yaml --config mine.yaml --seed 4")
    assert command.preset_settings == {"env_id": "LunarLander-v2", "num_envs": 16}
    assert command.explicit == {"gamma": 0.8, "seed": 4}
    assert command.config.num_steps == 128  # the default: the task's preset has 256
    assert parse("--preset best.yaml --env-id CartPole-v1").config.env_id == "CartPole-v1"


def test_a_preset_of_a_file_is_cut_to_a_rollout_as_others_are(folder):
    write({"best.yaml": "per_rank_batch_size: 4096\nnum_envs: 64"})
    command = parse("--preset best.yaml --num-envs 2 --num-steps 8")
    assert command.config.per_rank_batch_size == 16
    assert "instead of the preset's 4096" in command.cut_of_preset


def test_a_preset_of_a_file_serves_python_too(folder):
    write({"best.yaml": "num_envs: 3\ngamma: 0.9\nengine: eager"})
    model = PPO("CartPole-v1", preset="best.yaml", gamma=0.8, num_steps=32)
    assert (model.config.num_envs, model.config.gamma) == (3, 0.8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "learning_rate: -1",
            r"learning_rate=-1\.0 \(from best\.yaml\): learning_rate must be at ",
        ),
        ("agent: my:Class", "best.yaml: a preset has settings alone; give --agent my:Class"),
        ("algo: sac", "best.yaml has settings of sac, not of ppo"),
        ("tau: 1", "best.yaml: tau is a setting of sac, droq, not of ppo"),
    ],
)
def test_mistakes_in_a_preset_of_a_file_name_it(folder, text, message):
    write({"best.yaml": text})
    with pytest.raises(ValueError, match=message):
        parse("--preset best.yaml")


def test_trust_goes_with_a_preset_of_a_file(folder):
    write({"best.yaml": "seed: 1"})
    assert parse("--preset best.yaml --trust").config.seed == 1
    with pytest.raises(ValueError, match=r"no effect without --resume, --config or --preset FILE"):
        parse("--preset none --trust")


# --print-config


def printed(words: str, capsys: Any, algo: str = "ppo") -> str:
    assert cli.main(algo, [*words.split(), "--print-config"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "algo",
    quick(algorithms(), "ppo_recurrent", "droq"),  # which have few presets
)
def test_what_print_config_prints_gives_the_same_settings(folder, algo, capsys):
    for task in load_presets(algo):
        text = printed(f"--env-id {task} --seed 9", capsys, algo)
        write({"my.yaml": text})
        again = cli.parse(algo, ["--config", "my.yaml"])
        assert again.config == cli.parse(algo, ["--env-id", task, "--seed", "9"]).config
        assert again.preset_settings == {}


def test_what_print_config_prints_is_read_whatever_it_holds(folder, capsys):
    write(
        {
            "a.yaml": "exp_name: \"h\u00f6h: #'\\n\"\nenv_kwargs: {a: [1, b], c: 'on'}\n"
            "agent: my:Class"
        }
    )
    write({"my.yaml": printed("--config a.yaml", capsys)})
    first, again = parse("--config a.yaml"), parse("--config my.yaml")
    assert first.config == again.config and again.agent == "my:Class"
    assert yaml.safe_load(Path("my.yaml").read_text())["algo"] == "ppo"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--quiet", "--quiet has no effect with --print-config, which prints the settings"),
        ("--dry-run", "--dry-run has no effect with --print-config, which trains nothing"),
    ],
)
def test_what_print_config_would_ignore_is_refused(words, message):
    with pytest.raises(ValueError, match=message):
        parse(f"--print-config {words}")


def test_print_config_trains_nothing_and_imports_no_torch(folder):
    code = (
        "import sys\nfrom fastrl import cli\nstatus = cli.main('ppo', ['--print-config'])\n"
        "sys.exit(3 if 'torch' in sys.modules else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert yaml.safe_load(done.stdout)["env_id"] == "CartPole-v1" and not list(folder.iterdir())


def test_the_algorithms_are_those_that_have_presets():
    assert sorted(ALGORITHMS) == algorithms()
