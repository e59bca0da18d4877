"""Every space, end to end: learned, resumed, tested and exported."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_envs
from quick import quick

from fastrl import PPO, SAC, PPORecurrent
from fastrl.agents.export_files import export_policy
from fastrl.agents.exporting import exported
from fastrl.spaces.observations import rows_of
from fastrl.training.greedy import evaluate_agent
from fastrl.training.trainer import AgentTrainer

TARGETS = f"{toy_envs.__name__}:TargetEnv"
MASKED = ["masked", "masked_image", "info"]
SHOWN = [*toy_envs.TargetEnv.observation_spaces]
NAMED = [*toy_envs.TargetEnv.action_spaces]
SETTINGS: dict[str, Any] = {
    "num_envs": 8,
    "num_steps": 32,
    "per_rank_batch_size": 64,
    "update_epochs": 4,
    "learning_rate": 5e-3,
    "normalize_advantages": True,
    "gamma": 0.0,
    "hidden_sizes": (32,),
    "eval_episodes": 0,
    "accelerator": "cpu",
}


def make_agent(
    folder: Path, shown: str, named: str = "discrete", kind: type[PPO] = PPO, **changes: Any
) -> PPO:
    """Return an agent that is to name what it is shown."""
    kwargs = (f"shown={shown}", f"named={named}")
    more = {"env_kwargs": kwargs, "info_action_mask": shown == "info", "log_dir": str(folder)}
    return kind(TARGETS, **{**SETTINGS, **more, "total_timesteps": 2048, **changes})


@pytest.mark.parametrize(
    ("shown", "named"),
    quick(
        [*((shown, "discrete") for shown in SHOWN), *(("vector", named) for named in NAMED[1:])],
        *((shown, "discrete") for shown in ("mixed", "discrete", "masked_image", "info")),
        *(("vector", named) for named in ("multidiscrete", "multibinary", "signs")),
    ),
)
def test_every_space_is_learned(tmp_path, shown, named):
    # Behind a mask nothing can be done wrong: the env raises if a forbidden action comes.
    agent = make_agent(tmp_path, shown, named, total_timesteps=512 if shown in MASKED else 2048)
    agent.learn()
    result = evaluate_agent(agent, 16, 0)
    assert result is not None and result.mean > 7.2


@pytest.mark.parametrize("shown", quick(["discrete", "mixed"], "discrete"))
def test_a_memory_takes_numbers_and_pixels(tmp_path, shown):
    agent = make_agent(tmp_path, shown, kind=PPORecurrent, sequence_length=8, total_timesteps=4096)
    agent.learn()
    result = evaluate_agent(agent, 16, 0)
    assert result is not None and result.mean > 7.2


def test_off_policy_sees_numbers_one_hot(tmp_path):
    weights = []
    for shown in ("discrete", "multibinary"):  # which shows the same numbers as one-hot bits
        settings = {"num_envs": 2, "learning_starts": 20, "per_rank_batch_size": 8, "seed": 3}
        settings |= {
            "hidden_sizes": (16,),
            "engine": "eager",
            "total_timesteps": 60,
            "eval_episodes": 0,
            "log_dir": str(tmp_path),
        }
        kwargs = (f"shown={shown}", "named=signs")
        agent = SAC(TARGETS, accelerator="cpu", env_kwargs=kwargs, **settings)
        agent.learn()
        weights.append(torch.cat([x.flatten() for x in agent.critics.parameters()]))
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_what_an_algorithm_cannot_see_is_refused(tmp_path):
    with pytest.raises(ValueError, match="an action mask is not offered with a memory"):
        make_agent(tmp_path, "masked", kind=PPORecurrent, sequence_length=8)
    with pytest.raises(ValueError, match=r"pixels.* are not offered off-policy"):
        SAC(TARGETS, accelerator="cpu", env_kwargs=("shown=grey", "named=signs"))


@pytest.mark.parametrize("shown", quick(SHOWN, "mixed", "info"))
def test_every_space_is_saved_and_exported(tmp_path, shown):
    agent = make_agent(tmp_path, shown)
    agent.save(tmp_path / "agent.pt")
    loaded = PPO.load(tmp_path / "agent.pt")
    rows = agent.envs[0].reset()
    np.testing.assert_array_equal(loaded.predict(rows), agent.predict(rows))
    export_policy(agent.policy, torch.from_numpy(rows), tmp_path / "rows", "torchscript")
    policy, example, wanted = exported(agent)
    for name in ("torchscript", "pt2"):
        export_policy(policy, example, tmp_path / name, name, wanted)  # it compares the actions


@pytest.mark.parametrize("shown", [shown for shown in SHOWN if shown != "info"])
def test_one_observation_is_predicted_as_in_a_batch(tmp_path, shown):
    agent = make_agent(tmp_path, shown)
    env = toy_envs.TargetEnv(shown)
    single, _ = env.reset(seed=3)
    row, is_single = rows_of(agent.observation_space, single)
    assert is_single and len(row) == 1
    assert agent.predict(single) == agent.predict(row)[0]


def test_a_run_over_pixels_and_vectors_goes_on(tmp_path):
    agent = make_agent(tmp_path, "mixed", total_timesteps=256, engine="eager")
    folder = AgentTrainer().fit(agent).folder
    resumed = make_agent(tmp_path, "mixed", total_timesteps=512, engine="eager")
    summary = AgentTrainer(resume=folder).fit(resumed).summary
    assert summary["total_env_steps"] == 512 and summary["restarts"] == 1


@pytest.mark.parametrize(
    ("shown", "changes", "message"),
    [
        (
            "discrete",
            {"observation_normalization": True},
            "observation_normalization has no effect",
        ),
        ("grey", {"observation_normalization": True}, "observation_normalization has no effect"),
        ("vector", {"encoder": "impala"}, "encoder=impala has no effect"),
        ("grey", {"encoder": "nature"}, "8 x 8 are too small for encoder=nature"),
        ("dict", {"obs_keys": ("high",)}, r"no observation key 'high'.*inner\.high"),
        ("vector", {"obs_keys": ("high",)}, "no observation key 'high'.*no keys"),
        ("discrete", {"frame_stack": 2}, "frame_stack has no effect on Discrete"),
        ("vector", {"named": "nothing"}, "KeyError: 'nothing'"),
    ],
)
def test_settings_that_do_not_fit_the_space_are_refused(tmp_path, shown, changes, message):
    named = changes.pop("named", "discrete")
    with pytest.raises(ValueError, match=message):
        make_agent(tmp_path, shown, named, **changes)
