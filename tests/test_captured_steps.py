"""Updates become CUDA graphs on a GPU. Shown on a CPU: what would be captured is the whole step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toy_agents import Loop, make_a2c, make_agent, make_agent_of, make_recurrent

from fastrl.droq import DroQ
from fastrl.engine import recording
from fastrl.engine.recording import Recording
from fastrl.sac import SAC

OFF_POLICY = {"learning_starts": 8, "buffer_size": 64, "num_steps": 1, "per_rank_batch_size": 8}
STEPS: dict[str, Any] = {
    "ppo": (make_agent, lambda agent: [agent.step._run]),
    "a2c": (make_a2c, lambda agent: [agent.step._add, agent.step._apply]),
    "ppo_recurrent": (make_recurrent, lambda agent: [agent.step._run]),
    "sac": (
        lambda **s: make_agent_of(SAC, "box", **OFF_POLICY, **s),
        lambda agent: [agent._take_full_step],
    ),
    "droq": (
        lambda **s: make_agent_of(DroQ, "box", **OFF_POLICY, **s),
        lambda agent: [agent._take_critic_step, agent._take_actor_step],
    ),
}


@pytest.mark.parametrize("algo", STEPS)
def test_every_function_of_an_update_is_captured(algo, monkeypatch):
    """A node that only Python can run would send the step to TorchScript's interpreter instead."""
    captured: list[Any] = []

    class Captured:
        def __init__(self, function: Any, *_: Any) -> None:
            captured.append(function)

        def __call__(self, *arguments: torch.Tensor) -> Any:
            return captured[-1](*arguments)

    monkeypatch.setattr(recording, "CapturedGraph", Captured)
    monkeypatch.setattr(Recording, "scripted", Recording.captured)
    make, steps_of = STEPS[algo]
    agent = make(engine="recorded")
    Loop(agent)
    steps = steps_of(agent)
    assert all(isinstance(step.fast, Captured) for step in steps)
