"""fastrl: PPO and its family, fast, exact and readable in one sitting.

from fastrl import PPO

model = PPO("LunarLander-v2", seed=1).learn(500_000)
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastrl.a2c import A2C
    from fastrl.agents.load import load
    from fastrl.callbacks.base import Callback
    from fastrl.config.from_sb3 import from_sb3
    from fastrl.data.random_trajectory import make_random_trajectory
    from fastrl.data.trajectories import TrajectoryDataset
    from fastrl.droq import DroQ
    from fastrl.envs.make import make_env
    from fastrl.module.agent_module import LightningAgentModule
    from fastrl.ppo import PPO
    from fastrl.ppo_recurrent import PPORecurrent
    from fastrl.sac import SAC
    from fastrl.training.trainer import AgentTrainer

    __version__: str

__all__ = [
    "A2C",
    "PPO",
    "SAC",
    "AgentTrainer",
    "Callback",
    "DroQ",
    "LightningAgentModule",
    "PPORecurrent",
    "TrajectoryDataset",
    "__version__",
    "from_sb3",
    "load",
    "make_env",
    "make_random_trajectory",
]

# Imported on first use: `import fastrl` imports no torch, and `python -m fastrl.ppo` does not load
# its module twice.
_HOMES = {
    "A2C": "fastrl.a2c",
    "Callback": "fastrl.callbacks.base",
    "DroQ": "fastrl.droq",
    "PPO": "fastrl.ppo",
    "PPORecurrent": "fastrl.ppo_recurrent",
    "SAC": "fastrl.sac",
    "AgentTrainer": "fastrl.training.trainer",
    "LightningAgentModule": "fastrl.module.agent_module",
    "from_sb3": "fastrl.config.from_sb3",
    "load": "fastrl.agents.load",
    "TrajectoryDataset": "fastrl.data.trajectories",
    "make_env": "fastrl.envs.make",
    "make_random_trajectory": "fastrl.data.random_trajectory",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if "torch" not in sys.modules:
        # OpenMP's threads spin while they wait for each other. By default they spin for so long
        # that an update on two threads takes ten times as long once another process needs a core.
        # This shorter time costs 7 % on an idle machine. It is read when torch is imported.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("fastrl")
    except PackageNotFoundError:  # a source tree that is not installed
        return "0+unknown"
