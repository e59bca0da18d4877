"""Networks of somebody's own, in a module that settings name."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class ResidualMLP(nn.Module):
    """A multilayer perceptron with residual connections."""

    def __init__(self, space: Any, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Linear(space.shape[0], width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.first(x))
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return x


class SetAttention(nn.Module):
    """Attention of the agent itself over a set of others, in a Dict observation."""

    def __init__(self, space: Any, width: int = 16) -> None:
        super().__init__()
        self.own = nn.Linear(space["own"].shape[0], width)
        self.others = nn.Linear(space["others"].shape[1], width)
        self.attention = nn.MultiheadAttention(width, num_heads=2, batch_first=True)

    def forward(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        query, keys = self.own(obs["own"]).unsqueeze(1), self.others(obs["others"])
        seen, _ = self.attention(query, keys, keys, need_weights=False)
        return torch.cat([query, seen], 2).flatten(1).tanh()


def float_cnn(space: Any) -> nn.Module:
    """Convolutions over float images `[C, H, W]`."""
    return nn.Sequential(
        nn.Conv2d(space.shape[0], 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(16), nn.ReLU()
    )


def pretrained(space: Any, frozen: bool = True) -> nn.Module:
    """An encoder with weights that were made elsewhere, and a layer that learns."""
    encoder = nn.Linear(space.shape[0], 8)
    with torch.no_grad():
        encoder.weight.copy_(torch.arange(8.0 * space.shape[0]).view_as(encoder.weight) / 100)
        encoder.bias.zero_()
    encoder.requires_grad_(not frozen)
    return nn.Sequential(encoder, nn.Tanh(), nn.Linear(8, 16), nn.Tanh())


def plain(space: Any, width: int = 16) -> nn.Module:
    """The stock layers."""
    return nn.Sequential(
        nn.Linear(space.shape[0], width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()
    )


class Wrapped(nn.Module):
    """The stock layers, within a module."""

    def __init__(self, space: Any, width: int = 16) -> None:
        super().__init__()
        self.layers = plain(space, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Skipping(Wrapped):
    """The same layers with a connection around them, which the kernels do not know."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) + x.mean(1, keepdim=True)


def failing(space: Any) -> nn.Module:
    """Raises."""
    return nn.Linear(space.shape[7], 1)


def no_features(space: Any) -> nn.Module:
    """Gives something else than `[B, F]`."""
    return nn.Flatten(0)


def batch_normed(space: Any) -> nn.Module:
    """Layers that gather statistics while they learn, and use them while they act."""
    width = space.shape[0]
    return nn.Sequential(nn.Linear(width, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 8))


class Odd(nn.Module):
    """Does one thing that a network must not do."""

    def __init__(self, space: Any, how: str) -> None:
        super().__init__()
        self.layer, self.how = nn.Linear(space.shape[0], 8), how
        if how == "float64":
            self.layer.double()
        if how == "meta":
            self.layer.to("meta")

    def forward(self, x: torch.Tensor) -> Any:
        match self.how:
            case "float64":
                return self.layer(x.double())
            case "meta":
                return self.layer(x.to("meta"))
            case "in place":
                return self.layer(x.mul_(2))
            case "ReLU in place":
                return self.layer(nn.functional.relu(x, inplace=True))
            case "pair":
                return self.layer(x), x
            case "width of batch":
                return self.layer(x)[:, : len(x)]
            case "rows of batch":
                return self.layer(x)[:2]
            case "raises":
                return self.layer(x) + {}[len(x)]
            case "detached":
                return self.layer(x).detach()
        return self.layer(x)
