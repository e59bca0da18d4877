"""Cuts what environments played side by side into whole episodes.

Letters: T steps, N envs. By the rule of next-step autoreset (see `envs.vector`), the rows of an
environment are those of its episodes, one after the other: a reset row, then a row per step, up to
the step that ends the episode, whose observation is its true last one. Row t of an episode holds
the observation after t steps and what its t-th action caused; row 0 has no action.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np

Block = dict[str, np.ndarray]
"""Arrays `[T, N, *]` by name."""

_CHUNK_BYTES = 2**18
_FEWEST_BYTES = 1024  # of a row of bytes that are compressed: an image rather than a board


@dataclass
class Frames:
    """Images of an episode in chunks, each compressed by zlib, so that nothing of them is lost."""

    chunk_rows: int
    shape: tuple[int, ...]
    num_rows: int
    chunks: list[bytes]
    """Each of `chunk_rows` images; the last one is filled up with zeros."""


@dataclass
class Episode:
    """A whole episode of S steps."""

    env: int
    """Index of the environment that played it."""
    number: int
    """How many episodes this environment had played before."""
    columns: dict[str, np.ndarray | Frames]
    """Arrays `[S + 1, *]` by name; row 0 has an observation alone."""

    @property
    def num_steps(self) -> int:
        """S."""
        rewards: Any = self.columns["rewards"]
        return len(rewards) - 1


class EpisodeCutter:
    """Takes blocks of rows and gives the episodes that end in them.

    Of the episodes under way, it holds what was played so far: images compressed.
    """

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        wanted: Callable[[int, int, int], bool],
        most_steps: int,
    ) -> None:
        """Starts with no rows.

        Args:
            env_id: for the error.
            num_envs: N.
            wanted: whether to keep an episode, of an environment's index, how many episodes it had
                played before, and how many steps all environments had taken when it began. Once it
                is not, no later one is.
            most_steps: a kept episode of more steps is an error.
        """
        self._env_id, self._wanted = env_id, wanted
        self._num_steps, self._begins = 0, np.ones(num_envs, np.bool_)
        self._pieces: list[list[dict[str, Any]]] = [[] for _ in range(num_envs)]
        self._lengths, self._numbers = [0] * num_envs, [0] * num_envs
        self._most_steps = most_steps
        self._pending: list[Future[bytes]] = []
        self._workers = ThreadPoolExecutor(2, "fastrl-zlib")  # they start at the first image

    @property
    def num_steps_under_way(self) -> int:
        """Steps of the kept episodes that have not ended."""
        return sum(max(0, length - 1) for length in self._lengths)

    @property
    def is_finished(self) -> bool:
        """Whether no episode is under way that is kept, and none is wanted any more."""
        return not any(self._lengths) and not any(
            self._wanted(env, number, self._num_steps) for env, number in enumerate(self._numbers)
        )

    def take(self, block: Block, done: np.ndarray) -> Iterator[Episode]:
        """Yields the episodes that end in a block, by environment.

        Args:
            block: the next rows; they may be overwritten afterwards.
            done: bool `[T, N]`: the step ended an episode.

        Raises:
            ValueError: an episode does not end.
        """
        wait(self._pending)  # so that not more than a block of images is in memory
        self._pending.clear()
        begins = np.concatenate([self._begins[None], done[:-1]])
        ends_at = self._num_steps + np.cumsum((~begins).sum(1))  # steps after each row
        before = (ends_at - (~begins).sum(1)).tolist()
        self._begins = done[-1].copy()
        for env, ends in enumerate(done.T):
            start = 0
            for end in (*(1 + np.flatnonzero(ends)).tolist(), len(ends)):
                if start < end:
                    self._add(env, start, end, block, before[start])
                if start < end and ends[end - 1]:
                    if self._lengths[env]:
                        yield self._whole(env)
                    self._numbers[env] += 1
                start = end
        self._num_steps = int(ends_at[-1])

    def close(self) -> None:
        """Ends the threads."""
        self._workers.shutdown(cancel_futures=True)

    def _add(self, env: int, start: int, end: int, block: Block, num_steps: int) -> None:
        """Adds rows of one episode to what is there of it."""
        is_new = not self._lengths[env]
        if is_new and not self._wanted(env, self._numbers[env], num_steps):
            return
        self._lengths[env] += end - start
        if self._lengths[env] - 1 > self._most_steps:
            raise ValueError(
                f"{self._env_id}: an episode has not ended after {self._most_steps:,} steps; the "
                "environment needs a time limit, such as max_episode_steps"
            )
        piece: dict[str, Any] = {name: x[start:end, env].copy() for name, x in block.items()}
        pieces = self._pieces[env]
        for name, rows in piece.items():
            if is_image_column(rows):
                frames = pieces[-1][name] if pieces else _FramesUnderWay(rows.shape[1:])
                self._pending += frames.add(rows, self._workers)
                piece[name] = frames
        pieces.append(piece)

    def _whole(self, env: int) -> Episode:
        pieces, columns = self._pieces[env], {}
        for name, last in pieces[-1].items():
            if isinstance(last, _FramesUnderWay):
                columns[name] = last.finished(self._workers)
            elif len(pieces) == 1:
                columns[name] = last
            else:
                columns[name] = np.concatenate([piece[name] for piece in pieces])
        self._pieces[env], self._lengths[env] = [], 0
        return Episode(env, self._numbers[env], columns)


class _FramesUnderWay:
    """Images of an episode that has not ended."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape, self._num_rows = shape, 0
        self._chunk_rows = max(1, _CHUNK_BYTES // int(np.prod(shape)))
        self._chunks: list[Future[bytes]] = []
        self._rest = np.empty((0, *shape), np.uint8)

    def add(self, rows: np.ndarray, workers: ThreadPoolExecutor) -> list[Future[bytes]]:
        """Has what fills chunks compressed; returns what is to be waited for."""
        rows = np.concatenate([self._rest, rows]) if len(self._rest) else rows
        before, size = len(self._chunks), self._chunk_rows
        for start in range(0, len(rows) - size + 1, size):
            chunk: Any = rows[start : start + size]
            self._chunks.append(workers.submit(zlib.compress, chunk, 1))
        self._num_rows += len(rows) - len(self._rest)
        self._rest = rows[len(rows) - len(rows) % size :].copy()
        return self._chunks[before:]

    def finished(self, workers: ThreadPoolExecutor) -> Frames:
        chunks = [chunk.result() for chunk in self._chunks]
        if len(self._rest):
            last: Any = np.zeros((self._chunk_rows, *self._shape), np.uint8)
            last[: len(self._rest)] = self._rest
            chunks.append(zlib.compress(last, 1))
        return Frames(self._chunk_rows, self._shape, self._num_rows, chunks)


def is_image_column(rows: np.ndarray) -> bool:
    """Returns whether rows are bytes of which there are so many that they are compressed."""
    return rows.dtype == np.uint8 and rows[:1].nbytes >= _FEWEST_BYTES
