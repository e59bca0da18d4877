"""HDF5 files that are made in memory, by h5py's low-level interface.

Minari gives each episode a group with five arrays or more, so that short episodes are more of names
than of numbers: h5py's `create_dataset` takes milliseconds for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastrl.data.episodes import Frames
from fastrl.data.packages import hdf5

_GROWTH = 2**22  # bytes
_HEADER_BYTES = 2500  # of an episode, about
_LONGEST_SHARED = 2000  # steps: of longer episodes, flags are too few to be worth sharing


class _MemoryFile:
    """An HDF5 file in memory."""

    def __init__(self, path: Path, content: bytes | None = None) -> None:
        """Makes an empty file, or takes in the content of the one at `path`."""
        h5 = hdf5()

        access = h5.h5p.create(h5.h5p.FILE_ACCESS)
        access.set_fapl_core(_GROWTH, False)
        if content is None:
            self._file = h5.h5f.create(bytes(path), h5.h5f.ACC_TRUNC, fapl=access)
        else:
            access.set_file_image(content)
            try:
                # Under a name that no file has: one on disk would be an error.
                name = bytes(path) + b".memory"
                self._file = h5.h5f.open(name, h5.h5f.ACC_RDWR, fapl=access)
            except OSError as error:
                raise ValueError(f"{path} is damaged: it is no HDF5 file") from error
        self._root = h5.h5g.open(self._file, b"/")

    def image(self) -> bytes:
        """Returns the content of the file."""
        h5 = hdf5()

        h5.h5f.flush(self._file)
        return self._file.get_file_image()

    def close(self) -> None:
        """Frees the memory."""
        self._file.close()


class LinkFile(_MemoryFile):
    """The file in which Minari looks for episodes: a link for each to the file that has it."""

    def __len__(self) -> int:
        """Returns the number of episodes."""
        return self._root.get_num_objs()

    def add(self, index: int, file_name: str) -> None:
        """Links an episode to a file of the same folder."""
        name = b"episode_%d" % index
        self._root.links.create_external(name, file_name.encode(), b"/" + name)

    def targets(self) -> set[str]:
        """Returns the names of the files that are linked to."""
        h5 = hdf5()

        found: set[str] = set()

        def note(name: bytes) -> None:
            if self._root.links.get_info(name).type == h5.h5l.TYPE_EXTERNAL:
                found.add(self._root.links.get_val(name)[0].decode(errors="replace"))

        self._root.links.iterate(note)
        return found


class EpisodeFile(_MemoryFile):
    """Episodes, laid out as Minari does."""

    def __init__(self, path: Path) -> None:
        h5 = hdf5()

        super().__init__(path)
        self.num_bytes = 0
        """About how large the file is."""
        self._plain = h5.h5p.create(h5.h5p.DATASET_CREATE)
        self._plain.set_fill_time(h5.h5d.FILL_TIME_NEVER)
        self._types: dict[np.dtype, Any] = {}
        self._scalar, self._int = h5.h5s.create(h5.h5s.SCALAR), h5.h5t.NATIVE_INT64
        # What is the same for many episodes is stored once, and has many names.
        self._shared = h5.h5g.create(self._file, b"shared")
        self._empty = h5.h5g.create(self._shared, b"infos")
        self._flags: dict[tuple[int, int], Any] = {}

    def add(
        self, name: str, columns: Mapping[str, np.ndarray | Frames], facts: Mapping[str, int]
    ) -> None:
        """Adds an episode.

        Args:
            name: of its group.
            columns: as of `Episode`; "/" in a name separates groups.
            facts: attributes of its group.
        """
        h5 = hdf5()

        group = h5.h5g.create(self._root, name.encode())
        for fact, value in facts.items():
            attribute = h5.h5a.create(group, fact.encode(), self._int, self._scalar)
            attribute.write(np.array(value, np.int64))
        group.links.create_hard(b"infos", self._shared, b"infos")
        self.num_bytes += _HEADER_BYTES
        folders: dict[str, Any] = {"": group}
        for path, rows in columns.items():
            folder, _, leaf = path.rpartition("/")
            if folder not in folders:
                folders[folder] = h5.h5g.create(group, folder.encode())
            place, key = folders[folder], leaf.encode()
            if isinstance(rows, Frames):
                self._add_frames(place, key, rows)
            elif path.startswith("observations"):
                self._add_array(place, key, rows)
            elif rows.dtype == np.bool_:
                self._add_flags(place, key, rows[1:])
            else:
                self._add_array(place, key, rows[1:])

    def _add_array(self, group: Any, key: bytes, rows: np.ndarray) -> Any:
        h5 = hdf5()

        kind = self._types.get(rows.dtype)
        if kind is None:
            kind = self._types[rows.dtype] = h5.h5t.py_create(rows.dtype, logical=True)
        dataset = h5.h5d.create(group, key, kind, h5.h5s.create_simple(rows.shape), self._plain)
        dataset.write(h5.h5s.ALL, h5.h5s.ALL, np.ascontiguousarray(rows), kind)
        self.num_bytes += rows.nbytes
        return dataset

    def _add_flags(self, group: Any, key: bytes, flags: np.ndarray) -> None:
        """Adds flags of which all but the last are false, so that few arrays are different."""
        if len(flags) > _LONGEST_SHARED:
            self._add_array(group, key, flags)
            return
        kind = len(flags), int(flags[-1])
        name = b"flags_%d_%d" % kind
        if kind not in self._flags:
            self._flags[kind] = self._add_array(self._shared, name, flags)
        group.links.create_hard(key, self._shared, name)

    def _add_frames(self, group: Any, key: bytes, frames: Frames) -> None:
        """Adds images as they were compressed; HDF5's filter "gzip" is zlib."""
        h5 = hdf5()

        layout = h5.h5p.create(h5.h5p.DATASET_CREATE)
        layout.set_chunk((frames.chunk_rows, *frames.shape))
        layout.set_deflate(1)
        layout.set_fill_time(h5.h5d.FILL_TIME_NEVER)
        # Without a limit, the only chunk of a short episode may be larger than the episode.
        limits = (h5.h5s.UNLIMITED, *frames.shape)
        space = h5.h5s.create_simple((frames.num_rows, *frames.shape), limits)
        dataset = h5.h5d.create(group, key, h5.h5t.NATIVE_UINT8, space, layout)
        for index, chunk in enumerate(frames.chunks):
            first = (index * frames.chunk_rows, *[0] * len(frames.shape))
            dataset.write_direct_chunk(first, chunk)
            self.num_bytes += len(chunk)
