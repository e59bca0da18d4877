"""The replay ring: what is drawn is what was played, resets, time limits, wrap-around, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces

from fastrl.buffers.replay import ReplayBuffer, StepsBuffer

BOX = spaces.Box(-np.inf, np.inf, (2,), np.float32)
CPU = torch.device("cpu")
GAMMA = 0.9


class Row(NamedTuple):
    """One transition as a plain list keeps it."""

    obs: tuple[float, ...]
    action: float
    next_obs: tuple[float, ...]
    rewards: tuple[float, ...]
    """This one and, oldest first, those after it that an n-step sum may take."""
    discount: float


class World:
    """Two envs whose observation [env, time] names the row; played into a buffer and a list."""

    def __init__(
        self, num_steps: int = 1, num_envs: int = 2, seed: int = 0, start: int = 0
    ) -> None:
        self.steps = StepsBuffer(num_steps, num_envs, BOX, (1,), torch.float32, 1, num_steps, CPU)
        self.num_envs, self.time, self.start = num_envs, start, start
        self.random = np.random.default_rng(seed)
        self.steps.start(self.obs(), 0)
        self.valid = np.ones(num_envs, np.bool_)
        self.history: list[list[dict[str, Any]]] = [[] for _ in range(num_envs)]

    def obs(self) -> np.ndarray:
        return np.array([[env, self.time] for env in range(self.num_envs)], np.float32)

    def collect(self) -> StepsBuffer:
        """Plays num_steps vector steps; episodes end at random, half of them for good."""
        if self.time > self.start:
            self.steps.carry_over()
        for t in range(self.steps.num_steps):
            actions = self.random.random((self.num_envs, 1), np.float32)
            self.steps.actions[t] = torch.from_numpy(actions)
            before, self.time = self.obs(), self.time + 1
            ended = (self.random.random(self.num_envs) < 0.3) & self.valid
            terminated = ended & (self.random.random(self.num_envs) < 0.5)
            rewards = self.random.random(self.num_envs, np.float32) * self.valid
            self.steps.record(t, 0, self.obs(), rewards, terminated, ended & ~terminated)
            for env, rows in enumerate(self.history):
                rows.append(
                    {
                        "obs": tuple(before[env].tolist()),
                        "action": float(actions[env, 0]),
                        "next_obs": tuple(self.obs()[env].tolist()),
                        "reward": float(rewards[env]),
                        "terminated": bool(terminated[env]),
                        "done": bool(ended[env]),
                        "valid": bool(self.valid[env]),
                    }
                )
            self.valid = ~ended
        self.steps.take_episodes()
        return self.steps

    def plain(self, num_rows: int, num_return_steps: int = 1) -> set[Row]:
        """The transitions of the newest rows, by a loop."""
        found = set()
        for rows in self.history:
            for first in range(max(0, len(rows) - num_rows), len(rows)):
                if not rows[first]["valid"]:
                    continue
                last = first
                while (
                    last + 1 < len(rows)
                    and not rows[last]["done"]
                    and last + 1 - first < num_return_steps
                ):
                    last += 1
                taken = rows[first : last + 1]
                found.add(
                    Row(
                        taken[0]["obs"],
                        taken[0]["action"],
                        taken[-1]["next_obs"],
                        tuple(row["reward"] for row in taken),
                        0 if taken[-1]["terminated"] else GAMMA ** len(taken),
                    )
                )
        return found


def ring(capacity: int, num_return_steps: int = 1, batch_size: int = 64, **kind: Any):
    space = kind.pop("space", BOX)
    sizes = (kind.pop("num_envs", 2), space, 1, batch_size)
    return ReplayBuffer(capacity, *sizes, GAMMA, num_return_steps, CPU)


def test_draws_do_not_depend_on_the_room_that_a_ring_has_at_first():
    found = []
    for num_expected in (None, 50):
        world = World()
        replay = ReplayBuffer(1000, 2, BOX, 1, 64, GAMMA, 1, CPU, num_expected)
        for _ in range(20):
            replay.append(world.collect())
        found.append(replay.draw(4, 64, torch.Generator().manual_seed(1)))
    assert torch.equal(*found)


@pytest.mark.parametrize("num_collected", [0, 7, 20, 31])
def test_reserve_keeps_what_is_stored_and_makes_room_up_to_the_capacity(num_collected):
    world, replay = World(), ReplayBuffer(120, 2, BOX, 1, 64, GAMMA, 1, CPU, 40)
    for _ in range(num_collected):
        replay.append(world.collect())
    kept = replay.state_dict()
    replay.reserve(10_000)
    assert replay.num_rows == replay.most_rows == 61
    assert all(torch.equal(kept[name], value) for name, value in replay.state_dict().items())


def test_ring_takes_in_a_state_that_is_larger_than_was_expected():
    world, large = World(), ring(40)
    for _ in range(20):
        large.append(world.collect())
    small = ReplayBuffer(40, 2, BOX, 1, 64, GAMMA, 1, CPU, 4)
    small.load_state_dict(large.state_dict())
    assert small.num_transitions == large.num_transitions


def test_memory_is_taken_as_rows_come_in():
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    space = spaces.Box(-1, 1, (500,), np.float32)
    before = resident()
    replay = ReplayBuffer(400_000, 1, space, 1, 64, GAMMA, 1, CPU)
    assert replay.obs.numel() * 4 == 800_002_000
    assert resident() - before < 2**24


@pytest.mark.parametrize("shape", [(10**6,), (84, 84, 400)])
def test_ring_that_no_memory_can_hold_is_refused_with_its_size(shape):
    space = spaces.Box(0, 255, shape, np.float32)
    with pytest.raises(ValueError, match=r"1,000,001 transitions takes [\d,.]+ GiB; this machine"):
        ReplayBuffer(10**6, 1, space, 1, 4, GAMMA, 1, CPU)


def drawn(replay: ReplayBuffer, num_batches: int = 60) -> set[tuple[float, ...]]:
    """All that comes up in many draws, one flat tuple a transition."""
    found: set[tuple[float, ...]] = set()
    for rows in replay.draw(num_batches, 64, torch.Generator().manual_seed(1)):
        fields = [x.reshape(64, -1).double() for x in replay.gather(rows)]
        found |= {tuple(row) for row in torch.cat(fields, 1).tolist()}
    return found


def rounded(rows: set[Any]) -> list[tuple[float, ...]]:
    return sorted(tuple(round(value, 5) for value in row) for row in rows)


def flat(rows: set[Row]) -> set[tuple[float, ...]]:
    def total(rewards: tuple[float, ...]) -> float:
        return sum(GAMMA**k * reward for k, reward in enumerate(rewards))

    return {(*row.obs, row.action, *row.next_obs, total(row.rewards), row.discount) for row in rows}


@pytest.mark.parametrize("num_return_steps", [1, 3])
@pytest.mark.parametrize("num_collected", [1, 7, 20, 31, 57])
def test_draws_are_the_transitions_that_a_plain_list_keeps(num_collected, num_return_steps):
    world, replay = World(), ring(40, num_return_steps)
    for _ in range(num_collected):
        replay.append(world.collect())
    assert rounded(drawn(replay)) == rounded(flat(world.plain(20, num_return_steps)))


@pytest.mark.parametrize("num_steps", [3, 4, 19])
def test_many_steps_at_once_are_stored_as_one_by_one(num_steps):
    """Also where a block of steps goes over the end of the ring."""
    world, replay = World(num_steps), ring(40)
    for _ in range(12):
        replay.append(world.collect())
        assert rounded(drawn(replay)) == rounded(flat(world.plain(20)))


def test_newest_transition_can_be_drawn():
    world, replay = World(), ring(1000)
    for _ in range(5):
        replay.append(world.collect())
        newest = {row for row in flat(world.plain(1))}
        assert {row[:2] for row in newest} <= {row[:2] for row in drawn(replay)}


def test_reset_row_is_never_drawn():
    world, replay = World(seed=3), ring(1000)
    for _ in range(200):
        replay.append(world.collect())
    invalid = {row["obs"] for rows in world.history for row in rows if not row["valid"]}
    assert len(invalid) > 50
    assert not invalid & {row[:2] for row in drawn(replay)}


def test_draws_are_uniform_over_the_transitions():
    world, replay = World(seed=1), ring(60)
    for _ in range(100):
        replay.append(world.collect())
    rows = replay.draw(1000, 64, torch.Generator().manual_seed(0)).flatten()
    counts = rows.bincount(minlength=replay.num_rows * replay.num_envs)
    valid = counts[counts > 0].double()
    assert len(valid) == len(world.plain(30))
    expected = 64_000 / len(valid)
    # Chi-squared of k - 1 degrees of freedom: mean k - 1, standard deviation sqrt(2 (k - 1)).
    statistic = ((valid - expected) ** 2 / expected).sum()
    assert abs(statistic - len(valid) + 1) < 5 * np.sqrt(2 * len(valid))


def test_observation_is_stored_once_and_as_it_is():
    pixels = spaces.Box(0, 255, (3, 8, 8), np.uint8)
    replay = ring(100, space=pixels)
    assert replay.obs.dtype == torch.uint8
    assert replay.obs.numel() == (100 + 2) * 3 * 8 * 8  # one row more an env: the next observation
    other = [x for x in vars(replay).values() if isinstance(x, torch.Tensor) and x.ndim < 4]
    assert sum(x.numel() * x.element_size() for x in other) < 100 * 20 + 64 * 20


@pytest.mark.parametrize("num_collected", [4, 35])
@pytest.mark.parametrize("capacity", [40, 60])
def test_state_goes_into_a_ring_of_the_same_or_larger_size(num_collected, capacity):
    world, replay = World(), ring(40)
    for _ in range(num_collected):
        replay.append(world.collect())
    copy = ring(capacity)
    copy.load_state_dict(replay.state_dict())
    draw = [x.draw(3, 64, torch.Generator().manual_seed(5)) for x in (replay, copy)]
    for mine, other in zip(*draw, strict=True):
        for x, y in zip(replay.gather(mine), copy.gather(other), strict=True):
            assert torch.equal(x, y)


def test_state_goes_into_a_smaller_ring_as_its_newest_rows():
    world, replay = World(), ring(60)
    for _ in range(25):
        replay.append(world.collect())
    copy = ring(20)
    copy.load_state_dict(replay.state_dict())
    assert rounded(drawn(copy)) == rounded(flat(world.plain(10)))


def test_state_of_another_number_of_environments_is_refused():
    one = ring(40, num_envs=1)  # broadcasting would fit it into two
    one.append(World(num_envs=1).collect())
    with pytest.raises(ValueError, match="has 1 environments, not 2"):
        ring(40).load_state_dict(one.state_dict())


@pytest.mark.parametrize("is_resumed", [False, True])
@pytest.mark.parametrize("num_return_steps", [1, 3])
def test_no_transition_leads_from_before_a_restart_to_after_it(num_return_steps, is_resumed):
    before, after = World(seed=1), World(seed=2, start=100)
    replay = ring(1000, num_return_steps)
    for _ in range(9):
        replay.append(before.collect())
    if is_resumed:  # from a checkpoint that was saved before the first of the new steps
        saved = after.steps.state_dict()
        after.steps = World(start=100).steps
        after.steps.is_restarted.fill_(False)
        after.steps.load_state_dict(saved)
    for _ in range(9):
        replay.append(after.collect())
    wanted = before.plain(9, num_return_steps) | after.plain(9, num_return_steps)
    assert rounded(drawn(replay)) == rounded(flat(wanted))


def test_torch_twin_gathers_the_same(monkeypatch):
    from fastrl.buffers import replay as module
    from fastrl.kernels import indexing

    world, fast = World(), ring(40)
    monkeypatch.setattr(module, "RowGather", indexing.TorchRowGather)
    slow = ring(40)
    for _ in range(30):
        fast.append(world.collect())
    slow.load_state_dict(fast.state_dict())
    assert rounded(drawn(fast)) == rounded(drawn(slow))
