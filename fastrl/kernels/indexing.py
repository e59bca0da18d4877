"""Moving rows: record steps, shuffle minibatches, gather rows, cut sequences.

Every operation exists twice, in C++ (`fastrl._C`, see `csrc/`) and in torch (here), with the same
arguments, results and errors. The last lines choose: C++ where `kernels/extension.py` has it.
`BACKEND` is "c++" or "torch".

Letters: `T` steps, `N` envs, `O` observation dims, `R` rows, `M` minibatches, `B` rows of one, `S`
sequences. Tensors are contiguous and on the CPU. Objects keep the memory of their tensors: do not
`resize_` or `share_memory_` those afterwards.
"""

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fastrl.kernels.extension import HAS_EXTENSION


def _as_tensor(array: object, name: str) -> Tensor:
    if isinstance(array, np.ndarray) and array.dtype.isnative:
        # The copy spares torch's warning of read-only arrays: these are only read.
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    if isinstance(array, Tensor):
        return array.detach()
    raise ValueError(f"{name}: expected an array in plain memory, got {type(array).__name__}")


def _require(array: object, name: str, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    tensor = _as_tensor(array, name)
    contiguous, on_cpu = tensor.is_contiguous(), tensor.device.type == "cpu"
    if tensor.dtype == dtype and tensor.shape == torch.Size(shape) and contiguous and on_cpu:
        return tensor
    raise ValueError(
        f"{name}: expected contiguous {str(dtype)[6:]} {list(shape)} on the CPU, "
        f"got {str(tensor.dtype)[6:]} {list(tensor.shape)}"
        f"{'' if contiguous else ', not contiguous'}{'' if on_cpu else ', not on the CPU'}"
    )


def _require_first(array: object, name: str, dtype: torch.dtype, letters: str) -> Tensor:
    """Checks the argument that sets the sizes of the others."""
    tensor = _as_tensor(array, name)
    if tensor.ndim != len(letters.split(",")) or tensor.numel() == 0:
        got = f"{str(tensor.dtype)[6:]} {list(tensor.shape)}"
        raise ValueError(f"{name}: expected shape {letters} without zeros, got {got}")
    return _require(tensor, name, dtype, tensor.shape)


class TorchRecorder:
    """Writes vector steps into preallocated rollout tensors and counts episodes as they end.

    The row after a done row is the reset row (next-step autoreset): it is stored, marked not valid,
    and counted nowhere. Not to be called from two threads at once.

    Args:
        obs: `[T + 1, N, *O]` float32, float64, uint8, int32 or int64.
        rewards: `[T, N]` float32.
        terminated, truncated: `[T, N]` bool.
        valid: `[T + 1, N]` bool; row 0 is the caller's to set.
        episode_returns, episode_lengths: `[N]` float64 and int64, of the episodes under way.
        finished_returns, finished_lengths: `[T * N]` float64 and int64, `num_finished` filled.

    Raises:
        ValueError: If a tensor has the wrong dtype, shape, layout or device.
    """

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
    ) -> None:
        self._rewards = _require_first(rewards, "rewards", torch.float32, "[T, N]")
        T, N = self._num_steps, self._num_envs = rewards.shape
        obs = _as_tensor(obs, "obs")
        f64, i64 = torch.float64, torch.int64
        if obs.dtype not in (torch.float32, f64, torch.uint8, torch.int32, i64):
            got = f"{str(obs.dtype)[6:]} {list(obs.shape)}"
            raise ValueError(f"obs: expected float32, float64, uint8, int32 or int64, got {got}")
        self._obs = _require(obs, "obs", obs.dtype, (T + 1, N, *obs.shape[2:]))
        self._terminated = _require(terminated, "terminated", torch.bool, (T, N))
        self._truncated = _require(truncated, "truncated", torch.bool, (T, N))
        self._valid = _require(valid, "valid", torch.bool, (T + 1, N))
        self._returns = _require(episode_returns, "episode_returns", f64, (N,))
        self._lengths = _require(episode_lengths, "episode_lengths", i64, (N,))
        self._finished_returns = _require(finished_returns, "finished_returns", f64, (T * N,))
        self._finished_lengths = _require(finished_lengths, "finished_lengths", i64, (T * N,))
        self._num_finished = 0

    def record(
        self,
        t: int,
        first_env: int,
        obs: np.ndarray,
        rewards: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
    ) -> int:
        """Stores what action `t`, in `[0, T)`, caused in the envs `[first_env, first_env + n)`.

        Writes `obs[t + 1]`, `rewards[t]`, `terminated[t]`, `truncated[t]` and `valid[t + 1]`. Where
        `valid[t]`, the running return and length grow, and a done row ends the episode. The arrays
        are obs `[n, *O]` of the rollout's dtype, rewards float32 `[n]`, the others bool `[n]`.

        Returns:
            -1, or the first env (in `[0, N)`) whose reward or observation is not finite.

        Raises:
            ValueError: If an argument or a finished episode does not fit; nothing was written.
        """
        rewards_in = _require_first(rewards, "rewards", torch.float32, "[n]")
        n = rewards_in.shape[0]
        if not 0 <= t < self._num_steps:
            raise ValueError(f"t: expected a step in [0, {self._num_steps}), got {t}")
        if not 0 <= first_env <= self._num_envs - n:
            within = f"{n} envs within [0, {self._num_envs})"
            raise ValueError(f"first_env: expected {within}, got the first at {first_env}")
        obs_in = _require(obs, "obs", self._obs.dtype, (n, *self._obs.shape[2:]))
        terminated_in = _require(terminated, "terminated", torch.bool, (n,))
        truncated_in = _require(truncated, "truncated", torch.bool, (n,))
        envs = slice(first_env, first_env + n)
        returns, lengths, valid = self._returns[envs], self._lengths[envs], self._valid[t, envs]
        done = terminated_in | truncated_in
        ended = done & valid
        finished = slice(self._num_finished, self._num_finished + int(ended.sum()))
        if finished.stop > self._finished_returns.shape[0]:
            raise ValueError("finished_returns: expected room for more, call clear_finished()")
        self._obs[t + 1, envs] = obs_in
        self._rewards[t, envs] = rewards_in
        self._terminated[t, envs] = terminated_in
        self._truncated[t, envs] = truncated_in
        self._valid[t + 1, envs] = ~done
        returns[valid] += rewards_in[valid]
        lengths[valid] += 1
        self._finished_returns[finished] = returns[ended]
        self._finished_lengths[finished] = lengths[ended]
        self._num_finished = finished.stop
        returns[ended] = 0.0
        lengths[ended] = 0
        finite = rewards_in.isfinite() & obs_in.reshape(n, -1).isfinite().all(dim=1)
        return -1 if bool(finite.all()) else first_env + int(finite.int().argmin())

    @property
    def num_finished(self) -> int:
        """How many episodes finished since `clear_finished`."""
        return self._num_finished

    def clear_finished(self) -> None:
        """Forgets the finished episodes; those under way go on."""
        self._num_finished = 0


class TorchRowGather:
    """Copies rows of several tensors by one list of row numbers, into preallocated outputs.

    Args:
        sources: Tensors `[R, ...]` of any dtypes.
        outputs: For each source a tensor `[K, ...]` of its dtype and row shape, not overlapping it.

    Raises:
        ValueError: If the tensors do not match.
    """

    def __init__(self, sources: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        if len(sources) == 0 or len(outputs) != len(sources):
            got = f"{len(outputs)} for {len(sources)} sources"
            raise ValueError(f"outputs: expected one for each source and at least one, got {got}")
        self._fields: list[tuple[Tensor, Tensor]] = []
        for i in range(len(sources)):
            source = _as_tensor(sources[i], f"sources[{i}]")
            output = _as_tensor(outputs[i], f"outputs[{i}]")
            if source.ndim == 0 or output.ndim == 0:
                raise ValueError(f"sources[{i}], outputs[{i}]: expected rows, got a scalar")
            if i == 0:
                self._num_rows, self._num_outputs = source.shape[0], output.shape[0]
            row_shape = source.shape[1:]
            _require(source, f"sources[{i}]", source.dtype, (self._num_rows, *row_shape))
            _require(output, f"outputs[{i}]", source.dtype, (self._num_outputs, *row_shape))
            self._fields.append((source, output))

    def gather(self, indices: Tensor) -> None:
        """Sets `output[k] = source[indices[k]]` for every field.

        Args:
            indices: int64 of any shape with K elements, each in `[0, R)`.

        Raises:
            ValueError: If the indices do not fit or are out of range. Nothing was written then.
        """
        rows = _as_tensor(indices, "indices")
        fits = rows.numel() == self._num_outputs
        shape = rows.shape if fits else (self._num_outputs,)
        rows = _require(rows, "indices", torch.int64, shape).reshape(-1)
        if (wrong := rows[(rows < 0) | (rows >= self._num_rows)]).numel() > 0:
            raise ValueError(f"indices: expected rows in [0, {self._num_rows}), got {wrong[0]}")
        for source, output in self._fields:
            torch.index_select(source, 0, rows, out=output)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    # Zeros come in from the left, as for unsigned integers; torch's own shift repeats the sign.
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    # The finaliser of splitmix64, on int64 that wraps around.
    x = (x ^ _shift_right(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _shift_right(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _shift_right(x, 31)


def torch_shuffled_minibatches(valid: Tensor, seed: int, indices: Tensor, weights: Tensor) -> int:
    """Deals the V valid rows, in an order drawn from `seed`, out to M minibatches.

    The order is a stable sort by a 32-bit hash of (seed, row), cut into M consecutive pieces whose
    sizes differ by at most one, larger ones first.

    Args:
        valid: `[R]` bool, R below 2**32.
        seed: In `[0, 2**64)`.
        indices: `[M, B]` int64, overwritten: row m is piece m, padded with the piece's first row
            (with 0 if V < M leaves it empty).
        weights: `[M, B]` float32, overwritten: 1 / (size of the piece), and 0 for padding.

    Returns:
        V.

    Raises:
        ValueError: If V is 0, a piece is larger than B, or an argument does not fit.
    """
    valid = _require_first(valid, "valid", torch.bool, "[R]")
    if valid.numel() >= 2**32:
        raise ValueError(f"valid: expected under 2**32 rows, got {valid.numel()}")
    seed = operator.index(seed)
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed: expected an integer in [0, 2**64), got {seed}")
    indices = _require_first(indices, "indices", torch.int64, "[M, B]")
    M, B = indices.shape
    weights = _require(weights, "weights", torch.float32, (M, B))
    rows = valid.nonzero()[:, 0]
    V = rows.numel()
    if V == 0:
        raise ValueError("valid: expected at least one valid row, got none")
    if -(-V // M) > B:
        raise ValueError(f"indices: expected room for {V} valid rows, got {M} minibatches of {B}")
    start = _mix(torch.tensor((seed ^ 2**63) - 2**63))  # the int64 with the bits of the seed
    hashes = _shift_right(_mix(start + rows * (0x9E3779B97F4A7C15 - 2**64)), 32)
    order = rows[hashes.argsort(stable=True)]
    sizes = torch.full((M, 1), V // M)
    sizes[: V % M] += 1
    real = (column := torch.arange(B)) < sizes
    # An empty piece would begin past the last row; it is zeroed below.
    position = (sizes.cumsum(0) - sizes + torch.where(real, column, 0)).clamp(max=V - 1)
    indices.copy_(torch.where(sizes > 0, order[position], 0))
    weights.copy_(torch.where(real, 1.0 / sizes, 0.0))
    return V


def torch_cut_sequences(done: Tensor, max_length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cuts a rollout into sequences, after each done row and at `max_length`.

    Args:
        done: `[T, N]` bool.
        max_length: The most rows of a sequence, at least 1.

    Returns:
        `env`, `start` and `length`, each `[S]` int64, ordered by env and then by start: sequence s
        is the rows `start[s] <= t < start[s] + length[s]` of `env[s]`. Each row is in exactly one.

    Raises:
        ValueError: If `done` does not fit or `max_length` is below 1.
    """
    done = _require_first(done, "done", torch.bool, "[T, N]")
    if max_length < 1:
        raise ValueError(f"max_length: expected at least 1, got {max_length}")
    T, N = done.shape
    step = torch.arange(T)
    after_done = torch.zeros(N, T, dtype=torch.bool)
    after_done[:, 1:] = done[:-1].T
    episode_start = torch.where(after_done, step, 0).cummax(dim=1).values
    is_start = (step - episode_start) % max_length == 0
    env, start = is_start.nonzero().T.contiguous()
    return env, start, torch.diff(env * T + start, append=torch.tensor([N * T]))


def torch_sequence_grid(
    env: Tensor, start: Tensor, length: Tensor, num_envs: int, max_length: int
) -> tuple[Tensor, Tensor]:
    """Lays sequences out as the columns of a padded grid.

    Args:
        env: `[S]` int64, as from `cut_sequences`.
        start: `[S]` int64, likewise.
        length: `[S]` int64, likewise.
        num_envs: N of the rollout.
        max_length: L, the rows of the grid.

    Returns:
        `indices` `[L, S]` int64, the flat rows `t * N + n` of each sequence, padded with its first;
        `mask` `[L, S]` bool, false where padded.

    Raises:
        ValueError: If there is no sequence, or one does not fit into the grid or the envs.
    """
    env = _require_first(env, "env", torch.int64, "[S]")
    start = _require(start, "start", torch.int64, env.shape)
    length = _require(length, "length", torch.int64, env.shape)
    if num_envs < 1:
        raise ValueError(f"num_envs: expected at least 1, got {num_envs}")
    if max_length < 1:
        raise ValueError(f"max_length: expected at least 1, got {max_length}")
    wrong = (env < 0) | (env >= num_envs) | (start < 0) | (length < 1) | (length > max_length)
    if bool(wrong.any()):
        s = int(wrong.int().argmax())
        raise ValueError(
            f"sequence {s}: expected env in [0, {num_envs}), start >= 0 and length in "
            f"[1, {max_length}], got env {env[s]}, start {start[s]}, length {length[s]}"
        )
    offset = torch.arange(max_length)[:, None]
    mask = offset < length
    return (start + torch.where(mask, offset, 0)) * num_envs + env, mask


BACKEND = "c++" if HAS_EXTENSION else "torch"

if TYPE_CHECKING or HAS_EXTENSION:
    from fastrl._C import Recorder, RowGather, cut_sequences, sequence_grid, shuffled_minibatches
else:
    Recorder, RowGather = TorchRecorder, TorchRowGather
    cut_sequences, sequence_grid = torch_cut_sequences, torch_sequence_grid
    shuffled_minibatches = torch_shuffled_minibatches

__all__ = ["Recorder", "RowGather", "cut_sequences", "sequence_grid", "shuffled_minibatches"]
