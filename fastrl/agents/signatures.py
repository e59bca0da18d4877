"""Keyword arguments of the agents: typed for editors and type checkers, listed by `help(PPO)`.

The classes here repeat names and types of the config dataclasses, where defaults, explanations and
checks are; tests/test_signatures.py holds them equal.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import textwrap
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, TypedDict, get_args, get_type_hints

from torch import nn

from fastrl.config.networks import Activation
from fastrl.config.run import documentation
from fastrl.processes.devices import Devices

Words = list[str] | tuple[str, ...]
Widths = list[int] | tuple[int, ...]
Schedule = str | Callable[[float], float]
_WIDTH = 88


class AgentArguments(TypedDict, total=False):
    """Keyword arguments of `BaseAgent` that have a meaning of their own, explained there."""

    eval_env: Any
    preset: str
    network: Any
    devices: Devices | int | None
    verbose: int


class RunSettings(AgentArguments, total=False):
    """Settings of `RunConfig`; its task is the first argument of an agent."""

    exp_name: str
    seed: int
    total_timesteps: int
    backend: Literal["auto", "envpool", "gymnasium"]
    num_envs: int
    num_pools: int
    num_env_threads: int
    vector: Literal["sync", "async", "auto"]
    num_workers: int
    mask_vel: bool
    env_kwargs: Words | dict[str, Any]
    obs_keys: Words
    obs_kind: Literal["auto", "pixels", "vector"]
    scale_images: bool
    gray_scale: bool
    resize: int
    action_repeat: int
    frame_stack: int
    info_action_mask: bool
    network_kwargs: Words | dict[str, Any]
    accelerator: Literal["auto", "cpu", "cuda", "gpu"]
    num_nodes: int
    strategy: Literal["auto", "ddp"]
    rank_timeout: float
    precision: Literal["32-true", "bf16-mixed"]
    num_threads: int
    engine: Literal["auto", "native", "recorded", "compile", "eager"]
    torch_deterministic: bool
    eval_every: int
    eval_episodes: int
    info_metrics: Words
    target_return: float | None
    checkpoint_every: int
    keep_checkpoints: int
    capture_video: bool
    log_dir: str | os.PathLike[str]
    callback: Words
    logger: Words


class DecoupledSettings(RunSettings, total=False):
    """Settings of `DecoupledConfig`."""

    decoupled: bool
    num_players: int
    num_trainers: int
    overlap: bool
    player_on_gpu: bool
    num_steps: int


class OnPolicySettings(DecoupledSettings, total=False):
    """Settings of `OnPolicyConfig`."""

    per_rank_batch_size: int
    learning_rate: float
    lr_schedule: Schedule
    anneal_lr: bool
    max_grad_norm: float
    gamma: float
    gae_lambda: float
    normalize_advantages: bool
    vf_coef: float
    ent_coef: float
    ent_schedule: Schedule
    anneal_ent_coef: bool
    hidden_sizes: Widths
    critic_hidden_sizes: Widths
    activation_function: Activation | type[nn.Module]
    encoder: Literal["auto", "nature", "impala", "minatar"]
    shared_network: bool
    ortho_init: bool
    log_std_init: float
    state_dependent_std: bool
    state_dependent_exploration: bool
    exploration_resample_steps: int
    squash_actions: bool
    observation_normalization: bool
    observation_clip: float
    observation_epsilon: float
    reward_scaling: bool
    freeze_normalization: bool


class PPOSettings(OnPolicySettings, total=False):
    """Keyword arguments of `PPO`."""

    update_epochs: int
    recompute_advantages: bool
    share_data: bool
    adam_eps: float
    adam_beta1: float
    adam_beta2: float
    weight_decay: float
    clip_coef: float
    clip_schedule: Schedule
    anneal_clip_coef: bool
    clip_vloss: bool
    vf_clip_coef: float | None
    vf_clip_rule: Literal["larger", "clipped"]
    target_kl: float | None
    kl_stop: Literal["epoch", "minibatch"]


class A2CSettings(OnPolicySettings, total=False):
    """Keyword arguments of `A2C`."""

    optimizer: Literal["rmsprop", "adam"]
    optimizer_eps: float
    rmsprop_decay: float
    adam_beta1: float
    adam_beta2: float
    weight_decay: float


class PPORecurrentSettings(PPOSettings, total=False):
    """Keyword arguments of `PPORecurrent`."""

    rnn: Literal["lstm", "gru"]
    sequence_length: int
    previous_action: bool


class SACSettings(DecoupledSettings, total=False):
    """Keyword arguments of `SAC`."""

    buffer_size: int
    learning_starts: int
    replay_ratio: float
    per_rank_batch_size: int
    policy_lr: float
    q_lr: float
    alpha_lr: float
    lr_schedule: Schedule
    adam_eps: float
    adam_beta1: float
    adam_beta2: float
    weight_decay: float
    max_grad_norm: float
    gamma: float
    num_return_steps: int
    alpha: float
    tune_alpha: bool
    target_entropy: float | None
    tau: float
    policy_frequency: int
    target_network_frequency: int
    matmul_precision: Literal["highest", "high", "medium"]
    num_critics: int
    hidden_sizes: Widths
    activation_function: Activation | type[nn.Module]
    log_every: int


class DroQSettings(SACSettings, total=False):
    """Keyword arguments of `DroQ`."""

    dropout_rate: float
    layer_norm: bool


def list_settings(kind: Any) -> None:
    """Has `help` and `inspect.signature` list the settings of a class of agents, once asked."""
    kind.__signature__ = _Signature()
    if kind.__doc__:
        kind.__doc__ = _Documentation(kind.__doc__)


class _Signature:
    """Descriptor: the signature of a class of agents, with its settings one by one."""

    def __get__(self, agent: Any, kind: Any) -> inspect.Signature:
        if not str(kind.__init__.__annotations__.get("settings")).startswith("Unpack["):
            raise AttributeError("__signature__")  # a user's constructor: inspect looks at it
        return _signature(kind)


class _Documentation:
    """Descriptor: the docstring of a class of agents, with its settings one by one."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __get__(self, agent: Any, kind: Any) -> str:
        lines = _explained(kind) if hasattr(kind, "algo") else []
        return "\n".join([inspect.cleandoc(self._text), *lines])


@cache
def _signature(kind: Any) -> inspect.Signature:
    own = list(inspect.signature(kind.__init__).parameters.values())[1:-1]
    shared = inspect.signature(_base_of(kind).__init__).parameters
    hints = get_type_hints(kind.config_class)
    hints |= get_type_hints(get_args(get_type_hints(kind.__init__)["settings"])[0])
    defaults = {name: shared[name].default for name in AgentArguments.__annotations__}
    for field in dataclasses.fields(kind.config_class):
        defaults.setdefault(field.name, field.default)
    del defaults["env_id"]
    named = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=hints[name]
        )
        for name, value in defaults.items()
    ]
    return inspect.Signature([*own, *named])


@cache
def _explained(kind: Any) -> list[str]:
    """Returns what is said of each argument, and of each setting with its default."""
    try:
        texts = documentation(kind.config_class)
    except OSError:  # a config without a source file
        return []
    arguments = inspect.getdoc(_base_of(kind).__init__) or ""
    arguments = arguments.partition("Args:\n")[2].partition("    **settings")[0].rstrip()
    head = "Settings, with their defaults, which a preset may replace:"
    lines = ["", "Arguments:", "", arguments, "", head, ""]
    for field in dataclasses.fields(kind.config_class):
        if field.name not in ("env_id", *AgentArguments.__annotations__):
            line = f"{field.name} ({field.default!r}): {texts.get(field.name, '')}"
            lines += textwrap.wrap(line, _WIDTH, initial_indent="  ", subsequent_indent="      ")
    return lines


def _base_of(kind: Any) -> Any:
    """Returns `BaseAgent`, which imports this file."""
    return kind.__mro__[-2]
