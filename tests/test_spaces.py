"""Rows: what is packed is what is read, and stacking shows the last observations."""

import pickle
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import toy_envs
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from picture_envs import PictureEnv

from fastrl import PPO
from fastrl.envs.make import make_env, vector_env_of, wrap_vector_env
from fastrl.envs.vector import HasState
from fastrl.models.encoders import Reader
from fastrl.spaces.actions import action_space_of
from fastrl.spaces.observations import observation_rows, pack_observation
from fastrl.spaces.packed import PackedRow
from fastrl.spaces.parts import leaf_values
from fastrl.training.greedy import fresh_env

TOY = f"{toy_envs.__name__}:"
ACTIONS = spaces.MultiDiscrete([2, 3])
PARTS = {
    "a_number": spaces.Box(-1, 1, ()),
    "action_mask": spaces.MultiBinary(5),
    "choice": spaces.Discrete(3, start=-1),
    "choices": spaces.MultiDiscrete([2, 2], start=[1, 0]),
    "doubles": spaces.Box(-9, 9, (2, 2), np.float64),
    "flags": spaces.MultiBinary(2),
    "nested": spaces.Dict({"whole": spaces.Box(-9, 9, (2,), np.int16)}),
}
FRONT = spaces.Box(0, 255, (8, 7, 3), np.uint8)


def batch_of(space: spaces.Dict, n: int) -> dict:
    """Return n random observations, as a vector env gives them."""
    space.seed(1)
    single = [space.sample() for _ in range(n)]
    return {
        key: batch_of(part, n)
        if isinstance(part, spaces.Dict)
        else np.stack([np.asarray(one[key]) for one in single])
        for key, part in space.items()
    }


@pytest.mark.parametrize("images", [[], ["front"], ["back", "front"]])
def test_what_is_packed_is_what_is_read(images):
    space = spaces.Dict({**PARTS, **dict.fromkeys(images, FRONT)})
    row = observation_rows("MyEnv", space, ACTIONS)
    batch = batch_of(space, 6)
    packed = pack_observation(row, batch)
    assert packed.shape == (6, *row.shape) and packed.dtype == row.dtype
    assert row.dtype == (np.uint8 if images else np.float32)
    inputs = Reader(row).read(torch.from_numpy(packed))
    assert inputs.mask is not None and inputs.vector is not None
    np.testing.assert_array_equal(inputs.mask, batch["action_mask"] == 1)
    expected = [
        batch["a_number"][:, None],
        np.eye(3)[batch["choice"] + 1],
        np.eye(2)[batch["choices"][:, 0] - 1],
        np.eye(2)[batch["choices"][:, 1]],
        batch["doubles"].reshape(6, 4).astype(np.float32),
        batch["flags"],
        batch["nested"]["whole"],
    ]
    np.testing.assert_array_equal(inputs.vector, np.concatenate(expected, 1))
    if images:
        assert inputs.pixels is not None and inputs.pixels.dtype == torch.uint8
        seen = np.concatenate([batch[name] for name in images], 3).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(inputs.pixels, seen)
    else:
        assert inputs.pixels is None


def test_keys_are_chosen_and_the_mask_comes_along():
    row = observation_rows("MyEnv", spaces.Dict({**PARTS, "front": FRONT}), ACTIONS, ["flags"])
    assert isinstance(row, PackedRow) and row.names == ["action_mask", "flags"]
    assert row.shape == (2 + 5,) and row.dtype == np.float32


def test_nested_parts_have_the_names_of_their_spaces():
    values = {"a": {"b": 1, "c": (2, 3)}, "d": 4}
    assert leaf_values(values, ()) == {"a.b": 1, "a.c.0": 2, "a.c.1": 3, "d": 4}


def test_mask_of_a_wrong_size_is_refused():
    with pytest.raises(ValueError, match="mask of 5 values does not fit Discrete"):
        observation_rows("MyEnv", spaces.Dict(PARTS), spaces.Discrete(4))


def test_non_finite_value_beside_pixels_is_refused():
    row = observation_rows(
        "MyEnv", spaces.Dict({"x": spaces.Box(-1, 1, (1,)), "y": FRONT}), ACTIONS
    )
    bad = {"x": np.full((2, 1), np.nan), "y": np.zeros((2, 8, 7, 3), np.uint8)}
    with pytest.raises(ValueError, match="not finite"):
        pack_observation(row, bad)


def test_bounded_whole_numbers_are_choices():
    space = spaces.Box(np.array([-1, 3]), np.array([1, 4]), dtype=np.int32)
    assert action_space_of(space) == spaces.MultiDiscrete([3, 2], start=[-1, 3])


def test_rows_of_other_parts_are_not_equal():
    dicts = [spaces.Dict({name: spaces.Box(-1, 1, (2,))}) for name in "abb"]
    a, b, c = (observation_rows("MyEnv", space, ACTIONS) for space in dicts)
    assert a != b and b == c


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vector_env_of_dicts_shows_the_last_observation(mode):
    def make() -> toy_envs.TargetEnv:
        return toy_envs.TargetEnv("dict")

    plain = make_env(f"{TOY}TargetEnv", 1, env_kwargs={"shown": "dict"}, seed=4)
    wrapped = wrap_vector_env(SyncVectorEnv([make], autoreset_mode=mode), seed=4)
    rows = [
        [env.reset(), *(env.step(np.ones(1, int)).obs for _ in range(8))]
        for env in (plain, wrapped)
    ]
    np.testing.assert_array_equal(*rows)


# Stacking


def test_stack_holds_the_last_observations_and_begins_anew_with_the_episode():
    env = make_env(f"{TOY}CountingEnv", 2, seed=0, frame_stack=3)  # episodes of 2 and 3 steps
    steps = [env.reset()] + [env.step(np.zeros(2, np.int64)).obs for _ in range(5)]
    shown = np.stack(steps)[:, :, 1::2]
    assert shown[:, 0].tolist() == [
        [0, 0, 0], [0, 0, 1], [0, 1, 2], [0, 0, 0], [0, 0, 1], [0, 1, 2],
    ]  # fmt: skip
    assert shown[:, 1].tolist() == [
        [0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3], [0, 0, 0], [0, 0, 1],
    ]  # fmt: skip


@pytest.mark.parametrize(("shown", "shape"), [("grey", (4, 8, 8)), ("colour", (8, 8, 12))])
def test_images_are_stacked_along_their_channels(shown, shape):
    settings = {"env_kwargs": {"shown": shown}, "seed": 5}
    stacked = make_env(f"{TOY}TargetEnv", 2, frame_stack=4, **settings)
    plain = make_env(f"{TOY}TargetEnv", 2, **settings)
    assert stacked.single_observation_space.shape == shape
    axis = 1 if shown == "grey" else 3
    frames = [plain.reset()] * 4
    for seen in (stacked.reset(), stacked.step(np.ones(2, int)).obs):
        whole = [frame[:, None] if shown == "grey" else frame for frame in frames]
        np.testing.assert_array_equal(seen, np.concatenate(whole, axis))
        frames = [*frames[1:], plain.step(np.ones(2, int)).obs]


@pytest.mark.parametrize(
    ("shape", "depth", "channels_last"),
    [
        ((7, 9, 3), 3, True),
        ((7, 9, 3), 4, True),
        ((10, 12, 3), 4, True),
        ((3, 9, 7), 4, False),
        ((9, 10), 9, False),
    ],
)
@pytest.mark.parametrize("how", [{}, {"scale_images": False}])
def test_stacked_images_lie_as_the_single_ones(shape, depth, channels_last, how):
    make = partial(PictureEnv, spaces.Box(0, 255, shape, np.uint8))
    agent = PPO(
        make,
        num_envs=2,
        num_steps=8,
        per_rank_batch_size=16,
        frame_stack=depth,
        accelerator="cpu",
        network=SeenShape,
        **how,
    )
    last = (*shape, 1) if len(shape) == 2 else shape if channels_last else (*shape[1:], shape[0])
    height, width, channels = last
    assert SeenShape.found == (depth * channels, height, width)
    plain: Any = vector_env_of("plain", [make] * 2, [7, 8])
    stacked = vector_env_of("stacked", [make] * 2, [7, 8], frame_stack=depth, **how)
    frames = [plain.reset()] * depth
    actions = np.zeros(2, np.int64)
    for rows in (stacked.reset(), stacked.step(actions).obs):
        images = [Reader(plain.single_observation_space).read(torch.tensor(x)) for x in frames]
        expected = torch.cat([image.pixels for image in images], 1)
        for space in (stacked.single_observation_space, agent.observation_space):
            for known in (space, pickle.loads(pickle.dumps(space)), deepcopy(space)):
                assert torch.equal(Reader(known).read(torch.tensor(rows)).pixels, expected)
        frames = [*frames[1:], plain.step(actions).obs]
    fresh = fresh_env(agent, 2, "eval", 1)
    assert Reader(fresh.single_observation_space).channel_axis == (2 if channels_last else 0)


class SeenShape(torch.nn.Module):
    """A network that notes the shape of its images."""

    found: Any = None

    def __init__(self, space: Any) -> None:
        super().__init__()
        SeenShape.found = space.shape
        self.layer = torch.nn.Linear(int(np.prod(space.shape)), 4)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.layer(pixels.flatten(1))


@pytest.mark.parametrize(("shape", "stacked"), [((7, 9, 3), (12, 7, 9)), ((3, 9, 7), (12, 9, 7))])
def test_a_policy_of_stacked_images_is_loaded_and_exported_as_it_learned(shape, stacked, tmp_path):
    make = partial(PictureEnv, spaces.Box(0, 255, shape, np.uint8))
    small = {"num_envs": 2, "num_steps": 8, "per_rank_batch_size": 16, "eval_episodes": 2}
    agent = PPO(make, frame_stack=4, total_timesteps=16, log_dir=str(tmp_path), **small).learn()
    assert agent.result.summary["eval_length_mean"] == 10
    rows = np.stack([agent.observation_space.sample() for _ in range(9)])
    loaded = PPO.load(agent.result.folder, make)
    assert (loaded.predict(rows) == agent.predict(rows)).all()
    agent.export(tmp_path / "policy.pt")
    exported = torch.jit.load(str(tmp_path / "policy.pt"))(torch.from_numpy(rows))
    assert (exported.numpy() == agent.predict(rows)).all()
    assert loaded.policy.reader.channels_height_width() == stacked


def test_stack_is_part_of_the_state():
    env, other = (make_env(f"{TOY}StatefulEnv", 2, seed=s, frame_stack=3) for s in (1, 2))
    env.reset()
    env.step(np.zeros(2, np.int64))
    assert isinstance(env, HasState) and isinstance(other, HasState)
    other.load_state_dict(env.state_dict())
    for _ in range(5):
        rows = [one.step(np.zeros(2, np.int64)).obs for one in (env, other)]
        np.testing.assert_array_equal(*rows)
