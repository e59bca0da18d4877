"""What all agents check and take of a saved state."""

from __future__ import annotations

from typing import Any

from fastrl.runs.fitting import check_fits


def check_state(agent: Any, state: Any, *free: str) -> None:
    """Raises ValueError if a state is not of this agent, but for its settings and `free`."""
    expected = agent.state_dict()
    if isinstance(state, dict) and state.get("noise_device") != agent.device.type:
        free = ("noise_generator", *free)  # another device's means nothing here
    check_fits(state, expected, free=("config", "layers", "frozen", *free))  # see `match`


def load_noise(agent: Any, state: dict[str, Any]) -> None:
    """Takes the state of the generator of noise back, if it is of the same kind of device."""
    if state["noise_device"] == agent.device.type:
        agent.noise_generator.set_state(state["noise_generator"])
