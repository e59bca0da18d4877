"""Files that hold a policy: TorchScript, pt2 (torch.export) and ONNX.

The exported graph contains the normaliser, the networks and the action bounds. It takes a batch of
observations as the environment shows them, `[B, *O]`, or inputs by name. Before a file is put in
place, it is loaded again, and must give what the policy gives on random observations.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastrl.processes.errors import how_to_install, one_line
from fastrl.runs.folder import CHECKPOINTS_NAME, check_replaceable

if TYPE_CHECKING:
    from torch import Tensor, nn

    Example = Tensor | dict[str, Tensor]
    Function = Callable[[Example], Any]

SUFFIXES = {"torchscript": ".pt", "pt2": ".pt2", "onnx": ".onnx"}


def export_policy(
    policy: nn.Module,
    example: Example,
    path: Path,
    form: str,
    wanted: Any = None,
    outputs: Sequence[str] = (),
) -> None:
    """Exports a policy and verifies the file.

    Args:
        policy: maps observations `[B, *O]`, or a dict of inputs by name, to actions.
        example: such inputs, at least two rows.
        path: the file to write.
        form: "torchscript", "pt2" or "onnx".
        wanted: what the file must return for the example; by default what `policy` returns.
        outputs: their names, which ONNX records; by default `actions` and `next_state`.

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
    write = {"torchscript": _torchscript, "pt2": _pt2, "onnx": partial(_onnx, outputs)}[form]
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
            raise ValueError(f"{form}: {1 - share:.0%} of the outputs differ from the policy's")
        check_replaceable(path)
        writing.replace(path)
    finally:
        writing.unlink(missing_ok=True)


def form_of(path: Path) -> str:
    """Returns the format that a file's suffix says; ValueError if it says none."""
    forms = {suffix: form for form, suffix in SUFFIXES.items()}
    if path.suffix not in forms:
        known = ", ".join(f"{suffix} ({form})" for suffix, form in forms.items())
        raise ValueError(f"{path}: its suffix says no format; known are {known}")
    return forms[path.suffix]


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


def _onnx(outputs: Sequence[str], policy: nn.Module, example: Example, path: Path) -> Function:
    try:
        import onnx  # noqa: F401  # pyright: ignore[reportMissingImports]
        import onnxruntime  # pyright: ignore[reportMissingImports]
        import onnxscript  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        words = f"{error}; {how_to_install('onnx')}"
        raise _LackError(words) from error
    import torch

    is_dict = isinstance(example, dict)
    named = example if is_dict else {"observations": example}
    by_default = ["actions", "next_state"] if "state" in named else ["actions"]
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
            output_names=list(outputs) or by_default,
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
