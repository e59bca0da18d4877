"""Images that networks get as they are: bytes that are not divided, and arrays of floats."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from picture_envs import FLOATS, PictureEnv
from toy_agents import make_agent, run

from fastrl import PPO, from_sb3
from fastrl.data.columns import recorded
from fastrl.envs.make import make_env
from fastrl.models.encoders import Pixels, Reader, Trunk, make_trunk
from fastrl.models.own import space_seen
from fastrl.spaces.layout import in_words
from fastrl.spaces.observations import observation_rows, rows_of
from fastrl.spaces.pixels import ImageBox, is_pixels

CHOICE = spaces.Discrete(2)
BYTES = spaces.Box(0, 255, (3, 10, 10), np.uint8)
BOTH = spaces.Dict({"image": FLOATS, "speed": spaces.Box(-1, 1, (2,)), "bytes": BYTES})


def rows(space: spaces.Space, **how: Any) -> Any:
    return observation_rows("MyEnv", space, CHOICE, **how)


@pytest.mark.parametrize(
    ("space", "kind", "words"),
    [
        (BYTES, "auto", "pixels 3 x 10 x 10, as they are"),
        (BYTES, "pixels", "pixels 3 x 10 x 10, as they are"),
        (FLOATS, "pixels", "pixels 10 x 10 x 3, as they are"),
        (spaces.Box(0, 1, (12, 9)), "pixels", "pixels 1 x 12 x 9, as they are"),
        (spaces.Box(0, 9, (8, 8), np.int32), "pixels", "pixels 1 x 8 x 8, as they are"),
    ],
)
def test_pixels_reach_the_networks_as_they_are(space: Any, kind: Any, words: str) -> None:
    row = rows(space, obs_kind=kind, scale_images=False)
    assert in_words(row) == words and is_pixels(row)
    shown = np.stack([space.sample() for _ in range(3)])
    reader = Reader(row)
    seen = reader.read(torch.from_numpy(rows_of(row, shown)[0])).pixels
    trunk, _ = make_trunk(reader, [4], "relu", False, "minatar")
    assert seen is not None and isinstance(trunk, Trunk) and isinstance(trunk.pixels, Pixels)
    plain = torch.as_tensor(shown).float().reshape(3, *reader.pixels_shape)
    if reader.channel_axis == 2:
        plain = plain.permute(0, 3, 1, 2)
    assert seen.float().equal(plain)
    expected = trunk.pixels.others(trunk.pixels.first(plain)).flatten(1)
    torch.testing.assert_close(trunk.pixels(seen), expected, rtol=1e-4, atol=1e-5)


def test_bytes_are_divided_by_default() -> None:
    assert in_words(rows(BYTES)) == "pixels 3 x 10 x 10, divided by 255"
    assert Reader(rows(BYTES)).brightest == 255
    assert Reader(rows(BYTES, scale_images=False)).brightest == 1


def test_images_of_a_dict_keep_every_digit_beside_what_else_it_holds() -> None:
    row = rows(spaces.Dict({**BOTH.spaces, "bytes": FLOATS}), obs_kind="pixels", scale_images=False)
    parts = {name: np.stack([part.sample() for _ in range(4)]) for name, part in row.parts.items()}
    packed = row.pack(parts)
    assert packed.dtype == np.float32 and packed.shape == (4, 602)
    seen = Reader(row).read(torch.from_numpy(packed))
    assert seen.pixels is not None and seen.vector is not None
    images = np.concatenate([parts["bytes"], parts["image"]], 3).astype(np.float32)
    assert np.array_equal(seen.pixels.permute(0, 2, 3, 1).numpy(), images)
    assert np.array_equal(seen.vector.numpy(), parts["speed"])
    taken = recorded(row, packed)
    assert all(np.array_equal(taken[name], parts[name].astype(np.float32)) for name in parts)


def test_a_mask_of_two_dimensions_is_no_image() -> None:
    mask = spaces.Box(0, 1, (1, 2))
    parts = {"image": FLOATS, "action_mask": mask}
    row = rows(spaces.Dict(parts), obs_kind="pixels", scale_images=False)
    assert row.mask_size == 2 and row.pixels_shape == (10, 10, 3)


def test_frames_are_stacked_along_channels() -> None:
    how: dict[str, Any] = {"obs_kind": "pixels", "scale_images": False, "frame_stack": 2}
    env = make_env("picture_envs:PictureEnv", 2, **how)
    space = env.single_observation_space
    assert isinstance(space, ImageBox) and space.shape == (10, 10, 6) and not space.is_scaled
    assert space.dtype == np.float32 and env.reset().shape == (2, 10, 10, 6)


def test_the_space_crosses_over_to_other_processes() -> None:
    row = rows(FLOATS, obs_kind="pixels", scale_images=False)
    again = pickle.loads(pickle.dumps(row))
    assert isinstance(again, ImageBox) and not again.is_scaled and again == row


@pytest.mark.parametrize("space", [BYTES, FLOATS])
def test_a_network_of_ones_own_gets_them_as_they_are(space: spaces.Box) -> None:
    seen: list[torch.Tensor] = []

    class Seeing(torch.nn.Module):
        def __init__(self, space: Any) -> None:
            super().__init__()
            self.space, self.layer = space, torch.nn.LazyLinear(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return self.layer(x.flatten(1))

    how: dict[str, Any] = {"obs_kind": "pixels", "scale_images": False, "num_envs": 1}
    agent = PPO(lambda: PictureEnv(space), network=Seeing, preset="none", accelerator="cpu", **how)
    box = agent.policy.actor.network.space
    assert box.shape == (3, 10, 10) and box == space_seen(agent.observation_space)
    assert (box.low.min(), box.high.max()) == (space.low.min(), space.high.max())
    shown = space.sample()
    agent.predict(shown)
    plain = shown if space is BYTES else shown.transpose(2, 0, 1)
    assert np.array_equal(seen[-1][0].numpy(), plain.astype(np.float32))


@pytest.mark.parametrize("space", [BYTES, FLOATS, "dict"], ids=["bytes", "floats", "dict"])
def test_every_engine_learns_from_them_what_eager_learns(space: Any) -> None:
    parts = spaces.Dict({"image": FLOATS, "speed": spaces.Box(-1, 1, (2,))})
    space = parts if space == "dict" else space
    weights = []
    for engine in ("eager", "auto"):
        env = gymnasium.vector.SyncVectorEnv([lambda: PictureEnv(space)] * 2)
        how: dict[str, Any] = {"obs_kind": "pixels", "scale_images": False, "engine": engine}
        agent = make_agent(env, **how)
        run(agent, 2)
        weights.append(agent.optimizer.flat)
    torch.testing.assert_close(weights[1], weights[0], rtol=2e-4, atol=2e-5)


def test_runs_on_them_are_saved_loaded_tested_and_exported(tmp_path: Path) -> None:
    agent = PPO(
        "picture_envs:PictureEnv",
        num_envs=2,
        num_steps=8,
        per_rank_batch_size=16,
        total_timesteps=32,
        obs_kind="pixels",
        scale_images=False,
        eval_episodes=2,
        log_dir=str(tmp_path),
        verbose=0,
        accelerator="cpu",
    )
    agent.learn()
    assert agent.result is not None
    model = PPO.load(agent.result.folder)
    assert not model.config.scale_images
    shown = np.stack([FLOATS.sample() for _ in range(5)])
    chosen = model.predict(shown)
    model.export(tmp_path / "policy.pt")
    found = torch.jit.load(tmp_path / "policy.pt")(torch.as_tensor(shown).float())
    assert found.tolist() == chosen.tolist() == agent.predict(shown).tolist()


@pytest.mark.parametrize(
    ("space", "how", "message"),
    [
        (spaces.Box(-1, 1, (3,)), {"scale_images": False}, "scale_images=false has no effect on"),
        (FLOATS, {"scale_images": False}, "with obs_kind=pixels arrays of any numbers"),
        (FLOATS, {"obs_kind": "pixels"}, "or, with scale_images=false, of any numbers"),
        (BYTES, {"obs_kind": "vector", "scale_images": False}, "which holds no images"),
    ],
)
def test_what_has_no_effect_is_refused(space: spaces.Space, how: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rows(space, **how)


@pytest.mark.parametrize("is_normalized", [True, False])
@pytest.mark.parametrize("policy", ["MlpPolicy", "CnnPolicy", "MultiInputPolicy"])
def test_sb3s_normalize_images_is_ours(policy: str, is_normalized: bool) -> None:
    ours = from_sb3({"policy": policy, "policy_kwargs": {"normalize_images": is_normalized}})
    found = {name: ours[name] for name in ("obs_kind", "scale_images") if name in ours}
    unscaled = {"obs_kind": "vector"} if policy == "MlpPolicy" else None
    expected = unscaled or {"obs_kind": "pixels", "scale_images": False}
    assert found == ({} if is_normalized else expected)


def test_no_setting_of_images_is_lost_on_the_way(tmp_path: Path) -> None:
    """By id, by function, in processes, in a vector environment: all show the same space."""
    how: dict[str, Any] = {"num_envs": 2, "obs_kind": "pixels", "scale_images": False}
    how |= {"preset": "none", "accelerator": "cpu"}
    ways: list[Any] = [
        PPO("picture_envs:PictureEnv", **how),
        PPO(PictureEnv, **how),
        PPO(PictureEnv, vector="async", num_workers=1, **how),
        PPO(gymnasium.vector.SyncVectorEnv([PictureEnv] * 2), **how),
    ]
    found = [agent.observation_space for agent in ways]
    assert all(isinstance(x, ImageBox) and not x.is_scaled for x in found)
    assert all(x == y for x, y in itertools.pairwise(found))
    for env in (env for agent in ways for env in agent.envs):
        env.close()
