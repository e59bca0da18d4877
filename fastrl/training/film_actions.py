"""What the policy did in a film, frame by frame: a file beside it, for pages that show both.

Letters: F frames of the film, A action dimensions, C choices of all dimensions together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import gymnasium
import numpy as np

from fastrl.envs.action_names import choice_names, dimension_names
from fastrl.envs.vector import TimeStep, VectorEnv
from fastrl.runs.folder import replaced_file
from fastrl.training.greedy import policy_of

if TYPE_CHECKING:
    from fastrl.training.agent import Agent

_MOST_CHOICES = 256  # of all dimensions together: with more, their probabilities are not kept
_DECIMALS = 4


class FilmActions:
    """Plays one environment with an agent's policy, and keeps what it did.

    Args:
        agent: the agent that plays.
        env: one environment of its task.
        deterministic: take the likeliest actions in place of drawing some.
    """

    def __init__(self, agent: Agent, env: VectorEnv, deterministic: bool) -> None:
        self._space, self._deterministic = env.single_action_space, deterministic
        self._env_id = env.env_id
        self._choices = choice_names(env.env_id, self._space)
        self._predict, self._outputs = _policy(agent, deterministic)
        self._is_chosen = 0 < sum(map(len, self._choices)) <= _MOST_CHOICES
        self._actions: list[list[float]] = []
        self._chances: list[list[float | None]] = []
        self._rewards: list[float | None] = []

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Returns the action for observations `[1, *O]` as the environment takes it, `[1, *A]`."""
        if self._is_chosen and self._outputs is not None:
            self._chances.append(_probabilities(self._outputs(obs), self._choices))
        actions = self._predict(obs)
        self._actions.append(np.asarray(actions[0]).ravel().tolist())
        return actions

    def note(self, step: TimeStep) -> None:
        """Notes what a step gave."""
        self._rewards.append(_rounded(float(step.rewards[0])))

    def write(self, path: Path, frames_per_second: float) -> None:
        """Writes the file; see docs/run_folder.md.

        Args:
            path: where to.
            frames_per_second: of the film.
        """
        facts = {
            "frames_per_second": frames_per_second,
            "num_frames": len(self._actions) + 1,
            "deterministic": self._deterministic,
            "dimensions": self._dimensions(),
            "actions": [[_rounded(x) for x in action] for action in self._actions],
            "probabilities": self._chances if len(self._chances) == len(self._actions) else [],
            "rewards": self._rewards,
        }
        with replaced_file(path) as file:
            file.write(json.dumps(facts, separators=(",", ":"), allow_nan=False).encode() + b"\n")

    def _dimensions(self) -> list[dict[str, Any]]:
        """Returns name, and choices or bounds, of each dimension of an action."""
        if self._choices:
            starts = np.ravel(getattr(self._space, "start", 0))
            firsts = np.broadcast_to(starts, len(self._choices)).tolist()
            alone = len(self._choices) == 1
            return [
                {"name": "action" if alone else f"action {number}", "first": first, "choices": x}
                for number, (first, x) in enumerate(zip(firsts, self._choices, strict=True), 1)
            ]
        if not isinstance(self._space, gymnasium.spaces.Box):
            return []
        low, high = self._space.low.ravel().tolist(), self._space.high.ravel().tolist()
        names = dimension_names(self._env_id, len(low))
        return [
            {"name": name, "low": _rounded(a), "high": _rounded(b)}
            for name, a, b in zip(names, low, high, strict=True)
        ]


def _policy(
    agent: Agent, deterministic: bool
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray] | None]:
    """Returns the agent's policy, and what gives the logits `[C]` before it acts, if known.

    The second must be called before the first, which moves the state of a memory on.
    """
    from fastrl.training.agent import HasMemory

    actor: Any = getattr(agent, "agent", agent)  # of a decoupled run, the one that acts
    has_outputs = hasattr(getattr(actor, "policy", None), "outputs")
    if not isinstance(agent, HasMemory):
        predict, _ = policy_of(agent, 1, deterministic)
        is_plain = has_outputs and not isinstance(actor, HasMemory)
        return predict, _logits_of(actor) if is_plain else None
    player = cast(HasMemory, agent)
    state = player.new_state(1)

    def predict_on(obs: np.ndarray) -> np.ndarray:
        return player.predict(obs, deterministic, state=state)

    return predict_on, _logits_of(actor, state) if has_outputs else None


def _logits_of(actor: Any, *state: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from observations `[1, *O]` to the policy's outputs `[K]`."""
    import torch

    from fastrl.models.layers import evaluating

    def logits(obs: np.ndarray) -> np.ndarray:
        rows = torch.as_tensor(obs).to(actor.device)
        with torch.no_grad(), evaluating(actor.policy):
            return actor.policy.outputs(rows, *state)[0].float().cpu().numpy()

    return logits


def _probabilities(logits: np.ndarray, choices: list[list[str]]) -> list[float | None]:
    """Returns the probability of each choice, dimension after dimension."""
    found: list[float | None] = []
    start = 0
    for names in choices:
        part = logits[start : start + len(names)].astype(np.float64)
        chances = np.exp(part - part.max())
        found += [_rounded(x) for x in (chances / chances.sum()).tolist()]
        start += len(names)
    return found


def _rounded(value: float) -> float | None:
    return round(value, _DECIMALS) if math.isfinite(value) else None
