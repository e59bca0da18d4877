"""What players and trainers send each other: rows one way, weights the other way.

`RemoteLearner` and `LearnerServer` say when something is sent, a channel says what it is. An
algorithm names its channel by the class attribute `channel`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from fastrl.buffers.replay import StepsBuffer
from fastrl.buffers.rollout import RolloutBuffer
from fastrl.config.decoupled import DecoupledConfig
from fastrl.runs.timer import StageTimer


class RolloutChannel:
    """Of on-policy algorithms: rows come with values, log-probabilities, advantages and returns.

    The player computes these, so that they are of the policy that acted, also where the trainers
    are an update ahead.
    """

    player_state: ClassVar[tuple[str, ...]] = (
        "config",
        "noise_generator",
        "noise_device",
        "reward_scale",
    )
    """Names in `state_dict` of what the player knows; the rest is the trainers'."""

    def __init__(self, agent: Any) -> None:
        """Holds the agent that plays or learns here, of the algorithm that names this channel."""
        self.agent = agent

    def rows(self, buffer: RolloutBuffer, columns: slice) -> list[Tensor]:
        """Returns what is learned from some columns of a rollout: views `[T, n, *]`."""
        return [x[:, columns] for x in (*buffer.sources(), buffer.host_valid[:-1])]

    def weights(self) -> list[Tensor]:
        """Returns what acting needs: weights `[P]` and buffers, such as a normaliser's moments."""
        return [self.agent.optimizer.flat, *self.agent.policy.buffers()]

    def complete_rows(self, buffer: RolloutBuffer, timer: StageTimer) -> dict[str, float]:
        """Does the player's part of an update; returns the metrics that only a player can know."""
        agent = self.agent
        with timer.stage("advantage"), agent.engine.learning():
            return {"Info/explained_variance": float(agent.compute_advantages(buffer))}

    def unlogged_metrics(self) -> dict[str, float]:
        """Returns what was learned since the last row of metrics; here a row holds every update."""
        return {}

    def load_player(self, state: dict[str, Any]) -> None:
        """Takes back what a player needs of a checkpoint."""
        self.agent.load_state_dict(state)


class ReplayChannel(RolloutChannel):
    """Of algorithms with a replay buffer: players send the steps that they took, as they are.

    Every trainer keeps a replay buffer of the steps of all players and draws minibatches of its own
    from it. So the replay buffers are alike, and a checkpoint holds one of them.
    """

    player_state = ("config", "noise_generator", "noise_device")

    def rows(self, buffer: Any, columns: slice) -> list[Tensor]:
        """Returns some columns of the latest steps: views `[T, n, *]`, after a scalar."""
        steps: StepsBuffer = buffer
        caused = steps.host_rewards, steps.host_terminated, steps.host_truncated
        fields = steps.obs, steps.actions, *caused, steps.host_valid[:-1]
        return [steps.is_restarted, *[x[:, columns] for x in fields]]

    def weights(self) -> list[Tensor]:
        """Returns what acting needs: the actor's weights `[P]` and buffers."""
        return [self.agent.actor_optimizer.flat, *self.agent.policy.buffers()]

    def complete_rows(self, buffer: RolloutBuffer, timer: StageTimer) -> dict[str, float]:
        """Counts the steps, because a player acts at random until there are enough of them."""
        self.agent.num_env_steps += self.agent.config.steps_per_update
        return {}

    def unlogged_metrics(self) -> dict[str, float]:
        """Returns means since the last row of metrics, and leaves their sums for the next row."""
        return self.agent.unlogged_metrics()

    def load_player(self, state: dict[str, Any]) -> None:
        """Takes back what a player needs of a checkpoint; the replay buffer is for the trainers."""
        self.agent.load_state_dict(state)
        self.agent.saved_replay = None


def exchanged_columns(config: DecoupledConfig, player: int, trainer: int) -> tuple[slice, slice]:
    """Returns the columns that a player sends to a trainer, as each of the two counts them."""
    theirs, first = config.columns_of_trainers()[trainer], player * config.num_envs
    start = max(theirs.start, first)
    stop = max(start, min(theirs.stop, first + config.num_envs))
    return slice(start - first, stop - first), slice(start - theirs.start, stop - theirs.start)
