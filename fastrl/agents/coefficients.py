"""Coefficients in tensors, which schedules set before an update and users may set in between."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import Tensor

from fastrl.config.schedules import SCHEDULE_OF, SHORT_FOR_LINEAR

logger = logging.getLogger("fastrl")


class Coefficients:
    """Follows schedules, and leaves alone what a schedule does not move.

    A coefficient of a constant schedule stays as `agent.ent_coef.fill_(0.02)` in a callback left
    it, in a resumed run too. Schedules that move set theirs anew before each update.
    """

    def __init__(self, tensors: Mapping[str, Tensor], values: Mapping[str, float]) -> None:
        """Takes scalars that are changed in place.

        Args:
            tensors: scalars by name; the owner may take from the mapping, or put another tensor in
                a name's place, later.
            values: what the settings say now, by name.
        """
        self._tensors, self._scheduled = tensors, dict(values)
        self._left = {name: float(np.float32(x)) for name, x in values.items()}  # as seen last
        self._told: set[str] = set()

    def follow(self, name: str, value: float, *, moves: bool, anew: bool = False) -> None:
        """Sets a coefficient to where its schedule is.

        Args:
            name: which one.
            value: what the schedule says.
            moves: whether the schedule is not constant; if it is, it sets nothing but a new value.
            anew: set it in any case, without a line.
        """
        tensor = self._tensors[name]
        if not (moves or anew) and value == self._scheduled[name]:
            return
        is_told = anew or name in self._told
        if moves and not is_told and (now := float(tensor)) != self._left[name]:
            self._told.add(name)
            logger.warning(
                "%s was set to %.6g, but its schedule sets it before each update", name, now
            )
        tensor.fill_(value)
        self._scheduled[name], self._left[name] = value, float(np.float32(value))

    def begin_anew(self, settings: Collection[str]) -> None:
        """Sets what a loaded file held back to the settings, where they or their schedules are."""
        for name, tensor in self._tensors.items():
            schedule = SCHEDULE_OF.get(name, "lr_schedule")  # one for all rates of SAC
            if not {name, schedule, SHORT_FOR_LINEAR[schedule]}.isdisjoint(settings):
                tensor.fill_(self._scheduled[name])
                self._left[name] = float(tensor)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns of each coefficient where its schedule was, and what it is: float64 `[2]`."""
        pairs = {name: (self._scheduled[name], float(x)) for name, x in self._tensors.items()}
        return {name: torch.tensor(pair, dtype=torch.float64) for name, pair in pairs.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what others than the schedules set, unless the setting is another now."""
        for name, pair in state.items():
            scheduled, value = pair.tolist()
            if name in self._tensors and scheduled == self._scheduled[name]:
                self._tensors[name].fill_(value)
                self._left[name] = float(self._tensors[name])
