"""Players and trainers in processes of their own, for the algorithms with a replay buffer.

    python -m fastrl.sac --decoupled --num-players 2 --num-trainers 2

As `decoupled/processes.py`, but for what travels. Players send every step that they took, and judge
nothing. Each trainer keeps a replay buffer of the steps of all players, draws minibatches of its
own from it, and sends the actor back. So the replay buffers are alike, and a checkpoint has one of
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fastrl.buffers.replay import StepsBuffer
from fastrl.decoupled.processes import Playing, Side, Training
from fastrl.runs.timer import StageTimer


class ReplaySide(Side):
    """What players and trainers of the algorithms with a replay buffer exchange."""

    actor_optimizer: Any

    def rows(self, buffer: Any, columns: slice) -> list[Tensor]:
        """Returns some columns of the latest steps: views `[T, n, *]`."""
        steps: StepsBuffer = buffer
        caused = steps.host_rewards, steps.host_terminated, steps.host_truncated
        fields = steps.obs, steps.actions, *caused, steps.host_valid[:-1]
        return [steps.is_restarted, *[x[:, columns] for x in fields]]

    def weights(self) -> list[Tensor]:
        """Returns what acting takes: the actor's weights as one tensor."""
        return [self.actor_optimizer.flat]

    def send_memory(self, process: int) -> None:
        """Sends all that learning goes on from, the replay buffer included."""
        agent: Any = self
        self.mail.send_state(agent.state_dict(), process)

    def receive_memory(self, process: int) -> None:
        """Takes it in."""
        agent: Any = self
        agent.load_state_dict(self.mail.receive_state(process))


class ReplayPlaying(ReplaySide, Playing):
    """Plays, in front of an algorithm's own agent, and has no replay buffer."""

    num_env_steps: int
    _saved_replay: Any
    rank_state = ("noise_generator", "noise_device")
    _learned: Mapping[str, Any] = {}  # what trainer 0 told last, or a checkpoint held

    def _make_learning(self) -> None:
        """Leaves learning to the trainers."""

    def prepare(self, buffer: Any, timer: StageTimer) -> dict[str, float]:
        """Counts the steps, by which warm-up ends."""
        self.num_env_steps += self.config.steps_per_update
        return {}

    def update(self, buffer: Any, update_index: int, timer: StageTimer) -> dict[str, float]:
        """Sends the latest steps off and returns the metrics of what came back."""
        metrics = super().update(buffer, update_index, timer)
        buffer.is_restarted.fill_(False)
        return metrics

    def receive_memory(self, process: int) -> None:
        """Keeps what a trainer learned, to save it."""
        self._learned = self.mail.receive_state(process)

    def state_dict(self) -> dict[str, Any]:
        """Returns what the trainers learned and what this player has for itself."""
        player: Any = super()
        state = player.state_dict()
        own = {name: state[name] for name in ("config", *self.rank_state)}
        return {**state, **self._learned, **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a state back; player 0 keeps it for the trainers."""
        player: Any = super()
        player.load_state_dict(state)
        self._saved_replay = None
        if self.devices.global_rank == 0:
            self._learned = state


class ReplayTraining(ReplaySide, Training):
    """Stores steps and learns from them, in front of an algorithm's own agent."""

    steps = ("_full_step", "_critic_step", "_actor_step")
