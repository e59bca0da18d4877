"""What the algorithms that learn from whole rollouts are told alike: advantages, loss, networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastrl.config.decoupled import DecoupledConfig
from fastrl.config.run import at_least, in_range, one_of


class LargeBatchError(ValueError):
    """A minibatch is larger than what there is to learn from, which is `num_rows`."""

    def __init__(self, message: str, num_rows: int) -> None:
        super().__init__(message)
        self.num_rows = num_rows


@dataclass(frozen=True, kw_only=True)
class OnPolicyConfig(DecoupledConfig):
    """Settings that PPO and A2C share; each may choose other defaults."""

    num_steps: int = 128
    """Steps of one rollout, per environment."""
    per_rank_batch_size: int = 64
    """Rows of a minibatch, per rank."""

    learning_rate: float = 1e-3
    """Step size of the optimiser."""
    anneal_lr: bool = False
    """Lower the learning rate linearly to zero over the run."""
    max_grad_norm: float = 0.5
    """Clip the global norm of the gradient to this; 0 leaves it alone."""

    gamma: float = 0.99
    """Discount per step."""
    gae_lambda: float = 0.95
    """Weight between one-step (0) and whole-episode (1) advantages."""
    normalize_advantages: bool = False
    """Give the advantages of each minibatch mean 0 and standard deviation 1."""
    vf_coef: float = 1.0
    """Weight of the value loss, a mean squared error without the factor 1/2."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    anneal_ent_coef: bool = False
    """Lower ent_coef linearly to zero over the run."""

    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    activation_function: Literal["relu", "tanh", "elu"] = "tanh"
    """Function between the layers."""
    encoder: Literal["auto", "nature", "impala", "minatar"] = "auto"
    """Convolutions over pixels, in front of the hidden layers. auto: nature from 36 x 36 pixels on,
    below that minatar."""
    shared_network: bool = False
    """One network with two heads, in place of one network for the actor and one for the critic."""
    ortho_init: bool = False
    """Orthogonal initial weights: gain sqrt(2), actor's head 0.01, critic's head 1, biases 0."""
    log_std_init: float = 0.0
    """Box actions: logarithm of the standard deviation that the policy starts with."""
    squash_actions: bool = False
    """Box actions: squash by tanh into the bounds, in place of clipping to them."""
    observation_normalization: bool = False
    """Divide observations by their running spread, after taking off the running mean."""
    reward_scaling: bool = False
    """Divide rewards by the running spread of the discounted return."""

    def __post_init__(self) -> None:
        """Checks ranges and sizes."""
        super().__post_init__()
        at_least(self, 0, "per_rank_batch_size")
        at_least(self, 2, "num_steps")  # in one step alone, every row may be a reset row
        at_least(self, 0, "learning_rate", "max_grad_norm", "vf_coef", "ent_coef")
        in_range(self, 0, 1, "gamma", "gae_lambda")
        in_range(self, -20, 2, "log_std_init")
        one_of(self, "activation_function", "relu", "tanh", "elu")
        one_of(self, "encoder", "auto", "nature", "impala", "minatar")
        if not self.hidden_sizes or min(self.hidden_sizes) < 1:
            raise ValueError(
                "hidden_sizes must hold at least one width, each at least 1, "
                f"not {list(self.hidden_sizes)}"
            )
        if self.anneal_ent_coef and not self.ent_coef:
            raise ValueError("anneal_ent_coef has no effect while ent_coef is 0")
        envs, of_what = self.num_envs, f"of num_envs={self.num_envs}"
        if self.decoupled and self.num_trainers > self.num_players * self.num_envs:
            raise ValueError(
                f"num_trainers={self.num_trainers} cannot each get an environment's rows: there "
                f"are {self.num_players} x {self.num_envs} environments"
            )
        if self.decoupled:
            envs = self.num_players * self.num_envs // self.num_trainers
            of_what = f"that a trainer gets of {envs} environments"
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
