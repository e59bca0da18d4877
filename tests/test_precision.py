"""Mixed precision goes through Fabric and changes the networks' arithmetic, nothing else."""

import torch
from toy_agents import make_agent, run


def test_bfloat16_update_differs_from_float32_and_stays_close_to_it():
    full, mixed = (make_agent("box", precision=x) for x in ("32-true", "bf16-mixed"))
    for agent in (full, mixed):
        run(agent, 1)
    assert mixed.devices.fabric is not None and full.devices.fabric is None
    weights = [torch.cat([p.flatten() for p in x.policy.parameters()]) for x in (full, mixed)]
    assert weights[1].dtype == torch.float32
    assert not torch.equal(*weights)
    assert torch.allclose(*weights, atol=2e-2)


def test_recorded_bfloat16_update_equals_eager_to_the_bit():
    agents = [make_agent(engine=mode, precision="bf16-mixed") for mode in ("eager", "recorded")]
    for agent in agents:
        run(agent, 2)
    eager, recorded = (torch.cat([p.flatten() for p in x.policy.parameters()]) for x in agents)
    assert torch.equal(eager, recorded)
