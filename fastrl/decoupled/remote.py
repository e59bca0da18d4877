"""A player: it acts here, and learns in the trainers' processes.

    python -m fastrl.ppo --decoupled --num-players 2 --num-trainers 2

The first P processes play. Each fills a rollout and sends its rows to the M trainers, which learn
as M ranks do, and the weights come back as one vector. Every player runs the training loop; player
0 alone logs, tests and saves.

By default players wait for the trainers, and one of each learns to the bit what one process does.
With `overlap` a player plays on while the trainers learn: it then acts with the policy of one
update before, the lag that `Info/policy_lag` shows.

Every message of a player is an order, and has the rows of its latest rollout with it, so that a
trainer knows its size before it is read:

    learn      from every player to every trainer, once a rollout; player 0's first one is followed
               by all that learning goes on from
    report     from player 0 to trainer 0: send back all that learning goes on from, and the metrics
               since the last row
    shut down  from player 0 to every trainer

Letters: P players, M trainers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrl.buffers.rollout import RolloutBuffer
from fastrl.decoupled.channels import RolloutChannel, exchanged_columns
from fastrl.envs.vector import VectorEnv
from fastrl.processes.messages import MessageChannel
from fastrl.runs.fitting import first_not_finite
from fastrl.runs.timer import StageTimer


class RemoteLearner:
    """Stands where an agent stands for the training loop (`training/agent.py`).

    It holds a real agent and has it act; an update sends the rollout to the trainers and takes the
    weights back.
    """

    def __init__(self, agent: Any) -> None:
        """Takes an agent that plays, with the environments and settings of one player."""
        self.agent = agent
        self.algo, self.start_folder = agent.algo, agent.start_folder
        self.devices, self.engine = agent.devices, agent.engine
        self.envs: list[VectorEnv] = agent.envs
        self.task, self.labels, self.networks = agent.task, agent.labels, agent.networks
        self.channel: RolloutChannel = agent.channel(agent)
        self.rank_state = tuple(x for x in agent.rank_state if x in self.channel.player_state)
        self.messages = MessageChannel()
        self._buffer: Any = None
        # Counts of updates; -1 before the first rollout of this process.
        self._num_submitted = -1  # whose rollouts the trainers have
        self._num_learned = -1  # that the weights here have seen
        self._num_reported = -1  # that trainer 0's latest report has seen
        self._reported: dict[str, Any] = {}  # on player 0; at first what a checkpoint holds
        self._late_metrics: dict[str, float] = {}  # that `finish_pending` waited for
        self._unlogged_metrics: dict[str, float] = {}  # of the latest report

    @property
    def config(self) -> Any:
        """The settings of the run."""
        return self.agent.config

    @config.setter
    def config(self, config: Any) -> None:
        self.agent.config = config

    @property
    def num_updates(self) -> int:
        """Updates of the whole run."""
        return self.agent.num_updates

    # Acting, which the agent does

    def make_buffer(self) -> RolloutBuffer:
        """Allocates the buffer that `act` fills; what learning needs, the trainers have."""
        self.agent.envs = self.envs  # a resumed run opens them anew
        self._buffer = self.agent.make_acting()
        return self._buffer

    def begin_rollout(self, buffer: RolloutBuffer) -> None:
        """Prepares what acting needs for a whole rollout."""
        self.agent.begin_rollout(buffer)

    def act(self, t: int, pool: int) -> np.ndarray:
        """Draws a pool's actions for step t into the buffer; returns what the environments take."""
        return self.agent.act(t, pool)

    def predict(self, obs: Any, deterministic: bool = True) -> np.ndarray:
        """Returns the actions that the environments take, for one observation or a batch."""
        return self.agent.predict(obs, deterministic)

    def not_finite(self) -> str:
        """Returns where the first number is that is not finite, here or in the latest report."""
        fixed = () if getattr(self.agent.config, "tune_alpha", True) else ("temperature",)
        skipped = ("replay", "metric_sums", *fixed)  # the logarithm of a fixed 0 is infinite
        reported = {name: x for name, x in self._reported.items() if name not in skipped}
        return self.agent.not_finite() or first_not_finite(reported)

    # Learning, which the trainers do

    def update(
        self, buffer: RolloutBuffer, update_index: int, timer: StageTimer
    ) -> dict[str, float]:
        """Has the trainers learn from a rollout; returns the metrics that came back.

        With `overlap` those are of the update before, and at first there are none.

        Args:
            buffer: the full one of `make_buffer`.
            update_index: this update's number in the run, from 0.
            timer: takes the seconds of "wait", of the trainers' "update" and, if the algorithm has
                the players compute advantages, of "advantage".
        """
        own_metrics = self.channel.complete_rows(buffer, timer)
        self._submit(update_index)
        with timer.stage("wait"):
            metrics = self._receive_weights(timer, most_behind=1 if self.config.overlap else 0)
        metrics, self._late_metrics = {**self._late_metrics, **metrics}, {}
        return {**metrics, **own_metrics}

    def _submit(self, update_index: int) -> None:
        """Sends the rollout to the trainers."""
        is_first = self._num_submitted < 0
        if is_first:
            self._num_submitted = self._num_learned = update_index
        self.messages.flush()  # what was sent an update ago is received by now, or soon
        lag = self._num_submitted - self._num_learned
        order = {"do": "learn", "update": update_index, "lag": lag, "is_first": is_first}
        for trainer in range(self.config.num_trainers):
            self._send(order, trainer)
            if is_first and self.devices.is_global_zero:
                self.messages.send_state(self.state_dict(), self.config.num_players + trainer)
        self._num_submitted += 1

    def _receive_weights(self, timer: StageTimer, most_behind: int) -> dict[str, float]:
        """Takes weights in until at most so many updates are under way; returns their metrics."""
        metrics: dict[str, float] = {}
        while self._num_submitted - self._num_learned > most_behind:
            reply = self.messages.receive(self.channel.weights(), self.config.num_players)
            self._num_learned += 1
            timer.add("update", reply["update_seconds"])
            metrics = reply["metrics"]
        return metrics

    def finish_pending(self) -> dict[str, float]:
        """Blocks until all submitted rollouts are learned from; player 0 can then save the result.

        Returns:
            The metrics that came since the last `update`; the next one returns them too.
        """
        if self._num_submitted < 0:
            return {}
        late = self._receive_weights(StageTimer(), most_behind=0)
        self._late_metrics = {**self._late_metrics, **late}
        if self.devices.is_global_zero and self._num_reported < self._num_learned:
            self._send({"do": "report"}, 0)
            self._reported = self.messages.receive_state(self.config.num_players)
            self._unlogged_metrics = self._reported.pop("unlogged_metrics", {})
            self._num_reported = self._num_learned
        return self._late_metrics

    def unlogged_metrics(self) -> dict[str, float]:
        """Returns, on player 0, the trainers' metrics since the last row, as last reported."""
        return self._unlogged_metrics

    def shut_down_trainers(self, status: int) -> None:
        """Has the trainers return from `LearnerServer.serve`, with the exit status of the run."""
        if self.devices.is_global_zero:
            for trainer in range(self.config.num_trainers):
                self._send({"do": "shut down", "status": status}, trainer)
        self.messages.flush()

    def _send(self, order: dict[str, Any], trainer: int) -> None:
        """Sends an order to a trainer, with the rows that it gets of this player."""
        columns, _ = exchanged_columns(self.config, self.devices.global_rank, trainer)
        rows = self.channel.rows(self._buffer, columns) if columns.stop > columns.start else []
        self.messages.send(order, rows, self.config.num_players + trainer)

    # Saving

    def match(self, state: dict[str, Any]) -> None:
        """Raises ValueError if the networks of a state are others; trainers freeze nothing."""
        frozen = self.agent.state_dict()["frozen"]
        if state.get("frozen", frozen) != frozen:
            raise ValueError(
                "a decoupled run cannot go on with layers that were frozen from Python"
            )
        self.agent.match(state)

    def state_dict(self) -> dict[str, Any]:
        """Returns what the trainers reported last and what this player knows itself."""
        state = self.agent.state_dict()
        own = {name: state[name] for name in self.channel.player_state}
        return {**state, **self._reported, **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a state back; player 0 keeps it for the trainers."""
        self.channel.load_player(state)
        if self.devices.is_global_zero:
            self._reported, self._unlogged_metrics = state, self.channel.unlogged_metrics()
