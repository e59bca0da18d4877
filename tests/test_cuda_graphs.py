"""A captured graph does what its function does; on a machine without a GPU, a stand-in captures."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fastrl.engine import cuda_graphs
from fastrl.engine.cuda_graphs import CapturedGraph
from fastrl.engine.recording import Recording


class StandIn:
    """Like a CUDA graph: nothing runs at capture, and each replay fills the same results."""

    def __init__(self, function: Any, arguments: list[Tensor]) -> None:
        self.function, self.arguments = function, arguments
        for _ in range(cuda_graphs._NUM_WARM_UPS):
            results = function(*arguments)
        self.results = results.clone().fill_(torch.nan)

    def replay(self) -> None:
        self.results.copy_(self.function(*self.arguments))


@pytest.fixture(autouse=True)
def capture_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def capture(function: Any, arguments: list[Tensor]) -> tuple[StandIn, Tensor]:
        graph = StandIn(function, arguments)
        return graph, graph.results

    monkeypatch.setattr(cuda_graphs, "_capture", capture)


def test_every_replay_takes_what_it_is_given() -> None:
    call = CapturedGraph(lambda x, y: x * y, (torch.ones(3), torch.ones(3)), (), ())
    for factor in (2.0, 5.0):
        assert torch.equal(
            call(torch.full((3,), factor), torch.full((3,), 3.0)), torch.full((3,), factor * 3)
        )


def test_changes_of_an_argument_reach_the_caller() -> None:
    def store(x: Tensor, stored: Tensor) -> Tensor:
        stored.copy_(x + 1)
        return x * 2

    recording = Recording(store, (torch.zeros(2), torch.zeros(2)))
    call, stored = recording.captured(), torch.zeros(2)
    call(torch.ones(2), stored)
    assert torch.equal(stored, torch.full((2,), 2.0))


def test_capturing_leaves_state_and_example_alone() -> None:
    weight, example = torch.ones(2), torch.ones(2)

    def step(x: Tensor) -> Tensor:
        return weight.add_(x)

    Recording(step, (example,)).captured()
    assert torch.equal(weight, torch.ones(2))
    assert torch.equal(example, torch.ones(2))


def test_state_moves_on_with_every_replay() -> None:
    weight = torch.ones(2)
    call = Recording(lambda x: weight.add_(x), (torch.ones(2),)).captured()
    call(torch.ones(2))
    assert torch.equal(call(torch.ones(2)), torch.full((2,), 3.0))
