"""Every flag of PPO has an effect: on the weights, on what is logged, or it is refused."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toy_agents import WALKS, Loop, differing, make_agent, run, tensors_of

from fastrl.config.ppo import PPOConfig
from fastrl.config.run import RunConfig
from fastrl.models.distributions import GaussianHead
from fastrl.models.layers import ACTIVATIONS
from fastrl.ops.gae import gae_reference

# One other value for every flag but `share_data`, which is for several ranks (see test_ranks). All
# runs are otherwise the same, so other weights are its doing.
CHANGES: dict[str, dict[str, Any]] = {
    "num_steps": {"num_steps": 20},
    "per_rank_batch_size": {"per_rank_batch_size": 32},
    "learning_rate": {"learning_rate": 2e-3},
    "lr_schedule": {"lr_schedule": "cosine"},
    "anneal_lr": {"anneal_lr": True},
    "max_grad_norm": {"max_grad_norm": 0.01},
    "gamma": {"gamma": 0.5},
    "gae_lambda": {"gae_lambda": 0.5},
    "normalize_advantages": {"normalize_advantages": True},
    "vf_coef": {"vf_coef": 0.1},
    "ent_coef": {"ent_coef": 0.1},
    "ent_schedule": {"ent_schedule": "cosine"},
    "anneal_ent_coef": {"anneal_ent_coef": True},
    "hidden_sizes": {"hidden_sizes": (8, 4)},
    "activation_function": {"activation_function": "elu"},
    "critic_hidden_sizes": {"critic_hidden_sizes": (6,)},
    "shared_network": {"shared_network": True},
    "ortho_init": {"ortho_init": True},
    "log_std_init": {"log_std_init": -0.5},
    "state_dependent_std": {"state_dependent_std": True},
    "state_dependent_exploration": {"state_dependent_exploration": True},
    "exploration_resample_steps": {"exploration_resample_steps": 4},
    "squash_actions": {"squash_actions": True},
    "observation_normalization": {"observation_normalization": True},
    "observation_clip": {"observation_clip": 0.5},
    "observation_epsilon": {"observation_epsilon": 1.0},
    "reward_scaling": {"reward_scaling": True},
    "update_epochs": {"update_epochs": 3},
    "recompute_advantages": {"recompute_advantages": True},
    "adam_eps": {"adam_eps": 1e-2},
    "adam_beta1": {"adam_beta1": 0.5},
    "adam_beta2": {"adam_beta2": 0.9},
    "weight_decay": {"weight_decay": 0.1},
    "clip_coef": {"clip_coef": 0.001},
    "clip_schedule": {"clip_schedule": "cosine"},
    "anneal_clip_coef": {"anneal_clip_coef": True},
    "clip_vloss": {"clip_vloss": True},
    "vf_clip_coef": {"vf_clip_coef": 0.001},
    "vf_clip_rule": {"vf_clip_rule": "clipped"},
    "target_kl": {"target_kl": 1e-9},
    "kl_stop": {"kl_stop": "minibatch"},
}
# What a flag needs to be felt, in both runs: clipping at all, an entropy bonus, ...
BASES: dict[str, dict[str, Any]] = {
    "exploration_resample_steps": {"state_dependent_exploration": True},
    "anneal_clip_coef": {"clip_coef": 0.002, "clip_vloss": True},
    "anneal_ent_coef": {"ent_coef": 0.1},
    "clip_schedule": {"clip_coef": 0.002, "clip_vloss": True},
    "ent_schedule": {"ent_coef": 0.1},
    "clip_vloss": {"clip_coef": 0.002},
    "vf_clip_coef": {"clip_vloss": True},
    "vf_clip_rule": {"clip_vloss": True, "clip_coef": 0.002},
    "kl_stop": {"target_kl": 1e-9},
    "observation_clip": {"observation_normalization": True},
    "observation_epsilon": {"observation_normalization": True},
}


def test_every_flag_is_in_the_table():
    shared = {field.name for field in dataclasses.fields(RunConfig)}
    shared |= {"encoder"}  # of pixels alone: tests/test_encoders.py
    shared |= {"decoupled", "num_players", "num_trainers", "overlap"}  # tests/test_decoupled.py
    shared |= {"player_on_gpu"}
    shared |= {"freeze_normalization"}  # of a loaded agent: tests/test_normalization_settings.py
    own = [field.name for field in dataclasses.fields(PPOConfig) if field.name not in shared]
    assert [*CHANGES, "share_data"] == sorted(own, key=[*CHANGES, "share_data"].index)


def weights_after(num_updates: int = 2, **settings: Any) -> list[torch.Tensor]:
    """Return the parameters after some updates of an agent with box actions."""
    agent = make_agent("box", **settings)
    run(agent, num_updates)
    return list(agent.policy.parameters())


@pytest.mark.parametrize("name", CHANGES)
def test_flag_changes_what_is_learned(name):
    base = BASES.get(name, {})
    assert make_agent("box", **base).config != make_agent("box", **base, **CHANGES[name]).config
    before, after = weights_after(**base), weights_after(**base, **CHANGES[name])
    same_shapes = [x.shape for x in before] == [x.shape for x in after]
    assert not same_shapes or any(not torch.equal(x, y) for x, y in zip(before, after, strict=True))


@pytest.mark.parametrize("env", WALKS)
def test_normalised_advantages_change_the_loss(env):
    """In one minibatch of all rows the mean of the normalised advantages is 0, so the loss is."""
    whole = {"per_rank_batch_size": 64, "update_epochs": 1}
    raw = run(make_agent(env, **whole), 1)[0]["Loss/policy_loss"]
    normalised = run(make_agent(env, **whole, normalize_advantages=True), 1)[0]["Loss/policy_loss"]
    assert abs(raw) > 1e-3 and abs(normalised) < 1e-5


def schedules(**settings: Any) -> dict[str, list[float]]:
    """Return what is logged of the schedules over a run of four updates."""
    agent = make_agent(total_timesteps=16 * 4 * 4, **settings)
    assert agent.num_updates == 4
    metrics = run(agent, 4)
    names = ("learning_rate", "clip_coef", "ent_coef")
    return {name: [update[f"Info/{name}"] for update in metrics] for name in names}


def test_annealing_goes_from_the_full_value_to_the_last_share():
    annealed = schedules(
        learning_rate=0.4,
        anneal_lr=True,
        clip_coef=0.8,
        anneal_clip_coef=True,
        ent_coef=0.04,
        anneal_ent_coef=True,
    )
    assert annealed["learning_rate"] == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert annealed["clip_coef"] == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert annealed["ent_coef"] == pytest.approx([0.04, 0.03, 0.02, 0.01])


def test_nothing_is_annealed_unasked():
    constant = schedules(learning_rate=0.4, clip_coef=0.8, ent_coef=0.04)
    assert constant["learning_rate"] == pytest.approx([0.4] * 4)
    assert constant["clip_coef"] == pytest.approx([0.8] * 4)
    assert constant["ent_coef"] == pytest.approx([0.04] * 4)


def test_learning_rate_of_zero_changes_no_weight():
    agent = make_agent(learning_rate=0.0)
    before = tensors_of(agent)
    run(agent)
    changed = differing(before, tensors_of(agent))
    assert not [name for name in changed if name.startswith("policy.")]


def first_step(**settings: Any) -> tuple[float, float]:
    """Return the gradient's norm, as Adam got it and as it is logged, of one step."""
    agent = make_agent(per_rank_batch_size=64, update_epochs=1, **settings)
    (metrics,) = run(agent, 1)
    mean = agent.state_dict()["optimizer"]["mean"]  # a tenth of the only gradient so far
    return 10 * mean.norm().item(), metrics["Gradients/grad_norm"]


def test_gradient_norm_is_bounded_and_logged_as_it_was():
    got, logged = first_step(max_grad_norm=0.25)
    assert got == pytest.approx(0.25, rel=1e-4)
    assert logged > 0.5


def test_small_gradient_is_left_alone():
    got, logged = first_step(max_grad_norm=1e6)
    assert got == pytest.approx(logged, rel=1e-4)


def test_gradient_norm_of_zero_bounds_nothing():
    got, logged = first_step(max_grad_norm=0.0)
    assert got == pytest.approx(logged, rel=1e-4)
    assert logged > 0.5


def num_epochs(**settings: Any) -> float:
    """Return how many epochs of two minibatches one update took."""
    agent = make_agent(per_rank_batch_size=32, update_epochs=5, **settings)
    run(agent, 1)
    return agent.state_dict()["optimizer"]["steps"].item() / 2


def test_target_kl_ends_the_update_after_the_epoch_that_exceeds_it():
    fast = {"learning_rate": 0.05}
    assert num_epochs(**fast) == 5
    assert num_epochs(**fast, target_kl=1e9) == 5
    assert num_epochs(**fast, target_kl=1e-9) == 1
    assert 1 < num_epochs(**fast, target_kl=0.05) < 5


def test_metrics_of_an_update_that_ended_early_are_means():
    whole = {"learning_rate": 0.05, "per_rank_batch_size": 32}
    early = run(make_agent(**whole, update_epochs=5, target_kl=1e-9), 1)
    assert early == run(make_agent(**whole, update_epochs=1), 1)


def test_clipped_value_loss_is_not_below_the_plain_one():
    settings = {"learning_rate": 0.02, "clip_coef": 0.05, "per_rank_batch_size": 64}
    plain = run(make_agent(**settings), 1)[0]["Loss/value_loss"]
    clipped = run(make_agent(**settings, clip_vloss=True), 1)[0]["Loss/value_loss"]
    assert clipped > plain


def test_entropy_bonus_keeps_the_policy_wide():
    settings = {"learning_rate": 0.02, "update_epochs": 6}
    narrow, wide = (
        run(make_agent(**settings, ent_coef=coefficient))[-1]["Loss/entropy_loss"]
        for coefficient in (0.0, 10.0)
    )
    assert wide < narrow  # the entropy's negative
    assert wide == pytest.approx(-np.log(3), abs=0.01)


def test_value_loss_of_weight_zero_teaches_the_critic_nothing():
    agent = make_agent(vf_coef=0.0)
    before = tensors_of(agent)
    run(agent)
    changed = differing(before, tensors_of(agent))
    assert not [name for name in changed if "policy.critic" in name or "policy.value_head" in name]
    assert [name for name in changed if "policy.actor" in name]


@pytest.mark.parametrize("name", ["relu", "tanh", "elu"])
def test_networks_are_built_as_asked_for(name):
    policy = make_agent(hidden_sizes=(5, 7), activation_function=name).policy
    assert policy.critic is not None
    for trunk in (policy.actor, policy.critic):
        layers = list(trunk)
        assert [type(layer) for layer in layers] == [nn.Linear, ACTIVATIONS[name]] * 2
        sizes = [layer.out_features for layer in layers if isinstance(layer, nn.Linear)]
        assert sizes == [5, 7]


def test_shared_network_saves_one_trunk():
    def size(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    separate, shared = make_agent().policy, make_agent(shared_network=True).policy
    assert size(separate) - size(shared) == size(separate.actor)


@pytest.mark.parametrize("squash", [False, True])
def test_environment_gets_actions_within_its_bounds(squash):
    agent = make_agent("box", squash_actions=squash)
    assert isinstance(agent.policy.head, GaussianHead)
    with torch.no_grad():
        agent.policy.head.log_std.fill_(1.0)
    loop = Loop(agent)
    loop.collect()  # the walk itself refuses an action beyond its bounds
    assert loop.buffer.actions.abs().max() > 2
    within = agent.policy.head.to_env(loop.buffer.actions.flatten(0, 1)).numpy()
    assert all(agent.action_space.contains(action) for action in within)
    low, high = agent.policy.head.low.numpy(), agent.policy.head.high.numpy()
    at_the_bound = ((within <= low) | (within >= high)).mean()
    assert at_the_bound > 0.5 if not squash else at_the_bound < 0.5


@pytest.mark.parametrize("env", ["discrete", "multidiscrete"])
@pytest.mark.parametrize("change", [{"squash_actions": True}, {"log_std_init": -1.0}])
def test_settings_of_box_actions_are_refused_without_them(env, change):
    with pytest.raises(ValueError, match=f"{next(iter(change))} has no effect on"):
        make_agent(env, **change)


def test_actions_spread_at_first_as_the_initial_deviation_says():
    loop = Loop(make_agent("box", log_std_init=-3.0, num_steps=200, total_timesteps=2400))
    loop.collect()
    obs, actions = loop.buffer.obs[:-1].flatten(0, 1), loop.buffer.actions.flatten(0, 1)
    policy = loop.agent.policy
    with torch.no_grad():
        noise = actions - policy.head(policy.actor(policy.read(obs).vector))
    assert noise.std(0).log().tolist() == pytest.approx([-3.0, -3.0], abs=0.1)


@pytest.mark.parametrize("scaling", [False, True])
def test_recomputed_advantages_are_those_of_the_critic_before_each_epoch(scaling):
    loop = Loop(
        make_agent(recompute_advantages=True, update_epochs=3, reward_scaling=scaling, gamma=0.9)
    )
    buffer, policy = loop.buffer, loop.agent.policy
    deal, seen = buffer.minibatches, []

    def watched(*key: int, **how: Any) -> Any:
        """Compare, just before an epoch, with a plain recursion over the critic as it is."""
        with torch.no_grad():
            values = torch.stack([policy.value(obs) for obs in buffer.obs])
        scale = loop.agent.reward_scale
        rewards = buffer.rewards if scale is None else scale(buffer.rewards)
        ends = buffer.terminated, buffer.truncated
        expected = gae_reference(rewards, values, *ends, 0.9, 0.95)
        torch.testing.assert_close(buffer.advantages, expected)
        torch.testing.assert_close(buffer.returns, expected + values[:-1])
        seen.append((buffer.advantages.clone(), buffer.log_probs.clone()))
        return deal(*key, **how)

    buffer.minibatches = watched
    loop.run(1)
    advantages, log_probs = zip(*seen, strict=True)
    assert len(seen) == 3 and not torch.equal(advantages[0], advantages[2])
    assert torch.equal(log_probs[0], log_probs[2])  # still those of the policy that acted


def test_observations_are_normalised_by_what_was_seen():
    loop = Loop(make_agent(observation_normalization=True))
    kept = []
    for _ in range(3):
        loop.collect()
        kept.append(loop.buffer.obs[:-1][loop.buffer.valid].clone())
        loop.update()
    normalizer, rows = loop.agent.policy.normalizer, torch.cat(kept).double()
    assert normalizer is not None and normalizer.count.item() == len(rows)
    torch.testing.assert_close(normalizer.mean, rows.mean(0))
    torch.testing.assert_close(normalizer.variance, rows.var(0, correction=0))


def test_rewards_are_scaled_for_learning_only():
    loop = Loop(make_agent(reward_scaling=True, gamma=0.0))
    loop.collect()
    loop.buffer.host_rewards.mul_(1000)
    rewards = loop.buffer.rewards.clone()
    loop.update()
    scale = loop.agent.reward_scale
    assert scale is not None and torch.equal(loop.buffer.rewards, rewards)
    # Without discounting ahead the return of a row is its reward.
    seen = rewards[loop.buffer.valid]
    torch.testing.assert_close(scale.variance.float(), seen.var(correction=0))
    torch.testing.assert_close(
        loop.buffer.returns[loop.buffer.valid], seen / seen.std(correction=0), rtol=1e-4, atol=1e-4
    )
