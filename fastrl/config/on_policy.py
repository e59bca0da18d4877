"""Settings shared by the on-policy algorithms: advantages, loss, networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from fastrl.config.bounds import Bounds
from fastrl.config.decoupled import DecoupledConfig
from fastrl.config.networks import Activation, check_layers
from fastrl.config.schedules import check_schedules
from fastrl.config.search import Choices, LogRange, OneMinusLogRange, PowersOfTwo


class LargeBatchError(ValueError):
    """A minibatch is larger than the rollout, which has `num_rows` rows."""

    def __init__(self, message: str, num_rows: int) -> None:
        super().__init__(message)
        self.num_rows = num_rows


@dataclass(frozen=True, kw_only=True)
class OnPolicyConfig(DecoupledConfig):
    """Settings shared by PPO and A2C; each may have other defaults."""

    # At least 2: with one step, every row may be a reset row.
    num_steps: Annotated[int, Bounds(at_least=2), PowersOfTwo(16, 512)] = 128
    """Steps of a rollout, per environment."""
    per_rank_batch_size: Annotated[int, Bounds(at_least=1), PowersOfTwo(64, 2048)] = 64
    """Rows of a minibatch, per rank."""

    learning_rate: Annotated[float, Bounds(at_least=0), LogRange(1e-4, 1e-2)] = 1e-3
    """Learning rate of the optimiser."""
    lr_schedule: str = "constant"
    """Course of the learning rate over the run: constant, linear (to 0) or cosine (to 0), with
    floor=F (fall to the share F) and warmup=W (first rise, over the share W of the run), as in
    cosine,floor=0.1,warmup=0.05. adaptive[,kl=0.01,low=1e-5,high=1e-2] (PPO) follows the KL
    divergence. module:callable, in Python any function, gives the factor at progress 0 to 1."""
    anneal_lr: Annotated[bool, Choices((False, True))] = False
    """Short for lr_schedule=linear."""
    max_grad_norm: Annotated[float, Bounds(at_least=0), LogRange(0.2, 5.0)] = 0.5
    """Clip the global norm of the gradient to this; 0: no clipping."""

    gamma: Annotated[float, Bounds(at_least=0, at_most=1), OneMinusLogRange(0.9, 0.9999)] = 0.99
    """Discount factor per step."""
    gae_lambda: Annotated[float, Bounds(at_least=0, at_most=1), OneMinusLogRange(0.8, 0.995)] = 0.95
    """Lambda of generalised advantage estimation: 0 for one-step, 1 for Monte Carlo advantages."""
    normalize_advantages: Annotated[bool, Choices((False, True))] = False
    """Normalise the advantages of each minibatch to mean 0 and standard deviation 1."""
    vf_coef: Annotated[float, Bounds(at_least=0), LogRange(0.1, 2.0)] = 1.0
    """Weight of the value loss, a mean squared error without a factor of 1/2."""
    ent_coef: Annotated[float, Bounds(at_least=0), LogRange(1e-5, 0.1)] = 0.0
    """Weight of the entropy bonus."""
    ent_schedule: str = "constant"
    """Course of ent_coef, as lr_schedule but for adaptive."""
    anneal_ent_coef: bool = False
    """Short for ent_schedule=linear."""

    hidden_sizes: Annotated[
        tuple[int, ...], Bounds(at_least=1), Choices(((64, 64), (32, 32), (128, 128), (256, 256)))
    ] = (64, 64)
    """Widths of the hidden layers."""
    critic_hidden_sizes: Annotated[tuple[int, ...], Bounds(at_least=1)] = ()
    """Widths of the critic's hidden layers; none: as the actor's, hidden_sizes."""
    activation_function: Annotated[Activation, Choices(("tanh", "relu"))] = "tanh"
    """Activation function of the hidden layers: relu, tanh and elu, which the kernels know, or
    another of torch.nn, by its name there."""
    encoder: Literal["auto", "nature", "impala", "minatar"] = "auto"
    """Convolutional network for pixels, in front of the hidden layers. auto: nature for images of
    at least 36 x 36 pixels, else minatar."""
    shared_network: bool = False
    """Use one network with two heads instead of separate networks for actor and critic."""
    ortho_init: Annotated[bool, Choices((False, True))] = False
    """Orthogonal initialisation: gain sqrt(2), actor head 0.01, critic head 1, biases 0."""
    log_std_init: Annotated[float, Bounds(at_least=-20, at_most=2)] = 0.0
    """Box actions: initial logarithm of the policy's standard deviation."""
    state_dependent_std: bool = False
    """Box actions: the actor gives the standard deviation of each state; by default one is learned
    for all states."""
    state_dependent_exploration: bool = False
    """Box actions: explore by a random function of the state in place of noise at each step (gSDE,
    arXiv 2005.05719). The function is linear in the features of the last hidden layer; its weights
    are drawn for each rollout, with standard deviations that are learned."""
    exploration_resample_steps: Annotated[int, Bounds(at_least=0)] = 0
    """Steps after which state_dependent_exploration draws these weights anew within a rollout; 0:
    only at its beginning."""
    squash_actions: bool = False
    """Box actions: squash into the bounds by tanh instead of clipping to them."""
    observation_normalization: Annotated[bool, Choices((False, True))] = False
    """Normalise observations by their running mean and standard deviation."""
    observation_clip: Annotated[float, Bounds(above=0)] = 10.0
    """Keep normalised observations within plus and minus this."""
    observation_epsilon: Annotated[float, Bounds(above=0)] = 1e-8
    """Add this to the variance of observations, so that what hardly varies is not magnified."""
    reward_scaling: Annotated[bool, Choices((False, True))] = False
    """Divide rewards by the running standard deviation of the discounted return."""
    freeze_normalization: bool = False
    """Use the running statistics of observations and rewards as they were loaded or resumed,
    without updating them."""

    def __post_init__(self) -> None:
        """Checks ranges and sizes."""
        super().__post_init__()
        check_layers(self)
        if self.critic_hidden_sizes and self.shared_network:
            raise ValueError("critic_hidden_sizes has no effect with shared_network")
        if self.state_dependent_exploration and self.state_dependent_std:
            raise ValueError(
                "state_dependent_std has no effect with state_dependent_exploration, whose "
                "deviations depend on the state by themselves"
            )
        if self.exploration_resample_steps and not self.state_dependent_exploration:
            raise ValueError(
                "exploration_resample_steps has no effect without state_dependent_exploration"
            )
        check_schedules(self, has_kl=self.has_kl)
        for name in ("observation_clip", "observation_epsilon"):
            value = getattr(self, name)
            if not self.observation_normalization and value != getattr(OnPolicyConfig, name):
                raise ValueError(f"{name} has no effect without observation_normalization")
        if self.freeze_normalization and not (
            self.observation_normalization or self.reward_scaling
        ):
            raise ValueError(
                "freeze_normalization has no effect without observation_normalization or "
                "reward_scaling"
            )
        envs, of_what = self.num_envs, f"of num_envs={self.num_envs}"
        if self.decoupled and self.num_trainers > self.num_players * self.num_envs:
            raise ValueError(
                f"num_trainers={self.num_trainers} is more than the {self.num_players} x "
                f"{self.num_envs} environments: each trainer needs at least one environment's rows"
            )
        if self.decoupled:
            envs = self.num_players * self.num_envs // self.num_trainers
            of_what = f"of a trainer's {envs} environments"
        rows = envs * self.num_steps
        if self.per_rank_batch_size > rows:
            raise LargeBatchError(
                f"per_rank_batch_size={self.per_rank_batch_size} is larger than a rollout "
                f"{of_what} x num_steps={self.num_steps} = {rows} rows",
                rows,
            )
        if self.total_timesteps < self.steps_per_update:
            raise ValueError(
                f"total_timesteps={self.total_timesteps} is less than one rollout "
                f"of {self.steps_per_update} steps"
            )

    @property
    def has_kl(self) -> bool:
        """Whether the policy moves between the gradient steps of an update."""
        return False
