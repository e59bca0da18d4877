"""Settings of SAC: replay buffer and minibatches, learning rates, temperature, networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from fastrl.config.bounds import Bounds
from fastrl.config.decoupled import DecoupledConfig
from fastrl.config.networks import Activation, check_layers
from fastrl.config.schedules import check_schedules
from fastrl.config.search import Choices, LogRange, OneMinusLogRange, PowersOfTwo


@dataclass(frozen=True, kw_only=True)
class SACConfig(DecoupledConfig):
    """Settings of soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905)."""

    env_id: str = "LunarLanderContinuous-v2"
    """Task: an EnvPool or gymnasium id, or module:callable that returns a gymnasium.Env."""
    buffer_size: int = 1_000_000
    """Capacity of the replay buffer in transitions, over all environments of a rank; if decoupled,
    of all players."""
    learning_starts: Annotated[int, Bounds(at_least=0), Choices((5_000, 1_000, 2_000, 10_000))] = (
        5_000
    )
    """Environment steps with random actions before the first gradient step."""
    replay_ratio: Annotated[
        float, Bounds(at_least=1e-6, at_most=1e6), Choices((1.0, 0.25, 0.5, 2.0))
    ] = 1.0
    """Gradient steps per environment step; 1 / num_envs: one per step of all environments."""
    per_rank_batch_size: Annotated[int, Bounds(at_least=1), PowersOfTwo(64, 512)] = 256
    """Transitions per minibatch, per rank."""

    policy_lr: Annotated[float, Bounds(at_least=0), LogRange(1e-4, 3e-3)] = 3e-4
    """Learning rate of the actor."""
    q_lr: Annotated[float, Bounds(at_least=0), LogRange(1e-4, 3e-3)] = 3e-4
    """Learning rate of the critics."""
    alpha_lr: Annotated[float, Bounds(at_least=0)] = 3e-4
    """Learning rate of the temperature."""
    lr_schedule: str = "constant"
    """Course of the three learning rates over the run: constant, linear (to 0) or cosine (to 0),
    with floor=F (fall to the share F) and warmup=W (first rise, over the share W of the run), as in
    cosine,floor=0.1,warmup=0.05. module:callable, in Python any function, gives the factor at
    progress 0 to 1."""
    adam_eps: Annotated[float, Bounds(above=0)] = 1e-8
    """Epsilon of Adam."""
    adam_beta1: Annotated[float, Bounds(at_least=0, below=1)] = 0.9
    """Decay rate of Adam's running mean of the gradient, per step."""
    adam_beta2: Annotated[float, Bounds(at_least=0, below=1)] = 0.999
    """Decay rate of Adam's running mean of the gradient's square, per step."""
    weight_decay: Annotated[float, Bounds(at_least=0)] = 0.0
    """Shrink all weights of actor and critics by the share learning rate x weight_decay at each
    step, apart from the gradient (AdamW)."""
    max_grad_norm: Annotated[float, Bounds(at_least=0)] = 0.0
    """Clip the gradient norms of the actor and of the critics to this; 0: no clipping."""

    gamma: Annotated[float, Bounds(at_least=0, at_most=1), OneMinusLogRange(0.9, 0.9999)] = 0.99
    """Discount factor per step."""
    num_return_steps: Annotated[int, Bounds(at_least=1), Choices((1, 3, 5))] = 1
    """Rewards in a target before it bootstraps (n-step returns, without off-policy correction)."""
    alpha: Annotated[float, Bounds(at_least=0)] = 1.0
    """Temperature, the weight of the entropy; the initial value if it is tuned."""
    tune_alpha: bool = True
    """Tune the temperature to keep the policy at the target entropy."""
    target_entropy: float | None = None
    """Target entropy in nats, of actions scaled to [-1, 1]; default: minus their dimensions."""
    tau: Annotated[float, Bounds(at_least=0, at_most=1), LogRange(0.002, 0.05)] = 0.005
    """Weight of the critics in each update of the target critics (Polyak averaging)."""
    policy_frequency: Annotated[int, Bounds(at_least=1)] = 1
    """Critic gradient steps per gradient step of actor and temperature."""
    target_network_frequency: Annotated[int, Bounds(at_least=1)] = 1
    """Critic gradient steps per update of the target critics."""

    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """Precision of the update's float32 matrix products, as in torch. medium multiplies in bfloat16
    and sums in float32: several times faster on processors with bfloat16 units."""
    num_critics: Annotated[int, Bounds(at_least=1)] = 2
    """Number of critics; targets use the minimum of their estimates."""
    hidden_sizes: Annotated[
        tuple[int, ...], Bounds(at_least=1), Choices(((256, 256), (64, 64), (128, 128)))
    ] = (
        256,
        256,
    )
    """Widths of the hidden layers."""
    activation_function: Activation = "relu"
    """Activation function of the hidden layers: relu, tanh and elu, which the kernels know, or
    another of torch.nn, by its name there."""

    log_every: Annotated[int, Bounds(at_least=0)] = 1_000
    """Environment steps between rows of metrics; 0: one row per update."""

    def __post_init__(self) -> None:
        """Checks ranges and sizes."""
        super().__post_init__()
        check_schedules(self)
        check_layers(self)
        if self.tune_alpha and not self.alpha > 0:
            raise ValueError(f"alpha must be above 0 to be tuned, not {self.alpha}")
        if self.target_entropy is not None and not self.tune_alpha:
            raise ValueError("target_entropy has no effect with tune_alpha=false")
        players = self.num_players if self.decoupled else 1
        num_envs, steps = players * self.num_envs, max(self.num_steps, 2)
        if self.buffer_size < num_envs * steps:
            raise ValueError(
                f"buffer_size={self.buffer_size} holds fewer than {steps} steps of "
                f"{num_envs} environments"
            )
        if self.total_timesteps < self.steps_per_update:
            raise ValueError(
                f"total_timesteps={self.total_timesteps} is less than the {self.steps_per_update} "
                "steps between two updates"
            )

    @property
    def trainers_get_all_rows(self) -> bool:
        """Decoupled: True, because each trainer keeps a replay buffer of all players' rows."""
        return True
