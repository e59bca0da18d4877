"""Decides which native twins may run: those that equal the functions that they replace."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastrl.engine.cuda_graphs import Function
from fastrl.engine.gradient_step import GradientStep, Loss
from fastrl.engine.guards import PythonReads
from fastrl.engine.native import Twin, native_forms
from fastrl.engine.native_acting import NativeActing
from fastrl.engine.objective import ClippedObjective
from fastrl.engine.own_code import first_own
from fastrl.engine.probe import NUM_ROWS, differences, outputs_and_gradients, random_rows
from fastrl.engine.rehearsal import NotStaticError, rehearse, tried

_FAR = 100.0  # times as far from zero as other random rows: there clamps show


def proven_twins(
    networks: Sequence[nn.Module], for_compiler: bool = False
) -> tuple[list[Twin], list[str]]:
    """Returns the twins of networks that compute the same, and what speaks against the others.

    Args:
        networks: whose parts may have twins.
        for_compiler: take those alone that torch.compile cannot do without.
    """
    twins: list[Twin] = []
    reasons: list[str] = []
    for form in native_forms(networks, for_compiler):
        if why_not := form.why_not():
            reasons += why_not
            continue
        candidates = form.twins()
        if own := next(filter(None, map(_own_code_in, candidates)), ""):
            reasons.append(f"{own} is code of your own, for which there is no kernel")
        elif wrong := [twin for twin in candidates if _differs(twin)]:
            kind = type(wrong[0].module).__name__
            reasons.append(f"{kind}.{wrong[0].method} is not what the kernels compute")
        else:
            twins += candidates
    return twins, list(dict.fromkeys(reasons))


def _own_code_in(twin: Twin) -> str:
    """Returns the name of code that is not fastrl's in what a twin is to replace; "" if none."""
    rows, method = twin.draw(torch.Generator().manual_seed(0)), getattr(twin.module, twin.method)
    with torch.no_grad(), tried(method) as reads:
        method(*rows)
    return first_own(reads.ran)


def _differs(twin: Twin) -> bool:
    run = partial(outputs_and_gradients, module=twin.module)
    method, state = getattr(twin.module, twin.method), _state_of([twin.module])

    def far(generator: torch.Generator) -> tuple[Tensor, ...]:
        return tuple(
            (_FAR * x.detach()).requires_grad_(x.requires_grad) if x.is_floating_point() else x
            for x in twin.draw(generator)
        )

    alike = run(method), run(twin.function)
    return bool(
        differences(*alike, twin.draw, state, ()) or differences(*alike, far, state, (), [0.1])
    )


def acts_alike(draw: Function, row: tuple[Tensor, ...], policy: Any, reads: PythonReads) -> bool:
    """Tells whether a kernel draws the actions that a function draws.

    Args:
        draw: takes observations, noise and what it fills with actions; returns the environments'.
        row: an example of its arguments.
        policy: whose actions they are.
        reads: notes what `draw` reads.
    """
    obs, noise, stored = row

    def arguments(generator: torch.Generator) -> tuple[Tensor, ...]:
        drawn = noise.new_empty(NUM_ROWS, *noise.shape[1:])
        policy.head.draw_noise(drawn, generator)
        made = stored.new_zeros(NUM_ROWS, *stored.shape[1:])
        return random_rows(obs, NUM_ROWS, generator), drawn, made

    def both(function: Function) -> Function:
        return lambda *given: (function(*given), given[2])

    kernel, state = NativeActing(policy, NUM_ROWS), _state_of([policy])
    try:
        with reads.watch(draw), torch.no_grad():
            if rehearse(draw, row):  # it fills something beside its arguments
                return False
            is_alike = not differences(both(draw), both(kernel), arguments, state, ())
    except NotStaticError:
        return False
    finally:
        reads.restore()
    return is_alike and not first_own(reads.ran)


def why_not_objective(
    twin: ClippedObjective,
    step: GradientStep,
    loss: Loss,
    example: Any,
    networks: Sequence[nn.Module],
    reads: PythonReads,
) -> list[str]:
    """Says why a kernel does not compute a loss and its gradient; nothing if it does.

    Args:
        twin: what the kernel computes.
        step: the gradient step that would use the kernel.
        loss: its loss, whose reads are noted.
        example: a minibatch.
        networks: that the loss uses.
        reads: notes what `loss` reads.
    """
    if reasons := twin.why_not():
        return reasons
    kind, optimizer = type(example), step.optimizer
    with reads.watch(loss):
        try:
            if rehearse(lambda *fields: step.gradient_of_loss(kind(*fields)), tuple(example)):
                return ["loss by autograd: it changes tensors in place"]
        except NotStaticError:
            return ["loss by autograd: it reads tensors' values in Python"]

        def agree(is_far: bool, *scales: float) -> bool:
            return not differences(
                lambda *fields: step.gradient_of_loss(kind(*fields)),
                lambda *fields: twin.gradient(kind(*fields), optimizer),
                partial(twin.draw, example, is_far=is_far),
                [*_state_of(networks), *twin.coefficients],
                (),
                scales,
            )

        # Only rows far from zero reach some clamps; apart, since their size would hide errors in
        # others. A scale is the seed of the rows, too.
        is_alike = agree(False, 0.1, 1.0) and agree(True, 1.01)
    if not is_alike:
        return ["loss by autograd: the kernel computes another one"]
    if own := first_own(reads.ran):
        return [f"loss by autograd: {own} is code of your own, for which there is no kernel"]
    return []


def _state_of(networks: Sequence[nn.Module]) -> list[Tensor]:
    return [x for network in networks for x in (*network.parameters(), *network.buffers())]
