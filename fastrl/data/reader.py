"""Reads episodes of any dataset of Minari's in the format HDF5, a slice at a time.

No code comes from a dataset, and no file outside of its folder is read.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space, spaces

from fastrl.data.metadata import MAIN_NAME, read_metadata
from fastrl.data.packages import check_packages, hdf5
from fastrl.processes.errors import one_line
from fastrl.runs.folder import expanded
from fastrl.spaces.parts import leaf_spaces

_MOST_OPEN = 4096  # arrays
_FLAGS = ("terminations", "truncations")


class Column(NamedTuple):
    """An array that each episode has."""

    path: str
    """Its name in the group of an episode."""
    shape: tuple[int, ...]
    """Of one row."""
    dtype: np.dtype
    """As it is read: float64 becomes float32."""
    is_jpeg: bool = False
    """Whether its rows are files of images."""
    has_last: bool = False
    """Whether it has a row more than the episode has steps."""


class EpisodeReader:
    """Episodes of a dataset; may be handed to other processes.

    Attributes:
        metadata: what metadata.json says.
        observation_space, action_space: of single observations and actions.
        lengths: int64 `[E]`: steps of each episode.
        columns: by group of columns (`observations`, `actions`, `rewards` ...) those in it, by name
            as in `leaf_spaces`.
    """

    def __init__(
        self,
        directory: str | Path,
        obs_keys: Sequence[str] = (),
        num_episodes: int | None = None,
    ) -> None:
        """Opens a dataset and looks how long its episodes are.

        Args:
            directory: folder with metadata.json.
            obs_keys: parts of the observations to read; all if empty.
            num_episodes: how many episodes there are, if the metadata are wrong.

        Raises:
            ValueError: there is no dataset, or it is damaged or of another format; a space is not
                supported; or a package is missing.
        """
        check_packages()
        self.folder = expanded(directory)
        self.metadata = read_metadata(self.folder)
        if (kind := self.metadata.get("data_format", "hdf5")) != "hdf5":
            raise ValueError(f"{self.folder} is of the format {kind!r}; supported: 'hdf5'")
        self.observation_space = self._space("observation_space")
        self.action_space = self._space("action_space")
        self.columns: dict[str, dict[str, Column]] = {
            "observations": self._columns_of("observations", self.observation_space, obs_keys),
            "actions": self._columns_of("actions", self.action_space),
            "rewards": {"": Column("rewards", (), np.dtype(np.float32))},
            **{name: {"": Column(name, (), np.dtype(np.bool_))} for name in _FLAGS},
        }
        self._process, self._files, self._open = os.getpid(), {}, {}
        if num_episodes is None:
            num_episodes = int(self.metadata["total_episodes"])
        if num_episodes < 1:
            raise ValueError(f"{self.folder} has no episodes")
        self._homes = self._find_homes(num_episodes)
        lengths = [self._array(i, "rewards").shape for i in range(num_episodes)]
        if wrong := [i for i, shape in enumerate(lengths) if len(shape) != 1]:
            raise self._damaged(wrong[0], f"its rewards have the shape {lengths[wrong[0]]}")
        self.lengths = np.array(lengths, np.int64).reshape(-1)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_files": {}, "_open": {}, "_process": -1}

    def read(self, column: Column, episode: int, start: int, out: np.ndarray) -> None:
        """Reads `len(out)` rows of a column that `check` accepted, from row `start` on, into `out`.

        Raises:
            ValueError: the dataset is damaged.
        """
        h5, array = hdf5(), self._array(episode, column.path)
        if not len(out):
            return
        with self._damage_named(episode):
            if column.is_jpeg:
                self._read_jpeg(array, start, out)
                return
            rows = array.get_space()
            rows.select_hyperslab((start, *[0] * len(column.shape)), out.shape)
            array.read(h5.h5s.create_simple(out.shape), rows, out)

    def check(self, column: Column, episode: int) -> None:
        """Raises ValueError if a column of an episode has another shape than its space says.

        To be called before memory is taken for what the space says.
        """
        array = self._array(episode, column.path)
        expected = int(self.lengths[episode]) + column.has_last
        kept, shape = array.shape, (expected, *column.shape)
        if kept[:1] != shape[:1] or (not column.is_jpeg and kept != shape):
            what = f"{column.path} has the shape {kept}, not {shape}"
            raise self._damaged(episode, what)

    def _read_jpeg(self, array: Any, start: int, out: np.ndarray) -> None:
        from PIL import Image

        for row, file in enumerate(hdf5().Dataset(array)[start : start + len(out)]):
            try:  # of other formats, PIL has some drawn by programs of others
                image = Image.open(io.BytesIO(bytes(file)), formats=("JPEG",))
            except Image.DecompressionBombError as error:
                raise ValueError(one_line(error)) from error
            shape = image.size[::-1]  # known before anything is decoded
            if shape == out.shape[1:3]:
                pixels = np.array(image, np.uint8)
                shape = pixels.shape
            if shape != out.shape[1:]:
                raise ValueError(f"an image has the shape {shape}, not {out.shape[1:]}")
            out[row] = pixels

    def _space(self, name: str) -> Space:
        from minari.serialization import deserialize_space

        text = self.metadata.get(name)
        try:
            assert isinstance(text, str)
            space = deserialize_space(text)
            assert isinstance(space, Space)
        except Exception as error:  # of whatever stands there
            raise ValueError(f"{self.folder}: the metadata say no valid {name}") from error
        return space

    def _columns_of(self, group: str, space: Space, keys: Sequence[str] = ()) -> dict[str, Column]:
        from minari.dataset.minari_storage import is_image_space

        leaves, paths = leaf_spaces(space), dict(_paths_of(space, group))
        if unknown := [key for key in keys if key not in leaves]:
            has = "no keys" if list(leaves) == [""] else f"{sorted(leaves)}"
            raise ValueError(f"{self.folder}: no observation key {unknown[0]!r}; it has {has}")
        has_jpeg, columns = bool(self.metadata.get("jpeg_encoding", True)), {}
        for name in keys or leaves:
            leaf = leaves[name]
            kinds = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
            if not isinstance(leaf, kinds):
                where = f"{group} {name}" if name else group
                raise ValueError(
                    f"{self.folder}: {where} of {type(leaf).__name__} are not supported; obs_keys "
                    "selects parts of observations"
                )
            dtype = np.dtype(np.float32 if leaf.dtype == np.float64 else leaf.dtype)
            is_jpeg = has_jpeg and is_image_space(leaf)
            shape, has_last = leaf.shape or (), group == "observations"
            columns[name] = Column(paths[name], shape, dtype, is_jpeg, has_last)
        return columns

    # Files

    def _find_homes(self, num_episodes: int) -> list[str]:
        """Returns the name of the file that has each episode."""
        h5 = hdf5()

        homes, root = [], h5.h5g.open(self._file(MAIN_NAME), b"/")
        for index in range(num_episodes):
            name, home = b"episode_%d" % index, MAIN_NAME
            with self._damage_named(index):
                if root.links.get_info(name).type == h5.h5l.TYPE_EXTERNAL:
                    home, path = (x.decode() for x in root.links.get_val(name))
                    if os.path.basename(home) != home or path.strip("/") != name.decode():
                        raise ValueError(f"it is said to be {path!r} of {home!r}")
                homes.append(home)
        return homes

    def _file(self, name: str) -> Any:
        h5 = hdf5()

        if self._process != os.getpid():  # HDF5's files are not to be shared
            self._process, self._files, self._open = os.getpid(), {}, {}
        if name not in self._files:
            path = self.folder / name
            if path.is_symlink() or not path.is_file():
                raise ValueError(f"{self.folder} lacks {name}, or it is no regular file")
            try:
                self._files[name] = h5.h5f.open(bytes(path), h5.h5f.ACC_RDONLY)
            except OSError as error:
                raise ValueError(f"{path} cannot be read: {one_line(error)}") from error
        return self._files[name]

    def _array(self, episode: int, path: str) -> Any:
        h5 = hdf5()

        if self._process != os.getpid() or len(self._open) > _MOST_OPEN:
            self._open = {}
        if (episode, path) not in self._open:
            with self._damage_named(episode):
                file = self._file(self._homes[episode])
                array = self._opened(file, [f"episode_{episode}", *path.split("/")])
                facts = array.get_create_plist()
                if facts.get_layout() == h5.h5d.VIRTUAL or facts.get_external_count():
                    raise ValueError(f"{path} is in another file")
            self._open[episode, path] = array
        return self._open[episode, path]

    def _opened(self, file: Any, names: Sequence[str]) -> Any:
        """Opens an array name by name. Links are not followed: one may lead to a pipe."""
        h5, place = hdf5(), hdf5().h5g.open(file, b"/")
        for name in names:
            if not isinstance(place, h5.h5g.GroupID):
                raise ValueError(f"{'/'.join(names[1:])} is no array of its own")
            if (kind := place.links.get_info(name.encode()).type) != h5.h5l.TYPE_HARD:
                where = "in another file" if kind == h5.h5l.TYPE_EXTERNAL else "a link"
                raise ValueError(f"{'/'.join(names[1:])} is {where}")
            place = h5.h5o.open(place, name.encode())
        if not isinstance(place, h5.h5d.DatasetID):
            raise ValueError(f"{'/'.join(names[1:])} is no array")
        return place

    @contextlib.contextmanager
    def _damage_named(self, episode: int) -> Iterator[None]:
        """Context in which what HDF5 raises becomes one line that names the episode."""
        try:
            yield
        except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, ValueError) and str(self.folder) in str(error):
                raise
            raise self._damaged(episode, one_line(error)) from error

    def _damaged(self, episode: int, what: str) -> ValueError:
        return ValueError(f"{self.folder} is damaged: episode {episode}: {what}")


def _paths_of(space: Space, path: str, name: str = "") -> Iterator[tuple[str, str]]:
    """Yields the name of each leaf, as `leaf_spaces` gives it, and its path in an episode."""
    if isinstance(space, spaces.Dict):
        inner = [(str(key), str(key), part) for key, part in space.spaces.items()]
    elif isinstance(space, spaces.Tuple):
        inner = [(str(i), f"_index_{i}", part) for i, part in enumerate(space.spaces)]
    else:
        yield name, path
        return
    for key, place, part in inner:
        yield from _paths_of(part, f"{path}/{place}", f"{name}.{key}" if name else key)
