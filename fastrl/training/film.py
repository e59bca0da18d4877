"""Films of an agent: one greedy episode, drawn without a display."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrl.envs.vector import VectorEnv
from fastrl.processes.errors import one_line
from fastrl.runs.video import check_rendering, expose_opengl, write_video
from fastrl.training.greedy import Asks, StoppedError, fresh_env, greedy_player

if TYPE_CHECKING:
    from fastrl.training.agent import Agent

MAX_FRAMES = 2000  # of a video, at most

_log = logging.getLogger("fastrl")


def record_agent(
    agent: Agent, folder: Path, name: str, env_steps: int, should_stop: Asks = bool
) -> list[Path]:
    """Films one greedy episode, without a display, as `<folder>/<name>.mp4` and `.gif`.

    Args:
        agent: who plays.
        folder: where to; created if it is not there.
        name: the files' name without ending.
        env_steps: how far the training is, for the log.
        should_stop: asked at every frame; a film that was stopped is none.

    Returns:
        The files; none, with one line in the log, if the task cannot be drawn or the packages for
        videos are missing: no training ends for want of a video.
    """
    try:
        return record(agent, folder, name, agent.config.seed, should_stop)
    except StoppedError:
        return []
    except Exception as error:  # renderers raise whatever they like
        _log.warning("no video at %d steps: %s", env_steps, one_line(error))
        return []


def record(agent: Agent, folder: Path, name: str, seed: int, should_stop: Asks) -> list[Path]:
    """Films as `record_agent` does, in an environment of this seed.

    Raises:
        ValueError: the task cannot be drawn, or the packages for videos are missing.
        StoppedError: `should_stop` said so.
    """
    played = agent.envs[0]
    if played.backend == "envpool":
        check_rendering(played.env_id)
    env = fresh_env(agent, 1, "video", seed, render=True)
    try:
        return write_video(_frames(agent, env, should_stop), folder / name, _frames_per_second(env))
    finally:
        env.close()


def _frames(agent: Agent, env: VectorEnv, should_stop: Asks) -> Iterator[np.ndarray]:
    """Yields one episode from its first observation to its last, at most MAX_FRAMES."""
    obs = env.reset()
    predict, _ = greedy_player(agent, 1)
    expose_opengl()
    yield env.render()
    for _ in range(MAX_FRAMES - 1):
        if should_stop():
            raise StoppedError(f"{env.env_id}: the film was stopped")
        step = env.step(predict(obs))
        obs = step.obs
        yield env.render()
        if step.terminated[0] or step.truncated[0]:
            return


def _frames_per_second(env: VectorEnv) -> float:
    """Returns about the speed of the task: gymnasium knows it, EnvPool does not tell."""
    inner: Any = env
    while hasattr(inner, "env"):  # below a velocity mask and a stack
        inner = inner.env
    if env.backend == "gymnasium":
        return float(inner.envs[0].metadata.get("render_fps") or 30)
    import envpool

    # Classic control and Box2D make 50 steps a second; with a frame skip (Atari, MuJoCo) about 20.
    return 20.0 if hasattr(envpool.make_spec(env.env_id).config, "frame_skip") else 50.0
