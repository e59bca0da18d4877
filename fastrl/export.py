"""Exports a trained policy to a single file that runs without fastrl.

    python -m fastrl.export RUN --format torchscript

The exported graph contains the normaliser, the networks and the action bounds. It takes a batch of
observations as the environment shows them, `[B, *O]`, and returns greedy actions for it. A Dict or
Tuple, an action mask and the state of a recurrent policy are inputs by name: a dict of tensors for
TorchScript and pt2, named inputs for ONNX. Before the file is put in place, it is loaded again, and
must give the same actions as the policy on random observations. A JSON file beside it lists names,
shapes and types of the inputs.
"""

from __future__ import annotations

if __name__ == "__main__":
    from fastrl.processes.signals import leaving_at_once

    with leaving_at_once():
        from fastrl.export import main as command_line
    raise SystemExit(command_line())

import argparse
import copy
import json
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import Space, spaces

from fastrl.agents.load import find_saved, load_agent, parser_of
from fastrl.processes.errors import exit_status, one_line
from fastrl.runs.folder import CHECKPOINTS_NAME, check_replaceable, replaced_file
from fastrl.spaces.observations import PackedRow

if TYPE_CHECKING:
    from torch import Tensor, nn

    Example = Tensor | dict[str, Tensor]
    Function = Callable[[Example], Any]

SUFFIXES = {"torchscript": ".pt", "pt2": ".pt2", "onnx": ".onnx"}
_NUM_CHECKED = 256


def export_policy(
    policy: nn.Module, example: Example, path: Path, form: str, wanted: Any = None
) -> None:
    """Exports a policy and verifies the file.

    Args:
        policy: maps observations `[B, *O]`, or a dict of inputs by name, to actions.
        example: such inputs, at least two rows.
        path: the file to write.
        form: "torchscript", "pt2" or "onnx".
        wanted: what the file must return for the example; by default what `policy` returns.

    Raises:
        ValueError: the format is unknown, a package is missing, the policy cannot be exported, or
            the file gives other actions.
    """
    import torch

    if form not in SUFFIXES:
        raise ValueError(f"format {form!r} is unknown; known are {', '.join(SUFFIXES)}")
    if path.resolve().parent.name == CHECKPOINTS_NAME:
        raise ValueError(
            f"{path} is in the folder of checkpoints, which an exported policy may not replace"
        )
    check_replaceable(path)
    policy = copy.deepcopy(policy).cpu().eval()  # leaves the agent's own unchanged
    writing = path.with_name(f".{path.name}.writing{SUFFIXES[form]}")
    write = {"torchscript": _torchscript, "pt2": _pt2, "onnx": _onnx}[form]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        writing.unlink(missing_ok=True)
        writing.touch()  # torch raises no OSError if the path is not writable
        with torch.no_grad(), warnings.catch_warnings():
            # Deprecation warnings of torch: the check below is what matters.
            warnings.simplefilter("ignore")
            wanted = policy(example) if wanted is None else wanted
            try:
                read = write(policy, example, writing)
                got, few = read(example), read(_first(example, 3))
            except (OSError, MemoryError, _LackError):
                raise
            except Exception as error:  # torch and ONNX raise many types
                reason = one_line(error.__cause__ or error)[:200]
                raise ValueError(f"{form}: this policy cannot be exported: {reason}") from error
        share = _share_of_equal_actions(wanted, got)
        # Ties between two actions may be broken either way.
        if share < 0.99 or _share_of_equal_actions(_first(wanted, 3), few) < 0.5:
            raise ValueError(f"{form}: {1 - share:.0%} of the actions differ from the policy's")
        check_replaceable(path)
        writing.replace(path)
    finally:
        writing.unlink(missing_ok=True)


def _first(value: Any, num_rows: int) -> Any:
    """Returns the first rows of a tensor, or of several."""
    if isinstance(value, dict):
        return {name: part[:num_rows] for name, part in value.items()}
    return tuple(x[:num_rows] for x in value) if isinstance(value, tuple) else value[:num_rows]


class _LackError(ValueError):
    """A package is missing."""


def _torchscript(policy: nn.Module, example: Example, path: Path) -> Function:
    import torch

    traced: Any = torch.jit.trace(policy, (example,), check_trace=False)
    torch.jit.freeze(traced).save(str(path))
    return torch.jit.load(str(path))


def _pt2(policy: nn.Module, example: Example, path: Path) -> Function:
    import torch

    program = torch.export.export(policy, (example,), dynamic_shapes=(_batches(example),))
    torch.export.save(program, str(path))
    return torch.export.load(str(path)).module()


def _onnx(policy: nn.Module, example: Example, path: Path) -> Function:
    try:
        import onnx  # noqa: F401  # pyright: ignore[reportMissingImports]
        import onnxruntime  # pyright: ignore[reportMissingImports]
        import onnxscript  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        words = f"{error}; ONNX needs: pip install onnx onnxruntime onnxscript"
        raise _LackError(words) from error
    import torch

    is_dict = isinstance(example, dict)
    named = example if is_dict else {"observations": example}
    outputs = ["actions", "next_state"] if "state" in named else ["actions"]
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns about packages that are not needed here
    try:
        torch.onnx.export(
            policy,
            () if is_dict else (example,),
            str(path),
            kwargs={"inputs": example} if is_dict else None,  # a dict among args would be kwargs
            input_names=list(named),
            output_names=outputs,
            dynamic_shapes={"inputs": _batches(example)} if is_dict else (_batches(example),),
            external_data=False,
            verbose=False,
        )
    finally:
        logger.setLevel(level)
    session = onnxruntime.InferenceSession(str(path))

    def run(inputs: Example) -> Any:
        named = inputs if isinstance(inputs, dict) else {"observations": inputs}
        arrays = {name: tensor.numpy() for name, tensor in named.items()}
        results = [torch.from_numpy(array) for array in session.run(None, arrays)]
        return results[0] if len(results) == 1 else tuple(results)

    return run


def _batches(example: Example) -> Any:
    """Says that the first size of every input is free."""
    import torch

    batch = torch.export.Dim("batch", min=1)
    return {name: {0: batch} for name in example} if isinstance(example, dict) else {0: batch}


def _share_of_equal_actions(wanted: Any, got: Any) -> float:
    import torch

    if isinstance(wanted, tuple):
        return min(map(_share_of_equal_actions, wanted, got))
    same = torch.isclose(wanted.double(), got.double(), atol=1e-5, rtol=1e-4).reshape(
        len(wanted), -1
    )
    return same.all(1).double().mean().item()


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


def exported(agent: Any) -> tuple[nn.Module, Example, Any]:
    """Returns what is exported of an agent, random inputs, and what its policy makes of them.

    The inputs are one tensor, or a dict by name: of an observation's parts, an action mask, and
    the state of a policy with a memory.

    Raises:
        ValueError: two inputs have one name.
    """
    import torch

    from fastrl.models.parts import ByName
    from fastrl.training.agent import HasMemory

    space, policy = agent.observation_space, copy.deepcopy(agent.policy).cpu().eval()
    parts = {"": space}
    if isinstance(space, PackedRow):
        parts = space.parts
    arrays = {name: example_rows(part) for name, part in parts.items()}
    rows = space.pack(arrays) if isinstance(space, PackedRow) else arrays[""]
    inputs = {name or "observations": torch.from_numpy(array) for name, array in arrays.items()}
    given = [torch.from_numpy(rows)]
    if isinstance(agent, HasMemory):
        if "state" in inputs:
            raise ValueError("the observation has the key 'state', as the memory has")
        inputs["state"] = 0.1 * torch.randn(len(rows), agent.new_state(1).shape[1])
        given.append(inputs["state"])
    with torch.no_grad():
        wanted = policy(*given)
    if list(inputs) == ["observations"]:
        return policy, inputs["observations"], wanted
    return ByName(policy, space), inputs, wanted


def main(argv: Sequence[str] | None = None) -> int:
    """Exports the policy of a run; returns 0, or 2 after a user error."""
    return exit_status(lambda: _run(_parse(argv)))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    description = "Exports a trained policy to a single file."
    parser = parser_of("python -m fastrl.export", description, "task that defines the spaces")
    parser.add_argument(
        "--format",
        choices=list(SUFFIXES),
        default="torchscript",
        help="format of the file (default: torchscript)",
    )
    parser.add_argument(
        "--out", type=Path, help="file to write (default: policy.<suffix> in the run folder)"
    )
    return parser.parse_args(argv)


def _run(arguments: argparse.Namespace) -> int:
    saved = find_saved(arguments.run, arguments.checkpoint)
    path = arguments.out or saved.folder / f"policy{SUFFIXES[arguments.format]}"
    target = path.absolute()  # now: an environment may change the current folder
    described = target.with_name(f"{target.name}.json")
    for file in (target, described):
        check_replaceable(file)
        if file.exists() and file.samefile(saved.checkpoint):
            raise ValueError(f"{file} is the checkpoint that is exported; --out names another file")
    agent: Any = load_agent(saved, arguments.env_id, trust=arguments.trust, agent=arguments.agent)
    envs = agent.envs
    try:
        policy, example, wanted = exported(agent)
        export_policy(policy, example, target, arguments.format, wanted)
        named = example if isinstance(example, dict) else {"observations": example}
        inputs = {
            name: {"shape": list(x.shape[1:]), "dtype": str(x.dtype).removeprefix("torch.")}
            for name, x in named.items()
        }
        facts = {
            "algo": saved.algo,
            "env_id": agent.config.env_id,
            "inputs": inputs,
            "actions": {"space": str(agent.action_space)},
        }
        with replaced_file(described) as file:
            file.write(json.dumps(facts, indent=2).encode())
    finally:
        for env in envs:
            env.close()
    words = [
        f"{x['dtype']} {name} [{', '.join(map(str, ['B', *x['shape']]))}]"
        for name, x in inputs.items()
    ]
    print(f"{path}: {', '.join(words)} to greedy actions{' and next_state' * ('state' in inputs)}")
    print(f"{path}.json: names, shapes and types of the inputs")
    return 0
