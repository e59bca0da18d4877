"""What a user calls on an agent of any algorithm: learn, save, load."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium

from fastrl.config.run import RunConfig
from fastrl.envs.vector import VectorEnv
from fastrl.run.checkpoint import load_checkpoint, save_checkpoint
from fastrl.run.devices import Devices
from fastrl.trainer import AgentTrainer


class Face:
    """Base of the agents; the algorithm itself is in the subclass, which follows `agent.Agent`."""

    algo: str
    config_class: ClassVar[type[RunConfig]]
    config: Any
    devices: Devices

    rank_state: ClassVar[tuple[str, ...]] = ("noise_generator",)
    """Names in `state_dict` of what each rank has for itself."""

    def learn(self, total_timesteps: int | None = None) -> Self:
        """Trains in a new run folder, for `total_timesteps` or as long as the config says."""
        if total_timesteps is not None:
            self.config = self.config.replace(total_timesteps=total_timesteps)
        agent: Any = self
        AgentTrainer().fit(agent)
        return self

    def settle(self) -> None:
        """Nothing is under way: `update` learns at once."""

    def save(self, path: str | Path) -> None:
        """Writes weights, normalisers, optimiser and random states to one file."""
        agent: Any = self
        save_checkpoint(path, {"algo": self.algo, "agent": agent.state_dict()})

    @classmethod
    def load(
        cls,
        path: str | Path,
        env: str | VectorEnv | gymnasium.vector.VectorEnv | None = None,
        **settings: Any,
    ) -> Self:
        """Reads an agent from a file of `save` or a run's checkpoint.

        Args:
            path: the file.
            env: what to play; by default the task that the agent was trained on.
            **settings: settings to change, by name.

        Raises:
            ValueError: the file is damaged, foreign or another algorithm's.
        """
        state = load_checkpoint(path)
        if state.get("algo") != cls.algo:
            raise ValueError(f"{path} holds {state.get('algo')!r}, not {cls.algo!r}")
        if env is not None and not isinstance(env, str):
            settings = {"num_envs": env.num_envs, **settings}
        saved = state["agent"]["config"]
        if "devices" not in settings:  # however many ranks trained it, one is enough to play
            alone = {"devices": 1, "num_nodes": 1, "strategy": "auto", "share_data": False}
            together = {"decoupled": False, "num_players": 1, "num_trainers": 1}
            alone |= together | {"overlap": False, "player_on_gpu": False}
            settings = {name: x for name, x in alone.items() if name in saved} | settings
        config = cls.config_class.from_dict(saved, str(path)).replace(**settings)
        make: Any = cls
        agent = make(env or config.env_id, config)
        agent.load_state_dict(state["agent"])
        return agent
