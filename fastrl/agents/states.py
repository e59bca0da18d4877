"""What all agents check and take of a saved state."""

from __future__ import annotations

from typing import Any

from fastrl.runs.fitting import check_fits
from fastrl.spaces.meaning import inputs_of, outputs_of


def describe_spaces(agent: Any) -> dict[str, str]:
    """Returns what the inputs and outputs of an agent's policy stand for, for a checkpoint."""
    is_scaled = getattr(agent.config, "squash_actions", True)
    actions = outputs_of(agent.action_space, is_scaled)
    return {"observations": inputs_of(agent.observation_space), "actions": actions}


def check_spaces(agent: Any, state: Any) -> None:
    """Raises ValueError if a state was learned in other spaces; older files have none."""
    if not isinstance(state, dict) or "spaces" not in state:
        return
    saved = state["spaces"] if isinstance(state["spaces"], dict) else {}
    for what, here in describe_spaces(agent).items():
        there = saved.get(what, "not told")
        if there != here:
            raise ValueError(
                f"the checkpoint does not fit this agent: its {what} are {there}, here {here}"
            )


def check_state(agent: Any, state: Any, *free: str) -> None:
    """Raises ValueError if a state is not of this agent, but for its settings and `free`."""
    expected = agent.state_dict()
    if isinstance(state, dict) and state.get("noise_device") != agent.device.type:
        free = ("noise_generator", *free)  # another device's means nothing here
    free = (*getattr(agent, "checked_apart", ()), *free)  # a module's agent checks these by itself
    check_fits(state, expected, free=("config", "layers", "frozen", "spaces", *free))  # see `match`


def load_noise(agent: Any, state: dict[str, Any]) -> None:
    """Takes the state of the generator of noise back, if it is of the same kind of device."""
    if state["noise_device"] == agent.device.type:
        agent.noise_generator.set_state(state["noise_generator"])
