"""The configs: what they refuse and how they travel through YAML."""

from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from gymnasium import spaces
from torch import nn

from fastrl.agents.own_networks import makers
from fastrl.config.ppo import PPOConfig
from fastrl.config.values import read_yaml, write_value

CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_envs": 0}, "num_envs must be at least 1, not 0"),
        ({"devices": 0}, "devices must be between 1 and 1024, not 0"),
        ({"num_nodes": 0}, "num_nodes must be at least 1, not 0"),
        ({"total_timesteps": 0}, "total_timesteps must be at least 1, not 0"),
        ({"keep_checkpoints": 0}, "keep_checkpoints must be at least 1, not 0"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"num_threads": -1}, "num_threads must be between 0 and 1024, not -1"),
        ({"num_env_threads": -1}, "num_env_threads must be between 0 and 1024, not -1"),
        ({"eval_every": -1}, "eval_every must be at least 0, not -1"),
        ({"eval_episodes": -1}, "eval_episodes must be between 0 and 1000000, not -1"),
        ({"checkpoint_every": -1}, "checkpoint_every must be at least 0, not -1"),
        ({"num_pools": 3}, "num_pools must be one of 0, 1, 2, not 3"),
        ({"backend": "x"}, "backend must be one of auto, envpool, gymnasium, not 'x'"),
        ({"accelerator": "x"}, "accelerator must be one of auto, cpu, cuda, gpu, not 'x'"),
        ({"precision": "x"}, "precision must be one of 32-true, bf16-mixed, not 'x'"),
        ({"engine": "x"}, "engine must be one of auto, native, recorded, compile, eager, not 'x'"),
        ({"num_steps": 0}, "num_steps must be at least 2, not 0"),
        ({"update_epochs": 0}, "update_epochs must be at least 1, not 0"),
        ({"per_rank_batch_size": 0}, "per_rank_batch_size must be at least 1, not 0"),
        ({"learning_rate": -1.0}, "learning_rate must be at least 0, not -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite and below 3e38, not nan"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must be at least 0, not -1.0"),
        ({"vf_coef": -1.0}, "vf_coef must be at least 0, not -1.0"),
        ({"ent_coef": -1.0}, "ent_coef must be at least 0, not -1.0"),
        ({"gamma": 1.5}, "gamma must be between 0 and 1, not 1.5"),
        ({"gamma": float("nan")}, "gamma must be finite and below 3e38, not nan"),
        ({"gae_lambda": -0.5}, "gae_lambda must be between 0 and 1, not -0.5"),
        ({"log_std_init": 3.0}, "log_std_init must be between -20 and 2, not 3.0"),
        ({"adam_eps": 0.0}, "adam_eps must be above 0, not 0.0"),
        ({"clip_coef": 0.0}, "clip_coef must be above 0, not 0.0"),
        ({"target_kl": 0.0}, "target_kl must be above 0 or None, not 0.0"),
        (
            {"activation_function": "x"},
            "Softplus, Softsign, Tanhshrink, not 'x'",
        ),
        ({"hidden_sizes": ()}, "each at least 1, not []"),
        ({"hidden_sizes": (64, 0)}, "hidden_sizes must each be at least 1, not [64, 0]"),
        ({"env_kwargs": ("a=1", "b=1", "a=2")}, "env_kwargs must name a once, not 'a=1 b=1 a=2'"),
        (
            {"network": ("my:make",), "network_kwargs": ("a=1", "a=1")},
            "network_kwargs must name a once, not 'a=1 a=1'",
        ),
    ],
)
def test_range_error_names_the_wrong_value_and_the_allowed_ones(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        PPOConfig(**settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"env_id": ""}, ["env_id is empty"]),
        ({"num_pools": 2, "num_envs": 3}, ["num_pools=2", "even, not 3"]),
        ({"capture_video": True, "eval_episodes": 0}, ["capture_video", "eval_episodes=0"]),
        ({"recompute_advantages": True, "update_epochs": 1}, ["no effect", "update_epochs is 1"]),
        ({"anneal_ent_coef": True}, ["anneal_ent_coef has no effect", "ent_coef is 0"]),
        (
            {"num_envs": 2, "num_steps": 8, "per_rank_batch_size": 17},
            ["per_rank_batch_size=17", "num_envs=2 x num_steps=8 = 16 rows"],
        ),
        ({"total_timesteps": 511}, ["total_timesteps=511", "512 steps"]),
    ],
)
def test_settings_that_do_not_go_together_are_all_named(
    settings: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(ValueError) as caught:
        PPOConfig(**settings)
    assert all(part in str(caught.value) for part in parts)


@pytest.mark.parametrize(
    "settings",
    [
        {"gamma": 0.0},
        {"gamma": 1.0},
        {"gae_lambda": 0.0},
        {"gae_lambda": 1.0},
        {"per_rank_batch_size": 512},
        {"total_timesteps": 512},
        {"num_pools": 2},
        {"max_grad_norm": 0.0},
    ],
)
def test_edges_of_the_ranges_are_allowed(settings: dict[str, Any]) -> None:
    PPOConfig(**settings)


def test_sizes_follow_from_the_settings() -> None:
    config = PPOConfig(
        num_envs=3, num_steps=10, devices=2, num_nodes=2, per_rank_batch_size=8, total_timesteps=500
    )
    assert config.steps_per_update == 120
    assert config.num_updates == 4


def test_config_survives_dict_and_yaml() -> None:
    config = PPOConfig(
        env_id="LunarLander-v2",
        hidden_sizes=(8, 4),
        learning_rate=1e-5,
        target_kl=0.02,
        target_return=None,
        anneal_lr=True,
    )
    assert PPOConfig.from_dict(config.to_dict()) == config
    assert PPOConfig.from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config


def test_dict_holds_plain_values_only() -> None:
    plain = (str, int, float, bool, list, type(None))
    assert all(isinstance(value, plain) for value in PPOConfig().to_dict().values())


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("learning_rate", "1e-3", 1e-3),
        ("learning_rate", "3e-4", 3e-4),
        ("vf_coef", 1, 1.0),
        ("total_timesteps", 1e6, 1_000_000),
        ("hidden_sizes", [32, 16], (32, 16)),
        ("target_kl", None, None),
        ("target_kl", "1e-2", 1e-2),
    ],
)
def test_numbers_are_taken_as_yaml_gives_them(name: str, value: Any, expected: Any) -> None:
    result = getattr(PPOConfig.from_dict({name: value}), name)
    assert result == expected and type(result) is type(expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_envs", "four"),
        ("num_envs", 1.5),
        ("num_envs", True),
        ("num_envs", None),
        ("learning_rate", "fast"),
        ("learning_rate", True),
        ("anneal_lr", 1),
        ("anneal_lr", "true"),
        ("hidden_sizes", 64),
        ("hidden_sizes", ["64"]),
        ("env_id", 3),
    ],
)
def test_wrong_type_names_source_setting_and_value(name: str, value: Any) -> None:
    with pytest.raises(ValueError) as caught:
        PPOConfig.from_dict({name: value}, "a.yaml")
    assert str(caught.value).startswith(f"a.yaml: {name} must be ")
    assert str(caught.value).endswith(f"not {value!r}")


@pytest.mark.parametrize(
    "value",
    [
        None,
        1e-5,
        1e20,
        math.inf,
        "yes",
        "5",
        "1e-3",
        "",
        "a: b",
        (1, 2),
        [1],
        {"a": {"b": (1, "x")}},
    ],
    ids=repr,
)
def test_env_kwargs_reach_the_environment_as_they_were_given(value: Any) -> None:
    config = PPOConfig.from_dict({"env_kwargs": {"given": value}})
    again = PPOConfig.from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict())))
    assert repr(again.env_settings["env_kwargs"]) == repr({"given": value})


@pytest.mark.parametrize(
    ("text", "value"),
    [("017", 17), ("-017", -17), ("12:30", "12:30"), ("1:30.5", "1:30.5"), ("0x1f", 31)],
)
def test_numbers_of_a_file_are_those_of_the_command_line_and_a_time_is_text(text, value) -> None:
    assert read_yaml(text) == value
    assert read_yaml(write_value(value)) == value
    assert read_yaml(write_value(text)) == text  # from Python, where it is text


def test_list_that_occurs_twice_is_written_twice() -> None:
    shared = [1, 2]
    config = PPOConfig.from_dict({"env_kwargs": {"a": [shared, shared], "b": shared}})
    expected = {"a": [[1, 2], [1, 2]], "b": [1, 2]}
    assert config.env_settings["env_kwargs"] == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("None", None), ("none", None), ("null", None), ("", None), ("[None, 1]", [None, 1])),
        *(("'None'", "None"), ('"none"', "none"), ("nones", "nones"), ("Nonesuch", "Nonesuch")),
    ],
)
def test_env_kwargs_of_a_command_line_may_be_none(text: str, value: Any) -> None:
    settings = PPOConfig(env_kwargs=(f"given={text}",)).env_settings
    assert settings["env_kwargs"] == {"given": value}


def test_network_kwargs_of_a_command_line_may_be_none() -> None:
    config = PPOConfig(
        network=("actor=toy:Net", "critic=math:floor"), network_kwargs=("a=None", "b='None'")
    )
    given: list[Any] = []
    make = makers(config, {"actor": lambda space, **more: given.append(more) or nn.Identity()})
    make["actor"](spaces.Box(-1, 1, (2,)))
    assert given[0] == {"a": None, "b": "None"}


@pytest.mark.parametrize("text", ["None", "none"])
def test_none_as_text_in_a_file_is_answered_with_null(text: str) -> None:
    message = f"my.yaml: target_kl must be a number or None, not '{text}'; in a file, write null"
    with pytest.raises(ValueError, match=message):
        PPOConfig.from_dict({"target_kl": text}, "my.yaml")


def test_env_kwargs_of_a_command_line_may_be_powers_of_ten() -> None:
    settings = PPOConfig(env_kwargs=("gravity=1e-3",)).env_settings
    assert settings["env_kwargs"] == {"gravity": 1e-3}


@pytest.mark.parametrize(
    ("env_kwargs", "message"),
    [
        (["a=["], "env_kwargs: a: '[' is not YAML"),
        (["a=!!bool x"], "env_kwargs: a: '!!bool x' is not YAML"),
        (["a=!!timestamp x"], "env_kwargs: a: '!!timestamp x' is not YAML"),
        (["a=2001-02-30"], "env_kwargs: a: '2001-02-30' is not YAML"),
        (["a={b: &c [1], d: [*c, *c]}"], "is not YAML"),
        (["a={b: 1, b: 2}"], "is not YAML"),
        (["a=" + "[" * 50_000], "is not YAML"),
        ({"a": CYCLE}, "cannot be written as YAML"),
        ({"a": object}, "env_kwargs <class 'object'> cannot be written as YAML"),
    ],
)
def test_env_kwargs_that_are_no_yaml_are_refused(env_kwargs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        PPOConfig.from_dict({"env_kwargs": env_kwargs})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 10**12}, "num_steps must be below 2**31, not 1000000000000"),
        ({"hidden_sizes": [10**20]}, f"hidden_sizes must be below 2**31, not {10**20}"),
        ({"total_timesteps": 2**63}, f"total_timesteps must be below 2**63, not {2**63}"),
        ({"num_threads": 10**9}, "num_threads must be between 0 and 1024, not 1000000000"),
        ({"devices": 20_000}, "devices must be between 1 and 1024, not 20000"),
        ({"frame_stack": 10**9}, "frame_stack must be between 1 and 1000, not 1000000000"),
        ({"eval_episodes": 10**9}, "eval_episodes must be between 0 and 1000000, not 10000"),
        ({"learning_rate": 1e300}, "learning_rate must be finite and below 3e38, not 1e+300"),
        ({"learning_rate": 10**400}, "learning_rate must be finite and below 3e38, not inf"),
        ({"ent_coef": math.inf}, "ent_coef must be finite and below 3e38, not inf"),
    ],
)
def test_numbers_that_no_machine_can_take_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        PPOConfig.from_dict(settings)


@pytest.mark.parametrize("word", ["off", "auto", "on", "'off'", "'on'"])
def test_configs_of_before_with_compile_are_read_as_the_engine_that_it_was(word: str) -> None:
    """YAML makes booleans of the words off and on."""
    engine = {"off": "eager", "auto": "auto", "on": "compile"}[word.strip("'")]
    assert PPOConfig.from_dict(yaml.safe_load(f"compile: {word}")).engine == engine


def test_numbers_of_numpy_and_paths_are_taken() -> None:
    settings = {"num_envs": np.int64(6), "learning_rate": np.float32(0.5), "log_dir": Path("x")}
    expected = {"num_envs": 6, "learning_rate": 0.5, "log_dir": "x"}
    config = PPOConfig.from_dict({**settings, "hidden_sizes": [np.int64(8)]}).to_dict()
    expected["hidden_sizes"] = [8]
    assert repr({name: config[name] for name in expected}) == repr(expected)


def test_unknown_setting_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"a\.yaml: unknown setting 'num_evs'; did you mean num_e"):
        PPOConfig.from_dict({"num_evs": 3}, "a.yaml")


def test_unknown_setting_like_no_other_is_refused_with_all_names() -> None:
    with pytest.raises(ValueError, match=r"unknown setting 'qqqqq'; known are .*activation_funct"):
        PPOConfig.from_dict({"qqqqq": 3})


def test_replace_checks_again() -> None:
    config = PPOConfig().replace(gamma=0.5)
    assert config.gamma == 0.5 and PPOConfig().gamma != 0.5
    with pytest.raises(ValueError, match="gamma must be between 0 and 1, not 2"):
        config.replace(gamma=2)
    with pytest.raises(ValueError, match="PPOConfig: unknown setting 'gama'; did you mean gamma"):
        config.replace(gama=0.5)


def test_config_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(PPOConfig(), "gamma", 0.5)  # noqa: B010


def test_config_imports_no_torch() -> None:
    code = "import sys, fastrl.config.ppo, fastrl.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
