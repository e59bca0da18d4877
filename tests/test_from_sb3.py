"""SB3's arguments become ours with SB3's defaults; a dry run prints settings and does nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fastrl
from fastrl import PPO, cli, from_sb3
from fastrl.config.ppo import PPOConfig


def config_of(**settings: Any) -> PPOConfig:
    return PPO("CartPole-v1", accelerator="cpu", **from_sb3(settings)).config


def test_defaults_are_those_of_stable_baselines3() -> None:
    expected: dict[str, Any] = {"learning_rate": 3e-4, "num_steps": 2048, "num_envs": 1}
    expected |= {"per_rank_batch_size": 64, "update_epochs": 10, "gamma": 0.99, "gae_lambda": 0.95}
    expected |= {"clip_coef": 0.2, "clip_vloss": False, "normalize_advantages": True}
    expected |= {"ent_coef": 0.0, "vf_coef": 0.5, "max_grad_norm": 0.5, "target_kl": None}
    expected |= {"hidden_sizes": (64, 64), "activation_function": "tanh", "ortho_init": True}
    expected |= {"adam_eps": 1e-5, "adam_beta1": 0.9, "adam_beta2": 0.999, "weight_decay": 0.0}
    expected |= {"log_std_init": 0.0, "shared_network": False, "observation_normalization": False}
    config = config_of()
    assert {name: getattr(config, name) for name in expected} == expected


def test_arguments_and_policy_kwargs_are_mapped() -> None:
    kwargs = {"net_arch": {"pi": [32], "vf": [64, 16]}, "activation_fn": nn.ReLU}
    kwargs |= {"optimizer_class": torch.optim.AdamW, "ortho_init": False}
    kwargs |= {"optimizer_kwargs": {"betas": (0.8, 0.9), "weight_decay": 0.1}}
    sb3: dict[str, Any] = {"policy": "MlpPolicy", "n_steps": 128, "n_envs": 4, "batch_size": 256}
    sb3 |= {"clip_range_vf": 0.3, "target_kl": 0.02, "policy_kwargs": kwargs, "use_sde": False}
    config = config_of(**sb3, seed=7)
    assert (config.num_envs, config.num_steps, config.per_rank_batch_size) == (4, 128, 256)
    assert (config.clip_vloss, config.vf_clip_coef, config.vf_clip_rule) == (True, 0.3, "clipped")
    assert (config.target_kl, config.kl_stop, config.seed) == (0.02, "minibatch", 7)
    assert (config.hidden_sizes, config.critic_hidden_sizes) == ((32,), (64, 16))
    assert (config.activation_function, config.ortho_init) == ("relu", False)
    assert (config.adam_beta1, config.adam_beta2, config.weight_decay) == (0.8, 0.9, 0.1)
    assert config.adam_eps == 1e-8  # as torch's, where optimizer_kwargs are given


def test_functions_of_the_remaining_progress_become_factors_of_progress() -> None:
    config = config_of(learning_rate=lambda remaining: 1e-3 * remaining**2, clip_range=0.1)
    assert (config.learning_rate, config.clip_coef) == (1e-3, 0.1)
    factor: Any = config.lr_schedule
    assert [factor(progress) for progress in (0, 0.5, 0.75)] == pytest.approx([1, 0.25, 0.0625])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rollout_buffer_class": object}, "rollout_buffer_class=.* has no counterpart"),
        ({"policy": "MlpLstmPolicy"}, "policy='MlpLstmPolicy' has no counterpart"),
        ({"n_step": 3}, "'n_step' is no argument of SB3's PPO"),
        ({"clip_range_vf": lambda remaining: 0.1}, "clip_range_vf as a function has no counterp"),
        ({"policy_kwargs": {"net_arch": []}}, "net_arch without hidden layers"),
        (
            {"policy_kwargs": {"features_extractor_class": nn.Module}},
            "see network",
        ),
        (
            {"policy_kwargs": {"optimizer_kwargs": {"weight_decay": 0.1}}},
            "weight_decay of Adam, a part of the gradient, has no counterpart",
        ),
    ],
)
def test_what_has_no_counterpart_is_refused_with_the_reason(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_sb3(settings)


def test_a_policy_in_the_place_of_the_task_is_answered_with_ours() -> None:
    policy: Any = ("MlpPolicy", "CartPole-v1")
    with pytest.raises(ValueError, match=r"follow from the spaces, PPO\(env\); .*from_sb3"):
        PPO(*policy)
    assert fastrl.from_sb3 is from_sb3


def test_a_dry_run_prints_each_setting_with_its_origin_and_does_nothing(tmp_path, capsys) -> None:
    words = ["--env-id", "LunarLander-v2", "--seed", "3", "--log-dir", str(tmp_path), "--dry-run"]
    assert cli.main("ppo", words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ppo on LunarLander-v2, seed 3")
    assert "  seed=3  (yours)" in lines
    assert "  anneal_lr=true  (preset)" in lines and "  adam_eps=1e-05  (default)" in lines
    assert lines[-1] == "dry run: nothing was written, and nothing trained"
    assert not list(Path(tmp_path).iterdir())


def test_a_dry_run_tells_mistakes(capsys) -> None:
    assert cli.main("ppo", ["--dry-run", "--gamma", "2"]) == 2
    assert "gamma must be between 0 and 1" in capsys.readouterr().err
