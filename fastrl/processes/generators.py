"""The global generators of Python, NumPy and torch: environments and layers may draw from them.

Imports torch only when they are used.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

ONE_THREAD = threading.RLock()
"""Held while the generators, which all threads share, are seeded, put back or drawn from: agents
may be made in several threads."""


def seed_generators(seed: int) -> None:
    """Seeds the generators of this process."""
    import torch

    with ONE_THREAD:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)


def state_of_generators() -> dict[str, Any]:
    """Returns the states of the generators, as a checkpoint may hold them."""
    import torch

    version, words, gauss = random.getstate()
    state: Any = np.random.get_state()  # of the Mersenne twister, or somebody put another one in
    numpys = [torch.from_numpy(state[1].astype(np.int64)), *state[2:]] if len(state) == 5 else []
    return {
        "torch_random": torch.get_rng_state(),
        "python_random": [version, torch.tensor(words), gauss],
        "numpy_random": numpys,
    }


def restore_generators(state: dict[str, Any]) -> None:
    """Puts the generators back; what a checkpoint of an earlier version lacks stays as it is.

    Raises:
        ValueError: what is given is no state of a generator.
    """
    import torch

    try:
        with ONE_THREAD:
            torch.set_rng_state(state["torch_random"])
            if "python_random" in state:
                version, words, gauss = state["python_random"]
                random.setstate((version, tuple(words.tolist()), gauss))
            if state.get("numpy_random"):
                words, *others = state["numpy_random"]
                if words.is_floating_point():
                    raise TypeError(f"words of NumPy's generator are {words.dtype}")
                np.random.set_state(("MT19937", words.numpy().astype(np.uint32), *others))
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"its random states cannot be restored: {error}") from error


@contextmanager
def generators_seeded(seed: int) -> Iterator[None]:
    """Seeds the generators for a block; after it they go on where they were."""
    with ONE_THREAD:
        before = state_of_generators()
        seed_generators(seed)
    try:
        yield
    finally:
        restore_generators(before)
