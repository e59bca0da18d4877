"""Messages from one process to another: tensors of shapes that both know, and plain values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fastrl.processes.collectives import exchange, packed_state, unpacked_state

_VALUES_BYTES = 4096  # of the plain values in a message; what is shorter is padded


class MessageChannel:
    """Sends to other processes and receives from them, in order; `send` waits for no receiver.

    Plain values travel as JSON, and tensors behind them as they lie in memory: one message a call,
    because each wakes the other process up. Both sides know the tensors' shapes. Messages are kept
    until `flush`: gloo does not say by itself that it has sent one.
    """

    def __init__(self) -> None:
        """Starts with nothing under way."""
        self._under_way: list[tuple[Any, Tensor]] = []

    @property
    def num_under_way(self) -> int:
        """Messages that are kept until the next `flush`."""
        return len(self._under_way)

    def send(self, values: dict[str, Any], tensors: Sequence[Tensor], process: int) -> None:
        """Sends values by name, and copies of tensors.

        Args:
            values: numbers, strings and dicts of them.
            tensors: on any device.
            process: the receiver's number among all processes of the run.
        """
        text = json.dumps(values).encode().ljust(_VALUES_BYTES)
        assert len(text) == _VALUES_BYTES, f"a message of {len(text)} bytes"
        head = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        message, parts = _allocate([head, *tensors])
        for part, x in zip(parts, [head, *tensors], strict=True):
            part.copy_(x.detach())
        with exchange():
            self._under_way.append((dist.isend(message, process), message))

    @torch.no_grad()
    def receive(self, tensors: Sequence[Tensor], process: int) -> dict[str, Any]:
        """Waits for a message, overwrites tensors with those in it, and returns its values."""
        head = torch.empty(_VALUES_BYTES, dtype=torch.uint8)
        message, (text, *parts) = _allocate([head, *tensors])
        with exchange():
            dist.recv(message, process)
        for part, x in zip(parts, tensors, strict=True):
            x.copy_(part)
        return json.loads(text.numpy().tobytes())

    def send_state(self, state: dict[str, Any], process: int) -> None:
        """Sends nested dicts of tensors and plain values, whose shapes the receiver cannot know."""
        packed = packed_state(state)
        self.send({"num_bytes": packed.numel()}, [], process)
        self.send({}, [packed], process)

    def receive_state(self, process: int) -> dict[str, Any]:
        """Waits for what `send_state` sent; its tensors are on the host."""
        packed = torch.empty(self.receive([], process)["num_bytes"], dtype=torch.uint8)
        self.receive([packed], process)
        return unpacked_state(packed)

    def flush(self) -> None:
        """Waits until all is sent."""
        with exchange():
            for work, _ in self._under_way:
                work.wait()
        self._under_way = []


def _allocate(tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Returns bytes that have room for all tensors, and a view on them in place of each."""
    starts, end = [], 0
    for x in tensors:
        starts.append(end)
        end += -(-x.numel() * x.element_size() // 8) * 8  # every type may start at a multiple of 8
    message = torch.empty(end, dtype=torch.uint8)
    return message, [
        message[start : start + x.numel() * x.element_size()].view(x.dtype).view(x.shape)
        for start, x in zip(starts, tensors, strict=True)
    ]
