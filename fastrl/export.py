"""Writes a trained policy as one file that runs without fastrl.

    python -m fastrl.export RUN --format torchscript

The file's graph holds normaliser, networks and action bounds: it takes observations `[B, *O]`, of
the dtype that a rollout stores, and returns the greedy actions as the environment takes them.
Before the file takes its place, it is read back and must give the policy's own actions on random
observations. A JSON file beside it says what the columns of an observation's row are.
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
    """Writes a policy and checks what was written.

    Args:
        policy: from observations `[B, O]` to actions.
        example: some observations `[B, O]`, at least two.
        path: the file to write.
        form: "torchscript", "pt2" or "onnx".

    Raises:
        ValueError: an unknown form, a missing package, or a file that gives other actions.
    """
    import torch

    if form not in SUFFIXES:
        raise ValueError(f"format {form!r} is unknown; known are {', '.join(SUFFIXES)}")
    if path.resolve().parent.name == CHECKPOINTS_NAME:
        raise ValueError(f"{path} lies among checkpoints, which an exported policy may not replace")
    policy = copy.deepcopy(policy).cpu().eval()  # the agent's own goes on as it is
    writing = path.with_name(f".{path.name}.writing{SUFFIXES[form]}")
    write = {"torchscript": _torchscript, "pt2": _pt2, "onnx": _onnx}[form]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        writing.touch()  # torch would give no OSError if it cannot be written
        with torch.no_grad(), warnings.catch_warnings():
            # Upstream's deprecations; the check below is what counts.
            warnings.simplefilter("ignore")
            read = write(policy, example, writing)
            wanted, got = policy(example), read(example)
        share = _share_of_equal_actions(wanted, got)
        if share < 0.99:  # a tie between two actions may fall either way
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
    logger.setLevel(logging.ERROR)  # it warns of packages that nobody needs here
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
    """Returns random rows `[256, ...]` of the space of a rollout's rows, of its dtype.

    Integers are anything that the space has. Real numbers are normal ones within the bounds, for
    these may be those of the number format.
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
    """Exports the policy of a run; returns 0, or 2 after a user's mistake."""
    return exit_status(lambda: _run(_parse(argv)))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m fastrl.export", description="Writes a trained policy as one file."
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder, or a checkpoint file")
    parser.add_argument(
        "--format", choices=list(SUFFIXES), default="torchscript", help="default: torchscript"
    )
    parser.add_argument(
        "--checkpoint", metavar="last|best|PATH", help="which of the run (default: last)"
    )
    parser.add_argument("--env-id", help="task whose spaces are meant (default: the run's)")
    parser.add_argument(
        "--out", type=Path, help="the file to write (default: policy in the run folder)"
    )
    return parser.parse_args(argv)


def _run(arguments: argparse.Namespace) -> int:
    saved = find_saved(arguments.run, arguments.checkpoint)
    path = arguments.out or saved.folder / f"policy{SUFFIXES[arguments.format]}"
    import torch

    from fastrl.training.agent import HasMemory

    target = path.absolute()  # now: an environment may change folders
    agent: Any = load_agent(saved, arguments.env_id)
    try:
        if isinstance(agent, HasMemory):
            raise ValueError(
                f"{saved.algo} acts by what it saw before, and an exported file maps observations "
                "alone to actions; load it with fastrl and give predict a state"
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
        for env in agent.envs:
            env.close()
    shape, dtype = ", ".join(map(str, ("B", *example.shape[1:]))), str(example.dtype)
    print(f"{path}: {dtype.removeprefix('torch.')} observations [{shape}] to greedy actions")
    print(f"{path}.json: what the columns of an observation are")
    return 0
