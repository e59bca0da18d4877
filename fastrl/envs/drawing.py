"""Rendering of environments: whether a task can be drawn on this machine, and at what frame rate.

Imports no torch.
"""

import contextlib
import ctypes
import functools
import os
import subprocess
import sys
import tempfile
from typing import Any

from fastrl.envs.vector import VectorEnv

_PROBE_SECONDS = 120
_HIGHEST_RATE = 1000


def check_rendering(env_id: str) -> None:
    """Raises ValueError if an EnvPool task cannot be rendered here; runs a child process per task.

    Without OpenGL, MuJoCo exits the whole process, which no `except` can catch.
    """
    if reason := _why_not_rendered(env_id):
        raise ValueError(
            f"{env_id} cannot be drawn on this machine: {reason}. MuJoCo tasks need EGL "
            "(on Debian and Ubuntu: apt-get install libegl1 libgl1-mesa-dri)"
        )


def expose_opengl() -> None:
    """Makes EnvPool's EGL library visible to MuJoCo; must be called after a pool is made.

    EnvPool's wheel loads its own EGL with local symbols, but MuJoCo looks it up among the global
    symbols of the process. Without this, MuJoCo might load the system's EGL as a second one.
    """
    try:
        with open("/proc/self/maps", encoding="utf-8") as file:
            paths = {line.split(maxsplit=5)[-1].strip() for line in file if "/libEGL-" in line}
    except OSError:
        return
    for path in paths:
        ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)


@functools.cache
def _why_not_rendered(env_id: str) -> str:
    """Renders a frame in a child process; returns the error message, "" if it succeeded."""
    code = (
        "import envpool; from fastrl.envs.drawing import expose_opengl; "
        f"pool = envpool.make_gymnasium({env_id!r}, num_envs=1, render_mode='rgb_array'); "
        "pool.reset(); expose_opengl(); pool.render(0)"
    )
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
    with tempfile.TemporaryDirectory() as folder:  # MuJoCo writes a log file when it exits
        try:
            child = subprocess.run(
                [sys.executable, "-c", code],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": paths},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_PROBE_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return f"no frame came in {_PROBE_SECONDS} s"
    if child.returncode == 0:
        return ""
    lines = [line.strip() for line in (child.stdout + child.stderr).splitlines() if line.strip()]
    return lines[-1] if lines else f"the renderer exited with status {child.returncode}"


def frame_rate(env: VectorEnv) -> float:
    """Returns the frames per second at which an episode plays at about its natural speed.

    gymnasium states it; for EnvPool, which does not, it depends on the kind of task.

    Args:
        env: made by `make_env`.
    """
    if env.backend == "gymnasium":
        inner: Any = env
        while hasattr(inner, "env"):  # MaskVelocity and FrameStack wrap the GymEnv
            inner = inner.env
        # Metadata are foreign, and may hold anything.
        with contextlib.suppress(AttributeError, LookupError, TypeError, ValueError):
            rate = float(inner.metadata["render_fps"])
            if 0 < rate < _HIGHEST_RATE:
                return rate
        return 30.0
    import envpool

    # Classic control and Box2D make 50 steps a second; with a frame skip (Atari, MuJoCo) about 20.
    return 20.0 if hasattr(envpool.make_spec(env.env_id).config, "frame_skip") else 50.0
