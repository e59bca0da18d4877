"""Writes episodes as a dataset that Minari reads, so that no kill damages what is there.

    DIR/metadata.json        spaces, counts, and where the data are from
    DIR/main_data.hdf5       a link to each episode
    DIR/part_0000.hdf5 ...   the episodes: a group each, as in Minari's own files

A kill in the middle of a write can make a whole HDF5 file unreadable. Hence every file is made in
memory and replaces the one on disk by a rename, in the order part, links, metadata: each names only
what is there already. A part that has become large is left alone, and a new one begins.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gymnasium import Space

from fastrl.data.episodes import Episode
from fastrl.data.hdf5 import EpisodeFile, LinkFile
from fastrl.data.metadata import MAIN_NAME, METADATA_NAME, is_empty, read_metadata
from fastrl.data.packages import check_packages
from fastrl.data.reader import EpisodeReader
from fastrl.runs.folder import expanded, owned, replaced_file
from fastrl.runs.plain_files import read_plain

_PART_BYTES, _MOST_LINK_BYTES = 2**25, 2**31
_SECONDS_BETWEEN_COMMITS = 1.0
_MOST_OF_TIME = 0.1  # that commits may take


class MinariWriter:
    """Writes episodes to a new dataset or, if asked, to the end of one of ours; a context.

    Attributes:
        folder: of the dataset.
        num_episodes, num_steps: in the dataset.
        num_new_episodes, num_new_steps: of these, the added ones.
    """

    def __init__(
        self,
        directory: str | Path,
        observation_space: Space,
        action_space: Space,
        facts: Mapping[str, Any],
        *,
        append: bool = False,
        seeds: Mapping[int, int] | None = None,
    ) -> None:
        """Checks that the dataset can be written; entering the context writes.

        Args:
            directory: folder that does not exist, or is empty; or, with `append`, has a dataset of
                this class.
            observation_space: of single observations, as `recorded_space` returns it.
            action_space: of single actions.
            facts: metadata besides those that Minari needs; what has no name of Minari's is under
                `fastrl`.
            append: add to what is there.
            seeds: by environment, with what seed its first episode was reset.

        Raises:
            ValueError: there is something already, or, with `append`, something else; or a package
                is missing.
        """
        check_packages()
        from minari import __version__
        from minari.serialization import serialize_space

        self.folder = expanded(directory)
        self._seeds = dict(seeds or {})
        kinds = {"observation_space": observation_space, "action_space": action_space}
        try:
            described = {name: serialize_space(space) for name, space in kinds.items()}
        except NotImplementedError as error:
            raise ValueError(str(error)) from error
        self._metadata: dict[str, Any] = {
            "total_episodes": 0,
            "total_steps": 0,
            "data_format": "hdf5",
            "jpeg_encoding": False,  # Minari's default, which loses something of every image
            **described,
            "minari_version": __version__,
            **facts,
        }
        self._links: bytes | None = None
        self._part_number = self.num_episodes = self.num_steps = 0
        if append and not is_empty(self.folder):
            self._go_on(described)
        elif not is_empty(self.folder):
            raise ValueError(f"{self.folder} exists already; give another folder, or append to it")
        self._before = self.num_episodes, self.num_steps

    @property
    def num_new_episodes(self) -> int:
        """Episodes that this writer added."""
        return self.num_episodes - self._before[0]

    @property
    def num_new_steps(self) -> int:
        """Steps of the episodes that this writer added."""
        return self.num_steps - self._before[1]

    def _go_on(self, described: dict[str, Any]) -> None:
        """Takes in the dataset that is there."""
        saved = read_metadata(self.folder)
        if not isinstance(saved.get("fastrl"), dict):
            raise ValueError(f"{self.folder} was not written by fastrl, which cannot append to it")
        for name, space in described.items():
            if saved.get(name) != space:
                raise ValueError(
                    f"{self.folder} has another {name}: {saved.get(name)}, not {space}"
                )
        self._links = read_plain(self.folder / MAIN_NAME, _MOST_LINK_BYTES)
        links = LinkFile(self.folder / MAIN_NAME, self._links)
        self.num_episodes, targets = len(links), links.targets()
        links.close()
        numbers = [int(x) for name in targets for x in re.findall(r"^part_(\d+)\.hdf5$", name)]
        self._part_number = max(numbers, default=-1) + 1
        self.num_steps = int(saved["total_steps"])
        if self.num_episodes != saved["total_episodes"]:  # a kill came before the metadata
            reader = EpisodeReader(self.folder, num_episodes=self.num_episodes)
            self.num_steps = int(reader.lengths.sum())
        session, before = self._metadata["fastrl"], saved["fastrl"].get("appended", [])
        if not isinstance(before, list):
            raise ValueError(f"{self.folder} is damaged: appended is {before!r} in its metadata")
        self._metadata |= saved
        self._metadata["fastrl"] = {
            **saved["fastrl"],
            "appended": [*before, session],
        }

    def __enter__(self) -> Self:
        self._was_there = self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(owned(self.folder))
        self._file = LinkFile(self.folder / MAIN_NAME, self._links)
        self._part: EpisodeFile | None = None
        self._is_clean, self._next_at = True, time.monotonic() + _SECONDS_BETWEEN_COMMITS
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            try:
                self.commit()
            finally:
                self._file.close()
                if self._part is not None:
                    self._part.close()
                if not self.num_episodes and not self._was_there:
                    shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, episode: Episode) -> None:
        """Adds an episode, on disk at the next commit."""
        if self._part is None:
            self._part = EpisodeFile(self.folder / self._part_name)
        index, number = self.num_episodes, episode.number
        facts = {"id": index, "total_steps": episode.num_steps, "env": episode.env}
        if number == 0 and episode.env in self._seeds:
            facts["seed"] = self._seeds[episode.env]
        self._part.add(f"episode_{index}", episode.columns, {**facts, "env_episode": number})
        self._file.add(index, self._part_name)
        self.num_episodes += 1
        self.num_steps += episode.num_steps
        self._is_clean = False
        if self._part.num_bytes > _PART_BYTES:
            self.commit()
            self._part.close()
            self._part, self._part_number = None, self._part_number + 1

    def commit_if_due(self) -> None:
        """Commits about once a second; less often where the disk is slow."""
        if time.monotonic() >= self._next_at:
            self.commit()

    def commit(self) -> None:
        """Brings what was added to the disk."""
        if self._is_clean:
            return
        start = time.monotonic()
        if self._part is not None:
            self._replace(self._part_name, self._part.image())
        self._replace(MAIN_NAME, self._file.image())
        sizes = [path.stat().st_size for path in self.folder.glob("*.hdf5")]
        self._metadata |= {
            "total_episodes": self.num_episodes,
            "total_steps": self.num_steps,
            "dataset_size": round(sum(sizes) / 1e6, 1),
        }
        self._replace(METADATA_NAME, json.dumps(self._metadata).encode())
        self._is_clean, now = True, time.monotonic()
        self._next_at = now + max(_SECONDS_BETWEEN_COMMITS, (now - start) / _MOST_OF_TIME)

    @property
    def _part_name(self) -> str:
        return f"part_{self._part_number:04}.hdf5"

    def _replace(self, name: str, content: bytes) -> None:
        with replaced_file(self.folder / name) as file:
            file.write(content)
