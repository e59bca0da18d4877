"""Settings of PPO: those of all on-policy algorithms, epochs, clipping, early stopping."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from fastrl.config.bounds import Bounds
from fastrl.config.on_policy import OnPolicyConfig
from fastrl.config.schedules import adaptive_of
from fastrl.config.search import LogRange


@dataclass(frozen=True, kw_only=True)
class PPOConfig(OnPolicyConfig):
    """Settings of proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347)."""

    update_epochs: Annotated[int, Bounds(at_least=1), LogRange(2, 20)] = 10
    """Passes over the rollout per update."""
    recompute_advantages: bool = False
    """Recompute the advantages with the current critic before each epoch after the first."""
    share_data: bool = False
    """Several ranks: shuffle the rollouts of all ranks together and train each rank on a part; by
    default each rank trains on its own rollout. Gradients are averaged either way."""
    adam_eps: Annotated[float, Bounds(above=0)] = 1e-5
    """Epsilon of Adam."""
    adam_beta1: Annotated[float, Bounds(at_least=0, below=1)] = 0.9
    """Decay rate of Adam's running mean of the gradient, per step."""
    adam_beta2: Annotated[float, Bounds(at_least=0, below=1)] = 0.999
    """Decay rate of Adam's running mean of the gradient's square, per step."""
    weight_decay: Annotated[float, Bounds(at_least=0)] = 0.0
    """Shrink all weights by the share learning_rate x weight_decay at each step, apart from the
    gradient (AdamW)."""
    clip_coef: Annotated[float, Bounds(above=0), LogRange(0.05, 0.4)] = 0.2
    """Clip the probability ratio to [1 - clip_coef, 1 + clip_coef]."""
    clip_schedule: str = "constant"
    """Course of clip_coef, as lr_schedule but for adaptive."""
    anneal_clip_coef: bool = False
    """Short for clip_schedule=linear."""
    clip_vloss: bool = False
    """Also clip the change of the value, to clip_coef or vf_clip_coef."""
    vf_clip_coef: Annotated[float | None, Bounds(above=0)] = None
    """Half width of the interval that the change of the value is clipped to; None: clip_coef."""
    vf_clip_rule: Literal["larger", "clipped"] = "larger"
    """larger: the larger of the losses of the value and of the clipped value counts, as in OpenAI
    baselines. clipped: that of the clipped value, as in Stable-Baselines3."""
    target_kl: Annotated[float | None, Bounds(above=0)] = None
    """Stop an update when the KL from the acting policy exceeds this; see kl_stop."""
    kl_stop: Literal["epoch", "minibatch"] = "epoch"
    """epoch: stop after an epoch whose mean KL exceeds target_kl. minibatch: before a gradient step
    whose minibatch's KL exceeds 1.5 target_kl, as in Stable-Baselines3."""

    def __post_init__(self) -> None:
        """Checks ranges and sizes."""
        super().__post_init__()
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
        for name, other in (
            ("vf_clip_coef", "clip_vloss"),
            ("vf_clip_rule", "clip_vloss"),
            ("kl_stop", "target_kl"),
        ):
            is_set = getattr(self, name) != getattr(PPOConfig, name)
            if is_set and getattr(self, other) in (None, False):
                raise ValueError(f"{name} has no effect without {other}")

    @property
    def trainers_get_all_rows(self) -> bool:
        """Decoupled: whether each trainer gets all rows, or those of some environments."""
        return self.share_data

    @property
    def follows_kl(self) -> bool:
        """Whether anything depends on how far the policy moved in an epoch."""
        return self.target_kl is not None or adaptive_of(self) is not None

    @property
    def max_epoch_kl(self) -> float:
        """The mean KL of an epoch beyond which it is the last of an update."""
        stops = self.target_kl is not None and self.kl_stop == "epoch"
        return self.target_kl if stops else math.inf  # pyright: ignore[reportReturnType]

    @property
    def step_metric_limits(self) -> dict[str, float]:
        """The most that a minibatch's KL may be for a step to be taken; {} if there is no bound."""
        stops = self.target_kl is not None and self.kl_stop == "minibatch"
        return {"Info/approx_kl": 1.5 * self.target_kl} if stops else {}  # pyright: ignore

    @property
    def has_kl(self) -> bool:
        """Whether the policy moves between the gradient steps of an update."""
        return self.update_epochs > 1 or self.num_envs * self.num_steps > self.per_rank_batch_size
