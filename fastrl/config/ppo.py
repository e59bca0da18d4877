"""Settings of PPO: those of all on-policy algorithms, epochs, clipping, early stopping."""

from __future__ import annotations

from dataclasses import dataclass

from fastrl.config.on_policy import OnPolicyConfig
from fastrl.config.run import at_least
from fastrl.config.schedules import adaptive_of


@dataclass(frozen=True, kw_only=True)
class PPOConfig(OnPolicyConfig):
    """Settings of proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347)."""

    update_epochs: int = 10
    """Passes over the rollout per update."""
    recompute_advantages: bool = False
    """Recompute the advantages with the current critic before each epoch after the first."""
    share_data: bool = False
    """Several ranks: shuffle the rollouts of all ranks together and train each rank on a part; by
    default each rank trains on its own rollout. Gradients are averaged either way."""
    adam_eps: float = 1e-5
    """Epsilon of Adam."""
    clip_coef: float = 0.2
    """Clip the probability ratio to [1 - clip_coef, 1 + clip_coef]."""
    clip_schedule: str = "constant"
    """Course of clip_coef, as lr_schedule but for adaptive."""
    anneal_clip_coef: bool = False
    """Short for clip_schedule=linear."""
    clip_vloss: bool = False
    """Also clip the change of the value to clip_coef; the larger of the two losses counts."""
    target_kl: float | None = None
    """Stop an update after an epoch whose mean KL from the acting policy exceeds this."""

    def __post_init__(self) -> None:
        """Checks ranges and sizes."""
        super().__post_init__()
        at_least(self, 1, "update_epochs", "per_rank_batch_size")
        if self.recompute_advantages and self.update_epochs == 1:
            raise ValueError("recompute_advantages has no effect while update_epochs is 1")
        if self.share_data and self.devices * self.num_nodes == 1:
            raise ValueError("share_data has no effect with one rank; devices is 1")
        if self.share_data and self.decoupled and self.num_trainers == 1:
            raise ValueError("share_data has no effect with one trainer")
        if self.decoupled and self.recompute_advantages:
            raise ValueError(
                "recompute_advantages is not offered with decoupled: players compute advantages"
            )
        if not self.adam_eps > 0:
            raise ValueError(f"adam_eps must be above 0, not {self.adam_eps}")
        if not self.clip_coef > 0:
            raise ValueError(f"clip_coef must be above 0, not {self.clip_coef}")
        if self.target_kl is not None and not self.target_kl > 0:
            raise ValueError(
                f"target_kl must be above 0, not {self.target_kl}; None switches early stopping off"
            )

    @property
    def trainers_get_all_rows(self) -> bool:
        """Decoupled: whether each trainer gets all rows, or those of some environments."""
        return self.share_data

    @property
    def follows_kl(self) -> bool:
        """Whether anything depends on how far the policy moved in an epoch."""
        return self.target_kl is not None or adaptive_of(self) is not None

    @property
    def has_kl(self) -> bool:
        """Whether the policy moves between the gradient steps of an update."""
        return self.update_epochs > 1 or self.num_envs * self.num_steps > self.per_rank_batch_size

    @property
    def num_minibatches(self) -> int:
        """Number of minibatches per epoch."""
        return -(-self.num_envs * self.num_steps // self.per_rank_batch_size)
