"""Each operation in C++ equals its torch twin, and both do what a hand can check."""

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrl.buffers import indexing

NO_EXTENSION = os.environ.get("FASTRL_NO_EXTENSION") == "1"
BACKENDS = ["torch"] if NO_EXTENSION else ["torch", "c++"]
FIELDS = ("obs", "rewards", "terminated", "truncated", "valid")
EPISODES = ("episode_returns", "episode_lengths", "finished_returns", "finished_lengths")
quick = settings(max_examples=60, deadline=None)


class TorchOps:
    Recorder = indexing.TorchRecorder
    RowGather = indexing.TorchRowGather
    shuffled_minibatches = staticmethod(indexing.torch_shuffled_minibatches)
    cut_sequences = staticmethod(indexing.torch_cut_sequences)
    sequence_grid = staticmethod(indexing.torch_sequence_grid)


def load(backend: str):
    if backend == "torch":
        return TorchOps
    try:
        from fastrl import _C
    except ImportError as error:
        message = "the C++ extension is not built; set FASTRL_NO_EXTENSION=1 to test without it"
        pytest.fail(f"{message}: {error}")
    return _C


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


def step(num_envs, *, reward=1.0, done=(), obs_shape=(2,)):
    """One step of all envs: the same reward, and terminations in the envs `done`."""
    terminated = np.zeros(num_envs, bool)
    terminated[list(done)] = True
    obs = np.zeros((num_envs, *obs_shape), np.float32)
    return obs, np.full(num_envs, reward, np.float32), terminated, np.zeros(num_envs, bool)


# ---- Recorder


def test_a_step_is_written_to_its_row_and_its_envs_only(ops):
    tensors = rollout(3, 4)
    obs = np.array([[10, 11], [20, 21]], np.float32)
    arrays = obs, np.array([1, 2], np.float32), np.array([True, False]), np.array([False, True])
    assert ops.Recorder(**tensors).record(1, 2, *arrays) == -1
    assert tensors["obs"][2, 2:].tolist() == obs.tolist()
    assert tensors["rewards"].nonzero().tolist() == [[1, 2], [1, 3]]
    assert tensors["rewards"][1].tolist() == [0, 0, 1, 2]
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
    assert tensors["finished_returns"][0] == 3.0
    assert tensors["finished_lengths"][0] == 2
    assert tensors["episode_returns"].tolist() == [4.0]
    assert tensors["episode_lengths"].tolist() == [1]
    assert tensors["valid"][:, 0].tolist() == [True, True, False, True, True]


def test_clearing_finished_episodes_keeps_those_under_way(ops):
    tensors = rollout(2, 2)
    recorder = ops.Recorder(**tensors)
    recorder.record(0, 0, *step(2, done=[1]))
    assert recorder.num_finished == 1
    recorder.clear_finished()
    assert recorder.num_finished == 0
    assert tensors["episode_lengths"].tolist() == [1, 0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["obs", "rewards"])
def test_first_env_that_is_not_finite_is_named(ops, value, where):
    obs, rewards, terminated, truncated = step(3)
    if where == "obs":
        obs[1:, 1] = value
    else:
        rewards[1:] = value
    recorder = ops.Recorder(**rollout(2, 5))
    assert recorder.record(0, 2, obs, rewards, terminated, truncated) == 3


@pytest.mark.parametrize("value", [np.finfo(np.float32).max, -np.finfo(np.float32).tiny, -0.0])
def test_extreme_but_finite_values_are_not_named(ops, value):
    obs, rewards, terminated, truncated = step(3)
    obs[:] = rewards[:] = value
    assert ops.Recorder(**rollout(2, 3)).record(0, 0, obs, rewards, terminated, truncated) == -1


def test_read_only_arrays_are_recorded(ops):
    arrays = step(2)
    for array in arrays:
        array.setflags(write=False)
    assert ops.Recorder(**rollout(1, 2)).record(0, 0, *arrays) == -1


def test_too_many_finished_episodes_are_refused_before_anything_is_written(ops):
    tensors = rollout(1, 2)
    recorder = ops.Recorder(**tensors)
    recorder.record(0, 0, *step(2, done=[0, 1]))
    with pytest.raises(ValueError, match=r"call clear_finished\(\)"):
        recorder.record(0, 0, *step(2, reward=7.0, done=[0]))
    assert tensors["rewards"].tolist() == [[1, 1]]


def test_recorder_keeps_its_memory_alive(ops):
    tensors = rollout(64, 64, obs_shape=(64,))
    recorder = ops.Recorder(**tensors)
    view = tensors["obs"]
    del tensors
    obs, *others = step(64, obs_shape=(64,))
    obs[:] = 5.0
    for t in range(64):
        recorder.record(t, 0, obs, *others)
    assert view[1:].eq(5.0).all()


DONE_OF = {"none": 0.0, "some": 0.3, "all": 1.0}


@st.composite
def recordings(draw):
    dtype = draw(st.sampled_from(["float32", "float64", "uint8", "int32", "int64"]))
    return {
        "num_steps": draw(st.integers(1, 12)),
        "num_envs": draw(st.integers(1, 9)),
        "obs_shape": draw(st.sampled_from([(), (1,), (3,), (2, 4)])),
        "dtype": dtype,
        "done": draw(st.sampled_from(list(DONE_OF.values()))),
        "num_groups": draw(st.integers(1, 2)),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


def record_randomly(ops, case):
    """Records a random rollout; the first row of a second rollout carries `valid` over."""
    T, N = case["num_steps"], case["num_envs"]
    random = np.random.default_rng(case["seed"])
    tensors = rollout(T, N, case["obs_shape"], getattr(torch, case["dtype"]))
    recorder = ops.Recorder(**tensors)
    answers = []
    for _ in range(2):
        recorder.clear_finished()
        for t in range(T):
            for envs in np.array_split(np.arange(N), min(case["num_groups"], N)):
                n = len(envs)
                obs = (random.standard_normal((n, *case["obs_shape"])) * 50).astype("int64")
                flags = random.random((2, n)) < case["done"]
                rewards = random.standard_normal(n).astype(np.float32)
                arrays = obs.astype(case["dtype"]), rewards, flags[0], flags[1]
                answers.append(recorder.record(t, int(envs[0]), *arrays))
        answers.append(recorder.num_finished)
        tensors["valid"][0] = tensors["valid"][-1]
    return tensors, answers


if not NO_EXTENSION:

    @quick
    @given(recordings())
    def test_recorders_are_equal(case):
        tensors, answers = record_randomly(load("torch"), case)
        tensors_cpp, answers_cpp = record_randomly(load("c++"), case)
        assert answers == answers_cpp
        for name in (*FIELDS, *EPISODES):
            torch.testing.assert_close(tensors[name], tensors_cpp[name], rtol=0, atol=0)


# ---- shuffled_minibatches


def shuffle(ops, valid, seed, num_minibatches, batch_size):
    indices = torch.full((num_minibatches, batch_size), -1)
    weights = torch.full((num_minibatches, batch_size), -1.0)
    return ops.shuffled_minibatches(valid, seed, indices, weights), indices, weights


@st.composite
def shuffles(draw):
    valid = draw(st.lists(st.booleans(), min_size=1, max_size=300).filter(any))
    num_minibatches = draw(st.integers(1, 9))
    enough = -(-sum(valid) // num_minibatches)
    batch_size = enough + draw(st.integers(0, 3))
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
    num_valid, indices, weights = shuffle(load(backend), *case)
    sizes = (weights > 0).sum(1)
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)
    assert sizes.max() - sizes.min() <= 1
    expected = (sizes > 0).float()
    torch.testing.assert_close(weights.sum(1), expected)
    first = torch.where(sizes > 0, indices[:, 0], 0)
    assert torch.where(weights > 0, first[:, None], indices).eq(first[:, None]).all()


def test_more_minibatches_than_rows_leaves_the_last_empty(ops):
    num_valid, indices, weights = shuffle(ops, torch.tensor([False, True, False]), 0, 2, 2)
    assert num_valid == 1
    assert indices.tolist() == [[1, 1], [0, 0]]
    assert weights.tolist() == [[1, 0], [0, 0]]


def test_order_depends_on_the_seed_and_only_on_it(ops):
    valid = torch.ones(100, dtype=torch.bool)
    orders = [tuple(shuffle(ops, valid, seed, 1, 100)[1][0].tolist()) for seed in (0, 1, 2, 0)]
    assert orders[0] == orders[3]
    assert len(set(orders)) == 3


def test_each_row_lands_anywhere_about_equally_often(ops):
    valid = torch.ones(8, dtype=torch.bool)
    counts = torch.zeros(8, 8)
    for seed in range(2000):
        order = shuffle(ops, valid, seed, 1, 8)[1][0]
        counts[order, torch.arange(8)] += 1
    # Chi-squared with 49 degrees of freedom: mean 49, standard deviation 9.9.
    assert ((counts - 250) ** 2 / 250).sum() < 100


if not NO_EXTENSION:

    @quick
    @given(shuffles())
    def test_shuffles_are_equal(case):
        expected = shuffle(load("torch"), *case)
        actual = shuffle(load("c++"), *case)
        assert actual[0] == expected[0]
        assert actual[1].tolist() == expected[1].tolist()
        assert actual[2].tolist() == expected[2].tolist()

    def test_large_shuffles_with_equal_hashes_are_equal():
        # 2**18 rows: about 8 pairs share their 32-bit hash, so the sort has to be stable.
        case = torch.ones(2**18, dtype=torch.bool), 5, 1, 2**18
        assert shuffle(load("torch"), *case)[1].equal(shuffle(load("c++"), *case)[1])


# ---- RowGather


def test_row_r_holds_value_r_in_every_field(ops):
    rows = torch.arange(6)
    sources = [rows.float()[:, None].repeat(1, width) for width in (1, 2, 8, 5)] + [rows > 2, rows]
    indices = torch.tensor([5, 0, 3, 3])
    outputs = [torch.zeros(4, *source.shape[1:], dtype=source.dtype) for source in sources]
    ops.RowGather(sources, outputs).gather(indices)
    for output in outputs[:4]:
        assert output.eq(indices[:, None]).all()
    assert outputs[4].tolist() == [True, False, True, True]
    assert outputs[5].tolist() == [5, 0, 3, 3]


@pytest.mark.parametrize("wrong", [-1, 6, 2**62])
def test_row_out_of_range_is_refused_before_anything_is_written(ops, wrong):
    output = torch.zeros(2)
    gather = ops.RowGather([torch.ones(6)], [output])
    with pytest.raises(ValueError, match=rf"indices: expected rows in \[0, 6\), got {wrong}$"):
        gather.gather(torch.tensor([1, wrong]))
    assert output.tolist() == [0, 0]


def test_gather_sees_what_was_written_to_the_sources_later(ops):
    source, output = torch.zeros(3), torch.zeros(1)
    gather = ops.RowGather([source], [output])
    source[2] = 7.0
    gather.gather(torch.tensor([[2]]))
    assert output.tolist() == [7]


if not NO_EXTENSION:
    dtypes = st.sampled_from(
        [torch.float32, torch.float64, torch.uint8, torch.bool, torch.bfloat16]
    )
    row_shapes = st.lists(st.integers(1, 5), max_size=3).map(tuple)

    @quick
    @given(
        st.lists(st.tuples(dtypes, row_shapes), min_size=1, max_size=4),
        st.integers(1, 40),
        st.lists(st.integers(0, 2**30), max_size=50),
    )
    def test_gathers_are_equal(fields, num_rows, numbers):
        indices = torch.tensor(numbers, dtype=torch.int64) % num_rows
        sources = [(torch.randn(num_rows, *shape) * 9).to(dtype) for dtype, shape in fields]
        answers = []
        for backend in BACKENDS:
            outputs = [torch.zeros(len(numbers), *s.shape[1:], dtype=s.dtype) for s in sources]
            load(backend).RowGather(sources, outputs).gather(indices)
            answers.append(outputs)
        for expected, actual in zip(*answers, strict=True):
            assert expected.equal(actual)


# ---- sequences


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
    num_steps, num_envs = draw(st.integers(1, 20)), draw(st.integers(1, 6))
    flags = draw(
        st.lists(st.booleans(), min_size=num_steps * num_envs, max_size=num_steps * num_envs)
    )
    return torch.tensor(flags).view(num_steps, num_envs), draw(st.integers(1, 25))


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
    @given(dones())
    def test_sequences_are_equal(case):
        done, max_length = case
        answers = []
        for backend in BACKENDS:
            ops = load(backend)
            cut = ops.cut_sequences(done, max_length)
            answers.append([*cut, *ops.sequence_grid(*cut, done.shape[1], max_length)])
        for expected, actual in zip(*answers, strict=True):
            assert expected.dtype == actual.dtype
            assert expected.tolist() == actual.tolist()


# ---- errors: the same sentence from both


def wrong_rollout(**changes):
    return lambda ops: ops.Recorder(**rollout(3, 2) | changes)


def wrong_step(t=0, first_env=0, **changes):
    names = ("obs", "rewards", "terminated", "truncated")
    arrays = dict(zip(names, step(2), strict=True)) | changes
    return lambda ops: ops.Recorder(**rollout(3, 2)).record(t, first_env, **arrays)


def wrong_shuffle(valid=(True, True), seed=0, shape=(1, 2), weights=None):
    weights = torch.zeros(shape) if weights is None else weights
    indices = torch.zeros(shape, dtype=torch.int64)
    return lambda ops: ops.shuffled_minibatches(torch.tensor(valid), seed, indices, weights)


def wrong_gather(source, output, indices=None):
    return lambda ops: ops.RowGather(source, output).gather(indices)


ONE = torch.ones(1, dtype=torch.int64)
ERRORS = {
    "rewards: expected shape [T, N] without zeros, got float32 [3]": wrong_rollout(
        rewards=torch.zeros(3)
    ),
    "obs: expected contiguous float32 [4, 2, 5] on the CPU, got float32 [3, 2, 5]": wrong_rollout(
        obs=torch.zeros(3, 2, 5)
    ),
    "obs: expected float32, float64, uint8, int32 or int64, got float16 [4, 2]": wrong_rollout(
        obs=torch.zeros(4, 2, dtype=torch.float16)
    ),
    "valid: expected contiguous bool [4, 2] on the CPU, got uint8 [4, 2]": wrong_rollout(
        valid=torch.zeros(4, 2, dtype=torch.uint8)
    ),
    "terminated: expected contiguous bool [3, 2] on the CPU, got bool [3, 2], not contiguous": (
        wrong_rollout(terminated=torch.zeros(2, 3, dtype=torch.bool).T)
    ),
    "finished_lengths: expected an array in plain memory, got list": wrong_rollout(
        finished_lengths=[0] * 6
    ),
    "t: expected a step in [0, 3), got 3": wrong_step(t=3),
    "t: expected a step in [0, 3), got -1": wrong_step(t=-1),
    "first_env: expected 2 envs within [0, 2), got the first at 1": wrong_step(first_env=1),
    "obs: expected contiguous float32 [2, 2] on the CPU, got float64 [2, 2]": wrong_step(
        obs=np.zeros((2, 2))
    ),
    "obs: expected contiguous float32 [2, 2] on the CPU, got float32 [2, 2], not contiguous": (
        wrong_step(obs=np.zeros((2, 2), np.float32).T)
    ),
    "rewards: expected shape [n] without zeros, got float32 [0]": wrong_step(
        rewards=np.zeros(0, np.float32)
    ),
    "truncated: expected contiguous bool [2] on the CPU, got bool [1]": wrong_step(
        truncated=np.zeros(1, bool)
    ),
    "valid: expected at least one valid row, got none": wrong_shuffle(valid=(False, False)),
    "indices: expected room for 2 valid rows, got 1 minibatches of 1": wrong_shuffle(shape=(1, 1)),
    "weights: expected contiguous float32 [1, 2] on the CPU, got float32 [2, 1]": wrong_shuffle(
        weights=torch.zeros(2, 1)
    ),
    "seed: expected an integer in [0, 2**64), got -1": wrong_shuffle(seed=-1),
    "seed: expected an integer in [0, 2**64), got 18446744073709551616": wrong_shuffle(seed=2**64),
    "outputs: expected one for each source and at least one, got 0 for 1 sources": wrong_gather(
        [ONE], []
    ),
    "outputs[0]: expected contiguous int64 [1] on the CPU, got float32 [1]": wrong_gather(
        [ONE], [torch.ones(1)]
    ),
    "sources[1]: expected contiguous int64 [1] on the CPU, got int64 [2]": wrong_gather(
        [ONE, torch.arange(2)], [ONE.clone(), ONE.clone()]
    ),
    "sources[0], outputs[0]: expected rows, got a scalar": wrong_gather([ONE[0]], [ONE]),
    "indices: expected contiguous int64 [1] on the CPU, got int64 [2]": wrong_gather(
        [ONE], [ONE.clone()], torch.zeros(2, dtype=torch.int64)
    ),
    "max_length: expected at least 1, got 0": lambda ops: ops.cut_sequences(ONE[None] > 0, 0),
    "sequence 0: expected env in [0, 1), start >= 0 and length in [1, 9], "
    "got env 1, start 1, length 1": lambda ops: ops.sequence_grid(ONE, ONE, ONE, 1, 9),
}


@pytest.mark.parametrize("message", ERRORS)
def test_error_says_what_was_wrong(ops, message):
    with pytest.raises(ValueError) as caught:
        ERRORS[message](ops)
    assert str(caught.value) == message
