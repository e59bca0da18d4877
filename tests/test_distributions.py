"""Action heads against torch.distributions: likelihoods, entropies, frequencies, bounds."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import distributions

from fastrl.models.distributions import CategoricalHead, GaussianHead
from fastrl.models.heads import make_action_head

NUM_ROWS = 40_000


def noise_for(head: CategoricalHead | GaussianHead, num_rows: int) -> torch.Tensor:
    """Return noise for as many draws."""
    noise = torch.empty(num_rows, head.noise_size)
    head.draw_noise(noise, torch.Generator().manual_seed(5))
    return noise


def make_head(space: spaces.Space, squash: bool = False) -> CategoricalHead | GaussianHead:
    """Return a head on three features, with spreads that differ."""
    torch.manual_seed(1)
    head = make_action_head(space, 3, squash, 0.0, None)
    if isinstance(head, GaussianHead):
        torch.nn.init.normal_(head.log_std, std=0.5)
    return head


def test_categorical_likelihood_and_entropy_are_those_of_torch():
    head = make_head(spaces.Discrete(5))
    logits = torch.randn(7, 5) * 3
    actions = torch.arange(7) % 5
    theirs = distributions.Categorical(logits=logits)
    log_prob, entropy = head.log_prob_and_entropy(logits, actions)
    torch.testing.assert_close(log_prob, theirs.log_prob(actions))
    torch.testing.assert_close(entropy, theirs.entropy())


def test_multidiscrete_likelihood_and_entropy_are_sums_over_the_dimensions():
    sizes = [2, 5, 3]
    head = make_head(spaces.MultiDiscrete(sizes))
    logits = torch.randn(7, 10) * 3
    actions = torch.stack([torch.arange(7) % size for size in sizes], 1)
    log_prob, entropy = head.log_prob_and_entropy(logits, actions)
    theirs = [distributions.Categorical(logits=part) for part in logits.split(sizes, 1)]
    torch.testing.assert_close(
        log_prob, sum(part.log_prob(actions[:, dim]) for dim, part in enumerate(theirs))
    )
    torch.testing.assert_close(entropy, sum(part.entropy() for part in theirs))


def test_gaussian_likelihood_and_entropy_are_those_of_torch():
    head = make_head(spaces.Box(-1, 1, (3,)))
    means, actions = torch.randn(7, 3), torch.randn(7, 3) * 3
    theirs = distributions.Independent(distributions.Normal(means, head.log_std.exp()), 1)
    log_prob, entropy = head.log_prob_and_entropy(means, actions)
    torch.testing.assert_close(log_prob, theirs.log_prob(actions))
    torch.testing.assert_close(entropy, theirs.entropy())


def squashed(means: torch.Tensor, log_std: torch.Tensor) -> distributions.TransformedDistribution:
    """Return the distribution of tanh of a normal."""
    normal = distributions.Normal(means, log_std.exp())
    return distributions.TransformedDistribution(
        distributions.Independent(normal, 1), [distributions.TanhTransform(cache_size=1)]
    )


def test_squashed_likelihood_is_that_of_torch():
    head = make_head(spaces.Box(-1, 1, (3,)), squash=True)
    means, actions = torch.randn(7, 3), torch.randn(7, 3)
    theirs = squashed(means.double(), head.log_std.double()).log_prob(actions.double().tanh())
    log_prob, _ = head.log_prob_and_entropy(means, actions)
    torch.testing.assert_close(log_prob.double(), theirs, rtol=1e-5, atol=1e-5)


def test_squashed_likelihood_is_finite_where_tanh_is_1():
    head = make_head(spaces.Box(-1, 1, (3,)), squash=True)
    actions = torch.tensor([[50.0, -50.0, 0.0]], requires_grad=True)
    log_prob, entropy = head.log_prob_and_entropy(torch.zeros(1, 3), actions)
    (gradient,) = torch.autograd.grad(log_prob.sum() + entropy.sum(), actions)
    assert log_prob.isfinite().all() and entropy.isfinite().all() and gradient.isfinite().all()


def test_squashed_entropy_has_the_true_entropy_as_its_mean():
    head = make_head(spaces.Box(-1, 1, (3,)), squash=True)
    means = torch.tensor([[0.3, -0.5, 0.1]]).expand(NUM_ROWS, 3)
    with torch.no_grad():
        actions = head.sample(means, noise_for(head, NUM_ROWS))
        log_prob, entropy = head.log_prob_and_entropy(means, actions)
    assert entropy.mean().item() == pytest.approx(-log_prob.mean().item(), abs=0.03)


def test_categorical_draws_have_the_frequencies_of_the_probabilities():
    head = make_head(spaces.MultiDiscrete([4, 2]))
    wanted = torch.tensor([0.1, 0.2, 0.65, 0.05]), torch.tensor([0.9, 0.1])
    logits = torch.cat(wanted).log().expand(NUM_ROWS, 6) + 3.0
    actions = head.sample(logits, noise_for(head, NUM_ROWS))
    for dim, probabilities in enumerate(wanted):
        counts = torch.bincount(actions[:, dim], minlength=len(probabilities))
        deviation = (probabilities * (1 - probabilities) / NUM_ROWS).sqrt()
        assert ((counts / NUM_ROWS - probabilities).abs() < 5 * deviation).all()


def test_gaussian_draws_have_their_mean_and_spread():
    head = make_head(spaces.Box(-1, 1, (2,)))
    means = torch.tensor([2.0, -3.0]).expand(NUM_ROWS, 2)
    with torch.no_grad():
        actions, spread = head.sample(means, noise_for(head, NUM_ROWS)), head.log_std.exp()
    assert ((actions.mean(0) - means[0]).abs() < 5 * spread / NUM_ROWS**0.5).all()
    torch.testing.assert_close(actions.std(0), spread, rtol=0.03, atol=0)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(4),
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiBinary(3),
        spaces.Box(-1, 1, (2,)),
    ],
)
def test_without_noise_the_draw_is_the_mode(space):
    head = make_head(space)
    outputs = head(torch.randn(9, 3))
    mode = head.mode(outputs)
    assert torch.equal(head.sample(outputs, torch.zeros(9, head.noise_size)), mode)
    assert mode.shape == (9, *head.action_shape) and mode.dtype == head.action_dtype
    best = head.log_prob_and_entropy(outputs, mode)[0]
    drawn = head.sample(outputs, noise_for(head, 9))
    assert (best >= head.log_prob_and_entropy(outputs, drawn)[0]).all()


def test_noise_follows_from_the_generator_alone():
    head = make_head(spaces.Discrete(4))
    assert torch.equal(noise_for(head, 10), noise_for(head, 10))
    state = torch.get_rng_state()
    noise_for(head, 10)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("space", "actions", "expected"),
    [
        (spaces.Discrete(3, start=-1), [0, 2], [-1, 1]),
        (spaces.MultiDiscrete([3, 3], start=[5, 0]), [[0, 2]], [[5, 2]]),
    ],
)
def test_choices_are_named_as_the_space_names_them(space, actions, expected):
    assert make_head(space).to_env(torch.tensor(actions)).tolist() == expected


def test_clipped_actions_keep_what_is_within_the_bounds():
    head = make_head(spaces.Box(np.array([-1, 0], np.float32), np.array([1, 5], np.float32)))
    actions = torch.tensor([[0.5, 4.0], [-3.0, -3.0], [7.0, 7.0]])
    assert head.to_env(actions).tolist() == [[0.5, 4.0], [-1.0, 0.0], [1.0, 5.0]]


@pytest.mark.parametrize("squash", [False, True])
def test_actions_stay_within_the_bounds(squash):
    random = np.random.default_rng(0)
    low = random.uniform(-10, 10, 5000).astype(np.float32)
    space = spaces.Box(low, low + random.uniform(0.001, 10, 5000).astype(np.float32))
    actions = torch.tensor([-1e30, -9.0, -0.1, 0.0, 0.1, 9.0, 1e30]).unsqueeze(1).expand(7, 5000)
    in_env = make_head(space, squash).to_env(actions)
    assert all(space.contains(action.numpy()) for action in in_env)
    assert all((first <= second).all() for first, second in pairwise(in_env))
    torch.testing.assert_close(in_env[0], torch.from_numpy(space.low))
    torch.testing.assert_close(in_env[-1], torch.from_numpy(space.high))


def test_squashed_middle_is_the_middle_of_the_bounds():
    head = make_head(spaces.Box(np.array([-1, 0], np.float32), np.array([1, 5], np.float32)), True)
    assert head.to_env(torch.zeros(1, 2)).tolist() == [[0.0, 2.5]]


def test_squashing_is_refused_where_it_has_no_effect():
    with pytest.raises(ValueError, match="squash_actions has no effect on Discrete"):
        make_action_head(spaces.Discrete(2), 3, True, 0.0, None)


@pytest.mark.parametrize(
    "space", [spaces.Box(-np.inf, 1, (3,)), spaces.Box(-1, 1, (2, 2)), spaces.Text(3)]
)
def test_other_action_spaces_are_refused_by_name(space):
    with pytest.raises(ValueError, match="not supported; supported: Discrete"):
        make_action_head(space, 3, False, 0.0, None)


def test_gradient_of_the_squashed_entropy_is_that_of_differences():
    head = make_head(spaces.Box(-1, 1, (3,)), squash=True)
    assert isinstance(head, GaussianHead)
    means = torch.full((NUM_ROWS, 3), 0.4, requires_grad=True)
    noise = noise_for(head, NUM_ROWS)
    actions = head.sample(means, noise).detach()
    _, entropy = head.log_prob_and_entropy(means, actions)
    by_spread, by_mean = torch.autograd.grad(entropy.mean(), (head.log_std, means))

    def entropies(log_std: torch.Tensor, mean: float) -> torch.Tensor:
        drawn = mean + log_std.exp() * noise.double()
        slope = 2 * (np.log(2) - drawn - torch.nn.functional.softplus(-2 * drawn))
        return log_std + slope.mean(0)

    log_std, step = head.log_std.detach().double(), 1e-4
    wider = (entropies(log_std + step, 0.4) - entropies(log_std - step, 0.4)) / (2 * step)
    shifted = (entropies(log_std, 0.4 + step) - entropies(log_std, 0.4 - step)) / (2 * step)
    torch.testing.assert_close(by_spread.double(), wider, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(by_mean.sum(0).double(), shifted, atol=1e-3, rtol=1e-3)


ODD_BOX = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([1.0, 9.0], np.float32))


@pytest.mark.parametrize(
    ("space", "squash"),
    [
        (spaces.Discrete(3, start=1), False),
        (spaces.MultiDiscrete([2, 3], start=[5, -1]), False),
        (spaces.MultiBinary(3), False),
        (ODD_BOX, False),
        (ODD_BOX, True),
    ],
    ids=["Discrete", "MultiDiscrete", "MultiBinary", "Box", "squashed Box"],
)
def test_from_env_is_the_inverse_of_to_env(space: spaces.Space, squash: bool) -> None:
    head = make_head(space, squash)
    space.seed(0)
    taken = torch.as_tensor(np.array([space.sample() for _ in range(50)]))
    stored = head.from_env(taken)
    assert stored.dtype == head.action_dtype
    torch.testing.assert_close(head.to_env(stored), taken, check_dtype=False)
    if squash:
        assert isinstance(space, spaces.Box)
        bounds = head.from_env(torch.as_tensor(np.stack([space.low, space.high])))
        assert bounds.isfinite().all()
