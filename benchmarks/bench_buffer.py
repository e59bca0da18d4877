"""The rollout buffer: a step recorded, and all rows dealt into minibatches, beside plain indexing.

64 environments, 128 steps, 8 observations, 4 minibatches.
"""

from __future__ import annotations

import gymnasium
import numpy as np
import torch

from fastrl.buffers.rollout import RolloutBuffer

T, N, O, M = 128, 64, 8, 4  # noqa: E741


def make_buffer() -> RolloutBuffer:
    space = gymnasium.spaces.Box(-np.inf, np.inf, (O,), np.float32)
    sizes = (T, N, space, (), torch.int64, 1, T * N // M)
    return RolloutBuffer(*sizes, device=torch.device("cpu"))


def test_record_a_step(compare):
    buffer, plain = make_buffer(), make_buffer()
    chance = np.random.default_rng(0)
    obs = chance.random((N, O), np.float32)
    rewards, ends = chance.random(N, np.float32), np.zeros(N, bool)
    step = obs, rewards, ends, ends

    def record_plainly() -> None:
        last, reward, terminated, truncated = map(torch.from_numpy, step)
        plain.obs[4] = last
        plain.host_rewards[3], plain.host_valid[4] = reward, ~(terminated | truncated)
        plain.host_terminated[3], plain.host_truncated[3] = terminated, truncated
        plain.episode_returns += reward
        plain.episode_lengths += 1
        assert reward.isfinite().all() and last.isfinite().all()
        if (terminated | truncated).any():
            raise NotImplementedError("no episode ends here")

    assert buffer.record(3, 0, *step) == -1
    record_plainly()
    assert buffer.obs.equal(plain.obs) and buffer.host_rewards.equal(plain.host_rewards)
    assert buffer.episode_returns.equal(plain.episode_returns)
    ours = lambda: buffer.record(3, 0, *step)  # noqa: E731
    compare(f"record a step of {N} environments", ours, record_plainly, "steps", N)


def test_deal_minibatches(compare):
    buffer = make_buffer()
    for field in (buffer.obs, buffer.log_probs, buffer.values, buffer.advantages, buffer.returns):
        field.normal_()
    buffer.actions.random_(0, 4)
    buffer.host_valid[:-1] = torch.rand(T, N) > 0.01
    fields = [x.flatten(0, 1) for x in buffer.sources()]

    def deal_plainly() -> list[list[torch.Tensor]]:
        rows = buffer.host_valid[:-1].flatten().nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows))]
        return [[field[part] for field in fields] for part in rows.chunk(M)]

    ours = [batch.returns[batch.weights > 0] for batch in buffer.minibatches(0)]
    plain = [batch[-1] for batch in deal_plainly()]
    assert torch.cat(ours).sort().values.equal(torch.cat(plain).sort().values)
    work = f"deal {T * N} rows into {M} minibatches"
    compare(work, lambda: buffer.minibatches(0), deal_plainly, "rows", T * N)
