"""Presets that go for any task: the defaults of the projects whose flags are ours."""

from __future__ import annotations

import pytest

from fastrl import A2C, PPO, PPORecurrent, cli
from fastrl.config.command import describe
from fastrl.config.flags import SourceFlags
from fastrl.config.run import documentation
from fastrl.config.sac import SACConfig
from fastrl.presets import __main__ as command
from fastrl.presets import named_presets, resolve

# The flags of both projects with their defaults, and what their code fixes.
BOTH = {
    "seed": 42,
    "total_timesteps": 65_536,
    "num_steps": 128,
    "update_epochs": 10,
    "per_rank_batch_size": 64,
    "learning_rate": 1e-3,
    "adam_eps": 1e-4,
    "lr_schedule": "constant",
    "anneal_lr": False,
    "max_grad_norm": 0.5,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "normalize_advantages": False,
    "clip_coef": 0.2,
    "clip_vloss": False,
    "ent_coef": 0.0,
    "vf_coef": 1.0,
    "hidden_sizes": (64, 64),
    "activation_function": "relu",
    "shared_network": False,
    "ortho_init": False,
    "share_data": False,
    "mask_vel": False,
}
PPO_OF = {
    "source-003": {**BOTH, "num_envs": 2, "torch_deterministic": True},
    "source-004": {**BOTH, "num_envs": 4, "torch_deterministic": False},
}


@pytest.mark.parametrize("name", PPO_OF)
@pytest.mark.parametrize("task", ["CartPole-v1", "LunarLander-v2", "MountainCar-v0"])
def test_preset_has_the_defaults_of_its_source_whatever_the_task(name: str, task: str) -> None:
    parsed = cli.parse("ppo", ["--env-id", task, "--preset", name])
    assert {key: getattr(parsed.config, key) for key in PPO_OF[name]} == PPO_OF[name]
    assert parsed.config.env_id == task
    of_python = resolve(type(parsed.config), "ppo", task, name, {})
    assert of_python.config == parsed.config
    for whole in (parsed, of_python):
        assert f"\npreset {name}: seed=42 total_timesteps=65536" in describe(whole)


def test_recurrent_ppo_and_sac_have_the_defaults_of_fabricrl() -> None:
    config = cli.parse("ppo_recurrent", ["--preset", "source-004"]).config
    # Two minibatches, each of two of the four environments; an MLP of 64, 64 before a GRU of 64.
    assert config.num_envs * config.num_steps == 2 * config.per_rank_batch_size
    assert (config.sequence_length, config.rnn, config.shared_network) == (128, "gru", False)
    assert (config.hidden_sizes, config.adam_eps) == ((64, 64, 64), 1e-4)
    config = cli.parse("sac", ["--preset", "source-004"]).config
    assert config == SACConfig(
        seed=1,
        total_timesteps=1_000_000,
        num_envs=4,
        buffer_size=1_000_000,
        learning_starts=5_000,
        replay_ratio=1 / config.num_envs,  # a gradient step per step of all environments
        per_rank_batch_size=256,
        policy_lr=3e-4,
        q_lr=3e-4,
        alpha_lr=3e-4,
        adam_eps=1e-4,
        gamma=0.99,
        tau=0.005,
        alpha=1.0,
        num_critics=2,
        target_network_frequency=1,
    )


def test_flags_override_a_named_preset() -> None:
    argv = ["--preset", "source-003", "--num-envs", "8", "--gamma", "0.9"]
    parsed = cli.parse("ppo", argv)
    assert (parsed.config.num_envs, parsed.config.gamma) == (8, 0.9)
    assert "num_envs" not in parsed.preset_settings
    assert parsed.preset_settings["adam_eps"] == 1e-4


def test_model_from_python_trains_with_a_named_preset(tmp_path, capfd) -> None:
    short = {"total_timesteps": 256, "eval_episodes": 0, "log_dir": str(tmp_path)}
    model = PPO("CartPole-v1", preset="source-003", **short).learn()
    assert (model.config.num_envs, model.config.torch_deterministic) == (2, True)
    assert "\npreset source-003: seed=42 num_envs=2" in capfd.readouterr().out
    assert model.result is not None and model.result.summary["total_env_steps"] == 256


def test_unknown_preset_is_answered_with_those_of_the_algorithm(capsys) -> None:
    with pytest.raises(ValueError, match=r"none, source-003, source-004, or a FILE\.yaml, not 'so"):
        PPO("CartPole-v1", preset="source-005")
    with pytest.raises(ValueError, match=r"one of auto, none, or a FILE\.yaml, not 'source-003'"):
        A2C("CartPole-v1", preset="source-003")
    assert cli.main("a2c", ["--preset", "source-003"]) == 2
    assert capsys.readouterr().err == (
        "error: --preset takes one of auto, none, or a FILE.yaml, not 'source-003'\n"
    )
    with pytest.raises(ValueError, match="a config or a preset, not both: 'source-004'"):
        PPORecurrent("CartPole-v1", PPORecurrent.config_class(), preset="source-004")


def test_help_lists_every_named_preset_with_its_algorithms(capsys) -> None:
    text = documentation(SourceFlags)["preset"]
    titles = {"ppo": "PPO", "ppo_recurrent": "recurrent PPO", "sac": "SAC"}
    for name in named_presets("ppo"):
        having = [title for algo, title in titles.items() if name in named_presets(algo)]
        assert f"{name} ({', '.join(having)})" in text
    with pytest.raises(SystemExit):
        cli.main("ppo", ["--preset", "source-004", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "The defaults below include the preset source-004." in shown


def test_list_of_presets_has_those_for_any_task(capsys) -> None:
    assert command.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "for any task" in line] == [
        "ppo, for any task: --preset source-003, --preset source-004",
        "ppo_recurrent, for any task: --preset source-004",
        "sac, for any task: --preset source-004",
    ]
