"""Base class of all agents: settings, devices, environments; predict, learn, save, load."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from fastrl.agents.decoupled_run import run_decoupled
from fastrl.config.command import Command, describe
from fastrl.config.decoupled import DecoupledConfig
from fastrl.config.effects import check_effects
from fastrl.config.resume import check_beginnings
from fastrl.config.trust import check_named, signature_of
from fastrl.engine.engine import Engine
from fastrl.engine.optimizer import FlatOptimizer, FlatParameters
from fastrl.engine.threads import keep_freed_memory
from fastrl.envs.make import is_known_id
from fastrl.envs.pools import open_envs
from fastrl.envs.vector import Spaces, VectorEnv
from fastrl.presets import id_of, resolve
from fastrl.processes.devices import Devices, make_devices
from fastrl.processes.errors import one_line
from fastrl.processes.memory import check_memory
from fastrl.runs.checkpoint import Checkpoints, load_checkpoint, save_checkpoint
from fastrl.runs.fitting import check_fits, first_not_finite, naming
from fastrl.runs.folder import expanded, open_run_folder, working_folder
from fastrl.spaces.observations import rows_of
from fastrl.training.records import TrainResult
from fastrl.training.trainer import AgentTrainer


class BaseAgent:
    """Base of the agents; the algorithm itself is in the subclass, which follows `agent.Agent`."""

    algo: str
    config_class: ClassVar[type[DecoupledConfig]]
    config: Any
    policy: Any
    result: TrainResult | None = None
    """What came of the latest `learn`."""

    rank_state: ClassVar[tuple[str, ...]] = ("noise_generator",)
    """Names in `state_dict` of what each rank has for itself."""

    def __init__(
        self,
        env: str | VectorEnv | gymnasium.vector.VectorEnv | Spaces,
        config: Any = None,
        *,
        preset: str = "auto",
        devices: Devices | int | None = None,
        **settings: Any,
    ) -> None:
        """Makes environments and networks.

        Args:
            env: a task's id, or a vector environment that was built elsewhere. Or the spaces alone,
                together with a `config`, for an agent that learns from rows played elsewhere: it
                has no environments, and cannot act, but for `predict`.
            config: all settings at once, in place of `preset` and `settings`; its `env_id` follows
                `env`.
            preset: "auto" starts from the settings tuned for the task, "none" from the defaults.
            devices: how many ranks; or where to train, if the caller launched them already.
            **settings: fields of the algorithm's config, by name.

        Raises:
            ValueError: an unknown task or setting, a value out of range, an unsupported space.
        """
        if isinstance(devices, int):
            devices, settings = None, {"devices": devices, **settings}
        if config is None:
            self._command = resolve(self.config_class, self.algo, env, preset, settings)
            config = self._command.config
        elif not isinstance(config, self.config_class):
            expected = self.config_class.__name__
            raise ValueError(f"config must be a {expected}, not {config!r}; settings go by name")
        elif settings:
            raise ValueError(f"give a config or single settings, not both: {', '.join(settings)}")
        else:
            if id_of(env) not in ("", config.env_id):
                config = config.replace(env_id=id_of(env))
            self._command = Command(config=config, explicit=config.unlike_defaults())
        check_memory(config)
        keep_freed_memory()
        self.config = config
        self.start_folder = working_folder()
        self.devices = devices or self._make_devices()
        self.device = self.devices.device
        self.engine = Engine(config, self.devices)
        self.envs, spaces = self._open_envs(env)
        self.observation_space, self.action_space = spaces
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._make_networks()
        seed = self.devices.stream_seed(config.seed)
        self.noise_generator = torch.Generator(self.device).manual_seed(seed)
        self._predict_generator = torch.Generator(self.device).manual_seed(seed + 2**31)
        self._act: list[Callable[[int], np.ndarray]] = []

    def _make_devices(self) -> Devices:
        if self.config.decoupled:
            raise ValueError(f"decoupled runs start as python -m fastrl.{self.algo} --decoupled")
        return make_devices(self.config)

    def _open_envs(self, env: Any) -> tuple[list[VectorEnv], Spaces]:
        """Returns the pools of environments, of which spaces alone have none, and their spaces."""
        if isinstance(env, Spaces):
            return [], env
        pools = open_envs(env, self.config, self.devices.global_rank)
        wanted, found = self.config.num_envs, sum(pool.num_envs for pool in pools)
        if found != wanted:
            raise ValueError(f"num_envs={wanted}, but {found} environments were given")
        return pools, Spaces(pools[0].single_observation_space, pools[0].single_action_space)

    def _make_networks(self) -> None:
        """Sets `policy` and whatever else learns."""
        raise NotImplementedError

    def _sample(self, rows: Tensor) -> Tensor:
        """Draws actions for some rows, as the environments take them."""
        raise NotImplementedError

    def columns_of_pools(self) -> list[slice]:
        """Returns which columns of a rollout each pool of environments fills."""
        ends = np.cumsum([env.num_envs for env in self.envs]).tolist()
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def __repr__(self) -> str:
        config = self.config
        return f"{type(self).__name__}({config.env_id!r}, seed={config.seed})"

    @property
    def num_updates(self) -> int:
        """Updates of the whole run."""
        return self.config.num_updates

    @torch.no_grad()
    def predict(self, obs: Any, deterministic: bool = True) -> np.ndarray:
        """Returns the environments' actions for one observation `[*O]` or a batch `[n, *O]`.

        Of a Dict, `obs` is one too, or a row as the buffer stores it.
        """
        arrays, single = rows_of(self.observation_space, obs)
        rows = torch.as_tensor(arrays).to(self.device)
        actions = self.policy(rows) if deterministic else self._sample(rows)
        return actions[0].cpu().numpy() if single else actions.cpu().numpy()

    def learn(self, total_timesteps: int | None = None) -> Self:
        """Trains in a new run folder, for `total_timesteps` or as long as the config says.

        What came of it is in `result` then; `result.folder` is the run folder.
        """
        if total_timesteps is not None:
            self.config = self.config.replace(total_timesteps=total_timesteps)
        if self.devices.is_global_zero:
            print(describe(self._command.with_config(self.config)), flush=True)
        agent: Any = self
        self.result = AgentTrainer().fit(agent)
        return self

    def make_buffer(self) -> Any:
        """Allocates the storage that `act` and `update` work on, and builds both for its shapes."""
        buffer = self.make_acting()
        self.make_learning(buffer)
        return buffer

    def make_acting(self) -> Any:
        """Allocates the buffer that `act` fills, and builds `act` for its shapes.

        Without `make_learning` after it, the agent acts on what others learn.
        """
        raise NotImplementedError

    def make_learning(self, buffer: Any) -> None:
        """Allocates and builds what `update` needs besides, to learn from such a buffer."""
        raise NotImplementedError

    def finish_pending(self) -> dict[str, float]:
        """Returns no metrics: nothing is pending, because `update` learns at once."""
        return {}

    def trained(self) -> Sequence[tuple[FlatParameters, nn.Module]]:
        """Returns the networks, each with the vector that its parameters are part of."""
        raise NotImplementedError

    def not_finite(self) -> str:
        """Returns where the first number is in networks or optimisers that is not finite; or ""."""
        names = {id(value): name for name, value in vars(self).items()}
        learned: dict[str, Any] = {}
        for flat, module in self.trained():
            learned[names.get(id(module), "network")] = module.state_dict()
            if isinstance(flat, FlatOptimizer):
                learned[names.get(id(flat), "optimizer")] = flat.state_dict()
        return first_not_finite(learned)

    def save(self, path: str | Path) -> None:
        """Writes weights, normalisers, optimiser and random states to one file.

        Raises:
            ValueError: the training diverged, so there is nothing worth saving; or `path` is
                something else than a regular file.
            OSError: the file cannot be written.
        """
        if place := self.not_finite():
            raise ValueError(f"not saved: {place} is not finite, because the training diverged")
        agent: Any = self
        signature = signature_of(self.config.to_dict())
        save_checkpoint(path, {"algo": self.algo, **signature, "agent": agent.state_dict()})

    def _check_state(self, state: Any, *free: str) -> None:
        """Raises ValueError if a state is not of this agent, but for its settings and `free`."""
        agent: Any = self
        expected = agent.state_dict()
        if isinstance(state, dict) and state.get("noise_device") != self.device.type:
            free = ("noise_generator", *free)  # another device's means nothing here
        check_fits(state, expected, free=("config", *free))

    def _load_noise(self, state: dict[str, Any]) -> None:
        if state["noise_device"] == self.device.type:
            self.noise_generator.set_state(state["noise_generator"])

    @classmethod
    def load(
        cls,
        path: str | Path,
        env: str | VectorEnv | gymnasium.vector.VectorEnv | None = None,
        *,
        trust: bool = False,
        **settings: Any,
    ) -> Self:
        """Reads an agent from a file of `save`, a run's checkpoint or a run folder.

        Args:
            path: the file; or the folder, whose newest checkpoint is taken, as `evaluate` and
                `--resume` do. The best one is its `checkpoints/best.pt`.
            env: what to play; by default the task that the agent was trained on.
            trust: import what the file names, such as an environment's `module:callable`, although
                neither you name it (by `env`) nor a run of yours on this machine wrote the file.
            **settings: settings to change, by name.

        Raises:
            FileNotFoundError: the file is missing.
            ValueError: the file is damaged, foreign, another algorithm's, of a training that
                diverged, or names code that is not trusted; the folder is not of a run; a setting
                would have no effect.
        """
        path = expanded(path)
        if path.is_dir():
            path = Checkpoints(open_run_folder(path).checkpoints).newest()
        state = load_checkpoint(path)
        if state.get("algo") != cls.algo:
            raise ValueError(f"{path} holds {str(state.get('algo'))!r}, not {cls.algo!r}")
        env = settings.pop("env_id", None) if env is None else env
        if "env_id" in settings:
            raise ValueError(f"give env or env_id, not both: {env!r} and {settings['env_id']!r}")
        given = dict(settings)
        if env is not None and not isinstance(env, str):
            settings = {"num_envs": env.num_envs, **settings}
        learner = state.get("agent")
        saved = learner.get("config") if isinstance(learner, dict) else None
        if not isinstance(saved, dict):
            raise ValueError(f"{path} holds no agent of {cls.algo} with its config")
        try:
            config = cls.config_class.from_dict(saved)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {one_line(error)}") from error
        named_again = {"env_id", *given} if env is not None else given
        signature = state.get("signature")
        check_named(config.to_dict(), signature, path, trust=trust, named_again=named_again)
        if env is None and not is_known_id(config.env_id):
            raise ValueError(
                f"{path} was trained on {config.env_id}, which is no id to make environments from; "
                "name one, or module:callable, by env= of load or --env-id of evaluate and export"
            )
        # However many processes trained it, one is enough to play.
        change = config.replace if "devices" in settings else config.for_one_process
        config = change(**settings)
        check_effects(config, given)
        check_beginnings(config, saved, path, "seed", "alpha")
        make: Any = cls
        agent = make(env or config.env_id, config)
        with naming(path):
            agent.load_state_dict(learner)
            if place := agent.not_finite():
                raise ValueError(f"its {place} is not finite: the training diverged")
        agent.begin_anew(given)
        return agent

    @classmethod
    def load_anywhere(
        cls, path: str | Path, env_id: str | None = None, trust: bool = False
    ) -> Self:
        """Reads an agent from a checkpoint, to be tested on whatever device is here."""
        return cls.load(path, env_id, trust=trust, accelerator="auto")

    def begin_anew(self, settings: Collection[str]) -> None:
        """Sets what some settings say of the beginning, in place of what a loaded file holds."""
        if "seed" in settings:
            self.noise_generator.manual_seed(self.devices.stream_seed(self.config.seed))

    @classmethod
    def run(cls, command: Command) -> int:
        """Trains as the command line says, maybe as one part of it; returns the exit status."""
        if command.config.decoupled:
            return run_decoupled(cls, command)
        if command.resume and not is_known_id(command.config.env_id):
            raise ValueError(
                f"{command.resume} played {command.config.env_id}, environments that were handed "
                f"over; go on from Python: AgentTrainer(resume=RUN).fit({cls.__name__}(env, ...))"
            )
        with make_devices(command.config) as devices:
            if devices.is_global_zero:
                print(describe(command), flush=True)
            agent: Any = cls(command.config.env_id, command.config, devices=devices)
            return AgentTrainer(resume=command.resume).fit(agent).exit_status
