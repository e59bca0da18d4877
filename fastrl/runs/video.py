"""Videos of an episode: an mp4 that browsers play, and a small GIF.

Imports no torch. The packages it needs are optional: install the extra "video".
"""

import itertools
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fastrl.processes.errors import how_to_install
from fastrl.runs.folder import replaced_file

MAX_FRAMES, MAX_WIDTH = 1000, 640
"""Most frames of a video, and pixels of its width: larger frames are scaled down."""
GIF_WIDTH = 320  # pixels, at most
GIF_FRAMES_PER_SECOND = 15  # at most
_GIF_COLORS = 128
_STEP_FILE = re.compile(r"step_(\d{12,})\.(mp4|gif|json)")


def write_video(frames: Iterable[np.ndarray], stem: Path, frames_per_second: float) -> list[Path]:
    """Writes `<stem>.mp4` (H.264) and `<stem>.gif` (small, looping), each atomically.

    Frames are consumed one at a time, so a generator keeps memory low for long episodes.

    Args:
        frames: uint8 `[H, W, 3]` each, all of one shape; at most MAX_FRAMES of them are taken.
        stem: path of the files without suffix; its folder is created.
        frames_per_second: playback speed.

    Returns:
        The two files.

    Raises:
        ValueError: a package is missing, there are no frames, or a frame has a wrong shape.
        OSError: the encoder failed or the disk is full.
    """
    check_packages()
    stem.parent.mkdir(parents=True, exist_ok=True)
    mp4, gif = (stem.with_name(f"{stem.name}.{ending}") for ending in ("mp4", "gif"))
    thumbnails = _write_mp4(frames, mp4, frames_per_second)
    # GIF delays are multiples of 10 ms; the remaining frames keep the speed of the video.
    milliseconds = 10 * max(1, round(100 * _gif_stride(frames_per_second) / frames_per_second))
    with replaced_file(gif) as file:
        thumbnails[0].save(
            file,
            format="GIF",
            save_all=True,
            append_images=thumbnails[1:],
            duration=milliseconds,
            loop=0,
        )
    return [mp4, gif]


def remove_old_videos(folder: Path, env_steps: int, keep: int) -> None:
    """Removes all but the newest videos of a run, which are named `step_<env steps>`.

    What stands beside a video goes with it.

    Those of later steps go too: the run was resumed from before them.

    Args:
        folder: of the videos.
        env_steps: environment steps of the run so far.
        keep: how many to keep.
    """
    files = [
        (match, path) for path in folder.iterdir() if (match := _STEP_FILE.fullmatch(path.name))
    ]
    past = sorted({int(match[1]) for match, _ in files if int(match[1]) <= env_steps})
    for match, path in files:
        if int(match[1]) not in past[-keep:]:
            path.unlink(missing_ok=True)


def check_packages() -> None:
    """Raises ValueError if a package for writing videos is missing."""
    try:
        import imageio_ffmpeg  # noqa: F401
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"videos need the package {error.name}; {how_to_install('video')}"
        ) from error


def _write_mp4(frames: Iterable[np.ndarray], path: Path, frames_per_second: float) -> list[Any]:
    """Encodes all frames; returns the images of the GIF."""
    import imageio_ffmpeg

    thumbnails: list[Any] = []
    shape: tuple[int, ...] | None = None
    encoder: Any = None
    stride = _gif_stride(frames_per_second)
    with replaced_file(path) as file:
        try:
            for index, original in enumerate(itertools.islice(frames, MAX_FRAMES)):
                _check_frame(original, original.shape)
                frame = _at_most(original, MAX_WIDTH)
                if shape is None:
                    shape = frame.shape
                    height, width = _check_frame(frame, shape)
                    encoder = imageio_ffmpeg.write_frames(
                        file.name,  # its suffix does not tell the format: hence "-f"
                        (width + width % 2, height + height % 2),
                        fps=frames_per_second,  # pyright: ignore[reportArgumentType]  # ffmpeg takes any number
                        codec="libx264",
                        pix_fmt_out="yuv420p",
                        macro_block_size=2,
                        output_params=["-f", "mp4", "-movflags", "+faststart"],
                    )
                    encoder.send(None)
                height, width = _check_frame(frame, shape)
                # yuv420p has one colour per 2 x 2 pixels: odd sides are padded with their last row.
                even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
                encoder.send(np.ascontiguousarray(even))
                if index % stride == 0:
                    thumbnails.append(_thumbnail(frame))
        finally:
            if encoder is not None:
                encoder.close()
        if shape is None:
            raise ValueError(f"{path}: a video needs at least one frame")
    return thumbnails


def _check_frame(frame: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int]:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != shape:
        raise ValueError(
            f"a frame is {frame.dtype} {frame.shape}; expected uint8 [H, W, 3], all of one shape "
            f"(the first is {shape})"
        )
    return frame.shape[0], frame.shape[1]


def _gif_stride(frames_per_second: float) -> int:
    return max(1, math.ceil(frames_per_second / GIF_FRAMES_PER_SECOND))


def _at_most(frame: np.ndarray, width: int) -> np.ndarray:
    """Returns a frame of at most this width, scaled down if it is wider."""
    from PIL import Image

    if frame.shape[1] <= width:
        return frame
    size = width, max(1, round(frame.shape[0] * width / frame.shape[1]))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))


def _thumbnail(frame: np.ndarray) -> Any:
    from PIL import Image

    image = Image.fromarray(_at_most(frame, GIF_WIDTH))
    # A palette per frame without dithering gives a smaller file that does not flicker.
    return image.quantize(_GIF_COLORS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
