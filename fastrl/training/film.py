"""Videos of an agent: one greedy episode, rendered without a display.

Beside each, `<name>.json` says what the policy did at each frame.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrl.envs.drawing import check_rendering, expose_opengl, frame_rate
from fastrl.envs.vector import VectorEnv
from fastrl.processes.errors import one_line
from fastrl.processes.generators import generators_seeded
from fastrl.processes.pulse import PULSE
from fastrl.runs.video import MAX_FRAMES, write_video
from fastrl.training.film_actions import FilmActions
from fastrl.training.greedy import Show, StoppedError, StopQuery, fresh_env

if TYPE_CHECKING:
    from fastrl.training.agent import Agent

_log = logging.getLogger("fastrl")


def record_agent(
    agent: Agent,
    folder: Path,
    name: str,
    env_steps: int,
    should_stop: StopQuery = lambda: False,
    show: Show = lambda done, total: None,
) -> list[Path]:
    """Records one greedy episode, without a display, as `<folder>/<name>.mp4` and `.gif`.

    What the policy did is in `<name>.json`.

    Args:
        agent: the agent to record.
        folder: where to write; created if missing.
        name: name of the files, without suffix.
        env_steps: environment steps of the training so far, for the log.
        should_stop: called at every frame; if it returns True, nothing is written.
        show: called at every frame, with its number and that of the last possible one.

    Returns:
        The two videos; none, with one line in the log, if the task cannot be drawn or the packages
        for videos are missing: training never fails for lack of a video.
    """
    try:
        return record(agent, folder, name, agent.config.seed, should_stop, show)
    except StoppedError:
        return []
    except Exception as error:  # renderers raise arbitrary types
        _log.warning("no video at %d steps: %s", env_steps, one_line(error))
        return []


def record(
    agent: Agent,
    folder: Path,
    name: str,
    seed: int,
    should_stop: StopQuery = lambda: False,
    show: Show = lambda done, total: None,
    deterministic: bool = True,
    env_kwargs: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Records as `record_agent` does, in an environment of this seed.

    Args:
        agent: the agent to record.
        folder: where to write; created if missing.
        name: name of the files, without suffix.
        seed: of the environment.
        should_stop: called at every frame; if it returns True, nothing is written.
        show: called at every frame, with its number and that of the last possible one.
        deterministic: take the likeliest actions in place of drawing some.
        env_kwargs: keyword arguments of the environment to change.

    Raises:
        ValueError: the task cannot be drawn, or the packages for videos are missing.
        StoppedError: `should_stop` returned True.
    """
    trained = agent.envs[0]
    if trained.backend == "envpool":
        check_rendering(trained.env_id)
    with generators_seeded(seed):
        env = fresh_env(agent, 1, "video", seed, render=True, env_kwargs=env_kwargs)
        try:
            played = FilmActions(agent, env, deterministic)
            rate = frame_rate(env)
            paths = write_video(_frames(played, env, should_stop, show), folder / name, rate)
            played.write(folder / f"{name}.json", rate)
            return paths
        finally:
            env.close()


def _frames(
    played: FilmActions, env: VectorEnv, should_stop: StopQuery, show: Show
) -> Iterator[np.ndarray]:
    """Yields the frames of one episode, from its first to its last observation."""
    obs = env.reset()
    expose_opengl()
    yield env.render()
    for frame in range(1, MAX_FRAMES):
        PULSE.count += 1
        show(frame, MAX_FRAMES)
        if should_stop():
            raise StoppedError(f"{env.env_id}: the recording was stopped")
        step = env.step(played.act(obs))
        played.note(step)
        obs = step.obs
        yield env.render()
        if step.terminated[0] or step.truncated[0]:
            return
