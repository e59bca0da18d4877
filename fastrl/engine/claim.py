"""One run at a time has an agent learn; EnvPool's agents learn in the process that made them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock, get_ident
from typing import Any

_TAKEN = "this agent is learning already; another agent may learn meanwhile"


class Claim:
    """Which run an agent belongs to while it learns: a second one would change its layers' mode."""

    def __init__(self) -> None:
        """Belongs to no run yet, and to this process."""
        self._lock, self._process = Lock(), os.getpid()
        self._thread: int | None = None  # in which the agent learns
        self.in_run = False
        """Whether the training loop is running, on what was built for it."""

    def check(self, envs: Sequence[Any]) -> None:
        """Raises ValueError if no run may begin.

        The agent is learning already, in the caller of a callback or in another thread; or a fork
        left the threads of its environments behind.

        Args:
            envs: the agent's pools of environments.
        """
        is_forked = self._process != os.getpid()
        if is_forked and any(getattr(env, "backend", "") == "envpool" for env in envs):
            raise ValueError(
                "this agent was made before the process was forked, which EnvPool's threads do not "
                "survive; make it in this process, or start processes by 'spawn'"
            )
        if is_forked and self._lock.locked():
            raise ValueError(
                "this agent was learning when the process was forked; make another one here"
            )
        if self._lock.locked():
            raise ValueError(_TAKEN)

    @contextmanager
    def held(self, envs: Sequence[Any]) -> Iterator[None]:
        """Context of a run, from its first preparations on; raises ValueError as `check`."""
        self.check(envs)
        if not self._lock.acquire(blocking=False):  # another thread was faster
            raise ValueError(_TAKEN)
        self._thread = get_ident()
        try:
            yield
        finally:
            self._thread = None
            self._lock.release()

    @contextmanager
    def looping(self) -> Iterator[None]:
        """Context of the training loop."""
        self.in_run = True
        try:
            yield
        finally:
            self.in_run = False

    @contextmanager
    def not_beside_learning(self) -> Iterator[None]:
        """Context that sets networks to evaluation mode, and must not while others learn.

        Raises:
            ValueError: the agent learns in another thread, or prepares to.
        """
        if self._thread not in (None, get_ident()):
            raise ValueError(
                "the agent is learning in another thread, and predicting would switch its layers "
                "to evaluation mode; predict in a callback, or with a copy: "
                "type(agent).load(run folder)"
            )
        yield
