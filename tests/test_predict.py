"""What `predict` takes and returns: numbers that environments take, masks beside observations."""

from __future__ import annotations

import re
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from toy_agents import make_agent, make_recurrent

from fastrl import A2C, PPO, SAC


class Shown(gymnasium.Env):
    """An environment of given spaces that shows what it likes, and counts what is allowed."""

    def __init__(self, observation_space: Any, action_space: Any, with_mask: bool = False) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.with_mask = with_mask

    def info(self) -> dict[str, Any]:
        space: Any = self.action_space
        sizes = [int(space.n)] if isinstance(space, spaces.Discrete) else space.nvec.tolist()
        return {"action_mask": np.ones(sum(sizes), np.int8)} if self.with_mask else {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        self.observation_space.seed(seed)
        return self.observation_space.sample(), self.info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        return self.observation_space.sample(), 0.0, False, False, self.info()


def agent_of(observation_space: Any, action_space: Any, kind: Any = PPO, **settings: Any) -> Any:
    env = Shown(observation_space, action_space, settings.get("info_action_mask", False))
    return kind(lambda: env, preset="none", num_envs=1, accelerator="cpu", **settings)


BOX = spaces.Box(-1, 1, (3,))
FOUR = spaces.Discrete(4)


def test_prediction_of_a_discrete_action_steps_a_table(tmp_path):
    env = gymnasium.make("FrozenLake-v1")
    agent = PPO("FrozenLake-v1", preset="none", backend="gymnasium", accelerator="cpu")
    obs, _ = env.reset(seed=1)
    for deterministic in (True, False):
        action = agent.predict(obs, deterministic)
        assert isinstance(obs, int) and hash(action) == hash(int(action))
        obs, *_ = env.step(action)
    assert agent.predict(np.int64(3)) == agent.predict([3])[0]


@pytest.mark.parametrize(
    ("space", "shape", "dtype"),
    [
        (spaces.Discrete(3, start=5), (), np.int64),
        (spaces.Discrete(1), (), np.int64),
        (spaces.Discrete(3, dtype=np.int32), (), np.int32),
        (spaces.MultiDiscrete([2, 3]), (2,), np.int64),
        (spaces.MultiDiscrete([2, 3], dtype=np.uint8), (2,), np.uint8),
        (spaces.MultiBinary(4), (4,), np.int8),
        (spaces.Box(-1, 2, (2,)), (2,), np.float32),
        (spaces.Box(-1, 2, (1,)), (1,), np.float32),
        (spaces.Box(-3, 2, (2,), np.int32), (2,), np.int32),
        (spaces.Box(0, 255, (1,), np.uint8), (1,), np.uint8),
    ],
    ids=repr,
)
def test_one_observation_gives_one_action_and_a_batch_gives_an_array(space, shape, dtype):
    agent = agent_of(BOX, space)
    one, batch = agent.predict(np.zeros(3)), agent.predict(np.zeros((1, 3)))
    assert (one.shape, one.dtype, batch.shape) == (shape, dtype, (1, *shape))
    assert isinstance(batch, np.ndarray) and isinstance(one, np.ndarray) == bool(shape)
    assert space.contains(one) and space.contains(batch[0])


def test_recurrent_policies_return_numbers_too():
    agent = make_recurrent("discrete")
    assert isinstance(agent.predict(np.zeros(agent.observation_space.shape)), np.int64)


@pytest.mark.parametrize("shape", [(), (2,), (1, 2), (1, 1, 3)])
def test_an_observation_of_another_shape_is_told_with_both_shapes(shape):
    words = re.escape(
        f"has the shape (3,), and a batch one dimension more in front; this has {shape}"
    )
    with pytest.raises(ValueError, match=words):
        agent_of(BOX, FOUR).predict(np.zeros(shape, np.float32))


# Masks

DICT = spaces.Dict({"x": BOX, "action_mask": spaces.MultiBinary(4)})


@pytest.mark.parametrize("kind", [PPO, A2C])
def test_mask_beside_the_observation_is_that_of_the_info(kind):
    agent, obs = agent_of(BOX, FOUR, kind, info_action_mask=True), np.ones((5, 3), np.float32)
    for allowed in range(4):
        mask = np.arange(4) == allowed
        for deterministic in (True, False):
            assert agent.predict(obs[0], deterministic, action_mask=mask) == allowed
            batch = agent.predict(obs, deterministic, np.tile(mask, (5, 1)).astype(np.int8))
            np.testing.assert_array_equal(batch, [allowed] * 5)
        assert agent.predict({"": obs[0], "action_mask": mask}) == allowed


def test_mask_beside_a_dict_is_its_key():
    agent, mask = agent_of(DICT, FOUR), np.array([0, 0, 1, 0], np.int8)
    one = {"x": np.zeros(3, np.float32)}
    assert agent.predict(one, action_mask=mask) == agent.predict({**one, "action_mask": mask}) == 2
    batch = {"x": np.zeros((2, 3), np.float32)}
    np.testing.assert_array_equal(agent.predict(batch, action_mask=np.stack([mask] * 2)), [2, 2])


def test_mask_of_several_dimensions_may_be_a_tuple():
    agent = agent_of(BOX, spaces.MultiDiscrete([2, 3]), info_action_mask=True)
    parts = np.array([0, 1], np.int8), np.array([0, 0, 1], np.int8)
    for mask in (parts, np.concatenate(parts)):
        np.testing.assert_array_equal(agent.predict(np.zeros(3), action_mask=mask), [1, 2])


def test_mask_beside_a_discrete_observation():
    agent = agent_of(spaces.Discrete(6), FOUR, info_action_mask=True)
    mask = np.array([0, 1, 0, 0])
    assert agent.predict(3, action_mask=mask) == 1
    np.testing.assert_array_equal(agent.predict([3, 2], action_mask=np.stack([mask] * 2)), [1, 1])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "needs an action mask: predict"),
        ({"action_mask": [1, 1, 1]}, r"of shape \(3,\) for 1 observations; each needs 4"),
        ({"action_mask": [0, 0, 0, 0]}, "allows no action"),
        ({"action_mask": [1, 0.5, 0, 0]}, "holds 1 where an action is allowed, and 0 elsewhere"),
        ({"action_mask": [1, -1, 0, 0]}, "holds 1 where an action is allowed, and 0 elsewhere"),
        ({"action_mask": [1, np.nan, 0, 0]}, "holds 1 where"),
        ({"action_mask": np.ones((2, 4))}, r"of shape \(2, 4\) for 1 observations"),
    ],
)
def test_missing_and_wrong_masks_are_one_line(given, words):
    agent = agent_of(BOX, FOUR, info_action_mask=True)
    with pytest.raises(ValueError, match=words) as error:
        agent.predict(np.zeros(3, np.float32), **given)
    assert "\n" not in str(error.value)


def test_mask_without_a_use_is_refused():
    mask, obs = np.ones(3), np.zeros(1, np.float32)
    for agent in (make_agent("discrete"), make_recurrent("discrete")):
        with pytest.raises(ValueError, match="action_mask has no effect"):
            agent.predict(obs, action_mask=mask)
    sac = SAC("Pendulum-v1", preset="none", accelerator="cpu")
    with pytest.raises(ValueError, match="action_mask has no effect"):
        sac.predict(np.zeros(3), action_mask=mask)
    with pytest.raises(ValueError, match="has a mask as its key action_mask already"):
        both = {"x": np.zeros(3), "action_mask": np.ones(4)}
        agent_of(DICT, FOUR).predict(both, action_mask=np.ones(4))


def test_half_of_a_mask_that_allows_nothing_is_refused():
    agent = agent_of(BOX, spaces.MultiDiscrete([2, 3]), info_action_mask=True)
    with pytest.raises(ValueError, match="allows no action"):
        agent.predict(np.zeros(3), action_mask=[1, 1, 0, 0, 0])


def test_what_is_not_a_number_is_refused():
    for obs in (np.full(3, np.nan), np.full((2, 3), np.inf)):
        with pytest.raises(ValueError, match="not finite"):
            agent_of(BOX, spaces.Discrete(2)).predict(obs)
    parts = spaces.Dict(x=BOX, y=BOX)
    with pytest.raises(ValueError, match="not finite"):
        agent_of(parts, spaces.Discrete(2)).predict({"x": np.full(3, np.nan), "y": np.zeros(3)})


# Names of other libraries


def test_arguments_of_other_libraries_are_answered_in_one_line():
    agent = make_agent("discrete")
    for name in ("callback", "log_interval", "progress_bar", "reset_num_timesteps", "anything"):
        with pytest.raises(ValueError, match=f"learn has no '{name}'; ") as error:
            agent.learn(64, **{name: 1})
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="'MlpPolicy' is not a task"):
        PPO("MlpPolicy", "CartPole-v1")


@pytest.mark.parametrize(
    ("name", "value", "ours"),
    [
        ("gamma", 0.5, "gamma"),
        ("ent_coef", np.float32(0.5), "ent_coef"),
        ("anneal_lr", True, "anneal_lr"),
        ("hidden_sizes", [8], "hidden_sizes"),
        ("lr_schedule", lambda progress: 1.0, "lr_schedule"),
        ("n_steps", 5, "num_steps"),
    ],
)
def test_a_setting_is_not_assigned_to_an_agent(name, value, ours):
    agent = make_agent("discrete")
    with pytest.raises(ValueError, match=f"{name} = .* has no effect: .*Give {ours} to PPO"):
        setattr(agent, name, value)
    agent.remark = agent.verbose = 1


def test_a_class_of_ones_own_has_attributes_of_any_name():
    class Own(PPO):
        def build(self, rollout: Any) -> None:
            self.gamma = 0.5
            super().build(rollout)

    agent = agent_of(BOX, FOUR, Own)
    agent.make_buffer()
    assert agent.gamma == 0.5


@pytest.mark.parametrize(
    "setting",
    [{"hidden_sizes": (4,)}, {"env_id": "Acrobot-v1"}, {"num_envs": 3}, {"engine": "recorded"}],
    ids=str,
)
def test_a_new_config_cannot_change_what_the_agent_was_made_from(setting):
    agent = PPO("CartPole-v1", preset="none", hidden_sizes=(8,), num_envs=2, engine="eager")
    with pytest.raises(ValueError, match=f"{next(iter(setting))} = .* has no effect"):
        agent.config = agent.config.replace(**setting)


def test_a_new_config_may_change_what_is_read_later():
    agent = PPO("CartPole-v1", preset="none", hidden_sizes=(8,), num_envs=2, engine="eager")
    agent.config = agent.config.replace(total_timesteps=500, gamma=0.5, eval_every=100)
    assert agent.config.gamma == 0.5


def test_what_reset_returns_is_no_observation_and_that_is_said():
    agent = agent_of(spaces.Box(-1, 1, (2,)), spaces.Discrete(2))
    with pytest.raises(ValueError, match=r"a pair \(obs, info\), as `reset` returns it; give obs"):
        agent.predict(agent.envs[0].envs[0].reset())


def test_a_state_is_a_tensor_of_new_state_for_a_number_of_environments():
    agent = make_recurrent("discrete")
    for number in (2.5, -1, None, "two"):
        with pytest.raises(ValueError, match="num_envs "):
            agent.new_state(number)  # pyright: ignore[reportArgumentType]
    obs, state = agent.observation_space.sample(), agent.new_state(1)
    with pytest.raises(ValueError, match="state is a tensor of new_state, not ndarray"):
        agent.predict(obs, state=state.numpy())  # pyright: ignore[reportArgumentType]
    for wrong in (state.double(), state.long(), state[:, :1].expand_as(state)):
        with pytest.raises(ValueError, match="state is a float32 tensor of new_state, not "):
            agent.predict(obs, state=wrong)
