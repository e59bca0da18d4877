"""The standard work: what every system is given, which each translates into settings of its own."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Work:
    """A task and all that decides how much there is to compute. The defaults are those of SB3."""

    name: str
    algo: Literal["ppo", "sac"] = "ppo"
    """SAC has a gradient step per vector step; it uses none of the settings that are PPO's."""
    env_id: str
    num_envs: int
    num_steps: int
    """Of a rollout, per environment."""
    update_epochs: int
    minibatch_size: int
    measure: Literal["steps_per_second", "seconds"]
    """steps_per_second: of the training loop. seconds: of the whole process, imports included."""
    warmup_updates: int
    """Iterations that are not measured; 0 where the whole process is."""
    num_updates: int
    """Iterations that are measured; one is a rollout and its update."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: Literal["tanh", "elu", "relu"] = "tanh"
    shared_network: bool = False
    """One network with two heads, in place of one for the actor and one for the critic."""
    normalize_observations: bool = False
    learning_rate: float = 3e-4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_coef: float = 0.2
    vf_coef: float = 0.5
    """Of the mean squared error, without a factor 1/2."""
    ent_coef: float = 0.0
    max_grad_norm: float = 0.5
    normalize_advantages: bool = True
    seed: int = 1

    @property
    def total_steps(self) -> int:
        """Environment steps of the whole run, over all environments.

        A loop is timed from the start of an iteration to that of another: one more must follow.
        """
        extra = self.warmup_updates + 1 if self.measure == "steps_per_second" else 0
        return (self.num_updates + extra) * self.num_envs * self.num_steps

    @property
    def title(self) -> str:
        """Names the work and its sizes in a line."""
        sizes = "-".join(map(str, self.hidden_sizes))
        layers = f"{sizes} {self.activation}, {'shared' if self.shared_network else 'separate'}"
        normalized = ", observations normalised" if self.normalize_observations else ""
        if self.algo == "sac":
            return (
                f"{self.name}: SAC {self.env_id}, {self.total_steps:,} steps, whole process, "
                f"{self.num_envs} envs, batch {self.minibatch_size}, a gradient step per vector "
                f"step, {sizes} {self.activation}"
            )
        whole = f", {self.total_steps:,} steps, whole process" if self.measure == "seconds" else ""
        return (
            f"{self.name}: PPO {self.env_id}{whole}, {self.num_envs} x {self.num_steps}, "
            f"{self.update_epochs} epochs, minibatch {self.minibatch_size}, {layers}{normalized}"
        )

    def short(self) -> Work:
        """Returns the same work, only long enough to tell a good thread count from a bad one."""
        shorter = max(1, self.num_updates // 4)
        return dataclasses.replace(self, num_updates=shorter)

    def changed(self, assignments: list[str]) -> Work:
        """Returns the work with fields set, each spelt NAME=VALUE.

        Raises:
            ValueError: a name that is no field, or a value of the wrong type.
        """
        kinds = {field.name: str(field.type) for field in dataclasses.fields(self)}
        changes: dict[str, Any] = {}
        for assignment in assignments:
            name, _, value = assignment.partition("=")
            kind = kinds.get(name, "")
            if kind not in _READERS:
                allowed = ", ".join(field for field, kind in kinds.items() if kind in _READERS)
                raise ValueError(f"cannot set {assignment!r}; NAME=VALUE, NAME one of {allowed}")
            changes[name] = _READERS[kind](value)
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Returns what is sent to a system's process."""
        return {**dataclasses.asdict(self), "total_steps": self.total_steps}


def _boolean(word: str) -> bool:
    if word not in ("true", "false"):
        raise ValueError(f"{word!r} must be true or false")
    return word == "true"


_READERS = {"int": int, "float": float, "bool": _boolean, "str": str}

WORKS = {
    work.name: work
    for work in (
        Work(
            name="W1",
            env_id="LunarLander-v2",
            num_envs=64,
            num_steps=128,
            update_epochs=4,
            minibatch_size=2048,
            measure="steps_per_second",
            warmup_updates=5,
            num_updates=40,
        ),
        Work(
            name="W2",
            env_id="CartPole-v1",
            num_envs=64,
            num_steps=128,
            update_epochs=4,
            minibatch_size=2048,
            measure="steps_per_second",
            warmup_updates=5,
            num_updates=80,
        ),
        # SheepRL's published benchmark of PPO.
        Work(
            name="W3",
            env_id="CartPole-v1",
            num_envs=1,
            num_steps=128,
            update_epochs=10,
            minibatch_size=64,
            measure="seconds",
            warmup_updates=0,
            num_updates=512,
        ),
        Work(
            name="W4",
            env_id="HalfCheetah-v4",
            num_envs=64,
            num_steps=256,
            update_epochs=5,
            minibatch_size=2048,
            measure="steps_per_second",
            warmup_updates=3,
            num_updates=16,
            hidden_sizes=(128, 64, 32),
            activation="elu",
            shared_network=True,
            normalize_observations=True,
        ),
        # SheepRL's published benchmark of SAC, a quarter of its length.
        Work(
            name="W5",
            algo="sac",
            env_id="LunarLanderContinuous-v3",
            num_envs=4,
            num_steps=1,
            update_epochs=1,
            minibatch_size=256,
            measure="seconds",
            warmup_updates=0,
            num_updates=4096,
            hidden_sizes=(256, 256),
            activation="relu",
        ),
    )
}
