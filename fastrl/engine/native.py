"""Networks and functions that the C++ extension computes in place of torch.

A *twin* computes what a readable function says. It is used only after `engine/probe.py` has seen
it give the same numbers and gradients as that function; which sizes, types and layers the kernels
know at all is said here, by `why_not`. Letters: B rows, A numbers of the action's distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from fastrl.engine.probe import NUM_ROWS, random_rows
from fastrl.kernels.extension import HAS_DENSE
from fastrl.kernels.networks import WIDEST, DenseNetwork, SecondDerivativeError, dense, dense_stack
from fastrl.kernels.recurrence import gru, lstm
from fastrl.models.actor_critic import ActorCritic
from fastrl.models.critics import Critics, SquashedGaussianActor
from fastrl.models.exploring import ExploringGaussianHead
from fastrl.models.layers import ACTIVATIONS
from fastrl.models.rnn import Memory


class Twin(NamedTuple):
    """A method of a module, and what may stand in its place."""

    module: nn.Module
    method: str
    function: Callable[..., Any]
    draw: Callable[[torch.Generator], tuple[Tensor, ...]]
    """Makes random arguments, to try both."""
    shares_work: bool
    """Whether the kernel works on threads of its own."""


class NativeForm(Protocol):
    """How the kernels compute one module."""

    def why_not(self) -> list[str]:
        """Says which of the module's parts the kernels do not know."""
        ...

    def twins(self) -> list[Twin]:
        """Returns the methods that have a twin."""
        ...


@contextmanager
def in_place(twins: Sequence[Twin]) -> Iterator[None]:
    """Lets the twins stand in for the methods, for as long as a graph is built."""
    with ExitStack() as stack:
        for twin in twins:
            own = twin.module.__dict__
            if twin.method in own:  # somebody's own function, which did the same
                stack.callback(own.__setitem__, twin.method, own[twin.method])
            else:
                stack.callback(own.pop, twin.method)
            own[twin.method] = twin.function
        yield


def built_with(twins: Sequence[Twin], build: Callable[[], Any], notes: list[str]) -> Any:
    """Returns what `build` builds with the twins in place; without them if they cannot serve.

    Args:
        twins: what may stand in for methods.
        build: builds a graph.
        notes: is told the reason why they do not.
    """
    try:
        with in_place(twins):
            return build()
    except SecondDerivativeError as error:
        notes.append(f"loss without kernels: {error}")
        return build()


def why_no_kernels(device: torch.device, precision: str) -> list[str]:
    """Says why no kernel of the extension may serve at all."""
    reasons = []
    if not HAS_DENSE:
        reasons.append("the C++ extension is not there, is switched off, or has no kernels here")
    if device.type != "cpu":
        reasons.append(f"the kernels are for CPUs, not for {device.type}")
    if precision != "32-true":
        reasons.append(f"the kernels compute in float32, not in {precision}")
    return reasons


class NativeActorCritic:
    """Actor and critic over vectors: both networks, or one with two heads, in one operation."""

    def __init__(self, policy: ActorCritic) -> None:
        """Holds the policy; its layers are looked up at each call."""
        self._policy = policy

    def why_not(self) -> list[str]:
        """Says which of the networks' parts the kernels do not know."""
        policy = self._policy
        if policy.reader.pixels_shape:
            return ["there are no kernels for pixels"]
        if isinstance(policy.head, ExploringGaussianHead):
            return ["there are no kernels for state-dependent exploration"]
        trunks = [trunk for trunk in (policy.actor, policy.critic) if trunk is not None]
        reasons = [reason for trunk in trunks for reason in _why_not_trunk(trunk)]
        for head in (policy.head.layer, policy.value_head):
            reasons += _why_not_linear(head)
        if not reasons and len({activation_of(trunk) for trunk in trunks}) > 1:
            reasons.append("actor and critic have different activations")
        return reasons

    def twins(self) -> list[Twin]:
        """Returns the methods that have a twin."""
        names = "outputs", "outputs_and_values", "value"
        draw = partial(_rows_of, self._policy.reader.space)
        return [Twin(self._policy, name, getattr(self, name), draw, True) for name in names]

    def outputs(self, observations: Tensor) -> Tensor:
        """As `ActorCritic.outputs`."""
        policy, inputs = self._policy, self._policy.read(observations)
        (outputs,) = self._run(inputs.vector, (policy.actor, [policy.head.layer]))
        return policy.allowed(outputs, inputs)

    def outputs_and_values(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """As `ActorCritic.outputs_and_values`."""
        policy, inputs = self._policy, self._policy.read(observations)
        heads = [policy.head.layer], [policy.value_head]
        if policy.critic is None:
            networks = [(policy.actor, [*heads[0], *heads[1]])]
        else:
            networks = [(policy.actor, heads[0]), (policy.critic, heads[1])]
        outputs, values = self._run(inputs.vector, *networks)
        return policy.allowed(outputs, inputs), values.squeeze(-1)

    def value(self, observations: Tensor) -> Tensor:
        """As `ActorCritic.value`."""
        policy, inputs = self._policy, self._policy.read(observations)
        trunk = policy.actor if policy.critic is None else policy.critic
        return self._run(inputs.vector, (trunk, [policy.value_head]))[0].squeeze(-1)

    @staticmethod
    def _run(x: Tensor | None, *networks: tuple[nn.Module, list[nn.Linear]]) -> list[Tensor]:
        assert x is not None  # there are no pixels
        given = [network_of(trunk, heads) for trunk, heads in networks]
        return dense(x, given, activation_of(networks[0][0]))


class NativeMemory:
    """An LSTM or GRU over padded sequences; the kernels leave the padding out."""

    def __init__(self, memory: Memory, leaves_padding_out: bool = True) -> None:
        """Holds the layer.

        Args:
            memory: the layer.
            leaves_padding_out: take the rows that count alone; how many they are is then another
                number at every call.
        """
        self._memory, self._leaves_padding_out = memory, leaves_padding_out

    def why_not(self) -> list[str]:
        """Says why the kernels do not know the layer."""
        layer = self._memory.layer
        if type(layer) not in (nn.LSTM, nn.GRU) or layer.num_layers > 1 or layer.bidirectional:
            return ["the kernels know one layer of nn.LSTM or nn.GRU"]
        return []

    def twins(self) -> list[Twin]:
        """Returns the methods that have a twin."""

        def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
            length, count, memory = 4, 8, self._memory
            inputs = torch.randn(length, count, memory.layer.input_size, generator=generator)
            state = torch.randn(count, memory.state_size, generator=generator)
            return inputs.requires_grad_(), state, torch.full((length,), count)

        return [Twin(self._memory, "forward", self.forward, draw, False)]

    def forward(self, inputs: Tensor, state: Tensor, batch_sizes: Tensor | None = None) -> Tensor:
        """As `Memory.forward`; padding is zero."""
        if batch_sizes is None:
            return type(self._memory).forward(self._memory, inputs, state)
        run = gru if isinstance(self._memory.layer, nn.GRU) else lstm
        sizes = batch_sizes if self._leaves_padding_out else None
        return run(inputs, state, sizes, *self._memory.layer.all_weights[0])


class NativeCritics:
    """E critics of the same sizes on the same rows, as one operation."""

    def __init__(self, critics: Critics) -> None:
        """Holds the critics; their layers are looked up at each call."""
        self._critics = critics

    def why_not(self) -> list[str]:
        """Says why the kernels do not know the critics."""
        critics = self._critics
        if critics.layer_norm:
            return ["the kernels know no layer norm and no dropout"]
        if critics.activation not in ACTIVATIONS:
            return [_why_not_activation(critics.activation)]
        wide = [size for size in critics.hidden_sizes if size > WIDEST]
        return [f"a layer of {size} is wider than {WIDEST}" for size in wide]

    def twins(self) -> list[Twin]:
        """Returns the methods that have a twin."""

        def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
            num_inputs = self._critics.weights[0].shape[1]
            return (torch.randn(NUM_ROWS, num_inputs, generator=generator).requires_grad_(),)

        return [Twin(self._critics, "values", self.values, draw, True)]

    def values(self, x: Tensor, masks: Tensor | None = None) -> Tensor:
        """As `Critics.values`."""
        if masks is not None:
            return type(self._critics).values(self._critics, x, masks)
        weights, biases = list(self._critics.weights), list(self._critics.biases)
        return dense_stack(x, weights, biases, self._critics.activation).squeeze(-1)


class NativeActor:
    """The network of a squashed Gaussian actor."""

    def __init__(self, actor: SquashedGaussianActor) -> None:
        """Holds the actor; its layers are looked up at each call."""
        self._actor = actor

    def why_not(self) -> list[str]:
        """Says why the kernels do not know the network."""
        return [*_why_not_trunk(self._actor.trunk), *_why_not_linear(self._actor.head)]

    def twins(self) -> list[Twin]:
        """Returns the methods that have a twin."""
        draw = partial(_rows_of, self._actor.reader.space)
        return [Twin(self._actor, "outputs", self.outputs, draw, True)]

    def outputs(self, obs: Tensor) -> Tensor:
        """As `SquashedGaussianActor.outputs`."""
        actor = self._actor
        network = network_of(actor.trunk, [actor.head])
        return dense(actor.read(obs), [network], activation_of(actor.trunk))[0]


_FORMS: tuple[tuple[type[nn.Module], Callable[[Any], NativeForm]], ...] = (
    (ActorCritic, NativeActorCritic),
    (Memory, NativeMemory),
    (Critics, NativeCritics),
    (SquashedGaussianActor, NativeActor),
)
# torch.compile makes kernels of its own, but has none for an LSTM or GRU on a CPU.
_FORMS_FOR_COMPILER: tuple[tuple[type[nn.Module], Callable[[Any], NativeForm]], ...] = (
    (Memory, partial(NativeMemory, leaves_padding_out=False)),
)


def native_forms(networks: Sequence[nn.Module], for_compiler: bool) -> Iterator[NativeForm]:
    """Yields what the kernels make of networks and their parts, of those kinds that they know."""
    forms = _FORMS_FOR_COMPILER if for_compiler else _FORMS
    for network in networks:
        for module in network.modules():
            yield from (form(module) for kind, form in forms if isinstance(module, kind))


def _rows_of(space: gymnasium.Space, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Returns random rows of observations."""
    like = torch.from_numpy(np.zeros((1, *(space.shape or ())), space.dtype))
    return (random_rows(like, NUM_ROWS, generator),)


def network_of(trunk: nn.Module, heads: list[nn.Linear]) -> DenseNetwork:
    """Returns the layers of a trunk over vectors and of heads on it, as the kernels take them."""
    hidden = [layer for layer in _layers_of(trunk) if isinstance(layer, nn.Linear)]
    return DenseNetwork(*[[(x.weight, x.bias) for x in layers] for layers in (hidden, heads)])


def activation_of(trunk: nn.Module) -> str:
    """Returns the name of the activation of a trunk that the kernels know."""
    kind = type(_layers_of(trunk)[1])
    return next(name for name, known in ACTIVATIONS.items() if known is kind)


def _layers_of(trunk: nn.Module) -> list[nn.Module]:
    """Returns the innermost layers in the order in which they were made.

    Whether a trunk of the user's own takes them one after the other, the proof finds out.
    """
    return [layer for layer in trunk.modules() if not layer._modules]


def _why_not_trunk(trunk: nn.Module) -> list[str]:
    """Says why the kernels do not know a trunk: they know nn.Linear and an activation, in turn."""
    layers = _layers_of(trunk)
    if len(layers) < 2 or len(layers) % 2:
        return ["the kernels know hidden layers that are nn.Linear and an activation, in turn"]
    reasons = [reason for layer in layers[::2] for reason in _why_not_linear(layer)]
    kinds = {type(layer) for layer in layers[1::2]}
    if len(kinds) > 1 or not kinds <= set(ACTIVATIONS.values()):
        names = " and ".join(sorted(kind.__name__ for kind in kinds))
        reasons.append(_why_not_activation(names))
    if any(isinstance(layer, nn.ELU) and layer.alpha != 1 for layer in layers):
        reasons.append("the kernels know ELU with alpha 1 alone")
    return reasons


def _why_not_activation(names: str) -> str:
    return f"the kernels know {', '.join(ACTIVATIONS)} as activations, not {names}"


def _why_not_linear(layer: nn.Module) -> list[str]:
    if type(layer) is not nn.Linear:
        return [f"the kernels know nn.Linear, not {type(layer).__name__}"]
    weight, bias = layer.weight, layer.bias
    if bias is None or {weight.dtype, bias.dtype} != {torch.float32}:
        return ["the kernels know linear layers of float32 with a bias alone"]
    if not (weight.is_contiguous() or weight.mT.is_contiguous()):
        return ["a weight is not contiguous"]
    if layer.out_features > WIDEST:
        return [f"a layer of {layer.out_features} is wider than {WIDEST}"]
    return []
