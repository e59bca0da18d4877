"""What is exported of an agent: a policy with the inputs and outputs that are asked for.

Letters: B rows, A action dimensions, K outputs of the action head, E critics, S numbers of a state.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from gymnasium import Space, spaces
from torch import Tensor, nn

from fastrl.agents.export_files import export_policy, form_of
from fastrl.config.calls import names_checked
from fastrl.models.actor_critic import ActorCritic
from fastrl.models.critics import SquashedGaussianActor
from fastrl.models.distributions import GaussianHead
from fastrl.models.parts import ByName
from fastrl.models.recurrent import RecurrentActorCritic
from fastrl.processes.errors import one_line
from fastrl.runs.folder import check_replaceable, expanded, replaced_file
from fastrl.spaces.packed import PackedRow
from fastrl.training.agent import HasMemory

if TYPE_CHECKING:
    from fastrl.agents.export_files import Example

_NUM_CHECKED = 256
_ACTIONS, _VALUES = ("actions", "action"), ("values", "value")


class _Outputs(nn.Module):
    """A policy that returns what is asked for, in that order; a recurrent one also its state."""

    def __init__(self, policy: Any, critics: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.policy, self.critics, self.names = policy, critics, tuple(names)
        known = self.known()
        for index, name in enumerate(names):
            if name not in known:
                raise ValueError(f"outputs: {name!r} is none of this policy's: {', '.join(known)}")
            if name in names[:index]:
                raise ValueError(f"outputs: {name!r} is given twice")

    def known(self) -> list[str]:
        """Returns the names of all outputs that this policy has."""
        policy = self.policy
        if isinstance(policy, SquashedGaussianActor):
            critics = ["q_values"] if self.critics is not None else []
            return [*_ACTIONS, "mean", "log_std", *critics]
        if isinstance(policy, ActorCritic | RecurrentActorCritic):
            is_normal = isinstance(policy.head, GaussianHead)
            spread = ["mean", "log_std"] if is_normal else ["logits"]
            return [*_ACTIONS, *spread, *_VALUES]
        return [*_ACTIONS]

    def forward(self, observations: Any, *state: Tensor) -> Any:
        """Returns a tensor for each name."""
        found = self.of_critics(observations) if self.critics is not None else None
        more: tuple[Tensor, ...] = ()
        if found is None and state:
            found, next_state = self.of_memory(observations, *state)
            more = (next_state,)
        elif found is None:
            found = self.of_policy(observations)
        results = (*(found[_canonical(name)] for name in self.names), *more)
        return results[0] if len(results) == 1 else results

    def of_critics(self, observations: Any) -> dict[str, Any]:
        """Returns the outputs of an off-policy agent; Q(s, a) is that of its greedy action."""
        policy = self.policy
        mean, log_std = policy._mean_and_log_std(observations)
        found = {"actions": policy.to_env(torch.tanh(mean)), "mean": mean, "log_std": log_std}
        if "q_values" in self.names:
            found["q_values"] = self.critics(policy.read(observations), torch.tanh(mean)).t()
        return found

    def of_policy(self, observations: Any) -> dict[str, Any]:
        """Returns the outputs of actor and critic."""
        policy = self.policy
        if self.names in (("actions",), ("action",)):
            return {"actions": policy(observations)}
        outputs = policy.outputs(observations)
        values = policy.value(observations) if set(_VALUES) & {*self.names} else None
        return {**self.of_head(outputs), "values": values}

    def of_memory(self, observations: Any, state: Tensor) -> tuple[dict[str, Any], Tensor]:
        """Returns the outputs of a recurrent policy, and its state after them."""
        policy = self.policy
        if self.names in (("actions",), ("action",)):
            actions, after = policy(observations, state)
            return {"actions": actions}, after
        features, memory = policy.step(observations, state)
        outputs = policy.head(policy._of_actor(features))
        values = policy.value(features) if set(_VALUES) & {*self.names} else None
        after = policy.remember(memory, policy.head.mode(outputs))
        return {**self.of_head(outputs), "values": values}, after

    def of_head(self, outputs: Tensor) -> dict[str, Any]:
        """Returns what the parameters `[B, K]` of the distribution over actions say."""
        head = self.policy.head
        found: dict[str, Any] = {"actions": head.to_env(head.mode(outputs)), "logits": outputs}
        if isinstance(head, GaussianHead):
            means, log_std = head.mean_and_log_std(outputs)
            found |= {"mean": means, "log_std": log_std.expand_as(means)}
        return found


def _canonical(name: str) -> str:
    return {"action": "actions", "value": "values"}.get(name, name)


def example_rows(space: Space) -> np.ndarray:
    """Returns random observations `[256, ...]` of a space, with its dtype.

    Integers are sampled from the space. Floating-point numbers are sampled from a normal
    distribution and clipped to the bounds, as the bounds may be the limits of the dtype.
    """
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        numbers = np.random.default_rng(0).standard_normal((_NUM_CHECKED, *space.shape))
        return numbers.clip(space.low, space.high).astype(space.dtype)
    space = copy.deepcopy(space)
    space.seed(0)
    return np.stack([space.sample() for _ in range(_NUM_CHECKED)])


def exported(
    agent: Any,
    inputs: Literal["auto", "named"] = "auto",
    outputs: Sequence[str] = ("actions",),
) -> tuple[nn.Module, Example, Any]:
    """Returns what is exported of an agent, random inputs, and what its policy makes of them.

    The inputs are one tensor, or a dict by name: of an observation's parts, an action mask, and
    the state of a policy with a memory.

    Raises:
        ValueError: two inputs have one name, or the policy has no such output.
    """
    if inputs not in ("auto", "named"):
        raise ValueError(f"inputs must be auto or named, not {inputs!r}")
    if isinstance(outputs, str) or not outputs:
        raise ValueError(f"outputs must be a list of names, not {outputs!r}")
    space = agent.observation_space
    try:
        policy = copy.deepcopy(agent.policy).cpu().eval()
    except RuntimeError as error:  # layers that hold what they computed last
        words = one_line(error)[:200]
        raise ValueError(
            f"this policy cannot be exported, as it cannot be copied: {words}"
        ) from error
    critics = copy.deepcopy(getattr(agent, "critics", None))
    whole = _Outputs(policy, None if critics is None else critics.cpu().eval(), outputs).eval()
    parts = {"": space}
    if isinstance(space, PackedRow):
        parts = space.parts
    arrays = {name: example_rows(part) for name, part in parts.items()}
    rows = space.pack(arrays) if isinstance(space, PackedRow) else arrays[""]
    named = {name or "observations": torch.from_numpy(array) for name, array in arrays.items()}
    given = [torch.from_numpy(rows)]
    if isinstance(agent, HasMemory):
        if "state" in named:
            raise ValueError("the observation has the key 'state', as the memory has")
        drawn = torch.Generator().manual_seed(0)  # not torch's own, which a training may draw from
        named["state"] = 0.1 * torch.randn(len(rows), agent.new_state(1).shape[1], generator=drawn)
        given.append(named["state"])
    with torch.no_grad():
        wanted = whole(*given)
    if list(named) == ["observations"] and inputs == "auto":
        return whole, named["observations"], wanted
    return ByName(whole, space, policy), named, wanted


@names_checked
def export(
    agent: Any,
    path: str | Path,
    form: str | None = None,
    *,
    inputs: Literal["auto", "named"] = "auto",
    outputs: Sequence[str] = ("actions",),
) -> dict[str, Any]:
    """Writes the policy to one file that runs without fastrl, and what it takes to `<path>.json`.

    Before the file is put in place, it is loaded again, and must give what the policy gives.

    Args:
        agent: the agent whose policy is exported, with greedy actions.
        path: the file.
        form: "torchscript", "pt2" or "onnx"; by default what the suffix says: .pt, .pt2 or .onnx.
        inputs: "auto": an observation that is one array is one input, `observations`; any other,
            an action mask and the state of a recurrent policy are inputs by name. "named": always
            by name. Named inputs are a dict of tensors for TorchScript and pt2.
        outputs: names in the order in which the file returns them: `actions`; for choices `logits`,
            for a Box `mean` and `log_std` of the normal distribution, before clipping or tanh;
            `values` of on-policy agents, `q_values` `[B, E]` of the greedy action of off-policy
            ones. `action` and `value` are names for the same. `next_state` of a recurrent policy
            comes last by itself.

    Returns:
        What the JSON file holds: names, shapes and types of inputs and outputs.

    Raises:
        ValueError: an unknown format, input or output; a package is missing; or the policy cannot
            be exported.
        OSError: the file cannot be written.
    """
    path = expanded(path)
    form = form_of(path) if form is None else form
    described = path.with_name(f"{path.name}.json")
    for file in (path, described):
        check_replaceable(file)
    policy, example, wanted = exported(agent, inputs, outputs)
    memory: Any = ["next_state"] if hasattr(agent, "new_state") else []
    names = [*outputs, *memory]
    export_policy(policy, example, path, form, wanted, names)
    named = example if isinstance(example, dict) else {"observations": example}
    results = wanted if isinstance(wanted, tuple) else (wanted,)
    facts = {
        "algo": agent.algo,
        "env_id": agent.config.env_id,
        "inputs": {name: _described(x) for name, x in named.items()},
        "outputs": {name: _described(x) for name, x in zip(names, results, strict=True)},
        "actions": {"space": str(agent.action_space)},
    }
    with replaced_file(described) as file:
        file.write(json.dumps(facts, indent=2).encode())
    return facts


def _described(x: Tensor) -> dict[str, Any]:
    return {"shape": list(x.shape[1:]), "dtype": str(x.dtype).removeprefix("torch.")}
