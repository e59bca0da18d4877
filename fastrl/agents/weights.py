"""Weights from elsewhere, and layers that do not learn."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastrl.engine.optimizer import FlatOptimizer
from fastrl.models.normalization import RunningNorm
from fastrl.processes.errors import one_line
from fastrl.runs.checkpoint import FORMAT, Checkpoints, check_parts, load_checkpoint
from fastrl.runs.folder import expanded, open_run_folder

_NO_WEIGHTS = ("config", "metric_sums", "coefficients")


class LoadedWeights(NamedTuple):
    """What `load_weights` took of a file, by names such as `policy.actor.0.weight`."""

    fitted: list[str]
    """Taken."""
    missing: list[str]
    """Of the agent, and not in the file: as they were."""
    unexpected: list[str]
    """In the file, and not of the agent: not used."""
    misshapen: list[str]
    """In both, of different shapes: as they were."""

    def __str__(self) -> str:
        """Tells it in a line."""
        parts = {
            "not in the file": self.missing,
            "only in the file": self.unexpected,
            "of another shape": self.misshapen,
        }
        words = [f"{text}: {', '.join(names)}" for text, names in parts.items() if names]
        num_own = len(self.fitted) + len(self.missing) + len(self.misshapen)
        return "; ".join([f"{len(self.fitted)} of {num_own} weights and statistics fit", *words])


def freeze(agent: Any, *names: str, frozen: bool = True) -> list[str]:
    """Freezes layers or parameters by name, or thaws them: `model.freeze("actor.0")`.

    Args:
        agent: whose.
        *names: of layers or parameters: "actor.0", "actor", "critics.encoder".
        frozen: False lets them learn again.

    Returns:
        The names of all parameters that are frozen now.

    Raises:
        ValueError: there is no layer or parameter of that name.
    """
    known = dict(_parameters(agent))
    chosen: dict[str, nn.Parameter] = {}
    for name in names:
        found = {x: p for x, p in known.items() if _is_within(x, name)}
        if not found:
            layers = sorted({_layer(x) for x in known})
            raise ValueError(f"no layer or parameter is named {name!r}; layers: {layers}")
        chosen |= found
    for parameter in chosen.values():
        parameter.requires_grad_(not frozen)
    for parameters, module in agent.trained():
        parameters.adopt(module)
    return [name for name, parameter in known.items() if not parameter.requires_grad]


def load_weights(
    agent: Any, path: str | Path, *, strict: bool = True, into: str = ""
) -> LoadedWeights:
    """Takes weights of a file of `save`, of a run, or of a state dict that `torch.save` wrote.

    Statistics of normalisers count as weights. Optimisers begin anew; all else stays.

    Args:
        agent: whose weights they become: `model.load_weights(path)`.
        path: the file, or a run folder; a state dict is taken for one of the policy.
        strict: refuse a file that does not fit whole; else what fits is taken.
        into: a part of the policy, such as "actor", that alone is filled.

    Returns:
        The names of what was taken and of what was not; `print` tells it in a line.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file does not fit, or nothing in it does.
    """
    path = expanded(path)
    if path.is_dir():
        path = Checkpoints(open_run_folder(path).checkpoints).newest()
    given = _weights_in(path, into)
    own = _targets(agent, into)
    misshapen = [x for x in own if x in given and given[x].shape != own[x].shape]
    found = LoadedWeights(
        fitted=[x for x in own if x in given and x not in misshapen],
        missing=[x for x in own if x not in given],
        unexpected=[x for x in given if x not in own],
        misshapen=misshapen,
    )
    if strict and (found.missing or found.unexpected or found.misshapen):
        raise ValueError(f"{path}: {found}; strict=False takes what fits")
    if not found.fitted:
        raise ValueError(f"{path}: nothing fits: {found}")
    with torch.no_grad():
        for name in found.fitted:
            own[name].copy_(given[name])
    normalizer = getattr(agent.policy, "normalizer", None)
    if "policy.normalizer.variance" in found.fitted and type(normalizer) is RunningNorm:
        normalizer.rescale()  # the file's epsilon may be another
    for parameters, _ in agent.trained():
        if isinstance(parameters, FlatOptimizer):
            parameters.reset()  # what it remembers is of other weights
    return found


def _parameters(agent: Any) -> Iterator[tuple[str, nn.Parameter]]:
    for network, module in agent.networks().items():
        for name, parameter in module.named_parameters():
            yield f"{network}.{name}", parameter


def _is_within(parameter: str, name: str) -> bool:
    """Tells whether a parameter is of the layer `name`, with or without `policy.` in front."""
    return any(f"{parameter}.".startswith(f"{x}.") for x in (name, f"policy.{name}"))


def _layer(parameter: str) -> str:
    return parameter.rpartition(".")[0].removeprefix("policy.")


def _targets(agent: Any, into: str) -> dict[str, Tensor]:
    """Returns the tensors that may be filled, by name: of the agent's networks, or of a part."""
    if into:
        try:
            part = agent.policy.get_submodule(into)
        except AttributeError as error:
            raise ValueError(f"into={into!r} is no part of the policy") from error
        return {f"policy.{into}.{name}": x for name, x in part.state_dict().items()}
    networks = {x: y for x, y in vars(agent).items() if isinstance(y, nn.Module)}
    inner = {id(x) for network in networks.values() for x in network.modules() if x is not network}
    return {
        f"{network}.{name}": tensor
        for network, module in networks.items()
        if id(module) not in inner  # a `LightningAgentModule`, which the policy holds
        for name, tensor in module.state_dict().items()
    }


def _weights_in(path: Path, into: str) -> dict[str, Tensor]:
    """Returns the weights in a file of `save`, a checkpoint, or what torch saved of a module."""
    try:
        if zipfile.is_zipfile(path):
            check_parts(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} holds no weights: {one_line(error)[:200]}") from error
    start = f"policy.{into}." if into else "policy."
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds no weights, but a {type(state).__name__}")
    if state.get("format") != FORMAT:
        return {f"{start}{x}": y for x, y in state.items() if isinstance(y, Tensor)}
    networks = load_checkpoint(path).get("agent")
    if not isinstance(networks, dict) or not isinstance(networks.get("policy"), dict):
        raise ValueError(f"{path} holds no agent")
    optimizers = [name for name in networks if name.endswith("optimizer")]
    weights = {
        f"{network}.{name}": tensor
        for network, part in networks.items()
        if isinstance(part, dict) and network not in (*optimizers, *_NO_WEIGHTS)
        for name, tensor in part.items()
        if isinstance(tensor, Tensor)
    }
    return {x: y for x, y in weights.items() if x.startswith(start if into else "")}
