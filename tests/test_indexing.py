"""Each operation in C++ equals its torch twin, and both do what a hand can check."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrl.kernels import indexing

NO_EXTENSION = os.environ.get("FASTRL_NO_EXTENSION") == "1"
BACKENDS = ["torch"] if NO_EXTENSION else ["torch", "c++"]
quick = settings(max_examples=60, deadline=None)


def load(backend: str):
    if backend == "torch":
        bare = {name.removeprefix("torch_").removeprefix("Torch"): name for name in dir(indexing)}
        return SimpleNamespace(**{name: getattr(indexing, twin) for name, twin in bare.items()})
    try:
        from fastrl import _C
    except ImportError as error:
        pytest.fail(f"no C++ extension: build it, or set FASTRL_NO_EXTENSION=1 ({error})")
    return _C


def answers_of_both(call):
    return [call(load(backend)) for backend in BACKENDS]


@pytest.fixture(params=BACKENDS)
def ops(request):
    return load(request.param)


def rollout(num_steps, num_envs, obs_shape=(2,), obs_dtype=torch.float32):
    T, N = num_steps, num_envs
    return {
        "obs": torch.zeros(T + 1, N, *obs_shape, dtype=obs_dtype),
        "rewards": torch.zeros(T, N),
        "terminated": torch.zeros(T, N, dtype=torch.bool),
        "truncated": torch.zeros(T, N, dtype=torch.bool),
        "valid": torch.ones(T + 1, N, dtype=torch.bool),
        "episode_returns": torch.zeros(N, dtype=torch.float64),
        "episode_lengths": torch.zeros(N, dtype=torch.int64),
        "finished_returns": torch.zeros(T * N, dtype=torch.float64),
        "finished_lengths": torch.zeros(T * N, dtype=torch.int64),
    }


def step(num_envs, *, reward=1.0, done=()):
    """One step of all envs: the same reward, and terminations in the envs `done`."""
    terminated = np.zeros(num_envs, bool)
    terminated[list(done)] = True
    obs = np.zeros((num_envs, 2), np.float32)
    return obs, np.full(num_envs, reward, np.float32), terminated, np.zeros(num_envs, bool)


def test_a_step_is_written_to_its_row_and_its_envs_only(ops):
    tensors = rollout(3, 4)
    obs = np.array([[10, 11], [20, 21]], np.float32)
    arrays = obs, np.array([1, 2], np.float32), np.array([True, False]), np.array([False, True])
    assert ops.Recorder(**tensors).record(1, 2, *arrays) == -1
    assert tensors["obs"][2, 2:].tolist() == obs.tolist()
    assert tensors["rewards"].tolist() == [[0, 0, 0, 0], [0, 0, 1, 2], [0, 0, 0, 0]]
    assert tensors["terminated"].nonzero().tolist() == [[1, 2]]
    assert tensors["truncated"].nonzero().tolist() == [[1, 3]]
    assert (~tensors["valid"]).nonzero().tolist() == [[2, 2], [2, 3]]
    assert tensors["obs"].count_nonzero() == 4


def test_reset_row_is_never_counted(ops):
    tensors = rollout(4, 1)
    recorder = ops.Recorder(**tensors)
    recorder.record(0, 0, *step(1, reward=1.0))
    recorder.record(1, 0, *step(1, reward=2.0, done=[0]))
    recorder.record(2, 0, *step(1, reward=100.0))  # the reset row
    recorder.record(3, 0, *step(1, reward=4.0))
    assert recorder.num_finished == 1
    assert (tensors["finished_returns"][0], tensors["finished_lengths"][0]) == (3.0, 2)
    assert (tensors["episode_returns"][0], tensors["episode_lengths"][0]) == (4.0, 1)
    assert tensors["valid"][:, 0].tolist() == [True, True, False, True, True]
    recorder.clear_finished()
    assert recorder.num_finished == 0


@pytest.mark.parametrize(
    ("value", "env"), [(np.nan, 3), (np.inf, 3), (-np.inf, 3), (-3e38, -1), (1e-40, -1), (-0.0, -1)]
)
@pytest.mark.parametrize("where", ["obs", "rewards"])
def test_first_env_that_is_not_finite_is_named(ops, value, env, where):
    obs, rewards, *flags = step(3)
    (obs[:, 1] if where == "obs" else rewards)[1:] = value
    for array in (obs, rewards, *flags):
        array.setflags(write=False)  # as some environments return them
    assert ops.Recorder(**rollout(2, 5)).record(0, 2, obs, rewards, *flags) == env


def test_too_many_finished_episodes_are_refused_before_anything_is_written(ops):
    tensors = rollout(1, 2)
    recorder = ops.Recorder(**tensors)
    recorder.record(0, 0, *step(2, done=[0, 1]))
    with pytest.raises(ValueError, match=r"call clear_finished\(\)"):
        recorder.record(0, 0, *step(2, reward=7.0, done=[0]))
    assert tensors["rewards"].tolist() == [[1, 1]]


def test_recorder_keeps_its_memory_alive(ops):
    recorder = ops.Recorder(**rollout(64, 64))
    others = [torch.full((65, 64, 2), 3.0) for _ in range(20)]  # would take freed memory
    for t in range(64):
        recorder.record(t, 0, *step(64))
    assert all(other.eq(3.0).all() for other in others)


@st.composite
def recordings(draw):
    shape = draw(st.sampled_from([(), (1,), (3,), (2, 4)]))
    dtype = draw(st.sampled_from(["float32", "float64", "uint8", "int32", "int64"]))
    numbers = st.tuples(st.integers(1, 12), st.integers(1, 9), st.sampled_from([0.0, 0.3, 1.0]))
    return *draw(numbers), shape, dtype, draw(st.integers(0, 2**32 - 1))


def record_randomly(ops, T, N, done_rate, obs_shape, dtype, seed):
    """Records two random rollouts in half pools; the second takes up where the first ended."""
    random = np.random.default_rng(seed)
    tensors = rollout(T, N, obs_shape, getattr(torch, dtype))
    recorder = ops.Recorder(**tensors)
    answers = []
    for t in [*range(T), *range(T)]:
        if t == 0:
            answers.append(recorder.num_finished)
            recorder.clear_finished()
            tensors["valid"][0] = tensors["valid"][-1]
        for envs in np.array_split(np.arange(N), min(2, N)):
            n = len(envs)
            obs = (random.standard_normal((n, *obs_shape)) * 50).astype("int64").astype(dtype)
            flags = random.random((2, n)) < done_rate
            rewards = random.standard_normal(n).astype(np.float32)
            answers.append(recorder.record(t, int(envs[0]), obs, rewards, *flags))
    return tensors | {"answers": torch.tensor([*answers, recorder.num_finished])}


def shuffle(ops, valid, seed, num_minibatches, batch_size):
    indices = torch.full((num_minibatches, batch_size), -1)
    weights = torch.full((num_minibatches, batch_size), -1.0)
    return ops.shuffled_minibatches(valid, seed, indices, weights), indices, weights


@st.composite
def shuffles(draw):
    valid = draw(st.lists(st.booleans(), min_size=1, max_size=300).filter(any))
    num_minibatches = draw(st.integers(1, 9))
    batch_size = -(-sum(valid) // num_minibatches) + draw(st.integers(0, 3))
    return torch.tensor(valid), draw(st.integers(0, 2**64 - 1)), num_minibatches, batch_size


@pytest.mark.parametrize("backend", BACKENDS)
@quick
@given(case=shuffles())
def test_every_valid_row_is_in_exactly_one_minibatch(backend, case):
    num_valid, indices, weights = shuffle(load(backend), *case)
    rows = indices[weights > 0].sort().values
    assert rows.tolist() == case[0].nonzero()[:, 0].tolist()
    assert num_valid == len(rows)


@pytest.mark.parametrize("backend", BACKENDS)
@quick
@given(case=shuffles())
def test_weights_of_a_minibatch_sum_to_one_and_sizes_are_nearly_equal(backend, case):
    _, indices, weights = shuffle(load(backend), *case)
    sizes = (weights > 0).sum(1)
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)
    assert sizes[0] - sizes[-1] <= 1
    torch.testing.assert_close(weights.sum(1), (sizes > 0).float())
    first = torch.where(sizes > 0, indices[:, 0], 0)
    assert torch.where(weights > 0, first[:, None], indices).eq(first[:, None]).all()


def test_each_row_lands_anywhere_about_equally_often(ops):
    valid = torch.ones(8, dtype=torch.bool)
    counts = torch.zeros(8, 8)
    for seed in range(2000):
        order = shuffle(ops, valid, seed, 1, 8)[1][0]
        counts[order, torch.arange(8)] += 1
    # Chi-squared with 49 degrees of freedom: mean 49, standard deviation 9.9.
    assert ((counts - 250) ** 2 / 250).sum() < 100


def test_row_r_holds_value_r_in_every_field(ops):
    rows = torch.arange(6)
    sources = [rows.float()[:, None].repeat(1, width) for width in (1, 2, 8, 5)] + [rows > 2, rows]
    indices = torch.tensor([5, 0, 3, 3])
    outputs = [torch.zeros(4, *source.shape[1:], dtype=source.dtype) for source in sources]
    ops.RowGather(sources, outputs).gather(indices)
    assert all(output.eq(indices[:, None]).all() for output in outputs[:4])
    assert outputs[4].tolist() == [True, False, True, True]
    assert outputs[5].tolist() == [5, 0, 3, 3]


@pytest.mark.parametrize("wrong", [-1, 6, 2**62])
def test_row_out_of_range_is_refused_before_anything_is_written(ops, wrong):
    output = torch.zeros(2)
    gather = ops.RowGather([torch.ones(6)], [output])
    with pytest.raises(ValueError, match=rf"indices: expected rows in \[0, 6\), got {wrong}$"):
        gather.gather(torch.tensor([1, wrong]))
    assert output.tolist() == [0, 0]


def test_sequences_end_after_done_and_at_the_longest_length(ops):
    done = torch.zeros(5, 2, dtype=torch.bool)
    done[1, 0] = True
    env, start, length = ops.cut_sequences(done, 3)
    assert env.tolist() == [0, 0, 1, 1]
    assert start.tolist() == [0, 2, 0, 3]
    assert length.tolist() == [2, 3, 3, 2]


def test_grid_lists_flat_rows_and_repeats_the_first_as_padding(ops):
    env, start, length = torch.tensor([[1, 0], [2, 0], [1, 3]])
    indices, mask = ops.sequence_grid(env, start, length, 2, 3)
    assert indices.tolist() == [[5, 0], [5, 2], [5, 4]]
    assert mask.tolist() == [[True, True], [False, True], [False, True]]


@st.composite
def dones(draw):
    num_envs = draw(st.integers(1, 6))
    steps = st.lists(st.booleans(), min_size=num_envs, max_size=num_envs)
    return torch.tensor(draw(st.lists(steps, min_size=1, max_size=20))), draw(st.integers(1, 25))


@pytest.mark.parametrize("backend", BACKENDS)
@quick
@given(case=dones())
def test_sequences_cover_each_row_once_and_cross_no_done(backend, case):
    done, max_length = case
    ops = load(backend)
    sequences = ops.cut_sequences(done, max_length)
    indices, mask = ops.sequence_grid(*sequences, done.shape[1], max_length)
    assert indices.T[mask.T].sort().values.tolist() == list(range(done.numel()))
    last = mask & ~torch.cat([mask[1:], torch.zeros_like(mask[:1])])
    assert not (done.flatten()[indices] & mask & ~last).any()


if not NO_EXTENSION:

    @quick
    @given(recordings())
    def test_recorders_are_equal(case):
        expected, actual = answers_of_both(lambda ops: record_randomly(ops, *case))
        for name, tensor in expected.items():
            assert tensor.equal(actual[name]), name

    @quick
    @given(shuffles())
    def test_shuffles_are_equal(case):
        expected, actual = answers_of_both(lambda ops: shuffle(ops, *case))
        assert actual[0] == expected[0]
        assert actual[1].equal(expected[1])
        assert actual[2].equal(expected[2])

    def test_large_shuffles_with_equal_hashes_are_equal():
        # 2**18 rows: about 8 pairs share their 32-bit hash, so the sort has to be stable.
        case = torch.ones(2**18, dtype=torch.bool), 5, 1, 2**18
        expected, actual = answers_of_both(lambda ops: shuffle(ops, *case)[1])
        assert actual.equal(expected)

    dtypes = st.sampled_from([torch.float32, torch.float64, torch.uint8, torch.bfloat16])
    fields = st.tuples(dtypes, st.lists(st.integers(1, 5), max_size=3))

    @quick
    @given(st.lists(fields, min_size=1, max_size=4), st.lists(st.integers(0, 6), max_size=50))
    def test_gathers_are_equal(fields, indices):
        sources = [(torch.randn(7, *shape) * 9).to(dtype) for dtype, shape in fields]

        def gathered(ops):
            outputs = [torch.zeros(len(indices), *s.shape[1:], dtype=s.dtype) for s in sources]
            ops.RowGather(sources, outputs).gather(torch.tensor(indices, dtype=torch.int64))
            return outputs

        for expected, actual in zip(*answers_of_both(gathered), strict=True):
            assert expected.equal(actual)

    @quick
    @given(dones())
    def test_sequences_are_equal(case):
        def grid(ops):
            sequences = ops.cut_sequences(*case)
            return *sequences, *ops.sequence_grid(*sequences, case[0].shape[1], case[1])

        for expected, actual in zip(*answers_of_both(grid), strict=True):
            torch.testing.assert_close(actual, expected, rtol=0, atol=0)


# Each error, as a call that takes the operations.
def bad_rollout(**changes):
    return lambda ops: ops.Recorder(**rollout(3, 2) | changes)


def bad_step(t=0, first_env=0, **changes):
    names = ("obs", "rewards", "terminated", "truncated")
    arrays = dict(zip(names, step(2), strict=True)) | changes
    return lambda ops: ops.Recorder(**rollout(3, 2)).record(t, first_env, **arrays)


def bad_shuffle(valid=(True, True), seed=0, shape=(1, 2)):
    return lambda ops: shuffle(ops, torch.tensor(valid), seed, *shape)


def bad_gather(source, output, indices=None):
    return lambda ops: ops.RowGather(source, output).gather(indices)


I1, I2, F16, BOOL = torch.arange(1), torch.arange(2), torch.zeros(4, 2).half(), torch.ones(3, 2) > 0
ERRORS = [
    ("rewards: expected shape [T, N] without", bad_rollout(rewards=torch.zeros(3))),
    ("float32 [4, 2, 5] on the CPU, got float32 [3,", bad_rollout(obs=torch.zeros(3, 2, 5))),
    ("obs: expected float32, float64, uint8, int32 or int64, got float16", bad_rollout(obs=F16)),
    ("bool [3, 2], not contiguous", bad_rollout(truncated=BOOL.T.contiguous().T)),
    ("finished_lengths: expected an array in plain", bad_rollout(finished_lengths=[0] * 6)),
    ("t: expected a step in [0, 3), got 3", bad_step(t=3)),
    ("first_env: expected 2 envs within [0, 2), got the first at 1", bad_step(first_env=1)),
    ("[2, 2], not contiguous", bad_step(obs=np.zeros((2, 2), np.float32).T)),
    ("valid: expected at least one valid row", bad_shuffle(valid=(False, False))),
    ("room for 2 valid rows, got 1 minibatches of 1", bad_shuffle(shape=(1, 1))),
    ("seed: expected an integer in [0, 2**64), got 18446744073709551616", bad_shuffle(seed=2**64)),
    ("outputs: expected one for each source and at", bad_gather([I1], [])),
    ("outputs[0]: expected contiguous int64 [1]", bad_gather([I1], [torch.ones(1)])),
    ("sources[1]: expected contiguous int64 [1]", bad_gather([I1, I2], [I1, I1])),
    ("indices: expected contiguous int64 [1]", bad_gather([I1], [I1.clone()], I2)),
    ("max_length: expected at least 1, got 0", lambda ops: ops.cut_sequences(BOOL, 0)),
    ("got env 1, start 0, length 1", lambda ops: ops.sequence_grid(I1 + 1, I1, I1 + 1, 1, 9)),
]


@pytest.mark.parametrize(("part", "call"), ERRORS, ids=[part for part, _ in ERRORS])
def test_error_says_what_was_wrong_in_the_same_words(part, call):
    def message(ops):
        with pytest.raises(ValueError) as caught:
            call(ops)
        return str(caught.value)

    messages = set(answers_of_both(message))
    assert len(messages) == 1
    assert part in messages.pop()
