"""What the algorithms that learn from whole rollouts are told alike: advantages, loss, networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastrl.config.run import RunConfig, at_least, in_range, one_of


@dataclass(frozen=True, kw_only=True)
class OnPolicyConfig(RunConfig):
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

    decoupled: bool = False
    """Play and train in processes of their own: players send rollouts, trainers send weights."""
    num_players: int = 1
    """Decoupled: processes that play, each with num_envs environments."""
    num_trainers: int = 1
    """Decoupled: processes that train, each on the rows of some environments of every rollout."""
    overlap: bool = False
    """Decoupled: play the next rollout while trainers learn from this one, with the policy of one
    update before. Ratios are of the policy that acted."""
    player_on_gpu: bool = False
    """Decoupled: act on a GPU too; by default only trainers use those."""

    def __post_init__(self) -> None:
        """Checks ranges and sizes."""
        self._check_decoupled()
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
        if self.decoupled:
            envs = self.num_players * self.num_envs // self.num_trainers
            of_what = f"that a trainer gets of {envs} environments"
        rows = envs * self.num_steps
        if self.per_rank_batch_size > rows:
            raise ValueError(
                f"per_rank_batch_size={self.per_rank_batch_size} is larger than a rollout "
                f"{of_what} x num_steps={self.num_steps} = {rows} rows"
            )
        if self.total_timesteps < self.steps_per_update:
            raise ValueError(
                f"total_timesteps={self.total_timesteps} is less than one rollout "
                f"of {self.steps_per_update} steps"
            )

    def _check_decoupled(self) -> None:
        at_least(self, 1, "num_envs", "num_players", "num_trainers", "devices", "num_nodes")
        if not self.decoupled:
            for name in ("num_players", "num_trainers", "overlap", "player_on_gpu"):
                if getattr(self, name) != getattr(OnPolicyConfig, name):
                    raise ValueError(f"{name} has no effect without decoupled")
            return
        processes = self.num_players + self.num_trainers
        if self.devices * self.num_nodes == 1:
            object.__setattr__(self, "devices", processes)
        if self.devices * self.num_nodes != processes:
            raise ValueError(
                f"num_players={self.num_players} and num_trainers={self.num_trainers} are "
                f"{processes} processes, not devices={self.devices} x num_nodes={self.num_nodes}"
            )
        if self.num_trainers > self.num_players * self.num_envs:
            raise ValueError(
                f"num_trainers={self.num_trainers} cannot each get an environment's rows: there "
                f"are {self.num_players} x {self.num_envs} environments"
            )
        if self.precision != "32-true":
            raise ValueError(f"precision={self.precision} is not offered with decoupled")
        if self.player_on_gpu and self.accelerator == "cpu":
            raise ValueError("player_on_gpu has no effect with accelerator=cpu")

    @property
    def num_rollouts(self) -> int:
        """Processes that play at the same time."""
        return self.num_players if self.decoupled else self.devices * self.num_nodes

    def global_sizes(self) -> str:
        """Spells what the sizes of one process come to over all."""
        if not self.decoupled:
            return super().global_sizes()
        players, trainers, rows = self.num_players, self.num_trainers, self.per_rank_batch_size
        total = players * self.num_envs
        sizes = [f"{players} x {self.num_envs} = {total:,} environments of players"]
        if rows:
            sizes.append(f"{trainers} x {rows} = {trainers * rows:,} rows a minibatch of trainers")
        return ", ".join(sizes)

    @property
    def steps_per_update(self) -> int:
        """Environment steps of one rollout, over all that play."""
        return self.num_envs * self.num_steps * self.num_rollouts

    @property
    def num_updates(self) -> int:
        """Whole rollouts in the run."""
        return self.total_timesteps // self.steps_per_update
