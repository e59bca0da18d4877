"""A trainer: it learns from the rows that players send, and sends weights back.

`decoupled/remote.py` is the players' side and lists the orders.
"""

from __future__ import annotations

from typing import Any

from fastrl.buffers.rollout import RolloutBuffer
from fastrl.config.decoupled import DecoupledConfig
from fastrl.decoupled.channels import RolloutChannel, exchanged_columns
from fastrl.processes.alike import check_buffers
from fastrl.processes.messages import MessageChannel
from fastrl.processes.signals import StopSignals
from fastrl.runs.timer import StageTimer


class LearnerServer:
    """Serves the updates of a real agent to the players."""

    def __init__(self, agent: Any, config: DecoupledConfig) -> None:
        """Takes the agent that learns.

        Args:
            agent: made from the spaces alone, with this trainer's share of the settings.
            config: the settings of the whole run.
        """
        self.agent, self.config, self.devices = agent, config, agent.devices
        self.channel: RolloutChannel = agent.channel(agent)
        self.messages = MessageChannel()

    def serve(self) -> int:
        """Learns until player 0 shuts it down; returns the exit status of the run."""
        buffer, timer = self.agent.make_buffer(), StageTimer()
        self.devices.watch_for_hanging(self.config.engine != "compile")  # which takes its time
        with StopSignals():  # a signal does not end a trainer: the watch tells player 0
            while True:
                order = self._receive(0, buffer)
                if order["do"] == "shut down":
                    self.messages.flush()
                    return order["status"]
                if order["do"] == "report":
                    pending = {"unlogged_metrics": self.channel.unlogged_metrics()}
                    self.messages.send_state({**self.agent.state_dict(), **pending}, 0)
                    continue
                lag = self._receive_rollouts(order, buffer)
                timer.reset()
                metrics = self.agent.update(buffer, order["update"], timer)
                check_buffers(self.devices, self.agent.networks(), order["update"] + 1)
                self.devices.watch_for_hanging(True)
                if self.devices.global_rank == 0:
                    lags = {"Info/policy_lag": float(lag)} if metrics else {}
                    self._send_weights({**metrics, **lags}, timer)

    def _receive(self, player: int, buffer: RolloutBuffer) -> dict[str, Any]:
        """Waits for an order of a player, and takes in the rows that come with it."""
        _, columns = exchanged_columns(self.config, player, self.devices.global_rank)
        rows = self.channel.rows(buffer, columns) if columns.stop > columns.start else []
        return self.messages.receive(rows, player)

    def _receive_rollouts(self, order: dict[str, Any], buffer: RolloutBuffer) -> int:
        """Completes the rollout of which player 0 sent its columns with an order to learn.

        Returns:
            How many updates ago the oldest of the policies was made that the players acted with.
        """
        if order["is_first"]:
            self.agent.load_state_dict(self.messages.receive_state(0))
        others = [self._receive(player, buffer) for player in range(1, self.config.num_players)]
        lag = max(each["lag"] for each in (order, *others))
        assert lag <= int(self.config.overlap), f"rows of a policy {lag} updates old"
        return lag

    def _send_weights(self, metrics: dict[str, float], timer: StageTimer) -> None:
        """Sends the players what they act with from now on."""
        reply = {"metrics": metrics, "update_seconds": timer.seconds.get("update", 0.0)}
        self.messages.flush()  # each player waited for the reply before, or will
        for player in range(self.config.num_players):
            self.messages.send(reply, self.channel.weights(), player)
