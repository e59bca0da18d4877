"""Numbers of the infos with which episodes end: info metrics.

Letters: M names that are asked for, n episodes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fastrl.envs.vector import EnvError, HasInfos, VectorEnv
from fastrl.spaces.values import UnfitValueError, as_number

_log = logging.getLogger("fastrl")


def infos_of(env: VectorEnv, indices: Sequence[int]) -> list[dict[str, Any]]:
    """Returns the infos of the last step of some environments; ValueError if there are none."""
    if not isinstance(env, HasInfos):
        raise ValueError(f"{env.env_id}: a {type(env).__name__} gives no infos: it has no `infos`")
    return env.infos(indices)


def numbers_of(
    infos: Sequence[dict[str, Any]], names: Sequence[str], env_id: str = ""
) -> np.ndarray:
    """Returns float64 `[n, M]`, NaN where an info lacks a name.

    Args:
        infos: n of them.
        names: M of them.
        env_id: for the error.

    Raises:
        EnvError: something of that name is neither a number nor a bool.
    """
    numbers = np.full((len(infos), len(names)), np.nan)
    for row, info in enumerate(infos):
        for column, name in enumerate(names):
            if name in info:
                try:
                    numbers[row, column] = as_number(info[name], f"info[{name!r}]")
                except UnfitValueError as error:
                    where = f"{env_id}: " if env_id else ""
                    raise EnvError(f"{where}the last step of an episode returned {error}") from None
    return numbers


def means_of(numbers: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Returns the mean of each column of `[n, M]` over the rows that have a number there.

    A name that no row has is left out.
    """
    columns = zip(names, numbers.T, strict=True)
    found = {name: column[~np.isnan(column)] for name, column in columns}
    return {name: float(column.mean()) for name, column in found.items() if len(column)}


def missing(infos: Iterable[dict[str, Any]], names: Sequence[str]) -> str:
    """Returns words about the names that no info has; "" if each of them is there."""
    known = {str(name) for info in infos for name in info}
    absent = [repr(name) for name in names if name not in known]
    if not absent:
        return ""
    has = f"it has {', '.join(sorted(known))}" if known else "these infos are empty"
    return f"no info at the end of an episode has {' or '.join(absent)}; {has}"


class InfoRecorder:
    """Takes the numbers asked for from the infos of the episodes that end in a rollout."""

    def __init__(self, names: Sequence[str], speaks: bool) -> None:
        """Prepares it.

        Args:
            names: M of them.
            speaks: tell, once, which of these the first infos lack.
        """
        self._names, self._must_check = list(names), speaks
        self._rows: list[np.ndarray] = []

    def record(self, env: VectorEnv, done: np.ndarray) -> None:
        """Takes a step in; `done` is bool `[N]`, the environments whose episode it ended."""
        ended = np.flatnonzero(done).tolist()
        if not ended:
            return
        infos = infos_of(env, ended)
        if self._must_check:
            self._must_check = False
            if words := missing(infos, self._names):
                _log.warning("%s: info_metrics: so far %s", env.env_id, words)
        self._rows.append(numbers_of(infos, self._names, env.env_id))

    def take(self) -> np.ndarray:
        """Returns float64 `[n, M]` of the episodes since the last call, in their order."""
        rows, self._rows = self._rows, []
        return np.concatenate(rows) if rows else np.empty((0, len(self._names)))
