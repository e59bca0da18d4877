"""Modes of torch that a program may be in when it makes or trains an agent."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from fastrl.engine.threads import num_threads
from fastrl.processes.generators import ONE_THREAD


@contextmanager
def training_modes() -> Iterator[None]:
    """Runs a block with gradients: under the caller's `no_grad` nothing would learn.

    Raises:
        ValueError: the caller is in a mode in which other numbers would come out.
    """
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        raise ValueError("torch.autocast has no effect here; precision='bf16-mixed' is its setting")
    if torch.get_default_dtype() != torch.float32:
        raise ValueError(
            f"torch.set_default_dtype({torch.get_default_dtype()}) holds, but agents are made and "
            "trained in float32: set torch.float32 before, and yours again after it"
        )
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def drawing_weights(seed: int) -> Iterator[None]:
    """Runs a block that makes networks; their weights follow from the seed.

    On one thread: the decomposition behind orthogonal weights rounds by the number of threads.
    """
    with training_modes(), ONE_THREAD, torch.random.fork_rng(devices=[]), num_threads(1):
        torch.manual_seed(seed)
        yield


@contextmanager
def building() -> Iterator[None]:
    """Runs a block that looks at functions and builds them: on one thread, and drawing nothing.

    What is compiled by `torch.compile` runs as the Python that it was made of: nobody sees into
    compiled code, neither what it reads nor its operations.
    """
    is_seen = "torch._dynamo" not in sys.modules  # nothing is compiled; importing it takes a second
    python = nullcontext() if is_seen else torch.compiler.set_stance("force_eager")
    with ONE_THREAD, num_threads(1), torch.random.fork_rng(devices=[]), python:
        yield
