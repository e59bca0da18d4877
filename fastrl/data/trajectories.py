"""Datasets of transitions and windows for PyTorch. Letters: S steps, L steps of a window."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor
from torch.utils.data import Dataset

from fastrl.data.reader import Column, EpisodeReader

Parts = Tensor | dict[str, Tensor]
"""A tensor; of a Dict or Tuple, one for each part, by dotted name."""

_MOST_BYTES_IN_MEMORY = 2**30

_log = logging.getLogger("fastrl")


class Transition(NamedTuple):
    """One step. In a batch, each tensor has a dimension `B` in front."""

    obs: Parts
    """`[*O]`: what the policy saw. float64 is read as float32, here and everywhere."""
    actions: Parts
    """`[*A]`: what it did; int64 and without dimensions if the space is Discrete."""
    rewards: Tensor
    """float32 `[]`: what came of it."""
    next_obs: Parts
    """`[*O]`: also the true last observation of an episode."""
    terminated: Tensor
    """bool `[]`: the step ended the episode for good."""
    truncated: Tensor
    """bool `[]`: the step cut the episode off, as a time limit does."""


class Window(NamedTuple):
    """L consecutive steps of one episode. In a batch, each tensor has a dimension `B` in front."""

    obs: Parts
    """`[L + 1, *O]`: `obs[t]` is before step t, `obs[t + 1]` after it."""
    actions: Parts
    """`[L, *A]`."""
    rewards: Tensor
    """float32 `[L]`."""
    terminated: Tensor
    """bool `[L]`; only the last can be true."""
    truncated: Tensor
    """bool `[L]`; only the last can be true."""


class TrajectoryDataset(Dataset):
    """Transitions, or windows of `length` steps, of a dataset of Minari's.

    Items are in the order of the episodes and, in each, of time. A window never crosses the end of
    an episode, so that an episode of S steps has S - length + 1 of them, or none. `dataset[i]` is a
    `Transition` or a `Window`; `dataset[indices]`, of a list, array or tensor of indices or a
    slice, is a whole batch, which is much faster than to collate its items.

    Attributes:
        metadata: what the dataset's metadata.json says.
        observation_space, action_space: of single observations and actions.
        episodes: int64 `[E]`: numbers of the episodes in use.
        lengths: int64 `[E]`: their numbers of steps.
    """

    def __init__(
        self,
        directory: str | Path,
        length: int | None = None,
        *,
        obs_keys: Sequence[str] = (),
        in_memory: bool | None = None,
    ) -> None:
        """Opens a dataset, of fastrl's or of any other program's.

        Args:
            directory: folder with metadata.json.
            length: L of windows; None: items are transitions.
            obs_keys: parts of Dict observations to read; all if empty.
            in_memory: read all now, in place of each item when it is asked for; None: if that takes
                up to 1 GiB.

        Raises:
            ValueError: there is no dataset, or it is damaged; a space is not supported; no episode
                has `length` steps; or the extra `data` is not installed.
        """
        self._reader = EpisodeReader(directory, obs_keys)
        self.metadata = self._reader.metadata
        self.observation_space: Space = self._reader.observation_space
        self.action_space: Space = self._reader.action_space
        lengths = self._reader.lengths
        if empty := int((lengths == 0).sum()):
            _log.warning("%s: %d episodes have no steps and are left out", directory, empty)
        self._first_rows = np.cumsum(lengths) - lengths
        if in_memory is None:
            in_memory = self.num_bytes <= _MOST_BYTES_IN_MEMORY
        self._arrays = self._read_all() if in_memory else None
        self._set(np.flatnonzero(lengths > 0), length)

    def _set(self, episodes: np.ndarray, length: int | None) -> None:
        """Sets which episodes are in use, and what of them is an item."""
        size = 1 if length is None else length
        if type(size) is not int or size < 1:
            raise ValueError(f"length is {length!r}; it must be at least 1, or None: transitions")
        self.length, self.episodes = length, episodes
        self.lengths = self._reader.lengths[episodes]
        counts = np.maximum(0, self.lengths - size + 1)
        if not counts.any():
            longest = int(self.lengths.max(initial=0))
            raise ValueError(
                f"{self._reader.folder}: no episode has {size} steps; the longest has {longest}"
            )
        self._ends = np.cumsum(counts)

    # Items

    def __len__(self) -> int:
        """Returns the number of items."""
        return int(self._ends[-1])

    def __getitem__(self, index: Any) -> Any:
        """Returns an item; of a list, array or tensor of indices, or a slice, a batch of items.

        Raises:
            IndexError: there is no such item.
            ValueError: the dataset is damaged.
        """
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        number = np.asarray(index)
        if number.dtype.kind not in "iu":
            raise IndexError(f"{index!r} is neither an index nor a list of some")
        if number.size and (number.min() < -len(self) or number.max() >= len(self)):
            raise IndexError(f"{index!r} is out of range: there are {len(self)} items")
        number = np.where(number < 0, number + len(self), number)
        places = np.searchsorted(self._ends, number, side="right")
        ends, counts = self._ends[places], np.diff(self._ends, prepend=0)[places]
        starts = number - (ends - counts)
        episodes = self.episodes[places]
        if self._arrays is not None:
            return self._gathered(episodes, starts)
        if number.ndim == 0:
            return self._read(int(episodes), int(starts))
        items = [self._read(*map(int, pair)) for pair in zip(episodes, starts, strict=True)]
        return torch.utils.data.default_collate(items)

    def __iter__(self) -> Iterator[Any]:
        """Yields all items in order."""
        return (self[index] for index in range(len(self)))

    def _gathered(self, episodes: np.ndarray, starts: np.ndarray) -> Any:
        """Returns items of arrays in memory."""
        assert self._arrays is not None
        first = torch.as_tensor(self._first_rows[episodes] + starts)
        steps = torch.arange(self.length or 1)
        # The observations of an episode are one more than its steps, as of those before it.
        first_obs = first + torch.as_tensor(episodes)
        rows = {False: first[..., None] + steps, True: first_obs[..., None] + steps}
        last = first_obs + (self.length or 1)

        def take(group: str) -> Any:
            taken = {}
            for name, column in self._reader.columns[group].items():
                array = self._arrays[column.path]  # pyright: ignore[reportOptionalSubscript]
                which = rows[column.has_last]
                if column.has_last:
                    which = torch.cat([which, last[..., None]], -1)
                taken[name] = array[which]
            return taken

        return self._item({group: take(group) for group in self._reader.columns}, first.ndim)

    def _read(self, episode: int, start: int) -> Any:
        """Returns an item from the file."""
        size = self.length or 1

        def take(column: Column) -> Tensor:
            self._reader.check(column, episode)
            rows = np.empty((size + column.has_last, *column.shape), column.dtype)
            self._reader.read(column, episode, start, rows)
            return torch.from_numpy(rows)

        groups = self._reader.columns
        taken = {group: {k: take(x) for k, x in parts.items()} for group, parts in groups.items()}
        return self._item(taken, 0)

    def _item(self, taken: dict[str, dict[str, Tensor]], axis: int) -> Any:
        """Returns what was taken as a Transition or a Window, time being dimension `axis`."""

        def all_of(group: str) -> Any:
            parts = taken[group]
            return parts[""] if list(parts) == [""] else parts

        def at(group: str, step: int) -> Any:
            parts = {name: x.select(axis, step) for name, x in taken[group].items()}
            return parts[""] if list(parts) == [""] else parts

        flags = "terminations", "truncations"
        if self.length is not None:
            names = ("observations", "actions", "rewards", *flags)
            return Window(*map(all_of, names))
        obs, actions, rewards = (at(name, 0) for name in ("observations", "actions", "rewards"))
        terminated, truncated = (at(name, 0) for name in flags)
        next_obs = at("observations", 1)
        return Transition(obs, actions, rewards, next_obs, terminated, truncated)

    # Episodes

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole dataset in memory."""
        num_steps, lengths = int(self._reader.lengths.sum()), self._reader.lengths
        return sum(
            (num_steps + len(lengths) * column.has_last)
            * column.dtype.itemsize
            * int(np.prod(column.shape))
            for parts in self._reader.columns.values()
            for column in parts.values()
        )

    @property
    def env_id(self) -> str:
        """Id of the environment, as the metadata say it; "" if they do not."""
        try:
            return str(json.loads(self.metadata["env_spec"])["id"])
        except (KeyError, TypeError, ValueError):
            return ""

    def episode(self, index: int) -> Window:
        """Returns a whole episode, the one of number `episodes[index]`, as one window."""
        number, whole = int(self.episodes[index]), copy.copy(self)
        whole._set(np.array([number]), int(self._reader.lengths[number]))
        return whole[0]

    def returns(self) -> np.ndarray:
        """Returns the undiscounted return of each episode in use, float64 `[E]`."""
        return np.array(
            [
                self.episode(i).rewards.sum(dtype=torch.float64).item()
                for i in range(len(self.episodes))
            ]
        )

    def subset(self, episodes: Sequence[int] | np.ndarray, length: Any = "same") -> Self:
        """Returns a dataset of some episodes alone; nothing is read again.

        Args:
            episodes: their numbers, each one of `self.episodes`.
            length: of its windows, or None for transitions; by default as here.

        Raises:
            ValueError: an episode is not in use here, or none has `length` steps.
        """
        chosen = np.asarray(episodes, np.int64).reshape(-1)
        if len(unknown := np.setdiff1d(chosen, self.episodes)):
            raise ValueError(f"there is no episode {unknown[0]}; there are {self.episodes}")
        other = copy.copy(self)
        other._set(chosen, self.length if isinstance(length, str) else length)
        return other

    def split(self, held_out: float = 0.1, seed: int = 0) -> tuple[Self, Self]:
        """Splits into two datasets by whole episodes: those to learn from, and those held out.

        Args:
            held_out: share of the episodes that is held out, at least one.
            seed: of the draw.

        Raises:
            ValueError: the share leaves one of the two empty, or without a window.
        """
        number = max(1, round(held_out * len(self.episodes)))
        if not 0 < held_out < 1 or number >= len(self.episodes):
            raise ValueError(
                f"held_out is {held_out}; it must be between 0 and 1 and leave episodes to learn "
                f"from, of {len(self.episodes)}"
            )
        drawn = np.random.default_rng(seed).permutation(self.episodes)
        return self.subset(np.sort(drawn[number:])), self.subset(np.sort(drawn[:number]))

    def _read_all(self) -> dict[str, Tensor]:
        """Returns all rows of all episodes, one after the other, by path."""
        arrays, lengths = {}, self._reader.lengths
        for column in (x for parts in self._reader.columns.values() for x in parts.values()):
            number = int(lengths.sum()) + len(lengths) * column.has_last
            for episode in range(len(lengths)):
                self._reader.check(column, episode)
            arrays[column.path] = rows = np.empty((number, *column.shape), column.dtype)
            end = 0
            for episode, length in enumerate(lengths.tolist()):
                start, end = end, end + length + column.has_last
                self._reader.read(column, episode, 0, rows[start:end])
        return {path: torch.from_numpy(rows) for path, rows in arrays.items()}
