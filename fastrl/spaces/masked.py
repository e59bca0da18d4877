"""Action masks that come apart from the observation, as an environment's info has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space

from fastrl.spaces.actions import choices_of
from fastrl.spaces.packed import MASK_KEY, PackedRow
from fastrl.spaces.parts import leaf_values


def joined(mask: Any) -> Any:
    """Returns a mask in one piece; those of several dimensions may come as a tuple."""
    if not isinstance(mask, tuple):
        return mask
    return np.concatenate([np.atleast_1d(part) for part in mask], -1)


def with_mask(row: Space, action_space: Space, observation: Any, mask: Any) -> Any:
    """Returns an observation, one or a batch, for `rows_of`, with its action mask in it.

    Args:
        row: space of the rows, from `observation_rows`.
        action_space: M is the sum of the choices of its dimensions.
        observation: as the environment shows it, or with its mask already.
        mask: `[M]` or `[n, M]`, 1 where allowed, 0 elsewhere; of several dimensions also a tuple of
            one mask each. None: the observation has it, or there is none.

    Raises:
        ValueError: the mask is missing, of another size, of no use, or it allows nothing.
    """
    size = row.mask_size if isinstance(row, PackedRow) else 0
    parts = {"": observation}
    if isinstance(row, PackedRow) and not isinstance(observation, np.ndarray):  # which are rows
        parts = leaf_values(observation, row.names)
    if mask is None:
        is_row = isinstance(observation, np.ndarray) and observation.shape[-1:] == row.shape
        if size and MASK_KEY not in parts and not is_row:
            raise ValueError("this agent needs an action mask: predict(obs, action_mask=mask)")
        return observation
    if not size or not isinstance(row, PackedRow):
        raise ValueError("action_mask has no effect: this agent was made without action masks")
    if MASK_KEY in parts:
        raise ValueError(f"the observation has a mask as its key {MASK_KEY} already")
    mask = joined(mask)
    name = next(name for name in row.names if name != MASK_KEY)
    if name not in parts:
        raise ValueError(f"the observation has no {name!r}; it has {sorted(parts)}")
    shape = row.parts[name].shape or ()
    batch = np.shape(parts[name])[: np.ndim(parts[name]) - len(shape)]
    count, given = int(np.prod(batch)), np.asarray(mask)
    if given.size != count * size:
        raise ValueError(
            f"an action mask of shape {given.shape} for {count} observations; each needs {size} "
            "values, one for each choice of each dimension"
        )
    if not np.isin(given, (0, 1)).all():
        raise ValueError("an action mask holds 1 where an action is allowed, and 0 elsewhere")
    rows = given.reshape(count, size) == 1
    ends = np.cumsum(choices_of(action_space))
    if not all(part.any(1).all() for part in np.split(rows, ends[:-1], 1)):
        raise ValueError("an action mask allows no action")
    return {**parts, MASK_KEY: rows.reshape(*batch, *(row.parts[MASK_KEY].shape or ()))}
