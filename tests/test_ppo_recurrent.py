"""Recurrent PPO: states reset exactly where episodes begin, exact values, memory that learns."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from quick import quick
from ranks import run_ranks
from toy_agents import WALKS, Loop, differing, make_recurrent, run, tensors_of
from toy_envs import EndlessEnv, ToyEnv

from fastrl import PPORecurrent
from fastrl.agents.load import find_saved, load_agent
from fastrl.envs.make import make_env
from fastrl.training.agent import HasMemory
from fastrl.training.greedy import evaluate_agent


class RecallEnv(ToyEnv):
    """Shows a sign on the first step only; each later step rewards the action that names it.

    Five steps; even seeds terminate, odd ones are cut.
    """

    observation_space: Any = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super(ToyEnv, self).reset(seed=seed)
        self.sign = int(self.np_random.integers(2))
        return super().reset(seed=seed)

    def observation(self) -> np.ndarray:
        return np.array([self.sign * 2 - 1 if self.num_steps == 0 else 0], np.float32)

    def outcome(self, action: Any) -> tuple[float, bool, bool]:
        ended, even = self.num_steps == 5, self.seed % 2 == 0
        reward = float(action == self.sign) if self.num_steps > 1 else 0.0
        return reward, ended and even, ended and not even


def replayed(agent: PPORecurrent, buffer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probabilities `[T, N]` and values `[T + 1, N]` by a plain loop over the rows."""
    log_probs, values = torch.zeros_like(buffer.log_probs), torch.zeros_like(buffer.values)
    with torch.no_grad():
        for n in range(buffer.num_envs):
            state = buffer.states[0, n : n + 1]
            for t in range(buffer.num_steps + 1):
                if t and not buffer.host_valid[t - 1, n]:  # the row before was a reset row
                    state = agent.new_state(1)
                features, memory = agent.policy.step(buffer.obs[t, n : n + 1], state)
                values[t, n] = agent.policy.value(features)
                if t < buffer.num_steps:
                    actions = buffer.actions[t, n : n + 1]
                    log_probs[t, n] = agent.policy.evaluate_features(features, actions)[0]
                    state = agent.policy.remember(memory, actions)
    return log_probs, values


VARIANTS: dict[str, dict[str, Any]] = {
    "lstm": {},
    "gru": {"rnn": "gru"},
    "two memories": {"shared_network": False},
    "previous action": {"previous_action": True},
}


def test_a_second_training_is_recorded_as_the_first_was():
    """`policy.step` is a part of acting; what the agent's own `step` was before is not."""
    agent = make_recurrent(engine="recorded")
    for _ in range(2):
        run(agent, 2)
        assert agent.engine._built and all(built.fast for built in agent.engine._built)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("env", quick(WALKS, "box"))
def test_acting_and_judging_equal_a_plain_loop_that_resets_states(env, variant):
    """Over three rollouts, so that states are carried from one to the next."""
    loop = Loop(make_recurrent(env, num_pools=2, **VARIANTS[variant]))
    for _ in range(3):
        loop.collect()
        loop.agent.compute_advantages(loop.buffer)
        buffer = loop.buffer
        assert buffer.num_valid < buffer.valid.numel()
        log_probs, values = replayed(loop.agent, buffer)
        torch.testing.assert_close(buffer.log_probs, log_probs, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(buffer.values, values, rtol=1e-4, atol=1e-5)
        loop.num_updates += 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_state_is_zero_only_where_an_episode_begins(variant):
    loop = Loop(make_recurrent(**VARIANTS[variant]))
    loop.collect()
    begins = torch.cat([torch.ones(1, 4, dtype=torch.bool), ~loop.buffer.host_valid[:-1]])
    is_zero = (loop.buffer.states == 0).all(-1)
    assert torch.equal(is_zero, begins) and begins[1:].any()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("env", quick(WALKS, "box"))
def test_sequences_give_the_ratios_of_the_policy_that_acted(env, variant):
    """The first minibatch's ratios are 1: padded sequences and single steps agree."""
    one = {"update_epochs": 1, "per_rank_batch_size": 64, "num_steps": 8, "sequence_length": 8}
    one |= {"num_envs": 8, "learning_rate": 0.0, "observation_normalization": True}
    loop = Loop(make_recurrent(env, **one, **VARIANTS[variant]))
    for metrics in loop.run(3):
        assert metrics["Info/approx_kl"] == pytest.approx(0, abs=1e-6)
        assert metrics["Info/clip_fraction"] == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_of_sequences_equals_that_of_a_loop_over_rows(variant):
    """Truncated at the sequences' first states, row by row, resets by hand."""
    agent = make_recurrent(vf_coef=0.5, ent_coef=0.1, **VARIANTS[variant])
    loop = Loop(agent)
    loop.collect()
    agent.compute_advantages(loop.buffer)
    batch = loop.buffer.minibatches(0)[0]
    length, count = agent.config.sequence_length, len(batch.states)
    gradient, _ = agent.step.gradient_of_loss(batch)

    def stepwise(_: Any) -> tuple[torch.Tensor, ...]:
        state, parts = batch.states, []
        for t in range(length):
            rows = slice(t * count, (t + 1) * count)
            features, memory = agent.policy.step(batch.obs[rows], state)
            parts.append(agent.policy.evaluate_features(features, batch.actions[rows]))
            state = agent.policy.remember(memory, batch.actions[rows])
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))

    agent.evaluate_actions = stepwise
    expected, _ = agent.step.gradient_of_loss(batch)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("rnn", quick(["lstm", "gru"], "lstm"))
@pytest.mark.parametrize("num_threads", quick([1, 2], 2))
def test_recorded_run_equals_the_eager_one_to_the_bit(rnn, num_threads):
    settings = {"rnn": rnn, "previous_action": True, "num_pools": 2, "num_threads": num_threads}
    eager, recorded = (make_recurrent(engine=mode, **settings) for mode in ("eager", "recorded"))
    assert run(eager) == run(recorded)
    assert not differing(tensors_of(eager), tensors_of(recorded))


@pytest.mark.parametrize("env", quick([*WALKS, "CartPole-v1"], "box", "CartPole-v1"))
def test_one_seed_gives_one_result(env):
    first, second = make_recurrent(env), make_recurrent(env)
    assert run(first) == run(second)
    assert not differing(tensors_of(first), tensors_of(second))


GAMMA, LIMIT = 0.9, 5


def test_time_limit_bootstraps_from_the_old_episode_s_state():
    """Reward 1 for ever, cut every five steps: the value of the end is not that of a beginning."""
    env = make_env("toy_envs:EndlessEnv", 4, env_kwargs={"time_limit": LIMIT})
    assert EndlessEnv().observation().all()
    loop = Loop(make_recurrent(env, gamma=GAMMA))
    loop.collect()
    agent, buffer = loop.agent, loop.buffer
    agent.compute_advantages(buffer)
    t, n = (int(x[0]) for x in buffer.truncated.nonzero(as_tuple=True))
    features, _ = agent.policy.step(buffer.obs[t + 1, n : n + 1], buffer.states[t + 1, n : n + 1])
    of_the_end = agent.policy.value(features).item()
    fresh, _ = agent.policy.step(buffer.obs[t + 1, n : n + 1], agent.new_state(1))
    assert buffer.values[t + 1, n].item() == pytest.approx(of_the_end, abs=1e-6)
    assert abs(of_the_end - agent.policy.value(fresh).item()) > 1e-3
    target = buffer.rewards[t, n] + GAMMA * of_the_end
    assert buffer.returns[t, n].item() == pytest.approx(target.item(), abs=1e-5)


def test_value_of_an_endless_task_is_learned():
    env = make_env("toy_envs:EndlessEnv", 4, env_kwargs={"time_limit": LIMIT})
    settings = {"gamma": GAMMA, "learning_rate": 0.02, "update_epochs": 6, "anneal_lr": True}
    settings |= {"num_steps": 24, "total_timesteps": 96 * 30, "max_grad_norm": 0.0}
    agent = make_recurrent(env, engine="recorded", **settings)
    loop = Loop(agent)
    loop.run(agent.num_updates)
    values = loop.buffer.values[:-1][loop.buffer.valid]
    assert values.mean().item() == pytest.approx(1 / (1 - GAMMA), rel=0.05)


def recalling(**settings: Any) -> PPORecurrent:
    """Return an agent that has trained where only memory helps."""
    small = {"learning_rate": 0.02, "update_epochs": 4, "total_timesteps": 8 * 32 * 25}
    small |= {"num_envs": 8, "num_steps": 32, "per_rank_batch_size": 128, "hidden_sizes": (16,)}
    small |= {"normalize_advantages": True, "engine": "recorded", "gamma": 0.9}
    agent = make_recurrent("test_ppo_recurrent:RecallEnv", **{**small, **settings})
    run(agent, 25)
    return agent


@pytest.mark.parametrize("rnn", quick(["lstm", "gru"], "lstm"))
def test_memory_is_learned_and_kept_per_environment_in_a_greedy_test(rnn):
    """Five steps, the last four of them answered right; 20 episodes in 7 environments at once."""
    agent = recalling(rnn=rnn)
    result = evaluate_agent(agent, 20, 0)
    assert result is not None and len(result.returns) == 20
    assert result.mean > 3.9


def test_prediction_with_a_state_remembers_and_without_one_does_not():
    agent = make_recurrent()
    obs, later = np.ones((3, 2), np.float32), np.zeros((3, 2), np.float32)
    state = agent.new_state(3)
    agent.predict(obs, state=state)
    after = state.clone()
    assert after.abs().sum() > 0
    agent.predict(later, state=state)
    assert not torch.equal(after, state)
    one = agent.new_state(1)
    assert agent.predict(obs[0], state=one).shape == ()
    torch.testing.assert_close(one, after[:1])
    agent.predict(later)  # begins anew, and leaves nothing behind
    with pytest.raises(ValueError, match="expected a state of shape"):
        agent.predict(obs, state=agent.new_state(2))


@pytest.mark.parametrize("env", WALKS)
@pytest.mark.parametrize("deterministic", [True, False])
def test_prediction_is_an_action_of_the_space(env, deterministic):
    agent = make_recurrent(env, previous_action=True)
    many = agent.predict(np.random.default_rng(0).normal(size=(50, 2)), deterministic)
    assert all(agent.action_space.contains(action) for action in many)


def test_saved_agent_is_found_by_its_algorithm_and_predicts_as_before(tmp_path):
    agent = make_recurrent("box", previous_action=True, observation_normalization=True)
    run(agent)
    agent.save(tmp_path / "agent.pt")
    loaded: Any = load_agent(find_saved(tmp_path / "agent.pt"))
    assert isinstance(loaded, PPORecurrent) and isinstance(loaded, HasMemory)
    assert not differing(tensors_of(agent), tensors_of(loaded))
    states = agent.new_state(5), loaded.new_state(5)
    for _ in range(3):
        obs = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
        wanted, got = agent.predict(obs, state=states[0]), loaded.predict(obs, state=states[1])
        np.testing.assert_array_equal(got, wanted)


OWN_FLAGS: dict[str, dict[str, Any]] = {
    "rnn": {"rnn": "gru"},
    "sequence_length": {"sequence_length": 4},
    "previous_action": {"previous_action": True},
    "shared_network": {"shared_network": False},
    "hidden_sizes": {"hidden_sizes": (8, 4)},
}


@pytest.mark.parametrize("name", OWN_FLAGS)
def test_flag_changes_what_is_learned(name):
    agents = [make_recurrent(), make_recurrent(**OWN_FLAGS[name])]
    for agent in agents:
        run(agent, 2)
    before, after = (list(agent.policy.parameters()) for agent in agents)
    same_shapes = [x.shape for x in before] == [x.shape for x in after]
    assert not same_shapes or any(not torch.equal(x, y) for x, y in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rnn": "rnn"}, "rnn must be one of"),
        ({"sequence_length": 32}, "sequence_length=32 is longer than a rollout"),
        ({"per_rank_batch_size": 20}, "must be a multiple of sequence_length=8"),
        ({"share_data": True, "devices": 2}, "share_data is not offered"),
        ({"recompute_advantages": True}, "recompute_advantages is not offered"),
    ],
)
def test_setting_without_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_recurrent(**settings)


def test_mixed_precision_leaves_the_memory_and_the_heads_alone():
    agent = make_recurrent(precision="bf16-mixed", engine="recorded", previous_action=True)
    exact = make_recurrent(engine="recorded", previous_action=True)
    for got, wanted in zip(run(agent), run(exact), strict=True):
        assert got["Loss/value_loss"] == pytest.approx(wanted["Loss/value_loss"], rel=0.05)


def test_minibatches_of_an_update_follow_the_number_of_sequences():
    """Many short episodes make many sequences; the shapes, and so the recording, stay the same."""
    agent = make_recurrent(engine="recorded", update_epochs=1)
    loop = Loop(agent)
    counts = []
    for _ in range(3):
        loop.collect()
        counts.append(len(loop.buffer.minibatches(0)))
        loop.update()
    assert min(counts) > 2  # 64 rows in sequences of 8 would fill two minibatches of 32


def on_a_rank() -> tuple[np.ndarray, list[float], float]:
    """Return weights and losses of one of two ranks, and how many steps its optimiser took."""
    agent = make_recurrent(devices=2, normalize_advantages=True, total_timesteps=16 * 4 * 2 * 3)
    losses = [metrics["Loss/value_loss"] for metrics in run(agent)]
    return agent.optimizer.flat.numpy(), losses, tensors_of(agent)["optimizer.steps"].item()


@pytest.mark.slow
def test_ranks_stay_equal_though_other_episodes_end_on_each():
    first, second = run_ranks(2, on_a_rank)
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1:] == second[1:] and np.isfinite(first[0]).all()
