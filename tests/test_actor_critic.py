"""Actor and critic as one module: its parts, its initial weights, what it refuses."""

import math
from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import nn

from fastrl.models.actor_critic import ActorCritic
from fastrl.models.distributions import CategoricalHead

OBSERVATIONS = spaces.Box(-1, 1, (3,))


def make_policy(action_space: spaces.Space = spaces.Discrete(2), **changes: Any) -> ActorCritic:  # noqa: B008
    """Return a small policy."""
    settings: dict[str, Any] = {
        "hidden_sizes": (8, 6),
        "activation": "tanh",
        "shared": False,
        "ortho_init": False,
        "squash_actions": False,
        "log_std_init": 0.0,
        "normalize_observations": False,
    }
    torch.manual_seed(0)
    return ActorCritic(OBSERVATIONS, action_space, **{**settings, **changes})


def depends_on(output: torch.Tensor, module: nn.Module) -> bool:
    """Tell whether any parameter of the module has an influence on the output."""
    gradients = torch.autograd.grad(
        output.sum(), list(module.parameters()), allow_unused=True, retain_graph=True
    )
    return any(gradient is not None and gradient.any() for gradient in gradients)


@pytest.mark.parametrize(
    "space", [spaces.Discrete(4), spaces.MultiDiscrete([3, 4]), spaces.Box(-1, 1, (2,))]
)
@pytest.mark.parametrize("shared", [False, True])
def test_what_is_evaluated_is_what_acted(space, shared):
    policy = make_policy(space, shared=shared)
    obs, noise = torch.randn(5, 3), torch.zeros(5, policy.head.noise_size)
    policy.head.draw_noise(noise, torch.Generator().manual_seed(0))
    actions = policy.act(obs, noise)
    assert actions.shape == (5, *policy.head.action_shape)
    log_probs, entropy, values = policy.evaluate(obs, actions)
    assert log_probs.shape == entropy.shape == values.shape == (5,)
    torch.testing.assert_close(values, policy.value(obs))
    outputs = policy.head(policy.actor(obs))
    torch.testing.assert_close(log_probs, policy.head.log_prob_and_entropy(outputs, actions)[0])


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(4, start=-2),
        spaces.MultiDiscrete([3, 4], start=[1, 0]),
        spaces.MultiBinary(3),
        spaces.Box(-0.01, 0.01, (2,)),
    ],
)
def test_forward_is_greedy_and_within_the_space(space):
    policy = make_policy(space)
    obs = torch.randn(5, 3)
    greedy = policy(obs)
    drawn = policy.act(obs, torch.zeros(5, policy.head.noise_size))
    assert torch.equal(greedy, policy.head.to_env(drawn))
    assert all(space.contains(action.numpy().astype(space.dtype)) for action in greedy.detach())


def test_separate_networks_share_nothing():
    policy = make_policy()
    assert policy.critic is not None
    log_probs, _, values = policy.evaluate(torch.randn(5, 3), torch.zeros(5, dtype=torch.int64))
    assert depends_on(log_probs, policy.actor) and not depends_on(log_probs, policy.critic)
    assert depends_on(values, policy.critic) and not depends_on(values, policy.actor)


def test_shared_network_has_one_trunk_and_two_heads():
    policy = make_policy(shared=True)
    assert policy.critic is None
    log_probs, _, values = policy.evaluate(torch.randn(5, 3), torch.zeros(5, dtype=torch.int64))
    assert depends_on(log_probs, policy.actor) and depends_on(values, policy.actor)
    assert not depends_on(log_probs, policy.value_head)


def gain_of(layer: nn.Module) -> float:
    """Return the gain of an orthogonal layer; fail if it is none."""
    assert isinstance(layer, nn.Linear)
    weight = layer.weight.detach()
    small = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
    gain = float(small[0, 0]) ** 0.5
    torch.testing.assert_close(small, gain**2 * torch.eye(len(small)), rtol=1e-3, atol=1e-6)
    return gain


def test_orthogonal_weights_have_the_gain_of_their_place():
    policy = make_policy(ortho_init=True)
    assert policy.critic is not None and isinstance(policy.head, CategoricalHead)
    for trunk in (policy.actor, policy.critic):
        hidden = [layer for layer in trunk if isinstance(layer, nn.Linear)]
        assert [gain_of(layer) for layer in hidden] == pytest.approx([math.sqrt(2)] * 2, rel=1e-4)
    assert gain_of(policy.head.logits) == pytest.approx(0.01, rel=1e-4)
    assert gain_of(policy.value_head) == pytest.approx(1, rel=1e-4)
    biases = [value for name, value in policy.named_parameters() if name.endswith("bias")]
    assert not any(bias.any() for bias in biases)


def test_default_weights_are_not_orthogonal():
    with pytest.raises(AssertionError):
        gain_of(make_policy().actor[0])


def test_normaliser_stands_in_front_of_all_outputs():
    policy = make_policy(normalize_observations=True)
    assert policy.normalizer is not None
    policy.normalizer.update(torch.randn(50, 3) * 5 + 3, torch.ones(50, dtype=torch.bool))
    obs, actions = torch.randn(4, 3), torch.zeros(4, dtype=torch.int64)
    seen = policy.normalizer(obs)
    plain = make_policy()
    plain.load_state_dict(policy.state_dict(), strict=False)
    for got, expected in zip(
        (*policy.evaluate(obs, actions), policy.value(obs), policy(obs)),
        (*plain.evaluate(seen, actions), plain.value(seen), plain(seen)),
        strict=True,
    ):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("space", [spaces.Text(3), spaces.Dict({"x": OBSERVATIONS})])
def test_spaces_that_are_no_rows_are_refused_by_name(space):
    with pytest.raises(ValueError, match="unsupported observation space"):
        ActorCritic(
            space,
            spaces.Discrete(2),
            hidden_sizes=(8,),
            activation="tanh",
            shared=False,
            ortho_init=False,
            squash_actions=False,
            log_std_init=0.0,
            normalize_observations=False,
        )
