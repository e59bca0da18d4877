# What the compiled part promises. Its callers are the files of kernels/ and
# processes/shared_memory.py, which say what for.

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

VERSION: int

class Recorder:
    def __init__(
        self,
        obs: Tensor,
        rewards: Tensor,
        terminated: Tensor,
        truncated: Tensor,
        valid: Tensor,
        episode_returns: Tensor,
        episode_lengths: Tensor,
        finished_returns: Tensor,
        finished_lengths: Tensor,
    ) -> None: ...
    def record(
        self,
        t: int,
        first_env: int,
        obs: NDArray[np.generic],
        rewards: NDArray[np.float32],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
    ) -> int: ...
    @property
    def num_finished(self) -> int: ...
    def clear_finished(self) -> None: ...

class RowGather:
    def __init__(self, sources: Sequence[Tensor], outputs: Sequence[Tensor]) -> None: ...
    def gather(self, indices: Tensor) -> None: ...

class Exchange:
    def __init__(self, memory: Tensor, rank: int, num_ranks: int, spin_seconds: float) -> None: ...
    @property
    def slot_bytes(self) -> int: ...
    def gather(self, own: Tensor, all: Tensor, patience_seconds: float) -> bool: ...

def shuffled_minibatches(valid: Tensor, seed: int, indices: Tensor, weights: Tensor) -> int: ...
def cut_sequences(done: Tensor, max_length: int) -> tuple[Tensor, Tensor, Tensor]: ...
def sequence_grid(
    env: Tensor, start: Tensor, length: Tensor, num_envs: int, max_length: int
) -> tuple[Tensor, Tensor]: ...
def lstm_forward(
    gates: Tensor,
    first_hidden: Tensor,
    first_cells: Tensor,
    hidden: Tensor,
    cells: Tensor,
    squashed: Tensor,
    before: Tensor,
    weight: Tensor,
    alive: Tensor,
) -> None: ...
def lstm_backward(
    gates: Tensor,
    first_cells: Tensor,
    cells: Tensor,
    squashed: Tensor,
    d_outputs: Tensor,
    d_gates: Tensor,
    weight: Tensor,
    alive: Tensor,
) -> None: ...
def gru_forward(
    gates: Tensor,
    first_hidden: Tensor,
    candidates: Tensor,
    hidden: Tensor,
    before: Tensor,
    weight: Tensor,
    alive: Tensor,
) -> None: ...
def gru_backward(
    gates: Tensor,
    first_hidden: Tensor,
    candidates: Tensor,
    before: Tensor,
    d_outputs: Tensor,
    d_inputs: Tensor,
    d_states: Tensor,
    weight: Tensor,
    alive: Tensor,
) -> None: ...
def has_dense() -> bool: ...

# From here on x86-64 alone.

def wake_workers() -> None: ...
def clipped_objective(
    addresses: Sequence[int],
    num_rows: int,
    num_outputs: int,
    num_choices: Sequence[int],
    vf_coef: float,
    clips_values: bool,
    num_threads: int,
) -> bool: ...

class Dense:
    def __init__(
        self,
        num_rows: int,
        num_inputs: int,
        activation: int,
        networks: Sequence[tuple[Sequence[tuple[int, bool]], Sequence[tuple[int, bool]]]],
    ) -> None: ...
    def forward(
        self, addresses: Sequence[int], strides: Sequence[int], num_threads: int
    ) -> None: ...
    def backward(
        self,
        addresses: Sequence[int],
        strides: Sequence[int],
        has_d_weights: bool,
        d_x: int,
        num_threads: int,
    ) -> None: ...
    @property
    def num_kept(self) -> int: ...
    def set_policy(self, layers: Sequence[int], shift: int, scale: int, limit: float) -> None: ...
    def draw_choices(self, x: int, noise: int, choices: int) -> None: ...
    def draw_normals(
        self, x: int, noise: int, drawn: int, bounded: int, log_std: int, low: int, high: int
    ) -> None: ...
