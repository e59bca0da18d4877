"""Exports a trained policy to a single file that runs without fastrl.

    python -m fastrl.export RUN --format torchscript

The exported graph contains the normaliser, the networks and the action bounds. It takes
observations `[B, *O]`, with the dtype in which a rollout stores them, and returns greedy actions
for the environment. Before the file is put in place, it is loaded again, and must give the same
actions as the policy on random observations. A JSON file beside it describes the columns of an
observation.
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

from fastrl.agents.load import find_saved, load_agent
from fastrl.processes.errors import Parser, exit_status
from fastrl.runs.folder import CHECKPOINTS_NAME, replaced_file
from fastrl.spaces.layout import layout_of
from fastrl.spaces.observations import PackedRow

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIXES = {"torchscript": ".pt", "pt2": ".pt2", "onnx": ".onnx"}
_NUM_CHECKED = 256


def export_policy(policy: nn.Module, example: Tensor, path: Path, form: str) -> None:
    """Exports a policy and verifies the file.

    Args:
        policy: maps observations `[B, O]` to actions.
        example: observations `[B, O]`, at least two rows.
        path: the file to write.
        form: "torchscript", "pt2" or "onnx".

    Raises:
        ValueError: the format is unknown, a package is missing, or the file gives other actions.
    """
    import torch

    if form not in SUFFIXES:
        raise ValueError(f"format {form!r} is unknown; known are {', '.join(SUFFIXES)}")
    if path.resolve().parent.name == CHECKPOINTS_NAME:
        raise ValueError(
            f"{path} is in the folder of checkpoints, which an exported policy may not replace"
        )
    policy = copy.deepcopy(policy).cpu().eval()  # leaves the agent's own unchanged
    writing = path.with_name(f".{path.name}.writing{SUFFIXES[form]}")
    write = {"torchscript": _torchscript, "pt2": _pt2, "onnx": _onnx}[form]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        writing.touch()  # torch raises no OSError if the path is not writable
        with torch.no_grad(), warnings.catch_warnings():
            # Deprecation warnings of torch: the check below is what matters.
            warnings.simplefilter("ignore")
            read = write(policy, example, writing)
            wanted, got = policy(example), read(example)
        share = _share_of_equal_actions(wanted, got)
        if share < 0.99:  # ties between two actions may be broken either way
            raise ValueError(f"{form}: {1 - share:.0%} of the actions differ from the policy's")
        writing.replace(path)
    finally:
        writing.unlink(missing_ok=True)


def _torchscript(policy: nn.Module, example: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    import torch

    traced: Any = torch.jit.trace(policy, example, check_trace=False)
    torch.jit.freeze(traced).save(str(path))
    return torch.jit.load(str(path))


def _pt2(policy: nn.Module, example: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    import torch

    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(policy, (example,), dynamic_shapes=({0: batch},))
    torch.export.save(program, str(path))
    return torch.export.load(str(path)).module()


def _onnx(policy: nn.Module, example: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    try:
        import onnx  # noqa: F401  # pyright: ignore[reportMissingImports]
        import onnxruntime  # pyright: ignore[reportMissingImports]
        import onnxscript  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(f"{error}; ONNX needs: pip install onnx onnxruntime onnxscript") from error
    import torch

    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns about packages that are not needed here
    try:
        torch.onnx.export(
            policy,
            (example,),
            str(path),
            input_names=["observations"],
            output_names=["actions"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            external_data=False,
            verbose=False,
        )
    finally:
        logger.setLevel(level)
    session = onnxruntime.InferenceSession(str(path))
    return lambda rows: torch.from_numpy(session.run(None, {"observations": rows.numpy()})[0])


def _share_of_equal_actions(wanted: Tensor, got: Tensor) -> float:
    import torch

    same = torch.isclose(wanted.double(), got.double(), atol=1e-5, rtol=1e-4).reshape(
        len(wanted), -1
    )
    return same.all(1).double().mean().item()


def example_rows(space: Space) -> np.ndarray:
    """Returns random rows `[256, ...]` of a space from `observation_rows`, with its dtype.

    Integers are sampled from the space. Floating-point numbers are sampled from a normal
    distribution and clipped to the bounds, as the bounds may be the limits of the dtype.
    """
    generator = np.random.default_rng(0)

    def draw(part: Space) -> np.ndarray:
        if isinstance(part, spaces.Box) and np.issubdtype(part.dtype, np.floating):
            numbers = generator.standard_normal((_NUM_CHECKED, *part.shape))
            return numbers.clip(part.low, part.high).astype(part.dtype)
        part = copy.deepcopy(part)
        part.seed(0)
        return np.stack([part.sample() for _ in range(_NUM_CHECKED)])

    if isinstance(space, PackedRow):
        return space.pack({name: draw(part) for name, part in space.parts.items()})
    return draw(space)


def main(argv: Sequence[str] | None = None) -> int:
    """Exports the policy of a run; returns 0, or 2 after a user error."""
    return exit_status(lambda: _run(_parse(argv)))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m fastrl.export", description="Exports a trained policy to a single file."
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder or checkpoint file")
    parser.add_argument(
        "--format",
        choices=list(SUFFIXES),
        default="torchscript",
        help="format of the file (default: torchscript)",
    )
    parser.add_argument(
        "--checkpoint", metavar="last|best|PATH", help="checkpoint of the run (default: last)"
    )
    parser.add_argument(
        "--agent", default="", help="module:Class of the run, if it is a class of your own"
    )
    parser.add_argument("--trust", action="store_true", help="import the class that the run names")
    parser.add_argument("--env-id", help="task that defines the spaces (default: the run's)")
    parser.add_argument(
        "--out", type=Path, help="file to write (default: policy.<suffix> in the run folder)"
    )
    return parser.parse_args(argv)


def _run(arguments: argparse.Namespace) -> int:
    saved = find_saved(arguments.run, arguments.checkpoint)
    path = arguments.out or saved.folder / f"policy{SUFFIXES[arguments.format]}"
    import torch

    from fastrl.training.agent import HasMemory

    target = path.absolute()  # now: an environment may change the current folder
    agent: Any = load_agent(saved, arguments.env_id, trust=arguments.trust, agent=arguments.agent)
    envs = agent.envs
    try:
        if isinstance(agent, HasMemory):
            raise ValueError(
                f"{saved.algo} has a recurrent policy, but an exported file maps only observations "
                "to actions; load the agent with fastrl, and pass a state to predict"
            )
        example = torch.from_numpy(example_rows(agent.observation_space))
        export_policy(agent.policy, example, target, arguments.format)
        facts = {
            "algo": saved.algo,
            "env_id": agent.config.env_id,
            "observations": layout_of(agent.observation_space),
            "actions": {"space": str(agent.action_space)},
        }
        with replaced_file(target.with_name(f"{target.name}.json")) as file:
            file.write(json.dumps(facts, indent=2).encode())
    finally:
        for env in envs:
            env.close()
    shape, dtype = ", ".join(map(str, ("B", *example.shape[1:]))), str(example.dtype)
    print(f"{path}: {dtype.removeprefix('torch.')} observations [{shape}] to greedy actions")
    print(f"{path}.json: the columns of an observation")
    return 0
