"""Settings of runs whose players and trainers are separate processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

from fastrl.config.bounds import Bounds
from fastrl.config.run import MOST_PROCESSES, RunConfig


@dataclass(frozen=True, kw_only=True)
class DecoupledConfig(RunConfig):
    """Settings of players and trainers, for the algorithms that can be decoupled."""

    decoupled: bool = False
    """Play and train in separate processes: players send rollouts, trainers send weights."""
    num_players: Annotated[int, Bounds(at_least=1, at_most=MOST_PROCESSES)] = 1
    """Decoupled: number of player processes, each with num_envs environments."""
    num_trainers: Annotated[int, Bounds(at_least=1, at_most=MOST_PROCESSES)] = 1
    """Decoupled: number of trainer processes. Each trains on the rows of some environments; with a
    replay buffer, each draws its own minibatches from the rows of all."""
    overlap: bool = False
    """Decoupled: keep playing while the trainers learn, with weights that are one update old.
    Probability ratios are relative to the policy that acted."""
    player_on_gpu: bool = False
    """Decoupled: run the players' policy on a GPU as well; by default only trainers use GPUs."""
    num_steps: Annotated[int, Bounds(at_least=1)] = 1
    """Steps between two updates, per environment."""

    def __post_init__(self) -> None:
        """Checks that the settings are consistent."""
        super().__post_init__()
        if self.decoupled:
            self._check_decoupled()
        else:
            for name in ("num_players", "num_trainers", "overlap", "player_on_gpu"):
                if getattr(self, name) != getattr(DecoupledConfig, name):
                    raise ValueError(f"{name} has no effect without decoupled")

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

    def columns_of_trainers(self) -> list[slice]:
        """Decoupled: returns which columns of all players' rollouts, side by side, trainers get.

        With `trainers_get_all_rows` each gets all of them; else they are shared out, to each as
        many as to the others or one more.
        """
        num_columns, num_trainers = self.num_players * self.num_envs, self.num_trainers
        if self.trainers_get_all_rows:
            return [slice(0, num_columns)] * num_trainers
        ends = [num_columns * (index + 1) // num_trainers for index in range(num_trainers)]
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def share_of_trainer(self, index: int) -> Self:
        """Decoupled: returns the settings of one trainer's agent.

        They are those of a run with one player that has just the environments whose rows this
        trainer gets, and with no trainer that gets other rows. It has as many updates.
        """
        columns = self.columns_of_trainers()[index]
        num_envs, num_columns = columns.stop - columns.start, self.num_players * self.num_envs
        num_trainers = self.num_trainers if self.trainers_get_all_rows else 1
        return self.replace(
            num_envs=num_envs,
            num_pools=1,
            num_players=1,
            num_trainers=num_trainers,
            devices=1 + num_trainers,
            num_nodes=1,
            total_timesteps=self.total_timesteps * num_envs // num_columns,
        )

    def for_one_process(self, **changes: Any) -> Self:
        """Returns the settings for one process, however many shared the run, with some changed.

        Of a decoupled run it has the environments of all players: a minibatch may need their rows.
        """
        alone: dict[str, Any] = {"devices": 1, "num_nodes": 1, "strategy": "auto"}
        if hasattr(self, "share_data"):
            alone["share_data"] = False
        if self.decoupled:
            alone |= {"decoupled": False, "num_players": 1, "num_trainers": 1}
            alone |= {"overlap": False, "player_on_gpu": False}
            alone["num_envs"] = self.num_players * self.num_envs
        return self.replace(**{**alone, **changes})

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
