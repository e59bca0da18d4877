"""Settings of runs whose players and trainers are separate processes."""

from __future__ import annotations

from dataclasses import dataclass

from fastrl.config.run import RunConfig, at_least


@dataclass(frozen=True, kw_only=True)
class DecoupledConfig(RunConfig):
    """Settings of players and trainers, for the algorithms that can be decoupled."""

    decoupled: bool = False
    """Play and train in separate processes: players send rollouts, trainers send weights."""
    num_players: int = 1
    """Decoupled: number of player processes, each with num_envs environments."""
    num_trainers: int = 1
    """Decoupled: number of trainer processes. Each trains on the rows of some environments; with a
    replay buffer, each draws its own minibatches from the rows of all."""
    overlap: bool = False
    """Decoupled: keep playing while the trainers learn, with weights that are one update old.
    Probability ratios are relative to the policy that acted."""
    player_on_gpu: bool = False
    """Decoupled: run the players' policy on a GPU as well; by default only trainers use GPUs."""
    num_steps: int = 1
    """Steps between two updates, per environment."""

    def __post_init__(self) -> None:
        """Checks that the settings are consistent."""
        at_least(self, 1, "num_envs", "num_players", "num_trainers", "devices", "num_nodes")
        if self.decoupled:
            self._check_decoupled()
        else:
            for name in ("num_players", "num_trainers", "overlap", "player_on_gpu"):
                if getattr(self, name) != getattr(DecoupledConfig, name):
                    raise ValueError(f"{name} has no effect without decoupled")
        super().__post_init__()

    def _check_decoupled(self) -> None:
        processes = self.num_players + self.num_trainers
        if self.devices * self.num_nodes == 1:
            object.__setattr__(self, "devices", processes)
        if self.devices * self.num_nodes != processes:
            raise ValueError(
                f"num_players={self.num_players} and num_trainers={self.num_trainers} are "
                f"{processes} processes, not devices={self.devices} x num_nodes={self.num_nodes}"
            )
        if self.precision != "32-true":
            raise ValueError(f"precision={self.precision} is not offered with decoupled")
        if self.player_on_gpu and self.accelerator == "cpu":
            raise ValueError("player_on_gpu has no effect with accelerator=cpu")

    @property
    def num_rollouts(self) -> int:
        """Number of processes that play: each collects a rollout per update."""
        return self.num_players if self.decoupled else self.devices * self.num_nodes

    @property
    def trainers_get_all_rows(self) -> bool:
        """Decoupled: whether each trainer gets all rows, or those of some environments."""
        return False

    def global_sizes(self) -> str:
        """Returns the totals of the per-process sizes, in words."""
        if not self.decoupled:
            return super().global_sizes()
        players, trainers, sizes = self.num_players, self.num_trainers, self.per_rank_sizes()
        total = players * self.num_envs
        spelled = [f"{players} x {self.num_envs} = {total:,} environments of players"]
        for name in sizes.keys() - {"num_envs"}:
            if size := getattr(self, name):
                rows = f"{trainers} x {size} = {trainers * size:,} {sizes[name]} of trainers"
                spelled.append(rows)
        return ", ".join(spelled)

    @property
    def steps_per_update(self) -> int:
        """Environment steps between two updates, summed over all players."""
        return self.num_envs * self.num_steps * self.num_rollouts

    @property
    def num_updates(self) -> int:
        """Number of complete rollouts in the run."""
        return self.total_timesteps // self.steps_per_update
