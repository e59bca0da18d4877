"""Datasets: whole episodes as they were played, readable by Minari; what PyTorch gets of them."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import story_envs
import torch
from gymnasium import spaces
from quick import quick
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

minari = pytest.importorskip("minari")

import h5py  # noqa: E402
from minari.serialization import serialize_space  # noqa: E402
from PIL import Image  # noqa: E402

from fastrl import TrajectoryDataset, make_env, make_random_trajectory  # noqa: E402
from fastrl.data.episodes import EpisodeCutter  # noqa: E402
from fastrl.data.playing import Policy, record_episodes  # noqa: E402
from fastrl.processes.errors import how_to_install  # noqa: E402
from fastrl.spaces.random_actions import RandomActions  # noqa: E402

STORY, IMAGES, SCREEN = (f"story_envs:{name}" for name in ("StoryEnv", "ImageEnv", "ScreenEnv"))


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> Path:
    """A dataset of StoryEnv by three environments."""
    folder = tmp_path_factory.mktemp("story") / "data"
    make_random_trajectory(STORY, folder, 500, num_envs=3, seed=4)
    return folder


def episodes_of(folder: Path) -> list:
    """Returns all episodes, as Minari reads them."""
    return list(minari.MinariDataset(folder).iterate_episodes())


# What is written


def test_minari_reads_whole_episodes_with_their_true_last_observations(story):
    data = minari.MinariDataset(story)
    episodes = list(data.iterate_episodes())
    assert data.total_episodes == len(episodes) > 30
    assert data.total_steps == sum(map(len, episodes)) >= 500
    for episode in episodes:
        length = len(episode)
        seed, number = episode.observations[0, :2]
        # An observation of another episode, or of a reset, would have another number in it.
        assert (episode.observations[:, 0] == seed).all()
        assert (episode.observations[:, 1] == number).all()
        assert episode.observations[:, 2].tolist() == list(range(length + 1))
        steps = np.arange(1, length + 1)
        assert episode.rewards.tolist() == (100 * number + steps).tolist()
        ends = steps == length
        is_cut = number % 2 == 1
        assert episode.terminations.tolist() == (ends & (not is_cut)).tolist()
        assert episode.truncations.tolist() == (ends & is_cut).tolist()
        assert episode.actions.shape == (length,) and episode.infos == {}


def test_no_episode_of_an_environment_is_left_out(story):
    """Not even the longer of the last ones: without them, the data would favour short ones."""
    data = minari.MinariDataset(story).storage
    facts = data.get_episode_metadata(range(data.total_episodes))
    played = [(int(x["env"]), int(x["env_episode"])) for x in facts]
    for env in range(3):
        numbers = sorted(number for index, number in played if index == env)
        assert numbers == list(range(len(numbers)))
    first = int(data.metadata["fastrl"]["first_env_seed"])
    lengths = {(e, k): story_envs.length_of(first + e, k) for e, k in played}
    written = {pair: len(x) for pair, x in zip(played, episodes_of_storage(data), strict=True)}
    assert written == lengths


def episodes_of_storage(storage) -> list:
    return [x["rewards"] for x in storage.get_episodes(range(storage.total_episodes))]


def test_first_episodes_name_the_seed_of_their_reset(story):
    data = minari.MinariDataset(story).storage
    first = int(data.metadata["fastrl"]["first_env_seed"])
    facts = list(data.get_episode_metadata(range(data.total_episodes)))
    assert {int(x["env"]): x["seed"] for x in facts if x["env_episode"] == 0} == {
        0: first,
        1: first + 1,
        2: first + 2,
    }
    assert not any("seed" in x for x in facts if x["env_episode"])


def test_metadata_say_task_version_and_policy(story):
    data = minari.MinariDataset(story)
    facts = data.storage.metadata
    assert facts["algorithm_name"] == "random" and facts["fastrl"]["seed"] == 4
    assert facts["fastrl"]["version"] and facts["fastrl"]["env_id"] == STORY
    assert data.id == "story_envs-StoryEnv/random-v0"
    env = data.recover_environment()
    assert isinstance(env.unwrapped, story_envs.StoryEnv)
    assert spaces.flatdim(data.observation_space) == spaces.flatdim(env.observation_space)


@pytest.mark.parametrize("kind", story_envs.FIRST_ACTIONS)
def test_every_action_space_is_written_as_it_was_played(kind, tmp_path):
    """The environment refuses actions that are not in its space."""
    env = lambda: story_envs.StoryEnv(kind)  # noqa: E731
    data = make_random_trajectory(env, tmp_path / "data", 60, num_envs=2)
    whole = minari.MinariDataset(tmp_path / "data")
    for episode in whole.iterate_episodes():
        assert all(whole.action_space.contains(action) for action in episode.actions)
    actions = torch.stack([item.actions for item in data])
    assert len(actions.unique(dim=0)) > 2


def test_images_and_parts_of_dicts_are_written_without_loss(tmp_path):
    make_random_trajectory(IMAGES, tmp_path / "data", 150, num_envs=3)
    whole = minari.MinariDataset(tmp_path / "data")
    facts = list(whole.storage.get_episode_metadata(range(len(whole))))
    first = whole.storage.metadata["fastrl"]["first_env_seed"]
    env = story_envs.ImageEnv()
    for episode, fact in zip(whole.iterate_episodes(), facts, strict=True):
        env.seed, env.episode = first + int(fact["env"]), int(fact["env_episode"])
        for step in range(len(episode) + 1):
            env.step_number = step
            expected, parts = env.observation(), episode.observations
            assert (parts["camera"][step] == expected["camera"]).all()
            assert parts["inner.where"][step] == expected["inner"]["where"]
            assert (parts["numbers"][step] == expected["numbers"]).all()
            assert (parts["signs"][step] == expected["signs"]).all()
            mask = expected["action_mask"] if step < len(episode) else parts["action_mask"][step]
            assert (parts["action_mask"][step] == mask).all()
    assert whole.observation_space["camera"] == env.observation_space["camera"]


def test_images_of_an_episode_longer_than_a_block_are_whole(monkeypatch, tmp_path):
    """They come in chunks, of which each is compressed while the episode is under way."""
    monkeypatch.setattr("fastrl.data.episodes._CHUNK_BYTES", 2 * 40 * 48 * 3)
    monkeypatch.setattr("fastrl.data.playing._BLOCK_BYTES", 3 * 40 * 48 * 3)
    make_random_trajectory(SCREEN, tmp_path / "data", 60, num_envs=1)
    for number, episode in enumerate(episodes_of(tmp_path / "data")):
        env = story_envs.ScreenEnv()
        env.seed = minari.MinariDataset(tmp_path / "data").storage.metadata["fastrl"][
            "first_env_seed"
        ]
        env.episode = number
        for step, image in enumerate(episode.observations):
            env.step_number = step
            assert (image == env.observation()).all()


def test_settings_that_change_what_environments_show_go_for_random_trajectories(tmp_path):
    how = {"gray_scale": True, "resize": 16, "action_repeat": 2}
    data = make_random_trajectory(SCREEN, tmp_path / "data", 10, num_envs=1, **how)
    assert data.observation_space.shape == (16, 16)


def test_masks_of_the_info_are_written_beside_the_observation(tmp_path):
    env = gymnasium.make("CartPole-v1")

    class Masked(gymnasium.Wrapper):
        def reset(self, **how):
            return self.env.reset(**how)[0], {"action_mask": np.array([1, 0])}

        def step(self, action):
            assert action == 0
            return *self.env.step(action)[:4], {"action_mask": np.array([1, 0])}

    make_random_trajectory(Masked(env), tmp_path / "data", 30, info_action_mask=True)
    episode = episodes_of(tmp_path / "data")[0]
    assert set(episode.observations) == {"observation", "action_mask"}
    assert episode.observations["observation"].shape == (len(episode) + 1, 4)


def test_the_same_seed_gives_the_same_dataset_and_another_another(tmp_path):
    one, same, other = (
        make_random_trajectory("CartPole-v1", tmp_path / str(i), 300, seed=seed, length=2)
        for i, seed in enumerate((1, 1, 2))
    )
    assert len(one) == len(same)
    assert torch.equal(one[:].obs, same[:].obs) and torch.equal(one[:].actions, same[:].actions)
    assert not torch.equal(one[0].obs, other[0].obs)


def test_a_number_of_episodes_is_dealt_evenly(tmp_path):
    from fastrl.data.describing import writer_of

    env = make_env(STORY, 3, seed=0)
    draw = RandomActions(env.single_observation_space, env.single_action_space, 0)
    with writer_of(env, tmp_path / "data", "random", "random", 0, {}, False) as writer:
        record_episodes(env, Policy(draw), writer, num_episodes=8)
    storage = minari.MinariDataset(tmp_path / "data").storage
    envs = [int(x["env"]) for x in storage.get_episode_metadata(range(8))]
    assert storage.total_episodes == 8 and sorted(np.bincount(envs)) == [2, 3, 3]


# Nothing is lost


def test_a_folder_that_exists_is_refused_and_appended_only_if_asked(story, tmp_path):
    import shutil

    folder = tmp_path / "data"
    shutil.copytree(story, folder)
    before = episodes_of(folder)
    with pytest.raises(ValueError, match="exists already"):
        make_random_trajectory(STORY, folder, 10)
    with pytest.raises(ValueError, match="another observation_space"):
        make_random_trajectory("CartPole-v1", folder, 10, append=True)
    make_random_trajectory(STORY, folder, 40, append=True, num_envs=2)
    after = episodes_of(folder)
    assert len(after) > len(before)
    for old, new in zip(before, after, strict=False):
        assert (old.observations == new.observations).all()
    fresh = {x.observations[0, 0] for x in after[len(before) :]}
    assert not fresh & {x.observations[0, 0] for x in before}, "the same episodes again"
    assert minari.MinariDataset(folder).total_steps == sum(map(len, after))


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for append in (False, True):
        with pytest.raises(ValueError):
            make_random_trajectory("CartPole-v1", tmp_path, 10, append=append)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_error_in_the_middle_keeps_the_episodes_before_it(tmp_path):
    env = make_env(STORY, 2, seed=0)
    draw = RandomActions(env.single_observation_space, env.single_action_space, 0)
    calls = iter(range(400))

    def act(obs):
        if next(calls) == 300:
            raise ValueError("it broke")
        return draw(obs)

    from fastrl.data.describing import writer_of

    with (
        pytest.raises(ValueError, match="it broke"),
        writer_of(env, tmp_path / "data", "random", "random", 0, {}, False) as writer,
    ):
        record_episodes(env, Policy(act), writer, num_steps=10_000)
    assert len(episodes_of(tmp_path / "data")) > 50


@pytest.mark.slow
def test_a_kill_leaves_a_dataset_that_can_be_read_and_appended_to(tmp_path):
    folder = tmp_path / "data"
    command = [sys.executable, "-m", "fastrl.collect", "--env-id", "story_envs:SlowEnv"]
    command += ["--steps", "1e6", "--out", str(folder), "--num-envs", "4"]
    here = str(Path(__file__).parent)
    where = {**os.environ, "PYTHONPATH": os.pathsep.join([here, *sys.path])}
    process = subprocess.Popen(command, env=where, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (folder / "metadata.json").exists():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        time.sleep(1.5)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    killed = episodes_of(folder)
    assert len(killed) > 20
    assert all(x.terminations[-1] or x.truncations[-1] for x in killed)
    make_random_trajectory("story_envs:SlowEnv", folder, 20, append=True, num_envs=2)
    assert len(episodes_of(folder)) > len(killed)


def test_an_environment_that_never_ends_an_episode_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("fastrl.data.playing.MOST_EPISODE_STEPS", 300)
    with pytest.raises(ValueError, match=r"NeverEnv: an episode has not ended after 300 steps"):
        make_random_trajectory("story_envs:NeverEnv", tmp_path / "data", 10_000)
    assert not (tmp_path / "data").exists()


def test_cut_episodes_are_the_same_whatever_the_blocks():
    """Ends at the first and the last row of a block included."""
    rows = np.arange(60, dtype=np.float32)
    done = np.isin(rows, [3, 4, 9, 19, 20, 39, 59])[:, None]
    cut = {}
    for size in (60, 10, 7, 1):
        cutter = EpisodeCutter("toy", 1, lambda env, number, steps: True, 100)
        cut[size] = [
            episode.columns["rewards"].tolist()
            for at in range(0, 60, size)
            for episode in cutter.take(
                {"rewards": rows[at : at + size, None]}, done[at : at + size]
            )
        ]
        cutter.close()
    assert cut[60] == cut[10] == cut[7] == cut[1]
    assert cut[60][:3] == [[0, 1, 2, 3], [4], [5, 6, 7, 8, 9]] and len(cut[60]) == 7


# What PyTorch gets


@pytest.mark.parametrize("in_memory", quick([True, False], False))
def test_windows_never_cross_the_end_of_an_episode(story, in_memory):
    data = TrajectoryDataset(story, 3, in_memory=in_memory)
    lengths = [len(x) for x in episodes_of(story)]
    assert len(data) == sum(max(0, length - 2) for length in lengths)
    items = list(data)
    for item in items:
        assert item.obs.shape == (4, 3) and item.actions.shape == (3,)
        assert item.obs.dtype == torch.float32 and item.rewards.shape == (3,)
        assert (item.obs[:, :2] == item.obs[0, :2]).all()
        assert (item.obs[1:, 2] - item.obs[:-1, 2] == 1).all()
        assert not item.terminated[:-1].any() and not item.truncated[:-1].any()
    steps = [int(item.obs[0, 2]) for item in items]
    assert steps == [s for length in lengths for s in range(max(0, length - 2))], "not in order"


def test_items_from_memory_and_from_the_file_are_the_same(story):
    for length in (None, 2):
        memory, file = (TrajectoryDataset(story, length, in_memory=x) for x in (True, False))
        for chosen in (0, -1, 17, [3, 5, 4], slice(10, 20), torch.tensor([1, 2])):
            for one, other in zip(memory[chosen], file[chosen], strict=True):
                assert torch.equal(one, other) and one.dtype == other.dtype


def test_transitions_are_those_of_the_episodes(story):
    data, at = TrajectoryDataset(story), 0
    for episode in episodes_of(story):
        for t in range(len(episode)):
            item = data[at]
            assert item.obs.tolist() == episode.observations[t].tolist()
            assert item.next_obs.tolist() == episode.observations[t + 1].tolist()
            assert item.actions == episode.actions[t] and item.rewards == episode.rewards[t]
            assert item.terminated == episode.terminations[t]
            assert item.truncated == episode.truncations[t]
            at += 1
    assert at == len(data)


@pytest.mark.parametrize("in_memory", quick([True, False], False))
def test_workers_of_a_loader_give_what_the_process_itself_gives(story, in_memory):
    data = TrajectoryDataset(story, 2, in_memory=in_memory)
    batches = list(DataLoader(data, 32, num_workers=2))
    assert torch.equal(torch.cat([batch.obs for batch in batches]), data[:].obs)


def test_whole_batches_come_by_a_batch_sampler(story):
    data = TrajectoryDataset(story, 2)
    sampler = BatchSampler(RandomSampler(data), 50, drop_last=False)
    batches = list(DataLoader(data, batch_size=None, sampler=sampler))
    assert batches[0].obs.shape == (50, 3, 3) and sum(len(x.obs) for x in batches) == len(data)


def test_held_out_episodes_share_no_row_with_the_others(story):
    data = TrajectoryDataset(story, 2)
    train, held_out = data.split(0.25, seed=1)

    def names(part):
        return {tuple(x) for x in part[:].obs[:, 0, :2].tolist()}

    assert len(held_out.episodes) == round(0.25 * len(data.episodes))
    assert not names(train) & names(held_out)
    assert len(train) + len(held_out) == len(data)


def test_episodes_come_whole_and_have_returns(story):
    data = TrajectoryDataset(story)
    episodes = episodes_of(story)
    assert np.allclose(data.returns(), [x.rewards.sum() for x in episodes])
    assert data.episode(5).obs.tolist() == episodes[5].observations.tolist()
    best = data.subset(data.episodes[np.argsort(-data.returns())[:3]])
    assert (
        len(best) == sum(best.lengths)
        and best.lengths.tolist() == data.lengths[best.episodes].tolist()
    )


def test_parts_of_observations_come_by_name(tmp_path):
    make_random_trajectory(IMAGES, tmp_path / "data", 40, num_envs=2)
    for in_memory in (True, False):
        data = TrajectoryDataset(tmp_path / "data", 1, in_memory=in_memory)
        assert data[0].obs["camera"].shape == (2, 40, 48, 3)
        assert data[0].obs["inner.where"].tolist() == [1, 2]
        batch = next(iter(DataLoader(data, 4)))
        assert batch.obs["numbers"].shape == (4, 2, 2, 2)
        some = TrajectoryDataset(tmp_path / "data", obs_keys=["numbers"], in_memory=in_memory)
        assert list(some[0].obs) == ["numbers"] and some[0].next_obs["numbers"].shape == (2, 2)


@pytest.mark.parametrize("jpeg", [True, False])
def test_datasets_that_minari_wrote_are_read(tmp_path, monkeypatch, jpeg):
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env, buffers = story_envs.ScreenEnv(), []
    for seed in (3, 5):
        obs, rewards, ends = [env.reset(seed=seed)[0]], [], []
        while not (ends and any(ends[-1])):
            image, reward, *flags, _ = env.step(2)
            obs, rewards, ends = [*obs, image], [*rewards, reward], [*ends, flags]
        terminated, truncated = (list(flags) for flags in zip(*ends, strict=True))
        actions = [2] * len(rewards)
        buffers.append(
            EpisodeBuffer(None, seed, None, obs, actions, rewards, terminated, truncated)
        )
    with pytest.warns():
        made = minari.create_dataset_from_buffers(
            "toy/test-v0",
            buffers,
            observation_space=env.observation_space,
            action_space=env.action_space,
            jpeg_encoding=jpeg,
        )
    whole = list(made.iterate_episodes())
    for in_memory in (True, False):
        data = TrajectoryDataset(made.storage.data_path, in_memory=in_memory)
        assert len(data) == made.total_steps
        assert (data.episode(1).obs.numpy() == whole[1].observations).all()
        assert (data[-1].next_obs.numpy() == whole[-1].observations[-1]).all()


def test_minari_appends_to_ours(story, tmp_path):
    import shutil

    from minari.data_collector import EpisodeBuffer

    shutil.copytree(story, tmp_path / "data")
    data = minari.MinariDataset(tmp_path / "data")
    episode = data[0]
    buffer = EpisodeBuffer(
        observations=list(episode.observations),
        actions=list(episode.actions),
        rewards=list(episode.rewards),
        terminations=list(episode.terminations),
        truncations=list(episode.truncations),
    )
    data.update_dataset_from_buffer([buffer])
    ours = TrajectoryDataset(tmp_path / "data")
    assert len(ours.episodes) == data.total_episodes
    assert ours.episode(-1).obs.tolist() == episode.observations.tolist()


# Mistakes and damage, in a line each


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"length": 0}, "length is 0"),
        ({"length": 8}, "no episode has 8 steps; the longest has 7"),
        ({"obs_keys": ["x"]}, "no observation key 'x'"),
    ],
)
def test_wrong_arguments_are_told(story, arguments, words):
    with pytest.raises(ValueError, match=words):
        TrajectoryDataset(story, **arguments)


def test_wrong_indices_are_told(story):
    data = TrajectoryDataset(story)
    for wrong in (len(data), [0, len(data)], 1.5):
        with pytest.raises(IndexError):
            data[wrong]
    with pytest.raises(ValueError, match="held_out is 1"):
        data.split(1.0)


def damaged(story: Path, folder: Path, how) -> Path:
    import shutil

    shutil.copytree(story, folder)
    how(folder)
    return folder


def edit_metadata(**changes):
    def edit(folder: Path) -> None:
        path = folder / "metadata.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def edit_episode(change):
    def edit(folder: Path) -> None:
        import h5py

        with h5py.File(folder / "part_0000.hdf5", "a") as file:
            change(file["episode_3"])

    return edit


def without(name: str):
    return edit_episode(lambda group: group.__delitem__(name))


def with_array(name: str, array):
    def change(group) -> None:
        del group[name]
        group[name] = array

    return edit_episode(change)


def link_elsewhere(folder: Path) -> None:
    import h5py

    with h5py.File(folder / "main_data.hdf5", "a") as file:
        del file["episode_3"]
        file["episode_3"] = h5py.ExternalLink("../other/part_0000.hdf5", "/episode_3")


def virtual(group) -> None:
    import h5py

    layout = h5py.VirtualLayout((len(group["rewards"]),), "f4")
    layout[:] = h5py.VirtualSource("../story/part_0000.hdf5", "/episode_3/rewards", layout.shape)
    del group["rewards"]
    group.create_virtual_dataset("rewards", layout)


def in_raw_file(group) -> None:
    shape, path = group["rewards"].shape, str(Path(__file__).resolve())
    del group["rewards"]
    group.create_dataset("rewards", shape, "f4", external=[(path, 0, 4 * shape[0])])


def in_linked_file(group) -> None:
    import h5py

    path = Path(group.file.filename)
    other = path.parent.parent / "elsewhere.hdf5"
    with h5py.File(other, "w") as file:
        file["rewards"] = np.zeros(group["rewards"].shape, np.float32)
    del group["rewards"]
    group["rewards"] = h5py.ExternalLink(str(other), "/rewards")


@pytest.mark.parametrize("change", [virtual, in_raw_file, in_linked_file])
def test_no_array_is_read_from_outside_the_folder(story, tmp_path, change):
    folder = damaged(story, tmp_path / "data", edit_episode(change))
    with pytest.raises(ValueError, match="episode 3: rewards is in another file"):
        TrajectoryDataset(folder)


def test_a_file_that_is_a_link_is_not_read(story, tmp_path):
    folder = damaged(story, tmp_path / "data", lambda _: None)
    part = folder / "part_0000.hdf5"
    part.rename(tmp_path / "elsewhere.hdf5")
    part.symlink_to(tmp_path / "elsewhere.hdf5")
    with pytest.raises(ValueError, match=r"lacks part_0000.hdf5, or it is no regular file"):
        TrajectoryDataset(folder)


@pytest.mark.parametrize("kind", ["external", "soft"])
def test_an_array_that_is_a_link_is_not_opened(story, tmp_path, kind):
    def link(episode) -> None:
        os.mkfifo(tmp_path / "data" / "pipe")
        del episode["rewards"]
        links = {"external": h5py.ExternalLink("pipe", "/x"), "soft": h5py.SoftLink("/x")}
        episode["rewards"] = links[kind]

    told = {"external": "in another file", "soft": "a link"}[kind]
    with pytest.raises(ValueError, match=f"episode 3: rewards is {told}"):
        TrajectoryDataset(damaged(story, tmp_path / "data", edit_episode(link)))


def test_an_image_is_a_jpeg_of_its_shape_and_no_program_draws_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
    (tmp_path / "gs").chmod(0o755)
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 12\nshowpage\n%%EOF\n"
    large = io.BytesIO()
    Image.new("RGB", (300, 200)).save(large, "JPEG")
    for name, content, told in (
        ("eps", drawing, "cannot identify image file"),
        ("large", large.getvalue(), r"an image has the shape \(200, 300\)"),
    ):
        folder = tmp_path / name
        make_random_trajectory("CartPole-v1", directory=folder, total_steps=50)
        space = serialize_space(gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8))
        edit_metadata(observation_space=space, jpeg_encoding=True, total_episodes=1)(folder)
        (folder / "main_data.hdf5").unlink()
        with h5py.File(folder / "main_data.hdf5", "w") as file:
            group = file.create_group("episode_0")
            group["rewards"], group["actions"] = np.zeros(1), np.zeros(1, np.int64)
            group["terminations"], group["truncations"] = np.ones(1, bool), np.zeros(1, bool)
            kind = h5py.vlen_dtype(np.uint8)
            images = group.create_dataset("observations", (2,), dtype=kind)
            for i in range(2):
                images[i] = np.frombuffer(content, np.uint8)
        with pytest.raises(ValueError, match=told):
            _ = TrajectoryDataset(folder)[0]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("in_memory", [False, True])
def test_no_memory_is_taken_for_a_shape_that_no_episode_has(story, tmp_path, in_memory):
    space = '{"type": "MultiBinary", "n": [1000000, 1000000, 100]}'
    folder = damaged(story, tmp_path / "data", edit_metadata(observation_space=space))
    with pytest.raises(ValueError, match="episode 0: observations has the shape"):
        _ = TrajectoryDataset(folder, in_memory=in_memory)[0]


def test_metadata_of_gigabytes_are_refused_at_once(story, tmp_path):
    folder = damaged(story, tmp_path / "data", lambda _: None)
    os.truncate(folder / "metadata.json", 3 * 2**30)
    with pytest.raises(ValueError, match=r"metadata\.json is damaged"):
        TrajectoryDataset(folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"fastrl": {"appended": 5}}, "appended is 5 in its metadata"),
        ({"total_steps": -5}, "it lacks total_episodes or total_steps"),
    ],
)
def test_damaged_metadata_are_not_appended_to(story, tmp_path, change, told):
    folder = damaged(story, tmp_path / "data", edit_metadata(**change))
    with pytest.raises(ValueError, match=told):
        make_random_trajectory(STORY, folder, 100, append=True)


def cut(name: str, size: int):
    return lambda folder: os.truncate(folder / name, size)


@pytest.mark.parametrize(
    "how",
    [
        cut("metadata.json", 40),
        cut("metadata.json", 0),
        cut("main_data.hdf5", 100),
        cut("part_0000.hdf5", 5000),
        cut("part_0000.hdf5", 0),
        lambda folder: (folder / "part_0000.hdf5").unlink(),
        lambda folder: (folder / "main_data.hdf5").unlink(),
        lambda folder: (folder / "metadata.json").unlink(),
        edit_metadata(total_episodes=10**6),
        edit_metadata(total_episodes=0),
        edit_metadata(total_episodes="many"),
        edit_metadata(data_format="parquet"),
        edit_metadata(observation_space='{"type": "Box"}'),
        edit_metadata(observation_space=3),
        edit_metadata(observation_space='{"type": "MultiBinary", "n": 7}'),
        edit_metadata(
            action_space='{"type": "Text", "max_length": 3, "min_length": 1, "charset": "a"}'
        ),
        without("rewards"),
        without("observations"),
        with_array("rewards", np.zeros((3, 3))),
        with_array("terminations", np.zeros(1, bool)),
        with_array("actions", np.array(["a", "b"], "S1")),
        with_array("observations", np.zeros((2, 3), np.float32)),
        link_elsewhere,
    ],
)
def test_damage_is_a_line_that_names_the_dataset(story, tmp_path, how):
    folder = damaged(story, tmp_path / "data", how)
    with pytest.raises(ValueError) as caught:
        TrajectoryDataset(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_episodes_without_steps_are_left_out_and_told(story, tmp_path, caplog):
    def empty(group):
        for name in ("rewards", "terminations", "truncations", "actions"):
            rest = group[name][:0]
            del group[name]
            group[name] = rest
        first = group["observations"][:1]
        del group["observations"]
        group["observations"] = first

    folder = damaged(story, tmp_path / "data", edit_episode(empty))
    data = TrajectoryDataset(folder, 2)
    assert 3 not in data.episodes and "1 episodes have no steps" in caplog.text
    assert torch.equal(data[-1].obs, TrajectoryDataset(story, 2)[-1].obs)


def test_missing_packages_are_named_with_their_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=re.escape(f"h5py; {how_to_install('data')}")):
        make_random_trajectory("CartPole-v1", tmp_path / "data", 10)
