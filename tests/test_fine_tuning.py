"""Weights from elsewhere, frozen layers, and what `load` keeps to go on with another task."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from quick import slow
from seam import weights_of
from torch import nn

from fastrl import A2C, PPO, SAC, AgentTrainer
from fastrl.agents.networks import frozen_names
from fastrl.runs.checkpoint import Checkpoints, load_checkpoint


def small(kind: Any = PPO, env: Any = None, **settings: Any) -> Any:
    is_off = issubclass(kind, SAC)
    more: dict[str, Any] = {"num_envs": 2, "eval_episodes": 0, "accelerator": "cpu"}
    if is_off:
        sizes = {"learning_starts": 16, "per_rank_batch_size": 8, "total_timesteps": 32}
        more |= {**sizes, "hidden_sizes": (8,)}
    else:
        more |= {"num_steps": 32, "total_timesteps": 128, "per_rank_batch_size": 32}
        more |= {"hidden_sizes": (8, 8), "engine": "eager"}
    task = env or ("Pendulum-v1" if is_off else "CartPole-v1")
    return kind(task, preset="none", **{**more, **settings})


def refusal(work: Any) -> str:
    with pytest.raises(ValueError) as error:
        work()
    assert "\n" not in str(error.value)
    return str(error.value)


def line_of(capsys: Any) -> str:
    """Returns the line on the file that a run started from, without its breaks."""
    text = " ".join(capsys.readouterr().out.split())
    return text[text.index("from ") :].partition(" you set")[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    settings = {"observation_normalization": True, "reward_scaling": True}
    return small(log_dir=str(folder), **settings).learn().result.folder


# Frozen layers


@pytest.mark.parametrize(
    ("names", "frozen"),
    [
        (("actor.0",), {"policy.actor.0.weight", "policy.actor.0.bias"}),
        (("policy.value_head.bias",), {"policy.value_head.bias"}),
        (("head", "actor.2.bias"), {"policy.head.logits.weight", "policy.actor.2.bias"}),
    ],
)
def test_what_is_frozen_by_name_stays_and_the_rest_learns(names, frozen, tmp_path, capsys):
    agent = small(log_dir=str(tmp_path))
    told = agent.freeze(*names)
    assert set(told) >= frozen and set(told) == set(frozen_names(agent.networks()))
    before = weights_of(agent)
    agent.learn()
    now = weights_of(agent)
    assert {name for name, x in before.items() if torch.equal(x, now[name])} == set(told)
    assert "are frozen" in capsys.readouterr().out
    assert agent.freeze(*names, frozen=False) == []
    agent.learn()
    assert not any(torch.equal(now[name], x) for name, x in weights_of(agent).items())


def test_a_name_of_no_layer_is_refused_with_the_names_there_are():
    told = refusal(lambda: small().freeze("actor.9"))
    assert "'actor.9'" in told and "'actor.0', 'actor.2', 'critic.0'" in told


# Weights from elsewhere


def test_weights_of_a_file_are_taken_and_trained(run, tmp_path):
    source = PPO.load(run)
    agent = small(log_dir=str(tmp_path), observation_normalization=True, reward_scaling=True)
    found = agent.load_weights(run)
    assert not found.missing and not found.unexpected and not found.misshapen
    for name, value in weights_of(source).items():
        assert torch.equal(weights_of(agent)[name], value)
    assert torch.equal(agent.policy.normalizer.mean, source.policy.normalizer.mean)
    before = weights_of(agent)
    agent.learn()
    assert not any(torch.equal(before[name], x) for name, x in weights_of(agent).items())


def test_what_does_not_fit_is_told_and_refused_unless_strict_is_off(tmp_path):
    small().save(tmp_path / "agent.pt")
    agent = small(hidden_sizes=(8, 12), seed=7)
    before = weights_of(agent)
    told = refusal(lambda: agent.load_weights(tmp_path / "agent.pt"))
    assert "of another shape: policy.actor.2.weight" in told and "strict=False takes" in told
    assert all(torch.equal(before[name], x) for name, x in weights_of(agent).items())
    found = agent.load_weights(tmp_path / "agent.pt", strict=False)
    first = {f"policy.{x}.0.{y}" for x in ("actor", "critic") for y in ("weight", "bias")}
    assert first <= set(found.fitted)
    assert str(found).startswith("6 of 12 weights and statistics fit; of another shape: ")
    assert "policy.actor.2.weight" in found.misshapen
    for name in first:
        assert not torch.equal(before[name], weights_of(agent)[name])


def test_weights_of_another_algorithm_and_state_dicts_of_parts(tmp_path):
    other = small(A2C, per_rank_batch_size=0)
    other.save(tmp_path / "a2c.pt")
    agent = small()
    found = agent.load_weights(tmp_path / "a2c.pt")
    assert torch.equal(agent.policy.actor[0].weight, other.policy.actor[0].weight)
    assert len(found.fitted) == 12

    encoder = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())
    torch.save(encoder.state_dict(), tmp_path / "encoder.pt")
    critic = agent.policy.critic[0].weight.clone()
    agent.load_weights(tmp_path / "encoder.pt", into="actor")
    assert torch.equal(agent.policy.actor[2].bias, encoder[2].bias)
    assert torch.equal(agent.policy.critic[0].weight, critic)
    agent.load_weights(tmp_path / "a2c.pt", into="actor.0")
    assert torch.equal(agent.policy.actor[0].weight, other.policy.actor[0].weight)
    assert "is no part of the policy" in refusal(
        lambda: agent.load_weights(tmp_path / "encoder.pt", into="body")
    )
    assert "nothing fits" in refusal(
        lambda: agent.load_weights(tmp_path / "encoder.pt", strict=False)
    )


def test_target_critics_take_weights_too(tmp_path):
    small(SAC, seed=1).save(tmp_path / "agent.pt")
    agent = small(SAC, seed=2)
    agent.load_weights(tmp_path / "agent.pt")
    for mine, target in zip(
        agent.critics.parameters(), agent.target_critics.parameters(), strict=True
    ):
        assert torch.equal(mine, target)


@pytest.mark.parametrize("content", [b"no file of torch", b""])
def test_a_file_of_something_else_is_one_line(content, tmp_path):
    (tmp_path / "odd.pt").write_bytes(content)
    assert "holds no weights" in refusal(lambda: small().load_weights(tmp_path / "odd.pt"))
    torch.save([1, 2], tmp_path / "list.pt")
    assert "holds no weights, but a list" in refusal(
        lambda: small().load_weights(tmp_path / "list.pt")
    )


def test_a_compressed_file_of_weights_is_refused_before_it_is_inflated(tmp_path):
    torch.save({"actor.0.weight": torch.zeros(1000, 1000)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    told = refusal(lambda: small().load_weights(tmp_path / "bomb.pt", strict=False))
    assert "holds no weights" in told and "compressed" in told


# Going on with another task


class Pushed(gymnasium.Wrapper):
    """CartPole for another reward."""

    def __init__(self) -> None:
        super().__init__(gymnasium.make("CartPole-v1", max_episode_steps=30))

    def step(self, action: Any) -> Any:
        obs, _, *rest = self.env.step(action)
        return obs, -float(abs(obs[0])), *rest


def test_load_goes_on_with_another_task_reward_and_number_of_environments(run, tmp_path, capsys):
    changes = {"num_envs": 4, "learning_rate": 1e-5, "log_dir": str(tmp_path)}
    agent = PPO.load(run, env=Pushed, **changes)
    moments = agent.optimizer.mean.clone()
    agent.freeze("actor.0")
    # Of what is not frozen, Adam remembers what it did.
    assert torch.equal(agent.optimizer.mean, moments[4 * 8 + 8 :]) and moments.any()
    before, mean = weights_of(agent), agent.policy.normalizer.mean.clone()
    assert torch.equal(mean, PPO.load(run).policy.normalizer.mean) and mean.abs().sum() > 0
    assert float(agent.optimizer.steps) > 0
    agent.learn()
    told = line_of(capsys)
    assert "kept weights, optimiser, normaliser; new: " in told
    assert "num_envs=4 (was 2)" in told and "learning_rate=1e-05 (was 0.001)" in told
    assert "Pushed" in told
    now = weights_of(agent)
    stayed = {name for name, x in before.items() if torch.equal(x, now[name])}
    assert stayed == {"policy.actor.0.weight", "policy.actor.0.bias"}
    largest = max(float((now[name] - x).abs().max()) for name, x in before.items())
    assert 0 < largest < 1e-5 * 10 * 16 * 2  # steps of Adam at the new rate


def test_optimiser_and_normaliser_begin_anew_if_that_is_said(run, capsys, tmp_path):
    agent = PPO.load(run, keep_optimizer=False, keep_normalizer=False, log_dir=str(tmp_path))
    assert float(agent.optimizer.steps) == 0 and not agent.optimizer.mean.any()
    for scale in (agent.policy.normalizer, agent.reward_scale):
        assert scale.count == 0 and not scale.mean.any() and bool((scale.variance == 1).all())
    rows = np.ones((2, 4), np.float32)
    assert torch.equal(agent.policy.normalizer(torch.tensor(rows)), torch.tensor(rows))
    for name, value in weights_of(PPO.load(run)).items():
        assert torch.equal(value, weights_of(agent)[name])
    agent.learn()
    assert "kept weights; new: optimiser, normaliser" in line_of(capsys)


def test_reward_scaling_may_begin_with_the_new_task(tmp_path):
    small().save(tmp_path / "agent.pt")
    agent = PPO.load(tmp_path / "agent.pt", env=Pushed, reward_scaling=True, log_dir=str(tmp_path))
    agent.learn()
    assert agent.reward_scale.count > 0


@pytest.fixture(scope="module")
def run_of_sac(tmp_path_factory) -> Path:
    """A run of 160 steps: 8 warm up, each of the others is followed by a gradient step."""
    folder = str(tmp_path_factory.mktemp("runs"))
    sizes = {"num_envs": 1, "learning_starts": 8, "log_every": 0, "total_timesteps": 160}
    # Most runs that go on with it are so short that building a fast engine takes longer.
    sizes |= {"buffer_size": 1_000, "engine": "eager"}
    return small(SAC, log_dir=folder, **sizes).learn().result.folder


def test_a_replay_buffer_is_kept_for_the_same_task(run_of_sac, tmp_path, capsys):
    kept = SAC.load(run_of_sac, log_dir=str(tmp_path), engine="auto")
    assert kept.saved_replay is not None and kept.num_env_steps > 0
    kept.learn(32)
    assert "kept weights, optimiser, replay buffer" in line_of(capsys)
    kept_all_the_same = {"env": "Pendulum-v1", "keep_replay": True}, {"vector": "auto"}
    for changes in kept_all_the_same:
        assert SAC.load(run_of_sac, **changes).saved_replay is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"env": "Pendulum-v1"},
        {"num_envs": 4},
        {"mask_vel": True},
        {"env_kwargs": {"max_episode_steps": 9}},
        {"keep_replay": False},
    ],
)
def test_a_replay_buffer_is_kept_for_no_other_task(changes, run_of_sac, tmp_path, capsys):
    agent = SAC.load(run_of_sac, **changes, policy_lr=1e-5, log_dir=str(tmp_path))
    assert agent.saved_replay is None and agent.num_env_steps == 0
    agent.learn(32)
    told = line_of(capsys)
    assert "kept weights, optimiser; new: replay buffer" in told
    assert "policy_lr=1e-05 (was 0.0003)" in told
    assert float(agent.actor_optimizer.learning_rate) == pytest.approx(1e-5)


def gradient_steps(folder: Path, before: int) -> list[int]:
    """Returns how many gradient steps each update of a run took, which had so many before."""
    rows = csv.DictReader((folder / "metrics.csv").open())
    return np.diff([before, *(float(row["Info/gradient_steps"]) for row in rows)]).tolist()


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        slow(({}, [1] * 20)),
        slow(({"replay_ratio": 4.0}, [4] * 20)),
        ({"replay_ratio": 0.5}, [0, 1] * 10),
        slow(({"learning_starts": 170}, [0] * 10 + [1] * 10)),
        ({"learning_starts": 165, "replay_ratio": 2.0}, [0] * 5 + [2] * 15),
    ],
)
def test_a_new_ratio_applies_to_the_steps_from_load_on(settings, wanted, run_of_sac, tmp_path):
    agent = SAC.load(run_of_sac, log_dir=str(tmp_path), **settings)
    folder = agent.learn(20).result.folder
    assert gradient_steps(folder, before=152) == wanted
    again = SAC.load(folder, log_dir=str(tmp_path)).learn(2).result.folder
    assert gradient_steps(again, before=152 + sum(wanted)) == wanted[-2:]
    back = SAC.load(folder, log_dir=str(tmp_path), replay_ratio=1.0)
    assert gradient_steps(back.learn(2).result.folder, before=152 + sum(wanted)) == [1, 1]


def test_a_new_ratio_applies_from_where_a_run_is_resumed_on(run_of_sac, tmp_path):
    folder = SAC.load(run_of_sac, log_dir=str(tmp_path)).learn(20).result.folder
    agent = SAC.load(folder, replay_ratio=3.0, total_timesteps=24)
    AgentTrainer(resume=folder).fit(agent)
    assert gradient_steps(folder, before=152) == [1] * 20 + [3] * 4


def test_a_file_that_does_not_say_from_where_gradient_steps_count_is_taken(run_of_sac):
    state = load_checkpoint(Checkpoints(run_of_sac / "checkpoints").newest())["agent"]
    older = {x: y for x, y in state.items() if x not in ("steps_before_run", "changed_at")}
    agent = small(SAC, num_envs=1, learning_starts=8)
    agent.load_state_dict(older)
    assert (agent.num_env_steps, agent.num_gradient_steps, agent.num_due) == (160, 152, 0)


def test_a_warm_up_that_is_over_cannot_be_changed(run_of_sac, tmp_path):
    for starts in (4, 160):
        told = refusal(lambda x=starts: SAC.load(run_of_sac, learning_starts=x))
        assert f"learning_starts={starts} has no effect" in told and "160 steps" in told
    assert SAC.load(run_of_sac, learning_starts=8).num_env_steps == 160  # as it was
    anew = SAC.load(run_of_sac, learning_starts=4, keep_replay=False, log_dir=str(tmp_path))
    assert anew.learn(20).num_gradient_steps == 16


@pytest.mark.parametrize("is_resumed", [slow(False), True])
def test_a_kept_replay_forgets_nothing_before_it_is_full(is_resumed, run_of_sac, tmp_path):
    agent = SAC.load(run_of_sac, log_dir=str(tmp_path), replay_ratio=0.05).learn(200)
    if is_resumed:
        longer = SAC.load(agent.result.folder, total_timesteps=400)
        AgentTrainer(resume=agent.result.folder).fit(longer)
        agent = longer
    first = load_checkpoint(Checkpoints(run_of_sac / "checkpoints").newest())["agent"]["replay"]
    now = agent.replay.state_dict()
    # A seam takes a row: the observation that no action followed.
    assert len(now["obs"]) == 161 + (401 + 1 if is_resumed else 201)
    assert torch.equal(now["obs"][:161], first["obs"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"keep_normalizer": False}, "keep_normalizer has no effect"),
        ({"keep_optimizer": "no"}, "keep_optimizer must be True or False, not 'no'"),
        ({"keep_replay": True}, "unknown setting 'keep_replay'"),
    ],
)
def test_what_cannot_be_kept_is_one_line(settings, words, tmp_path):
    small().save(tmp_path / "agent.pt")
    assert words in refusal(lambda: PPO.load(tmp_path / "agent.pt", **settings))


def test_a_fine_tuned_run_is_resumed_as_any_other(run, tmp_path):
    agent = PPO.load(run, env="CartPole-v1", learning_rate=1e-4, log_dir=str(tmp_path))
    folder = agent.learn().result.folder
    other = PPO.load(folder, total_timesteps=256)
    AgentTrainer(resume=folder).fit(other)
    assert other.config.learning_rate == 1e-4
