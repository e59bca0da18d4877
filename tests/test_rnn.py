"""Memory over whole sequences equals a plain loop of steps, values and gradients."""

import pytest
import torch
from torch import nn

from fastrl.models.rnn import Memory


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
