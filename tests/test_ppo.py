"""PPO as a whole: seeds, pools, predictions, saving, the metrics of an update, learning."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from quick import quick
from torch import nn
from toy_agents import WALKS, DiscreteWalk, Loop, differing, make_agent, run, tensors_of

from fastrl import PPO
from fastrl.config.ppo import PPOConfig
from fastrl.envs.make import make_env
from fastrl.kernels.extension import HAS_DENSE
from fastrl.ops.losses import explained_variance

LONG = {"total_timesteps": 16 * 4 * 6}


@pytest.mark.parametrize("env", quick([*WALKS, "CartPole-v1"], "box", "CartPole-v1"))
def test_one_seed_gives_one_result(env):
    first, second = make_agent(env, **LONG), make_agent(env, **LONG)
    assert run(first) == run(second)
    assert not differing(tensors_of(first), tensors_of(second))


def test_other_seed_gives_another_result():
    first, second = make_agent(seed=1), make_agent(seed=2)
    same_shape = tensors_of(first)
    assert "policy.actor.0.weight" in differing(same_shape, tensors_of(second))
    run(first), run(second)
    assert len(differing(tensors_of(first), tensors_of(second))) >= len(same_shape) - 2


def test_result_does_not_depend_on_the_global_generator():
    torch.manual_seed(0)
    np.random.seed(0)
    first = make_agent()
    run(first)
    torch.manual_seed(1)
    np.random.seed(1)
    second = make_agent()
    state = torch.get_rng_state()
    run(second)
    assert not differing(tensors_of(first), tensors_of(second))
    assert torch.equal(torch.get_rng_state(), state)


def test_making_an_agent_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    make_agent()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_two_pools_collect_what_one_collects(env):
    one, two = (
        Loop(make_agent(env, num_pools=num_pools, num_envs=6, num_steps=60, total_timesteps=720))
        for num_pools in (1, 2)
    )
    assert [len(loop.agent.envs) for loop in (one, two)] == [1, 2]
    for loop in (one, two):
        loop.collect()
    close: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(one.buffer.actions, two.buffer.actions, **close)
    torch.testing.assert_close(one.buffer.obs, two.buffer.obs, **close)
    torch.testing.assert_close(one.buffer.rewards, two.buffer.rewards, **close)
    assert torch.equal(one.buffer.valid, two.buffer.valid)


@pytest.mark.skipif(not HAS_DENSE, reason="torch's products depend on their number of rows")
@pytest.mark.parametrize(
    "changes", quick([{"num_threads": 2}, {"num_pools": 2}], {"num_threads": 2})
)
@pytest.mark.parametrize("env", quick(["CartPole-v1", "Pendulum-v1"], "Pendulum-v1"))
def test_numbers_of_native_kernels_do_not_depend_on_threads_and_halves(env, changes):
    sizes = {"num_envs": 40, "num_steps": 60, "per_rank_batch_size": 1200, "hidden_sizes": (64, 48)}
    settings = {"num_threads": 1, "num_pools": 1, "total_timesteps": 4800, **sizes}
    settings |= {"engine": "native"}
    first, second = make_agent(env, **settings), make_agent(env, **{**settings, **changes})
    assert run(first, 2) == run(second, 2)
    assert not differing(tensors_of(first), tensors_of(second))


class Doubled(nn.Linear):
    """Not what the extension takes a linear layer for."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def put_in_place(policy: Any, what: str) -> None:
    """Change a policy's networks as a user might."""
    size = policy.head.layer.in_features
    if what == "norm":
        policy.actor.append(nn.LayerNorm(size))
    elif what == "layer":
        policy.actor.append(nn.Linear(size, size))
    elif what == "activation":
        policy.actor[1] = nn.ELU(alpha=0.3)
    elif what == "class":
        policy.actor[0] = Doubled(policy.actor[0].in_features, policy.actor[0].out_features)
    elif what == "hook":
        policy.actor[0].register_forward_hook(lambda module, given, made: 2 * made)
    else:
        policy.actor[0] = nn.Linear(policy.actor[0].in_features, size, bias=False)


@pytest.mark.skipif(not HAS_DENSE, reason="no extension, or no wide vectors")
@pytest.mark.parametrize(
    "what",
    quick(["norm", "layer", "activation", "class", "hook", "bias"], "layer", "class", "hook"),
)
def test_networks_that_somebody_put_in_place_are_used_as_they_are(what):
    agent = make_agent("discrete", engine="auto", hidden_sizes=(8,))
    put_in_place(agent.policy, what)
    agent.make_buffer()
    assert not agent.engine.describe().startswith("engine: native")
    agent.policy.head.layer.weight.data.normal_()
    obs = torch.randn(6, agent.policy.reader.vector_size)
    log_probs, _, _ = agent.policy.evaluate(obs, torch.zeros(6, dtype=torch.int64))
    logits = agent.policy.head(agent.policy.actor(obs))
    torch.testing.assert_close(log_probs, logits.log_softmax(1)[:, 0])


class OwnLoss(PPO):
    """Somebody's agent, with a word of its own in the loss."""

    def evaluate_actions(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        log_prob, entropy, values = super().evaluate_actions(batch)
        return log_prob, entropy, 0 * values + 3


def test_what_somebody_derived_is_called():
    agent = OwnLoss("CartPole-v1", PPOConfig(num_steps=32, per_rank_batch_size=128))
    before = agent.policy.critic[0].weight.clone()  # pyright: ignore[reportOptionalSubscript]
    run(agent, 1)
    after = agent.policy.critic[0].weight  # pyright: ignore[reportOptionalSubscript]
    assert torch.equal(before, after)


def test_a_hook_of_the_old_name_is_refused():
    """`evaluate(batch)` was what `loss` called."""
    with pytest.raises(ValueError, match=r"Old\.evaluate takes a batch.*evaluate_actions"):

        class Old(PPO):  # pyright: ignore[reportUnusedClass]
            def evaluate(self, batch: Any) -> Any:
                return batch

    agent: Any = PPO("CartPole-v1", num_steps=32, per_rank_batch_size=128)
    agent.evaluate = lambda batch: batch
    with pytest.raises(ValueError, match=r"PPO\.evaluate takes a batch.*evaluate_actions"):
        agent.make_buffer()


@pytest.mark.parametrize("env", WALKS)
def test_actions_come_from_the_policy_that_is_updated(env):
    """The ratios of the first minibatch of an update are 1: acting and evaluating agree."""
    loop = Loop(make_agent(env, update_epochs=1, per_rank_batch_size=64, reward_scaling=True))
    for metrics in loop.run(3):
        assert metrics["Info/approx_kl"] == pytest.approx(0, abs=1e-6)
        assert metrics["Info/clip_fraction"] == 0


@pytest.mark.parametrize("env", WALKS)
def test_normaliser_does_not_change_between_acting_and_learning(env):
    settings = {"observation_normalization": True, "update_epochs": 1, "per_rank_batch_size": 64}
    for metrics in run(make_agent(env, **settings)):
        assert metrics["Info/approx_kl"] == pytest.approx(0, abs=1e-6)


def test_metrics_of_the_first_minibatch_are_those_of_the_policy():
    loop = Loop(make_agent("discrete", update_epochs=1, per_rank_batch_size=64))
    loop.collect()
    agent, buffer = loop.agent, loop.buffer
    before = tensors_of(agent)
    metrics = loop.update()
    agent.policy.load_state_dict(
        {name.removeprefix("policy."): value for name, value in before.items() if "policy." in name}
    )
    obs, valid = buffer.obs[:-1][buffer.valid], buffer.valid
    with torch.no_grad():
        _, entropy, values = agent.policy.evaluate(obs, buffer.actions[valid])
    errors = values - buffer.returns[valid]
    explained = explained_variance(buffer.values[:-1], buffer.returns, valid)
    assert metrics["Loss/value_loss"] == pytest.approx(errors.square().mean().item(), rel=1e-4)
    assert metrics["Loss/entropy_loss"] == pytest.approx(-entropy.mean().item(), rel=1e-5)
    assert metrics["Loss/policy_loss"] == pytest.approx(
        -buffer.advantages[valid].mean().item(), rel=1e-3, abs=1e-6
    )
    assert metrics["Info/explained_variance"] == pytest.approx(float(explained))


def test_metrics_have_the_names_of_the_glossary():
    assert set(run(make_agent(), 1)[0]) == {
        "Loss/policy_loss",
        "Loss/value_loss",
        "Loss/entropy_loss",
        "Info/approx_kl",
        "Info/clip_fraction",
        "Info/explained_variance",
        "Info/learning_rate",
        "Info/clip_coef",
        "Info/ent_coef",
        "Gradients/grad_norm",
    }


@pytest.mark.parametrize("env", WALKS)
@pytest.mark.parametrize("deterministic", [True, False])
def test_prediction_is_an_action_of_the_space(env, deterministic):
    agent = make_agent(env)
    one = agent.predict(np.zeros(2, np.float32), deterministic)
    many = agent.predict(np.random.default_rng(0).normal(size=(50, 2)), deterministic)
    assert one.shape == agent.action_space.shape and len(many) == 50
    assert agent.action_space.contains(one)
    assert all(agent.action_space.contains(action) for action in many)


def test_prediction_for_a_batch_is_that_of_its_rows():
    agent = make_agent("box")
    obs = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    rows = np.stack([agent.predict(row) for row in obs])
    np.testing.assert_allclose(agent.predict(obs), rows, rtol=1e-6, atol=1e-7)


def test_drawn_predictions_differ_and_greedy_ones_do_not():
    agent = make_agent("box")
    obs = np.zeros((1, 2), np.float32)
    assert (agent.predict(obs) == agent.predict(obs)).all()
    drawn = [agent.predict(obs, deterministic=False) for _ in range(2)]
    assert (drawn[0] != drawn[1]).any()


def test_predicting_does_not_change_how_learning_goes_on():
    watched, alone = make_agent(), make_agent()
    watched.predict(np.zeros((3, 2), np.float32), deterministic=False)
    run(watched), run(alone)
    assert not differing(tensors_of(watched), tensors_of(alone))


NORMALISED = {"observation_normalization": True, "reward_scaling": True}


@pytest.mark.parametrize("env", quick(WALKS, "box"))
def test_saved_agent_predicts_as_before(env, tmp_path):
    agent = make_agent(env, **NORMALISED)
    run(agent)
    agent.save(tmp_path / "agent.pt")
    loaded = PPO.load(tmp_path / "agent.pt")
    assert loaded.config == agent.config
    assert not differing(tensors_of(agent), tensors_of(loaded))
    obs = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    np.testing.assert_array_equal(loaded.predict(obs), agent.predict(obs))


def test_settings_can_be_changed_when_loading(tmp_path):
    make_agent().save(tmp_path / "agent.pt")
    loaded = PPO.load(tmp_path / "agent.pt", learning_rate=0.5)
    assert loaded.config.learning_rate == 0.5


def test_foreign_file_is_refused_by_name(tmp_path):
    from fastrl.runs.checkpoint import save_checkpoint

    save_checkpoint(tmp_path / "agent.pt", {"algo": "sac", "agent": {}})
    with pytest.raises(ValueError, match=r"agent\.pt holds 'sac', not 'ppo'"):
        PPO.load(tmp_path / "agent.pt")


@pytest.mark.parametrize(
    "changes",
    [{"hidden_sizes": (4,)}, {"observation_normalization": True}, {"reward_scaling": True}],
)
def test_state_of_another_network_is_refused(changes):
    with pytest.raises(ValueError, match="the checkpoint does not fit this agent"):
        make_agent(**changes).load_state_dict(make_agent().state_dict())


def test_learn_returns_the_agent_and_leaves_a_run_folder(tmp_path: Path):
    agent = make_agent(log_dir=str(tmp_path))
    before = tensors_of(agent)
    assert agent.learn(128) is agent
    assert agent.config.total_timesteps == 128
    assert differing(before, tensors_of(agent))
    assert list(tmp_path.rglob("summary.json"))


def test_learning_through_the_trainer_equals_the_plain_loop(tmp_path: Path):
    trained, looped = make_agent(log_dir=str(tmp_path)), make_agent(log_dir=str(tmp_path))
    trained.learn()
    run(looped, looped.num_updates)
    assert not differing(tensors_of(trained), tensors_of(looped))


def test_environments_may_be_built_elsewhere():
    vector = SyncVectorEnv([DiscreteWalk] * 3)
    for env in (vector, make_env("toy_agents:DiscreteWalk", 3)):
        agent = make_agent(env)
        assert agent.config.num_envs == 3
        assert np.isfinite(run(agent)[-1]["Loss/value_loss"])


def test_config_and_settings_together_are_refused():
    with pytest.raises(ValueError, match="not both: gamma"):
        PPO("toy_agents:DiscreteWalk", PPOConfig(), gamma=0.5)


def test_unknown_setting_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean gamma"):
        PPO("toy_agents:DiscreteWalk", gama=0.5)


class TextWalk(DiscreteWalk):
    """Observations that are no numbers."""

    observation_space: Any = spaces.Text(3)


def test_unsupported_space_is_refused_by_name():
    with pytest.raises(ValueError, match="observation space Text"):
        make_agent("test_ppo:TextWalk")


class ByteWalk(DiscreteWalk):
    """Observations of whole numbers."""

    observation_space: Any = spaces.Box(0, 255, (2,), np.uint8)

    def observation(self) -> np.ndarray:
        return np.array([self.num_steps, 255], np.uint8)


@pytest.mark.parametrize("normalised", quick([False, True], True))
def test_observations_may_be_whole_numbers(normalised):
    eager, recorded = (
        make_agent("test_ppo:ByteWalk", engine=mode, observation_normalization=normalised)
        for mode in ("eager", "recorded")
    )
    loop = Loop(eager)
    loop.run(3), run(recorded)
    assert loop.buffer.obs.dtype == torch.uint8
    assert not differing(tensors_of(eager), tensors_of(recorded))
    assert eager.action_space.contains(eager.predict(np.array([0, 255], np.uint8)))


def test_odd_shapes_of_a_rollout_are_learned_from():
    odd = {"num_envs": 1, "num_steps": 5, "per_rank_batch_size": 3, "total_timesteps": 15}
    for metrics in run(make_agent("multidiscrete", hidden_sizes=(5,), engine="recorded", **odd)):
        assert np.isfinite(metrics["Loss/policy_loss"])


def test_reward_is_learned():
    """The largest actions are the best ones, whatever the state."""
    agent = make_agent(
        "multidiscrete",
        learning_rate=0.02,
        update_epochs=6,
        normalize_advantages=True,
        gamma=0.5,
        total_timesteps=16 * 4 * 15,
    )
    run(agent, 15)
    drawn = agent.predict(np.zeros((200, 2), np.float32), deterministic=False)
    assert (drawn == [1, 2]).mean() > 0.9


def test_state_of_another_device_is_loaded_without_its_random_state():
    first, second = make_agent(), make_agent(seed=8)
    before = second.noise_generator.get_state()
    state = first.state_dict()
    state.update(noise_device="cuda", noise_generator=torch.zeros(16, dtype=torch.uint8))
    second.load_state_dict(state)
    assert torch.equal(second.optimizer.flat, first.optimizer.flat)
    assert torch.equal(second.noise_generator.get_state(), before)


def test_config_and_environments_that_disagree_are_refused():
    env = SyncVectorEnv([lambda: DiscreteWalk() for _ in range(3)])
    with pytest.raises(ValueError, match="num_envs=4, but 3 environments"):
        PPO(env, PPOConfig(num_envs=4))
