"""Base class of all agents: settings, devices, environments; predict, learn, save, load."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from fastrl.agents.evaluating import evaluate
from fastrl.agents.exporting import export
from fastrl.agents.naming import class_name, is_stock
from fastrl.agents.networks import match_networks
from fastrl.agents.own_networks import makers
from fastrl.agents.reading import read_agent
from fastrl.agents.running import learn, run_command
from fastrl.agents.settings import refuse_copy, set_attribute, settle
from fastrl.agents.signatures import list_settings
from fastrl.agents.weights import freeze, load_weights
from fastrl.callbacks.base import Callback
from fastrl.config.calls import missing, names_checked
from fastrl.config.command import Command
from fastrl.config.decoupled import DecoupledConfig
from fastrl.config.trust import signature_of
from fastrl.engine.engine import Engine
from fastrl.engine.modes import drawing_weights
from fastrl.engine.optimizer import FlatParameters
from fastrl.engine.threads import keep_freed_memory
from fastrl.envs.pools import open_envs
from fastrl.envs.rebuild import Task, task_of
from fastrl.envs.vector import Spaces, VectorEnv
from fastrl.models.layers import evaluating
from fastrl.processes.devices import Devices, make_devices
from fastrl.processes.generators import generators_seeded
from fastrl.processes.memory import check_memory
from fastrl.runs.checkpoint import save_checkpoint
from fastrl.runs.fitting import first_not_finite
from fastrl.runs.folder import expanded, working_folder
from fastrl.runs.progress import check_verbose
from fastrl.spaces.actions import within_bounds
from fastrl.spaces.masked import with_mask
from fastrl.spaces.observations import rows_of
from fastrl.training.records import TrainResult
from fastrl.training.resuming import checkpoint_labels

AnyEnv = str | VectorEnv | gymnasium.Env | gymnasium.vector.VectorEnv | Callable[..., gymnasium.Env]


class BaseAgent:
    """Base of the agents. The algorithm is in the subclass, as `training.agent.Agent` has it."""

    algo: str
    config_class: ClassVar[type[DecoupledConfig]]
    config: Any
    policy: Any
    result: TrainResult | None = None
    """What came of the latest `learn`."""

    rank_state: ClassVar[tuple[str, ...]] = ("noise_generator",)
    """Names in `state_dict` of what each rank has for itself."""

    def __init_subclass__(cls, **more: Any) -> None:
        """Has `help` list the settings."""
        super().__init_subclass__(**more)
        list_settings(cls)

    def __init__(
        self,
        env: AnyEnv | Spaces,
        config: Any = None,
        *,
        eval_env: Any = "auto",
        preset: str = "auto",
        network: Any = None,
        devices: Devices | int | None = None,
        verbose: int = 1,
        **settings: Any,
    ) -> None:
        """Makes environments and networks.

        Args:
            env: a task's id; environments, single or vectorised; or a function that makes a single
                one. A single one is made `num_envs` times from its spec. Or the spaces alone,
                together with a `config`, for an agent that learns from rows played elsewhere: it
                has no environments, and cannot act, but for `predict`.
            config: all settings at once, in place of `preset` and `settings`; its `env_id` follows
                `env`.
            eval_env: what greedy tests and videos play: a function that makes a `gymnasium.Env`, an
                environment, or an id. "auto": `env` made anew, if what made it is known. None: no
                tests.
            preset: "auto" starts from the settings tuned for the task, "none" from the defaults,
                "source-003" from those of another project (docs/schedules.md).
            network: networks of your own in front of the heads: a function of the space of what
                they see (docs/own_networks.md), `module:callable`, or a mapping from "actor" and
                "critic" to one each.
            devices: how many ranks; or where to train, if the caller launched them already.
            verbose: 0: `learn` prints nothing but warnings. 1: as on the command line.
            **settings: fields of the algorithm's config, by name.

        Raises:
            ValueError: an unknown task or setting, a value out of range, an unsupported space.
        """
        self.verbose = check_verbose(verbose)
        if not isinstance(devices, Devices | None):
            devices, settings = None, {"devices": devices, **settings}
        self._command, own = settle(type(self), env, config, preset, network, settings)
        config = self._command.config
        check_memory(config)
        self.own_networks = makers(config, own)
        """What makes the networks of "actor" and "critic", if they are of the user's own."""
        keep_freed_memory()
        self.config = config
        self.start_folder = working_folder()
        self.devices = devices or self._make_devices()
        self.device = self.devices.device
        self.engine = Engine(config, self.devices)
        with generators_seeded(self.devices.stream_seed(config.seed, -1)):
            self.envs, spaces = self._open_envs(env)
        name = config.env_id
        self.task = Task(name, None) if not self.envs else task_of(env, self.envs, config, eval_env)
        self.observation_space, self.action_space = spaces
        with drawing_weights(config.seed):
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
        return f"{type(self).__name__}({self.config.env_id!r}, seed={self.config.seed})"

    @property
    def num_updates(self) -> int:
        """Updates of the whole run."""
        return self.config.num_updates

    @names_checked
    @torch.no_grad()
    def predict(self, obs: Any, deterministic: bool = True, action_mask: Any = None) -> Any:
        """Returns the environments' actions for one observation `[*O]` or a batch `[n, *O]`.

        Networks are in evaluation mode for as long as this takes: dropout is off.

        Args:
            obs: what the environments show; of a Dict, one too, or a row as the buffer stores it.
            deterministic: take the likeliest actions in place of drawing some.
            action_mask: `[M]` or `[n, M]`, 1 where allowed, if it is not part of `obs`: what
                the environment has in its info.

        Returns:
            An array of actions, with the batch in front if there is one. For one observation, a
            `Discrete` action is one number, of its dtype, as `Discrete.sample` returns.

        Raises:
            ValueError: the observation does not fit the space, or lacks a mask.
        """
        arrays, single = self._rows_of(obs, action_mask)
        rows = torch.as_tensor(arrays).to(self.device)
        with self.engine.claim.not_beside_learning(), evaluating(self.policy):
            actions = self.policy(rows) if deterministic else self._sample(rows)
        actions = within_bounds(self.action_space, actions.cpu().numpy())
        return actions[0] if single else actions

    def _rows_of(self, obs: Any, action_mask: Any) -> tuple[np.ndarray, bool]:
        """Returns rows `[n, ...]` of one observation or a batch, and whether it was one."""
        space = self.observation_space
        if action_mask is not None or getattr(space, "mask_size", 0):
            obs = with_mask(space, self.action_space, obs, action_mask)
        return rows_of(space, obs)

    # Functions of this agent, in files of their own.
    evaluate, export = evaluate, export
    __setattr__, __reduce_ex__ = set_attribute, refuse_copy
    if not TYPE_CHECKING:  # for which every name would then be there
        __getattr__ = missing

    @names_checked
    def learn(
        self,
        total_timesteps: int | None = None,
        *,
        on_interrupt: Literal["raise", "return"] = "raise",
        callbacks: Sequence[Callback] = (),
        loggers: Sequence[Any] = (),
    ) -> Self:
        """Trains in a new run folder, for `total_timesteps` or as long as the config says.

        What came of it is in `result` then, also after Ctrl-C; `result.folder` is the run folder.

        Args:
            total_timesteps: environment steps to train for; None: those of the config.
            on_interrupt: what happens once a run that a signal ended is saved: "raise"
                KeyboardInterrupt or SystemExit, or "return" as at the end of a run.
            callbacks: called as the run goes, in this order; see docs/callbacks.md.
            loggers: objects of Lightning's class Logger that metrics go to as well.

        Raises:
            ValueError: an unknown argument, or an environment that fails.
        """
        how: dict[str, Any] = {"callbacks": callbacks, "loggers": loggers}
        learn(self, self._command, total_timesteps, on_interrupt=on_interrupt, **how)
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

    def unlogged_metrics(self) -> dict[str, float]:
        """Returns no metrics: each `update` returns a row of them."""
        return {}

    def trained(self) -> Sequence[tuple[FlatParameters, nn.Module]]:
        """Returns the networks, each with the vector that its parameters are part of."""
        raise NotImplementedError

    def not_finite(self) -> str:
        """Returns where the first number is in networks or optimisers that is not finite; or ""."""
        names = {id(value): name for name, value in vars(self).items()}
        parts: list[Any] = [x for pair in self.trained() for x in pair if hasattr(x, "state_dict")]
        return first_not_finite({names.get(id(x), "network"): x.state_dict() for x in parts})

    @names_checked
    def save(self, path: str | Path) -> None:
        """Writes weights, normalisers, optimiser and random states to one file; makes its folder.

        Raises:
            ValueError: the training diverged, so there is nothing worth saving; or `path` is
                something else than a regular file.
            OSError: the file cannot be written.
        """
        if place := self.not_finite():
            raise ValueError(f"not saved: {place} is not finite, because the training diverged")
        path, agent = expanded(path), cast(Any, self)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, {**checkpoint_labels(agent), "agent": agent.state_dict()})

    def labels(self) -> dict[str, Any]:
        """Returns what config.yaml says of the agent: `runs.folder.LABELS`."""
        own = {} if is_stock(type(self)) else {"agent": class_name(type(self))}
        handed_over = {} if self.task.is_named else {"handed_over": True}
        signature = signature_of({**self.config.to_dict(), **own})
        return {"algo": self.algo, **own, **handed_over, **signature}

    freeze = freeze
    load_weights = load_weights

    def networks(self) -> dict[str, nn.Module]:
        """Returns the networks that learn, by name."""
        return {"policy": self.policy}

    def match(self, state: dict[str, Any]) -> None:
        """Freezes what was frozen when a state was saved; ValueError if its layers differ."""
        if match_networks(self.networks(), state):
            for parameters, module in self.trained():
                parameters.adopt(module)

    @classmethod
    def load(
        cls, path: str | Path, env: AnyEnv | None = None, *, trust: bool = False, **settings: Any
    ) -> Self:
        """Reads an agent from a file of `save`, a run's checkpoint or a run folder.

        If it was saved by a class of your own, derived from this one, it is an agent of that class.

        Args:
            path: the file; or the folder, whose newest checkpoint is taken, as `evaluate` and
                `--resume` do. The best one is its `checkpoints/best.pt`.
            env: what to play; by default the task that the agent was trained on.
            trust: import what the file names, such as an environment's `module:callable` or the
                agent's class, although neither you name it nor a run of yours on this machine
                wrote the file.
            **settings: settings to change, by name, `eval_env`, `verbose`, and what to keep of the
                file: `keep_optimizer`, `keep_normalizer`, `keep_replay` (docs/fine_tuning.md).

        Raises:
            FileNotFoundError: the file is missing.
            ValueError: the file is damaged, foreign, another algorithm's, of a training that
                diverged, or names code that is not trusted; the folder is not of a run; a setting
                would have no effect.
        """
        return read_agent(cls, path, env, trust, settings)

    @classmethod
    def load_anywhere(
        cls, path: str | Path, env: AnyEnv | None = None, trust: bool = False, **settings: Any
    ) -> Self:
        """Reads an agent from a checkpoint, to be tested on whatever device is here."""
        played = {"accelerator": "auto", "callback": (), **settings}  # callbacks are for training
        return cls.load(path, env, trust=trust, **played)

    def begin_anew(self, settings: Collection[str]) -> None:
        """Starts anew from such settings as `seed`, in place of what a loaded file holds."""
        if "seed" in settings:
            self.noise_generator.manual_seed(self.devices.stream_seed(self.config.seed))

    @classmethod
    def run(cls, command: Command) -> int:
        """Trains as the command line says, maybe as one part of it; returns the exit status."""
        return run_command(cls, command)
