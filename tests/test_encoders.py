"""Encoders: scaling, sizes, masks in the likelihood."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import distributions

from fastrl.models.actor_critic import ActorCritic
from fastrl.models.encoders import Pixels, Reader, Trunk, make_trunk
from fastrl.spaces.observations import observation_rows

ATARI = spaces.Box(0, 255, (4, 84, 84), np.uint8)


def make_policy(
    space: spaces.Space, action_space: spaces.Space, shared: bool = False
) -> ActorCritic:
    """Return a small policy."""
    torch.manual_seed(0)
    return ActorCritic(
        observation_rows("MyEnv", space, action_space),
        action_space,
        hidden_sizes=(8,),
        activation="relu",
        shared=shared,
        ortho_init=False,
        squash_actions=False,
        log_std_init=0.0,
        normalize_observations=False,
    )


@pytest.mark.parametrize(
    ("encoder", "shape", "num_features"),
    [
        ("nature", (4, 84, 84), 64 * 7 * 7),
        ("impala", (64, 64, 3), 32 * 8 * 8),
        ("minatar", (10, 10, 4), 16 * 8 * 8),
        ("auto", (4, 84, 84), 64 * 7 * 7),
        ("auto", (10, 10, 4), 16 * 8 * 8),
    ],
)
def test_encoders_have_the_published_sizes(encoder, shape, num_features):
    reader = Reader(spaces.Box(0, 255, shape, np.uint8))
    trunk, _ = make_trunk(reader, [32], "relu", True, encoder)
    assert isinstance(trunk, Trunk)
    pixels = reader.read(torch.zeros(2, *shape, dtype=torch.uint8)).pixels
    assert pixels is not None
    assert trunk.pixels(pixels).shape == (2, num_features) and trunk(pixels).shape == (2, 32)


def test_scaled_weights_are_scaled_images():
    reader = Reader(ATARI)
    trunk, _ = make_trunk(reader, [8], "relu", False, "nature")
    assert isinstance(trunk, Trunk) and isinstance(trunk.pixels, Pixels)
    images = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    plain = trunk.pixels.others(trunk.pixels.first(images / 255)).flatten(1)
    torch.testing.assert_close(trunk.pixels(images), plain, rtol=1e-4, atol=1e-5)


def test_orthogonal_convolutions_have_their_gain():
    trunk, _ = make_trunk(Reader(ATARI), [8], "relu", True, "nature")
    assert isinstance(trunk, Trunk)
    weight = trunk.pixels.first.weight.detach().flatten(1)
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(32), rtol=1e-4, atol=1e-5)


def test_shared_pixels_have_one_trunk():
    assert make_policy(ATARI, spaces.Discrete(3), shared=True).critic is None


@pytest.mark.parametrize("action_space", [spaces.Discrete(4), spaces.MultiDiscrete([2, 3])])
def test_forbidden_actions_are_in_no_draw_likelihood_or_entropy(action_space):
    sizes = [4] if isinstance(action_space, spaces.Discrete) else [2, 3]
    size = sum(sizes)
    space = spaces.Dict({"x": spaces.Box(-1, 1, (3,)), "action_mask": spaces.MultiBinary(size)})
    policy = make_policy(space, action_space)
    n = 2000
    rows = torch.randn(1, size + 3).expand(n, -1).clone()
    allowed = torch.tensor([[0, 1, 0, 1]] if len(sizes) == 1 else [[0, 1, 1, 1, 0]])
    rows[:, 3:] = allowed
    noise = torch.empty(n, size)
    policy.head.draw_noise(noise, torch.Generator().manual_seed(0))
    actions = policy.act(rows, noise)
    log_prob, entropy, _ = policy.evaluate(rows, actions)
    logits = policy.head(policy.actor(rows[:, :3])).masked_fill(allowed == 0, -math.inf)
    theirs = [distributions.Categorical(logits=part[:1]) for part in logits.split(sizes, 1)]
    columns = actions.reshape(n, -1)
    for dim, choice in enumerate(theirs):
        assert set(columns[:, dim].tolist()) == set(choice.probs[0].nonzero().flatten().tolist())
    expected = sum(choice.log_prob(columns[:, dim]) for dim, choice in enumerate(theirs))
    torch.testing.assert_close(log_prob, expected)
    finite = [choice.probs[0][choice.probs[0] > 0] for choice in theirs]
    torch.testing.assert_close(entropy[0], -sum((p * p.log()).sum() for p in finite))
    gradient = torch.autograd.grad(log_prob.sum() + entropy.sum(), policy.head.logits.bias)[0]
    assert not gradient[allowed[0] == 0].any() and gradient.isfinite().all()
    greedy = policy(rows).reshape(n, -1)[0]
    assert greedy.tolist() == [int(choice.probs.argmax()) for choice in theirs]
