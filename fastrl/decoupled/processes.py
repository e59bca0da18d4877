"""Players and trainers in processes of their own.

    python -m fastrl.ppo --decoupled --num-players 2 --num-trainers 2

The first P processes play. Each fills a rollout and sends its rows to the M trainers, which learn
as M ranks do, and the weights come back as one flat tensor. Player 0 runs the training loop, and
logs, tests and saves; the other players keep in step with it. What travels is said by
`decoupled/rollout.py`, and for algorithms with a replay buffer by `decoupled/replay.py`.

A trainer gets the columns of some environments, as many as the others or one more. With
`share_data`, or to fill a replay buffer, each gets all. So P = 1 is a player with several trainers,
M = 1 many players with one, and with P = M trainer i gets player i's rows.

Strictly, players and trainers take turns, and one of each learns to the bit what one process does.
With `overlap` a player goes on while the trainers learn: it then acts with the policy of one update
before, the lag that `Info/policy_lag` shows.

Every player sends each trainer the order "learn" with its rows; player 0 leads, and alone sends
"tell" and "end". Letters: T steps, N environments of a player.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

from torch import Tensor

from fastrl.buffers.rollout import RolloutBuffer
from fastrl.config.command import Command, describe
from fastrl.envs.pools import open_envs
from fastrl.processes.collectives import Mail
from fastrl.processes.devices import Devices, make_devices
from fastrl.processes.pulse import PULSE
from fastrl.processes.signals import StopSignals
from fastrl.runs.timer import StageTimer
from fastrl.training.trainer import AgentTrainer


def run_part(kind: Any, command: Command) -> int:
    """Plays or trains, whichever is this process's part; returns the exit status.

    Args:
        kind: the algorithm's agent, such as `PPO`.
        command: its settings, `decoupled` among them.
    """
    config = command.config
    with make_devices(config) as devices:
        if not devices.is_player:
            return make_trainer(kind, config, devices).serve()
        if devices.is_global_zero:
            print(describe(command), flush=True)
        player = make_player(kind, config, devices)
        status = AgentTrainer(resume=command.resume).fit(player).exit_status
        player.dismiss(status)
        return status


def make_player(kind: Any, config: Any, devices: Devices) -> Any:
    """Returns an agent that plays; its `update` has the trainers learn."""
    return type("Player", (kind.sides[0], kind), {})(config.env_id, config, devices=devices)


def make_trainer(kind: Any, config: Any, devices: Devices) -> Any:
    """Returns an agent that learns what players send; its rollouts are as wide as its share."""
    columns = columns_of_trainers(config)[devices.global_rank]
    share = _altered(config, num_envs=columns.stop - columns.start, num_players=1)
    # Only the spaces are wanted of the task.
    (task,) = open_envs(config.env_id, _altered(config, num_envs=1, num_pools=1))
    spaces = ("single_observation_space", "single_action_space", "env_id", "backend")
    stage_set = SimpleNamespace(**{name: getattr(task, name) for name in spaces})
    stage_set.num_envs = share.num_envs
    task.close()
    trainer = type("Trainer", (kind.sides[1], kind), {"whole": config})
    return trainer(stage_set, share, devices=devices)


def columns_of_trainers(config: Any) -> list[slice]:
    """Returns the columns of the players' rollouts, side by side, that each trainer gets."""
    num_columns, num_trainers = config.num_players * config.num_envs, config.num_trainers
    if config.trainers_get_all_rows:
        return [slice(0, num_columns)] * num_trainers
    ends = [num_columns * (index + 1) // num_trainers for index in range(num_trainers)]
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def exchanged_columns(config: Any, player: int, trainer: int) -> tuple[slice, slice]:
    """Returns the columns that a player sends to a trainer, as each of the two counts them."""
    theirs, first = columns_of_trainers(config)[trainer], player * config.num_envs
    start = max(theirs.start, first)
    stop = max(start, min(theirs.stop, first + config.num_envs))
    return slice(start - first, stop - first), slice(start - theirs.start, stop - theirs.start)


def _altered(config: Any, **changes: Any) -> Any:
    """Returns a config for a part of the run; what is checked holds for the run as a whole."""
    changed = copy.copy(config)
    for name, value in changes.items():
        object.__setattr__(changed, name, value)
    return changed


class Side:
    """What players and trainers have in common; what they exchange is said by classes on this."""

    devices: Devices

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        """Opens the mail."""
        super().__init__(*arguments, **settings)
        self.mail = Mail()

    def rows(self, buffer: Any, columns: slice) -> list[Tensor]:
        """Returns what is learned of some columns of a rollout."""
        raise NotImplementedError

    def weights(self) -> list[Tensor]:
        """Returns what acting takes."""
        raise NotImplementedError

    def send_memory(self, process: int) -> None:
        """Sends all that learning goes on from."""
        raise NotImplementedError

    def receive_memory(self, process: int) -> None:
        """Takes it in."""
        raise NotImplementedError


class Playing(Side):
    """Plays, in front of an algorithm's own agent."""

    config: Any
    _asked = -1  # updates that the trainers were told to make; -1: they know nothing yet
    _seen = -1  # updates that its weights have seen
    _told = -1  # updates, when trainer 0 told all that it knows
    _left_over: Mapping[str, float] = {}  # metrics that came while the run was settled
    _buffer: Any = None  # what it plays into

    def make_buffer(self) -> RolloutBuffer:
        """Allocates the storage of a rollout, and builds what acting takes."""
        maker: Any = super()
        self._buffer = maker.make_buffer()
        return self._buffer

    def update(
        self, buffer: RolloutBuffer, update_index: int, timer: StageTimer
    ) -> dict[str, float]:
        """Sends a rollout off and returns the metrics of what came back.

        With `overlap` those are of the update before, and at first there are none.
        """
        prepared = self.prepare(buffer, timer)
        is_first, leads = self._asked < 0, self.devices.global_rank == 0
        if is_first:
            self._asked = self._seen = update_index
        self.mail.flush()  # what was sent an update ago is received by now, or soon
        order = {"do": "learn", "update": update_index, "seen": self._seen, "first": is_first}
        for trainer in range(self.config.num_trainers):
            self._order(order, trainer)
            if is_first and leads:
                self.send_memory(self.config.num_players + trainer)
        self._asked += 1
        with timer.stage("wait"):
            metrics = self._catch_up(timer, most_behind=1 if self.config.overlap else 0)
        metrics, self._left_over = {**self._left_over, **metrics}, {}
        return {**metrics, **prepared}

    def _catch_up(self, timer: StageTimer, most_behind: int) -> dict[str, float]:
        """Takes in new weights until at most so many updates are under way."""
        metrics: dict[str, float] = {}
        first_trainer = self.config.num_players
        while self._asked - self._seen > most_behind:
            reply = self.mail.receive(self.weights(), first_trainer)
            self._seen += 1
            timer.add("update", reply["update_seconds"])
            metrics = reply["metrics"]
        return metrics

    def prepare(self, buffer: Any, timer: StageTimer) -> dict[str, float]:
        """Does the player's part of learning from a rollout; returns what is to be logged."""
        raise NotImplementedError

    def settle(self) -> dict[str, float]:
        """Waits until all rollouts are learned from; player 0 then has all that is saved.

        Returns:
            The metrics that came meanwhile; they are in the next row too.
        """
        if self._asked < 0:
            return {}
        metrics = self._catch_up(StageTimer(), most_behind=0)
        self._left_over = {**self._left_over, **metrics}
        if self.devices.global_rank == 0 and self._told < self._seen:
            self._order({"do": "tell"}, 0)
            self.receive_memory(self.config.num_players)
            self._told = self._seen
        return metrics

    def dismiss(self, status: int) -> None:
        """Lets the trainers go; `status` is that of the run."""
        if self.devices.global_rank == 0:
            for trainer in range(self.config.num_trainers):
                self._order({"do": "end", "status": status}, trainer)
        self.mail.flush()

    def _order(self, order: dict[str, Any], trainer: int) -> None:
        """Sends an order to a trainer; the rows that it gets come with every one."""
        columns, _ = exchanged_columns(self.config, self.devices.global_rank, trainer)
        rows = self.rows(self._buffer, columns) if columns.stop > columns.start else []
        self.mail.send(order, rows, self.config.num_players + trainer)


class Training(Side):
    """Learns from rows that players send, in front of an algorithm's own agent."""

    whole: Any  # the config of the run; `config` has this trainer's share of the environments
    update: Any
    steps: ClassVar[tuple[str, ...]]  # names of what the algorithm does many times in an update

    @property
    def num_updates(self) -> int:
        """Updates of the whole run."""
        return self.whole.num_updates

    def make_buffer(self) -> RolloutBuffer:
        """Allocates room for this trainer's rows, and builds its steps."""
        maker: Any = super()
        buffer = maker.make_buffer()
        return buffer

    def serve(self) -> int:
        """Learns until player 0 ends it; returns the exit status of the run."""
        buffer, timer = self.make_buffer(), StageTimer()
        PULSE.is_watched = self.whole.engine != "compile"  # which takes its time
        with StopSignals():  # the watch tells player 0
            while True:
                order = self._receive_order(0, buffer)
                if order["do"] == "end":
                    return order["status"]
                if order["do"] == "tell":
                    self.send_memory(0)
                    continue
                lag = self._take_rollouts(buffer, order)
                timer.reset()
                metrics = self.update(buffer, order["update"], timer)
                PULSE.is_watched = True
                if self.devices.global_rank == 0:
                    if metrics:
                        metrics["Info/policy_lag"] = lag
                    reply = {
                        "metrics": metrics,
                        "update_seconds": timer.seconds.get("update", 0.0),
                    }
                    self.mail.flush()  # each player waited for the reply before, or will
                    for player in range(self.whole.num_players):
                        self.mail.send(reply, self.weights(), player)

    def _receive_order(self, player: int, buffer: RolloutBuffer) -> dict[str, Any]:
        """Waits for an order of a player, and takes in the rows that come with it."""
        _, columns = exchanged_columns(self.whole, player, self.devices.global_rank)
        rows = self.rows(buffer, columns) if columns.stop > columns.start else []
        return self.mail.receive(rows, player)

    def _take_rollouts(self, buffer: RolloutBuffer, first_order: dict[str, Any]) -> int:
        """Receives the players' rows; returns how many updates behind the oldest policy acted."""
        lag, most = 0, 1 if self.whole.overlap else 0
        for player in range(self.whole.num_players):
            order = self._receive_order(player, buffer) if player else first_order
            lag = max(lag, order["update"] - order["seen"])
            if order["first"] and player == 0:
                self.receive_memory(0)
        assert lag <= most, f"rows of a policy {lag} updates old"
        return lag


def _pulsing(function: Any) -> Any:
    """Returns a function that also tells the watch that it was called."""

    def call(*arguments: Any) -> Any:
        PULSE.count += 1
        return function(*arguments)

    return call
