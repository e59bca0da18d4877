"""Row movement in C++ against its torch twin: 64 envs, 128 steps, 8 observations."""

import numpy as np
import pytest
import torch

from fastrl.kernels import indexing

T, N, O = 128, 64, 8  # noqa: E741
M, B = 4, T * N // 4
BACKENDS = ["c++", "torch"]


@pytest.fixture(params=BACKENDS)
def pick(request):
    """Returns the operation of this name, from the backend under test."""
    if request.param == "torch":
        return lambda name: getattr(indexing, name)
    extension = pytest.importorskip("fastrl._C", reason="the C++ extension is not built")
    cpp_names = {"TorchRecorder": "Recorder", "TorchRowGather": "RowGather"}
    return lambda name: getattr(extension, cpp_names.get(name, name.removeprefix("torch_")))


@pytest.fixture
def done():
    return torch.rand(T, N, generator=torch.Generator().manual_seed(0)) < 0.01


@pytest.mark.benchmark(group="record one step")
def test_record(benchmark, pick):
    obs_out, rewards_out = torch.zeros(T + 1, N, O), torch.zeros(T, N)
    flags = [torch.zeros(T, N, dtype=torch.bool) for _ in range(2)]
    valid = torch.ones(T + 1, N, dtype=torch.bool)
    lengths = torch.zeros(N, dtype=torch.int64)
    recorder = pick("TorchRecorder")(
        obs_out,
        rewards_out,
        *flags,
        valid,
        torch.zeros(N, dtype=torch.float64),
        lengths,
        torch.zeros(T * N, dtype=torch.float64),
        torch.zeros(T * N, dtype=torch.int64),
    )
    obs = np.arange(N * O, dtype=np.float32).reshape(N, O)
    rewards, no_flags = np.arange(N, dtype=np.float32), np.zeros(N, bool)
    answer = benchmark(recorder.record, 3, 0, obs, rewards, no_flags, no_flags)
    assert answer == -1
    assert obs_out[4].equal(torch.from_numpy(obs))
    assert rewards_out[3].equal(torch.arange(N).float())
    assert (lengths > 0).all()


@pytest.mark.benchmark(group="shuffle a rollout into minibatches")
def test_shuffled_minibatches(benchmark, pick, done):
    valid = ~done.flatten()
    indices, weights = torch.zeros(M, B, dtype=torch.int64), torch.zeros(M, B)
    num_valid = benchmark(pick("torch_shuffled_minibatches"), valid, 1, indices, weights)
    assert num_valid == valid.sum()
    assert indices[weights > 0].sort().values.equal(valid.nonzero()[:, 0])


@pytest.mark.benchmark(group="gather a minibatch")
def test_gather(benchmark, pick):
    rows = torch.arange(T * N)
    sources = [rows.float()[:, None].repeat(1, O), rows, *(rows.float() for _ in range(4))]
    outputs = [torch.zeros(B, *source.shape[1:], dtype=source.dtype) for source in sources]
    gather = pick("TorchRowGather")(sources, outputs)
    indices = torch.randperm(T * N, generator=torch.Generator().manual_seed(0))[:B]
    benchmark(gather.gather, indices)
    for source, output in zip(sources, outputs, strict=True):
        assert output.equal(source[indices])


@pytest.mark.benchmark(group="cut a rollout into sequences")
def test_cut_sequences(benchmark, pick, done):
    _, _, length = benchmark(pick("torch_cut_sequences"), done, 16)
    assert length.sum() == T * N
    assert length.max() == 16


@pytest.mark.benchmark(group="lay sequences out as a grid")
def test_sequence_grid(benchmark, pick, done):
    sequences = indexing.torch_cut_sequences(done, 16)
    indices, mask = benchmark(pick("torch_sequence_grid"), *sequences, N, 16)
    assert indices[mask].sort().values.equal(torch.arange(T * N))
