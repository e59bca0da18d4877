"""PPO's objective in the extension: the losses and derivatives that autograd finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastrl.kernels.extension import HAS_DENSE, worker_threads
from fastrl.kernels.objective import ClippedGradient, clipped_gradient
from fastrl.models.distributions import CategoricalHead, GaussianHead
from fastrl.ops.losses import (
    approximate_kl,
    clip_fraction,
    clipped_surrogate,
    clipped_value_loss,
    value_loss,
    weighted_mean,
)

pytestmark = pytest.mark.skipif(not HAS_DENSE, reason="no extension, or no wide vectors")

CLIP_COEF, ENT_COEF, VF_COEF = 0.2, 0.01, 0.7
HEADS = {
    "choice": lambda: CategoricalHead(3, [4], [0], True, None),
    "choices": lambda: CategoricalHead(3, [3, 2, 5], [0, 0, 0], False, None),
    "normals": lambda: GaussianHead(3, -np.ones(6), np.ones(6), False, -0.3, None),
}


def make(name: str, num_rows: int) -> tuple[Any, list[Tensor]]:
    """Return a head, and outputs, values and a minibatch of a policy that has moved a little."""
    torch.manual_seed(3)
    head = HEADS[name]()
    num_outputs = head.layer.out_features
    outputs, values = torch.randn(num_outputs, num_rows).t(), torch.randn(num_rows)
    if name == "normals":
        actions = outputs + torch.randn(num_rows, num_outputs)
        with torch.no_grad():
            head.log_std.add_(torch.linspace(-0.5, 0.5, num_outputs))
    else:
        dims = [torch.randint(n, (num_rows,)) for n in head.num_choices]
        actions = dims[0] if head.single else torch.stack(dims, 1)
    with torch.no_grad():
        log_probs, _ = head.log_prob_and_entropy(outputs + 0.3 * torch.randn_like(outputs), actions)
    weights = torch.rand(num_rows)
    weights[::5] = 0
    fields = torch.randn(num_rows), torch.randn(num_rows), values + 0.3 * torch.randn(num_rows)
    return head, [outputs, values, actions, log_probs, *fields, weights / weights.sum()]


def plainly(head: Any, given: list[Tensor], clips_values: bool) -> ClippedGradient:
    """Return what autograd makes of the losses."""
    outputs, values, actions, old_log_probs, advantages, returns, old_values, weights = given
    outputs, values = outputs.detach().requires_grad_(), values.detach().requires_grad_()
    clip_coef = torch.tensor(CLIP_COEF, dtype=outputs.dtype)
    log_probs, entropy = head.log_prob_and_entropy(outputs, actions)
    log_ratio = log_probs - old_log_probs
    policy_loss = clipped_surrogate(log_ratio, advantages, weights, clip_coef)
    if clips_values:
        critic_loss = clipped_value_loss(values, old_values, returns, weights, clip_coef)
    else:
        critic_loss = value_loss(values, returns, weights)
    entropy_loss = -weighted_mean(entropy, weights)
    loss = policy_loss + VF_COEF * critic_loss + ENT_COEF * entropy_loss
    learned = [outputs, values] + ([] if head.log_std is None else [head.log_std])
    gradients = list(torch.autograd.grad(loss, learned))
    if head.log_std is None:
        gradients.append(torch.empty(0))
    judged = approximate_kl(log_ratio, weights), clip_fraction(log_ratio, weights, clip_coef)
    metrics = torch.stack([policy_loss, critic_loss, entropy_loss, *judged]).detach()
    return ClippedGradient(*gradients, metrics)


def in_extension(head: Any, given: list[Tensor], clips_values: bool) -> ClippedGradient:
    """Return what the extension makes of them."""
    coefs = torch.tensor(CLIP_COEF), torch.tensor(ENT_COEF), VF_COEF, clips_values
    outputs, values, *minibatch = given
    return clipped_gradient(outputs, values, head.log_std, head.num_choices, minibatch, *coefs)


@pytest.mark.parametrize("clips_values", [False, True])
@pytest.mark.parametrize("num_rows", [1, 15, 64, 515, 2048])
@pytest.mark.parametrize("name", HEADS)
def test_it_is_autograds(name, num_rows, clips_values):
    head, given = make(name, num_rows)
    if num_rows == 1:
        given[-1].fill_(1)
    found = in_extension(head, given, clips_values)
    exact = plainly(
        head.double(), [x.double() if x.is_floating_point() else x for x in given], clips_values
    )
    for part, wanted in zip(found, exact, strict=True):
        torch.testing.assert_close(part.double(), wanted.double(), rtol=2e-5, atol=2e-7)


@pytest.mark.parametrize("name", HEADS)
def test_number_of_threads_changes_no_bit(name):
    head, given = make(name, 2048)
    alone = in_extension(head, given, False)
    with worker_threads(3):
        together = in_extension(head, given, False)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("place", [0, 1, 3, 4, 5, 6])
def test_nan_reaches_the_losses(place):
    head, given = make("normals", 64)
    given[place] = given[place].clone()
    given[place][7] = torch.nan
    assert in_extension(head, given, True).metrics[:2].isnan().any()


def test_forbidden_choices_get_no_gradient():
    head, given = make("choice", 64)
    given[0] = given[0].clone()
    given[0][:, 2] = -1e9
    given[2] = torch.zeros(64, dtype=torch.int64)
    found = in_extension(head, given, False)
    assert found.metrics.isfinite().all()
    assert found.outputs[:, 2].abs().max() < 1e-12


def test_what_does_not_fit_is_refused():
    head, given = make("choice", 64)
    for place, wrong, words in (
        (0, given[0].double(), "float32"),
        (1, given[1][:-1], "float32"),
        (2, given[2].float(), "int64"),
        (2, given[2] + 1, "none of the choices"),
        (2, given[2] - 1, "none of the choices"),
    ):
        with pytest.raises(ValueError, match=words):
            in_extension(head, [*given[:place], wrong, *given[place + 1 :]], False)


def test_no_rows_are_refused():
    head, given = make("choice", 64)
    with pytest.raises(ValueError, match="got none"):
        in_extension(head, [tensor[:0] for tensor in given], False)


@pytest.mark.parametrize("log_ratio", [60.0, 85.0, 100.0])
def test_a_ratio_beyond_all_bounds_is_told_as_it_is(log_ratio):
    head, given = make("choice", 16)
    given[3] = given[3] - log_ratio
    given[4] = -torch.ones(16)
    found, plain = in_extension(head, given, False), plainly(head, given, False)
    torch.testing.assert_close(found.metrics, plain.metrics, rtol=1e-4, atol=0, equal_nan=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", HEADS)
def test_the_operator_keeps_torchs_rules(name):
    head, (outputs, values, actions, *rows) = make(name, 64)
    log_std = torch.empty(0) if head.log_std is None else head.log_std.detach()
    coefs = torch.tensor(CLIP_COEF), torch.tensor(ENT_COEF)
    tensors = [outputs.t().contiguous(), actions, log_std, values, *rows, *coefs]
    given = [tensor.detach().contiguous() for tensor in tensors], list(head.num_choices)
    torch.library.opcheck(torch.ops.fastrl.clipped_gradient.default, (*given, VF_COEF, True))
