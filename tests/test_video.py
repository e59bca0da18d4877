"""Videos: that they can be read, hold the episode and nothing else, and never end a run."""

import itertools
import logging
import re
import subprocess
import sys

import imageio.v3 as imageio
import imageio_ffmpeg
import numpy as np
import pytest
import toy_envs
from PIL import Image
from quick import slow
from test_evaluate import GreedyAgent

from fastrl import PPO, make_env
from fastrl.envs import drawing
from fastrl.processes.errors import how_to_install
from fastrl.runs import video
from fastrl.runs.video import GIF_FRAMES_PER_SECOND, GIF_WIDTH, remove_old_videos, write_video
from fastrl.training import film
from fastrl.training.film import record_agent
from fastrl.training.greedy import evaluate, fresh_env


def make_frames(num_frames: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Return frames that differ: a white bar that moves over black."""
    frames = np.zeros((num_frames, height, width, 3), np.uint8)
    for index, frame in enumerate(frames):
        frame[:, index % width] = 255
    return list(frames)


def read_mp4(path) -> np.ndarray:
    """Return all frames [F, H, W, 3]."""
    return imageio.imread(path, plugin="FFMPEG")


# Writing


def test_mp4_holds_every_frame_in_order(tmp_path):
    values = [0, 60, 120, 180, 240]
    frames = [np.full((48, 64, 3), value, np.uint8) for value in values]
    mp4, _ = write_video(frames, tmp_path / "film", 10)
    means = read_mp4(mp4).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(means, values, atol=6)  # H.264 rounds colours


def test_mp4_plays_in_browsers(tmp_path):
    mp4, _ = write_video(make_frames(5), tmp_path / "film", 20)
    facts = next(imageio_ffmpeg.read_frames(str(mp4)))
    assert isinstance(facts, dict)
    assert (facts["codec"], facts["pix_fmt"].split("(")[0], facts["fps"]) == ("h264", "yuv420p", 20)


def test_odd_sides_grow_to_even_ones(tmp_path):
    mp4, _ = write_video(make_frames(3, height=45, width=61), tmp_path / "film", 10)
    assert read_mp4(mp4).shape == (3, 46, 62, 3)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        slow((640, 480, (640, 480))),
        (650, 480, (640, 474)),
        slow((1920, 1080, (640, 360))),
        (2000, 1, (640, 2)),
    ],
)
def test_wide_frames_are_scaled_down(tmp_path, width, height, expected):
    mp4, _ = write_video([np.zeros((height, width, 3), np.uint8)] * 2, tmp_path / "film", 10)
    assert read_mp4(mp4).shape[2:0:-1] == expected


def test_frames_without_end_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "MAX_FRAMES", 9)
    mp4, _ = write_video(itertools.repeat(make_frames(1)[0]), tmp_path / "film", 10)
    assert len(read_mp4(mp4)) == 9


@pytest.mark.parametrize(
    ("env_steps", "keep", "expected"),
    [(500, 2, [400, 500]), (500, 9, [100, 200, 300, 400, 500]), (300, 1, [300]), (250, 1, [200])],
)
def test_newest_videos_are_kept(tmp_path, env_steps, keep, expected):
    for steps in (100, 200, 300, 400, 500):
        for ending in ("mp4", "gif", "json"):
            (tmp_path / f"step_{steps:012d}.{ending}").touch()
    others = ["evaluate_last.mp4", "step_000000000001.mp4.mine"]
    for name in others:
        (tmp_path / name).touch()
    remove_old_videos(tmp_path, env_steps, keep)
    names = [
        f"step_{steps:012d}.{ending}" for steps in expected for ending in ("gif", "json", "mp4")
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, *names])


@pytest.mark.slow
def test_run_keeps_as_many_videos_as_checkpoints_and_says_their_bounds(tmp_path, capsys):
    sizes = {"num_envs": 2, "num_steps": 16, "per_rank_batch_size": 16, "total_timesteps": 128}
    tests = {"eval_every": 32, "eval_episodes": 1, "capture_video": True, "keep_checkpoints": 2}
    agent = PPO(
        f"{toy_envs.__name__}:EndlessEnv", preset="none", log_dir=tmp_path, **sizes, **tests
    )
    agent.learn()
    assert agent.result is not None
    names = sorted(path.name for path in (agent.result.folder / "videos").glob("*.mp4"))
    assert names == ["step_000000000096.mp4", "step_000000000128.mp4"]
    words = "video at 32 steps: drawing one episode, at most 1,000 frames, 640 pixels wide\n"
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(("frames_per_second", "kept"), [(10, 60), (15, 60), (30, 30), (50, 15)])
def test_gif_keeps_every_nth_frame_and_the_speed(frames_per_second, kept, tmp_path):
    _, gif = write_video(make_frames(60), tmp_path / "film", frames_per_second)
    with Image.open(gif) as image:
        assert image.n_frames == kept  # pyright: ignore[reportAttributeAccessIssue]
        seconds = image.info["duration"] / 1000
    assert seconds >= 1 / (GIF_FRAMES_PER_SECOND + 1)
    # A GIF's clock ticks in hundredths of a second.
    assert kept * seconds == pytest.approx(60 / frames_per_second, rel=0.11)


def test_gif_is_small_and_loops_forever(tmp_path):
    _, gif = write_video(make_frames(3, height=400, width=600), tmp_path / "film", 10)
    assert imageio.imread(gif).shape[1:3] == (round(400 * GIF_WIDTH / 600), GIF_WIDTH)
    with Image.open(gif) as image:
        assert image.info["loop"] == 0


def test_name_with_dots_is_kept(tmp_path):
    paths = write_video(make_frames(2), tmp_path / "new" / "v1.5", 10)
    assert [path.name for path in paths] == ["v1.5.mp4", "v1.5.gif"]


def test_failed_video_leaves_the_old_one_and_nothing_else(tmp_path):
    write_video(make_frames(2), tmp_path / "film", 10)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def failing():
        yield from make_frames(3)
        raise ArithmeticError("no more")

    with pytest.raises(ArithmeticError):
        write_video(failing(), tmp_path / "film", 10)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "at least one frame"),
        ([np.zeros((4, 4, 3), np.float32)], "float32"),
        ([np.zeros((4, 4), np.uint8)], r"\(4, 4\)"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)], r"\(4, 6, 3\)"),
    ],
)
def test_wrong_frames_are_refused(frames, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_video(frames, tmp_path / "film", 10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["imageio_ffmpeg", "PIL.Image"])
def test_missing_package_names_the_command(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=re.escape(how_to_install("video"))):
        write_video(make_frames(2), tmp_path / "film", 10)


# Recording


def length_of_test_film(agent: GreedyAgent) -> int:
    """Return the steps of the filmed episode, played again."""
    env = fresh_env(agent, 1, "video", agent.config.seed)  # pyright: ignore
    return int(evaluate(agent.predict, env, 1).lengths[0])


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
def test_video_holds_one_episode_without_its_reset_row(backend, tmp_path):
    if backend == "gymnasium":
        pytest.importorskip("pygame")
    agent = GreedyAgent("CartPole-v1", backend=backend)
    mp4, gif = record_agent(agent, tmp_path, "film", 0)
    # s_0 ... s_T
    assert len(read_mp4(mp4)) == length_of_test_film(agent) + 1
    assert gif.stat().st_size > 0


def test_last_frame_of_an_envpool_episode_is_not_of_the_next(tmp_path):
    agent = GreedyAgent("CartPole-v1")
    mp4, _ = record_agent(agent, tmp_path, "film", 0)
    first, *_, last = read_mp4(mp4).astype(int)
    # The pole has fallen far to the side; the next episode's would stand as the first one's.
    assert np.abs(last - first).mean() > 1


def test_toy_env_of_gymnasium_is_drawn(tmp_path):
    agent = GreedyAgent(f"{toy_envs.__name__}:CountingEnv")
    mp4, _ = record_agent(agent, tmp_path / "videos", "film", 0)
    assert len(read_mp4(mp4)) == length_of_test_film(agent) + 1


def test_gymnasium_task_below_mask_and_stack_keeps_its_speed():
    env = make_env("CartPole-v1", 1, backend="gymnasium", mask_vel=True, frame_stack=2)
    assert drawing.frame_rate(env) == 50
    env.close()


def test_long_episode_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(film, "MAX_FRAMES", 7)
    agent = GreedyAgent("CartPole-v1")
    assert length_of_test_film(agent) > 7
    mp4, _ = record_agent(agent, tmp_path, "film", 0)
    assert len(read_mp4(mp4)) == 7


def test_film_is_the_same_at_every_call(tmp_path):
    agent = GreedyAgent("CartPole-v1")
    films = [read_mp4(record_agent(agent, tmp_path, name, 0)[0]) for name in ("a", "b")]
    np.testing.assert_array_equal(*films)


def test_renderer_that_ends_its_process_costs_one_line(tmp_path, monkeypatch, caplog):
    # As MuJoCo does where it finds no OpenGL: a message, and exit.
    code = "raise SystemExit('ERROR: no OpenGL')"
    real_run = subprocess.run

    def run(command, **kwargs):
        return real_run([*command[:2], code], **kwargs)

    monkeypatch.setattr(drawing.subprocess, "run", run)
    drawing._why_not_rendered.cache_clear()
    with caplog.at_level(logging.WARNING, "fastrl"):
        assert record_agent(GreedyAgent("CartPole-v1"), tmp_path, "film", 500) == []
    drawing._why_not_rendered.cache_clear()
    assert len(caplog.messages) == 1
    assert "no video at 500 steps" in caplog.messages[0]
    assert "no OpenGL" in caplog.messages[0] and "\n" not in caplog.messages[0]


def test_error_of_a_renderer_costs_one_line(tmp_path, monkeypatch, caplog):
    def render(self):
        raise MemoryError

    monkeypatch.setattr(toy_envs.ToyEnv, "render", render)
    agent = GreedyAgent(f"{toy_envs.__name__}:CountingEnv")
    assert record_agent(agent, tmp_path, "film", 0) == []
    what = f"{toy_envs.__name__}:CountingEnv: render raised MemoryError"
    where = f"{__file__}:{render.__code__.co_firstlineno + 1}"
    assert caplog.messages == [f"no video at 0 steps: {what} ({where})"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_mujoco_is_drawn_or_refused_in_one_line(tmp_path, monkeypatch, caplog):
    agent = GreedyAgent("HalfCheetah-v4")
    monkeypatch.setattr(agent, "predict", lambda obs, deterministic=True: np.zeros((len(obs), 6)))
    monkeypatch.setattr(film, "MAX_FRAMES", 3)
    if paths := record_agent(agent, tmp_path, "film", 0):
        frames = read_mp4(paths[0])
        assert len(frames) == 3 and frames.std() > 10
    else:
        assert len(caplog.messages) == 1 and "cannot be drawn on this machine" in caplog.messages[0]


@pytest.mark.slow
def test_film_ends_early_when_the_run_is_to_stop(tmp_path, caplog):
    asked = iter([False, True])
    agent = GreedyAgent("CartPole-v1")
    assert record_agent(agent, tmp_path, "film", 0, lambda: next(asked)) == []
    assert list(tmp_path.iterdir()) == [] and not caplog.records
