"""Players and trainers in processes of their own, for the on-policy algorithms.

    python -m fastrl.ppo --decoupled --num-players 2 --num-trainers 2

The first P processes play. Each fills a rollout and judges it by the policy that acted: values,
log-probabilities and advantages. Its rows go to the M trainers, which learn as M ranks do; the
weights come back as one flat tensor, with the optimiser's state behind them. Player 0 runs the
training loop, and logs, tests and saves; the other players keep in step with it.

A trainer gets the columns of some environments, as many as the others or one more. With
`share_data` each gets all, and they share out every epoch's minibatches anew. So P = 1 is a player
with several trainers, M = 1 many players with one, and with P = M trainer i gets player i's rows.

Strictly, players and trainers take turns, and one of each learns to the bit what one process does.
With `overlap` a player goes on while the trainers learn: it then acts with the policy of one update
before, the lag that `Info/policy_lag` shows.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastrl.buffers.rollout import RolloutBuffer
from fastrl.buffers.shared import SharedRollout
from fastrl.cli import Command, describe
from fastrl.envs.pools import open_envs
from fastrl.run.collectives import Mail
from fastrl.run.devices import Devices, make_devices
from fastrl.run.signals import StopSignals
from fastrl.run.threads import num_threads
from fastrl.run.timer import StageTimer
from fastrl.run.watch import PULSE
from fastrl.trainer import AgentTrainer


def train(kind: Any, command: Command) -> int:
    """Plays or trains, whichever is this process's part; returns the exit status.

    Args:
        kind: the algorithm's agent, such as `PPO`.
        command: its settings, `decoupled` among them.
    """
    config = command.config
    with make_devices(config, num_players=config.num_players) as devices:
        is_player = int(os.environ["RANK_OF_ALL"]) < config.num_players
        if not is_player:
            trainer = type("Trainer", (_TrainerSide, kind), {})
            return trainer.of(config, devices).serve()
        if command.resume is None and devices.is_global_zero:
            print(describe(command), flush=True)
        agent: Any = type("Player", (_PlayerSide, kind), {})(config.env_id, config, devices=devices)
        status = AgentTrainer(resume=command.resume).fit(agent).exit_status
        agent.dismiss(status)
        return status


def columns_of_trainers(num_columns: int, num_trainers: int, share_data: bool) -> list[slice]:
    """Returns the columns of the players' rollouts, side by side, that each trainer gets."""
    if share_data:
        return [slice(0, num_columns)] * num_trainers
    sizes = [len(part) for part in np.array_split(np.arange(num_columns), num_trainers)]
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


class _Side:
    """What both sides know: who sends which rows to whom, and how."""

    config: Any
    policy: Any
    optimizer: Any

    @property
    def mail(self) -> Mail:
        if not hasattr(self, "_mail"):
            self._mail = Mail()
        return self._mail

    def columns(self, player: int, trainer: int) -> tuple[slice, slice]:
        """Returns the columns that a player sends to a trainer, as each of them counts."""
        config = self.config
        num_columns = config.num_players * self.num_envs_of_player
        has_shared = getattr(config, "share_data", False)
        theirs = columns_of_trainers(num_columns, config.num_trainers, has_shared)[trainer]
        first = player * self.num_envs_of_player
        start = max(theirs.start, first)
        stop = max(start, min(theirs.stop, first + self.num_envs_of_player))
        return slice(start - first, stop - first), slice(start - theirs.start, stop - theirs.start)

    @property
    def num_envs_of_player(self) -> int:
        return self.config.num_envs

    def rows(self, buffer: RolloutBuffer, columns: slice) -> list[Tensor]:
        """Returns what learning reads of some columns of a rollout: views."""
        judged = [buffer.log_probs, buffer.values[:-1], buffer.advantages, buffer.returns]
        fields = [buffer.obs[:-1], buffer.actions, *judged, buffer.host_valid[:-1]]
        return [x[:, columns] for x in fields]

    def learner(self) -> list[Tensor]:
        """Returns what learning changes, but for the normaliser: tensors that stay where they are.

        The weights are one flat tensor.
        """
        state = self.optimizer.state_dict()
        return [self.optimizer.flat, *(state[name] for name in sorted(state))]

    def normalizer(self) -> list[Tensor]:
        normalizer = self.policy.normalizer
        return [] if normalizer is None else list(normalizer.buffers())

    def send_learner(self, rank: int) -> None:
        self.mail.send(torch.cat([x.reshape(-1) for x in self.learner()]), rank)
        for x in self.normalizer():
            self.mail.send(x, rank)

    def receive_learner(self, rank: int) -> None:
        tensors = self.learner()
        flat = torch.zeros(sum(x.numel() for x in tensors))
        self.mail.receive(flat, rank)
        for x, part in zip(tensors, flat.split([x.numel() for x in tensors]), strict=True):
            x.copy_(part.view_as(x))
        for x in self.normalizer():
            x.copy_(self.mail.receive(torch.zeros(x.shape, dtype=x.dtype), rank))


class _PlayerSide(_Side):
    """Plays and judges; `update` has the trainers learn."""

    devices: Devices
    judge: Any
    _threads: int
    _version = -1  # updates that its weights have seen
    _asked = 0  # updates that the trainers were asked for

    def update(
        self, buffer: RolloutBuffer, update_index: int, timer: StageTimer
    ) -> dict[str, float]:
        """Sends a rollout; returns the metrics of what came back, of an earlier one if it lags."""
        config, players = self.config, self.config.num_players
        with timer.stage("advantage"), num_threads(self._threads):
            explained = float(self.judge(buffer))
        is_first = self._version < 0
        if is_first:
            self._version = self._asked = update_index
        if self.devices.global_rank == 0:
            order = {"update": update_index, "version": self._version, "first": is_first}
            for trainer in range(config.num_trainers):
                self.mail.send_values({**order, "explained": explained}, players + trainer)
                if is_first:
                    self.send_learner(players + trainer)
        for trainer in range(config.num_trainers):
            columns, _ = self.columns(self.devices.global_rank, trainer)
            if columns.stop > columns.start:
                for x in self.rows(buffer, columns):
                    self.mail.send(x, players + trainer)
        self._asked += 1
        with timer.stage("wait"):
            metrics = self._catch_up(1 if config.overlap else 0, timer)
        return {**metrics, "Info/explained_variance": explained}

    def _catch_up(self, most_behind: int, timer: StageTimer | None = None) -> dict[str, float]:
        """Takes in new weights until at most so many updates are outstanding."""
        metrics: dict[str, float] = {}
        while self._asked - self._version > most_behind:
            reply = self.mail.receive_values(self.config.num_players)
            self.receive_learner(self.config.num_players)
            self._version += 1
            if timer is not None:
                timer.add("update", reply["update_seconds"])
            if reply["signal"] and self.devices.global_rank == 0:
                os.kill(os.getpid(), reply["signal"])  # a trainer's is everybody's
            metrics = reply["metrics"]
        return metrics

    def settle(self) -> None:
        """Waits until all rollouts are learned from."""
        self._catch_up(0)

    def dismiss(self, status: int) -> None:
        """Lets the trainers go."""
        if self.devices.global_rank == 0:
            for trainer in range(self.config.num_trainers):
                self.mail.send_values({"end": status}, self.config.num_players + trainer)
        self.mail.flush()


class _TrainerSide(_Side):
    """Learns from rows that players send."""

    devices: Devices
    update: Any
    make_buffer: Any
    _shared: Any = None
    _explained = 0.0
    _all: Any

    @classmethod
    def of(cls, config: Any, devices: Devices) -> Any:
        """Makes a trainer whose rollouts are as wide as its share of the players'."""
        # Only its spaces are wanted of the task.
        (task,) = open_envs(config.env_id, config.replace(num_envs=1, **_COUPLED))
        columns = columns_of_trainers(
            config.num_players * config.num_envs,
            config.num_trainers,
            getattr(config, "share_data", False),
        )[devices.global_rank]
        share = copy.copy(config)
        object.__setattr__(share, "num_envs", columns.stop - columns.start)
        sketch = SimpleNamespace(
            num_envs=share.num_envs,
            single_observation_space=task.single_observation_space,
            single_action_space=task.single_action_space,
            env_id=task.env_id,
            backend=task.backend,
        )
        task.close()
        trainer: Any = cls
        trainer.whole = config
        return trainer(sketch, share, devices=devices)

    whole: Any

    @property
    def num_updates(self) -> int:
        return self.whole.num_updates

    @property
    def num_envs_of_player(self) -> int:
        return self.whole.num_envs

    def judge(self, buffer: RolloutBuffer) -> Tensor:
        """The players have judged already."""
        return torch.tensor(self._explained)

    def take_in_observations(self, buffer: RolloutBuffer) -> None:
        """Updates the normaliser, from each row once."""
        if self._shared is None:
            super().take_in_observations(buffer)  # pyright: ignore
        elif self.policy.normalizer is not None:
            rows, valid = buffer.obs[:-1].flatten(0, 1), buffer.valid.flatten()
            self.policy.normalizer.update(rows, valid)

    def serve(self) -> int:
        """Learns until the players are done; returns the exit status of the run."""
        players, trainer = self.whole.num_players, self.devices.global_rank
        buffer = self._make_buffer()
        timer = StageTimer()
        with StopSignals() as signals:
            while True:
                order = self.mail.receive_values(0)
                if "end" in order:
                    return order["end"]
                if order["first"]:
                    self.receive_learner(0)
                for player in range(players):
                    _, columns = self.columns(player, trainer)
                    if columns.stop > columns.start:
                        for x in self.rows(buffer, columns):
                            landed = torch.zeros(x.shape, dtype=x.dtype)
                            x.copy_(self.mail.receive(landed, player))
                self._explained = order["explained"]
                timer.reset()
                metrics = self.update(buffer, order["update"], timer)
                PULSE.is_watched = True  # the first one may have compiled
                lag = order["update"] - order["version"]
                assert 0 <= lag <= (1 if self.whole.overlap else 0), f"a policy {lag} updates old"
                if trainer == 0:
                    reply = {
                        "metrics": {**metrics, "Info/policy_lag": lag},
                        "update_seconds": timer.seconds["update"],
                        "signal": signals.number,
                    }
                    for player in range(players):
                        self.mail.send_values(reply, player)
                        self.send_learner(player)

    def _make_buffer(self) -> RolloutBuffer:
        whole, place = self.whole, (self.devices.global_rank, self.devices.world_size)
        with_all = copy.copy(self.config)
        object.__setattr__(with_all, "share_data", False)  # ours are shared out below
        self.config, share = with_all, self.config
        buffer = self.make_buffer()
        self.config = share
        if getattr(whole, "share_data", False):
            num_rows = buffer.num_steps * buffer.num_envs
            self._shared = SharedRollout(
                buffer, whole.per_rank_batch_size, *place, lambda x: x[None], num_rows
            )
        for name in ("_minibatch_step", "_accumulate"):
            if hasattr(self, name):
                setattr(self, name, _pulsing(getattr(self, name)))
        return buffer


_COUPLED = {"decoupled": False, "num_players": 1, "num_trainers": 1, "overlap": False}


def _pulsing(function: Any) -> Any:
    """Returns a function that also tells the watch that it was called."""

    def call(*arguments: Any) -> Any:
        PULSE.count += 1
        return function(*arguments)

    return call
