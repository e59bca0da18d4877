"""What an environment draws, for films."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrl.envs.vector import EnvError
from fastrl.spaces.values import UnfitValueError, as_dtype, shown


def no_frames(env_id: str, render_mode: Any) -> ValueError:
    """Returns the error of an environment that is to be filmed and cannot be."""
    return ValueError(
        f"{env_id}: its render_mode is {render_mode!r}; to be filmed, it must take 'rgb_array'"
    )


def as_frame(env_id: str, frame: Any) -> np.ndarray:
    """Returns what was rendered, uint8 [H, W, 3]; EnvError if it is something else."""
    try:
        array = as_dtype(frame, np.uint8)
        if array.ndim == 3 and array.shape[2] == 3 and array.size:
            return array
    except UnfitValueError:
        pass
    raise EnvError(f"{env_id}: render returned {shown(frame)}, which is not a frame [H, W, 3]")
