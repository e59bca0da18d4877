"""Memory over whole sequences equals a plain loop of steps, values and gradients."""

import pytest
import torch
from torch import nn

from fastrl.engine.native import NativeMemory
from fastrl.kernels.extension import HAS_EXTENSION
from fastrl.models.rnn import Memory

kernels = pytest.mark.skipif(not HAS_EXTENSION, reason="no C++ extension")


@pytest.fixture(params=["lstm", "gru"])
def memory(request):
    torch.manual_seed(0)
    return Memory(request.param, 5, 7, ortho_init=False)


def looped(memory: Memory, inputs: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """The outputs `[L, B, H]`, step by step."""
    outputs = []
    for x in inputs:
        state = memory.step(x, state)
        outputs.append(state[:, : memory.num_outputs])
    return torch.stack(outputs)


def test_sequences_equal_a_loop_of_steps(memory):
    inputs, state = torch.randn(6, 3, 5), torch.randn(3, memory.state_size)
    torch.testing.assert_close(memory(inputs, state), looped(memory, inputs, state))


def test_gradients_of_sequences_equal_those_of_a_loop(memory):
    inputs, state = torch.randn(6, 3, 5, requires_grad=True), torch.randn(3, memory.state_size)
    wanted = [*memory.parameters(), inputs]
    fast, slow = (
        torch.autograd.grad((run(inputs, state) * torch.arange(1.0, 8)).square().mean(), wanted)
        for run in (memory, lambda *arguments: looped(memory, *arguments))
    )
    for got, expected in zip(fast, slow, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_padding_after_the_end_changes_nothing_before_it(memory):
    inputs, state = torch.randn(6, 3, 5), torch.randn(3, memory.state_size)
    other = inputs.clone()
    other[4:] = 100.0
    assert torch.equal(memory(inputs, state)[:4], memory(other, state)[:4])


def of_lengths(*lengths: int) -> torch.Tensor:
    """How many of some sequences have each of the steps."""
    return (torch.tensor(lengths) > torch.arange(6)[:, None]).sum(1)


ALIVE = [of_lengths(*x) for x in ((6, 6, 6, 6, 6), (6, 4, 4, 1, 0), (3, 3, 2, 2, 1), (0,) * 5)]
SIZES = [(5, 7), (3, 16), (8, 64), (70, 100)]  # outputs that fill vectors, and such that do not


@kernels
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("alive", ALIVE)
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_kernels_give_the_outputs_and_gradients_of_the_library_s_layers(kind, alive, sizes):
    torch.manual_seed(0)
    memory = Memory(kind, *sizes, ortho_init=False)
    inputs = torch.randn(6, 5, sizes[0], requires_grad=True)
    state, weights = torch.randn(5, memory.state_size), torch.randn(6, 5, sizes[1])
    counts = (torch.arange(5) < alive[:, None]).unsqueeze(-1)
    wanted, results = [*memory.parameters(), inputs], []
    for given in (alive, None):
        run = memory if given is None else NativeMemory(memory).forward
        outputs = run(inputs, state, given) * counts
        loss = (outputs * weights).sum() + outputs.square().sum()
        results.append([outputs, *torch.autograd.grad(loss, wanted)])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-5)


def test_the_layer_itself_takes_all_steps_of_every_sequence(memory):
    inputs, state, alive = torch.randn(6, 3, 5), torch.randn(3, memory.state_size), of_lengths(6, 4)
    assert torch.equal(memory(inputs, state, alive), memory(inputs, state))


@kernels
def test_kernels_follow_large_numbers_to_the_ends_of_the_gates(memory):
    inputs, state = 1e4 * torch.randn(6, 3, 5), torch.randn(3, memory.state_size)
    expected = memory(inputs, state)
    run = NativeMemory(memory).forward
    torch.testing.assert_close(run(inputs, state, torch.full((6,), 3)), expected)


@kernels
def test_kernels_pass_nan_on(memory):
    inputs, state = torch.zeros(6, 3, 5), torch.zeros(3, memory.state_size)
    inputs[2, 1] = torch.nan
    outputs = NativeMemory(memory).forward(inputs, state, torch.full((6,), 3))
    assert outputs[2:, 1].isnan().all() and outputs[:, ::2].isfinite().all()


@kernels
@pytest.mark.parametrize("alive", [[3, 4, 0, 0, 0, 0], [6, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, -1]])
def test_sequences_in_another_order_are_refused(memory, alive):
    inputs, state = torch.zeros(6, 5, 5), torch.zeros(5, memory.state_size)
    with pytest.raises(ValueError, match="alive: expected at most"):
        NativeMemory(memory).forward(inputs, state, torch.tensor(alive))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_steps_are_those_of_the_library_s_cells(kind):
    memory = Memory(kind, 5, 7, ortho_init=False)
    cell = (nn.LSTMCell if kind == "lstm" else nn.GRUCell)(5, 7)
    cell.load_state_dict(
        {name.removesuffix("_l0"): x for name, x in memory.layer.state_dict().items()}
    )
    x, state = torch.randn(3, 5), torch.randn(3, memory.state_size)
    before = tuple(state.split(7, 1)) if kind == "lstm" else state
    expected = cell(x, before)
    expected = torch.cat(expected, 1) if kind == "lstm" else expected
    torch.testing.assert_close(memory.step(x, state), expected)


def test_orthogonal_weights_are_so_gate_by_gate():
    memory = Memory("lstm", 7, 7, ortho_init=True)
    for gate in memory.layer.weight_hh_l0.detach().split(7):
        torch.testing.assert_close(gate @ gate.T, torch.eye(7), rtol=0, atol=1e-5)
    assert not memory.layer.bias_ih_l0.any() and not memory.layer.bias_hh_l0.any()


@kernels
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("name", "num_gates"), [("lstm", 4), ("gru", 3)])
def test_operators_keep_torchs_rules(name, num_gates):
    alive, B, H = torch.tensor([3, 2, 1]), 3, 5
    gates = torch.randn(6, num_gates * H)
    rows = [torch.randn(6, H) for _ in range(4)]
    first, weight = [torch.randn(B, H) for _ in range(2)], torch.randn(H, num_gates * H)
    back = weight.t().contiguous()
    wide = [torch.empty_like(gates) for _ in range(2)]
    if name == "lstm":
        forward = gates, *first, *rows, weight, alive
        backward = gates, first[0], *rows[:3], wide[0], back, alive
    else:
        forward = gates, first[0], *rows[:3], weight, alive
        backward = gates, first[0], *rows[:3], *wide, back, alive
    for given, operator in ((forward, "forward_"), (backward, "backward_")):
        overload = getattr(torch.ops.fastrl, f"{name}_{operator}").default
        torch.library.opcheck(overload, given)
