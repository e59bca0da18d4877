"""SAC and DroQ whose networks are worked out by the extension learn as those in torch do."""

from __future__ import annotations

import pytest
import torch

from fastrl import SAC, DroQ
from fastrl.kernels.extension import HAS_DENSE

pytestmark = pytest.mark.skipif(not HAS_DENSE, reason="no extension, or no wide vectors")


def make_agent(kind: type[SAC] = SAC, engine: str = "native", **settings) -> SAC:
    """Return an agent that can take gradient steps."""
    small = {"num_envs": 4, "per_rank_batch_size": 64, "hidden_sizes": (64, 64), "num_threads": 2}
    small = {**small, "engine": engine, **settings}
    agent = kind("Pendulum-v1", preset="none", accelerator="cpu", **small)
    agent.make_buffer()
    return agent


def take_steps(agent: SAC, num_steps: int) -> torch.Tensor:
    """Take gradient steps on made-up transitions; return the weights after them."""
    generator = torch.Generator().manual_seed(3)
    fields = [torch.randn(64, 3, generator=generator), torch.rand(64, 1, generator=generator)]
    fields += [torch.randn(64, 3, generator=generator), torch.randn(64, generator=generator)]
    fields += [torch.full((64,), 0.99)]
    noise = torch.randn(2, 64, 1, generator=generator)
    with agent.engine.learning():
        for _ in range(num_steps):
            if isinstance(agent, DroQ):
                masks = agent._target_masks, agent._online_masks
                agent._take_critic_step(*fields, *noise, *masks)
                agent._take_actor_step(*fields, *noise, *masks)
            else:
                agent._take_full_step(*fields, *noise)
    return torch.cat([agent.actor_optimizer.flat, agent.critic_optimizer.flat])


@pytest.mark.parametrize("kind", [SAC, DroQ])
def test_gradient_steps_are_those_in_torch(kind):
    mine, plain = (take_steps(make_agent(kind, x), 5) for x in ("native", "recorded"))
    torch.testing.assert_close(mine, plain, rtol=1e-3, atol=1e-5)
    assert not torch.equal(mine, plain)  # or both went the same way


def test_number_of_threads_changes_no_bit():
    sizes = {"hidden_sizes": (256, 256)}
    alone, *others = (
        take_steps(make_agent(num_threads=number, **sizes), 3) for number in (1, 2, 3)
    )
    assert all(torch.equal(alone, other) for other in others)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"precision": "bf16-mixed"}, "not in bf16-mixed"),
        ({"hidden_sizes": (1024, 8)}, "a layer of 1024 is wider than 512"),
    ],
    ids=["mixed", "wide"],
)
def test_networks_that_the_kernels_do_not_know_stay_in_torch(settings, reason):
    assert reason in make_agent(engine="auto", **settings).engine.describe()
    with pytest.raises(ValueError, match=reason):
        make_agent(**settings)


def test_critics_with_layer_norm_stay_in_torch_and_that_is_said():
    assert "no layer norm" in make_agent(DroQ).engine.describe()
