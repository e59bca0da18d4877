"""What settings of networks, and arguments of callables, may say."""

from __future__ import annotations

from typing import Any, Literal

from fastrl.config.values import read_argument

Activation = Literal[
    "relu",
    "tanh",
    "elu",
    "CELU",
    "GELU",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "Mish",
    "ReLU6",
    "SELU",
    "Sigmoid",
    "SiLU",
    "Softplus",
    "Softsign",
    "Tanhshrink",
]


def check_layers(config: Any) -> None:
    """Raises ValueError for hidden layers without a width."""
    if not config.hidden_sizes:
        raise ValueError("hidden_sizes must hold at least one width, each at least 1, not []")


def check_network(config: Any) -> None:
    """Raises ValueError for a network that is not named as it must be, or has no effect.

    A function without a name is noted as `<its name>`.

    Args:
        config: a `RunConfig`.
    """
    network = config.network
    if not network:
        return  # `check_effects` refuses arguments of none
    texts = [text.removeprefix("actor=").removeprefix("critic=") for text in network]
    parts = sorted(text.partition("=")[0] for text in network if "=" in text)
    if parts != (["actor", "critic"] if len(network) == 2 else []):
        raise ValueError(
            "network takes one module:callable, or actor=module:callable critic=module:callable, "
            f"not {' '.join(network)!r}"
        )
    for text in texts:
        module, colon, name = text.partition(":")
        is_marked = text.startswith("<") and text.endswith(">")
        if not is_marked and not (module and colon and name):
            raise ValueError(f"network must be named module:callable, not {text!r}")
    if len(network) == 2 and getattr(config, "shared_network", False):
        raise ValueError("a network for actor and critic each takes shared_network=false")


def check_arguments(setting: str, arguments: tuple[str, ...]) -> None:
    """Raises ValueError unless all arguments are written name=value, each name once."""
    names: set[str] = set()
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not name.isidentifier() or not equals:
            raise ValueError(f"{setting} must be written name=value, not {argument!r}")
        if name in names:
            raise ValueError(f"{setting} must name {name} once, not {' '.join(arguments)!r}")
        names.add(name)
        try:
            read_argument(value)
        except ValueError as error:
            raise ValueError(f"{setting}: {name}: {error}") from error
