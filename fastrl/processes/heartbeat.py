"""Heartbeats and failure detection: if a rank dies, hangs or raises, the run ends within seconds.

Every rank keeps a connection to rank 0 and sends a heartbeat twice a second: the liveness counters
of `pulse.py`. Rank 0 detects failures. A rank whose connection closes has died; one whose
heartbeats stop is unreachable; one that makes no progress without waiting for other ranks hangs.
Rank 0 then tells all other ranks, and one process on each machine prints the reason. The others
detect a failure of rank 0 in the same way. Heartbeats also report signals such as SIGTERM, after
which rank 0 ends the run in an orderly way.

The only cost on the hot path is `PULSE.count += 1`. Imports no torch: the connection is plain TCP
with one JSON object per line, so that it works while a collective is stuck.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastrl.processes.launch import (
    children,
    end_parent,
    end_ranks,
    exit_if_frozen,
    local_rank,
    node_rank,
    ranks_are_done,
    stop_dying_with_parent,
)
from fastrl.processes.network import MOST_BYTES, Lines, listen
from fastrl.processes.pulse import PULSE

BEAT_SECONDS = 0.5
SILENT_SECONDS = 6.0
"""A rank without a heartbeat for this long is unreachable."""
_TOGETHER_SECONDS = 0.7  # wait, so that an error of all ranks is reported once, without a rank
_MOST_STRANGERS = 64  # connections that have not shown the token, which ranks do at once


@dataclass
class _Peer:
    """What rank 0 knows about one rank."""

    connection: Lines | None = None
    beats: tuple[int, bool, bool, int] = (0, False, False, 1)
    heard_at: float = 0.0
    progressed_at: float = 0.0
    is_done: bool = False
    failure: tuple[str, int] | None = None


class _Clock:
    """Seconds that this process was running: it stands still while the machine is suspended."""

    def __init__(self) -> None:
        self.seconds, self._read = 0.0, time.monotonic()

    def read(self) -> float:
        """Returns the seconds so far; must be called several times a second."""
        now = time.monotonic()
        self.seconds += min(now - self._read, 2 * BEAT_SECONDS)
        self._read = now
        return self.seconds


class Watch:
    """The failure detector of one process; runs in a daemon thread."""

    def __init__(self, rank: int, names: Sequence[str], hang_seconds: float) -> None:
        """Prepares the detector; `open` and `join` start it.

        Args:
            rank: rank of this process.
            names: names of the R ranks for messages; at least 2.
            hang_seconds: a rank without progress for this long hangs; 0: never.
        """
        self.rank, self._names, self.hang_seconds = rank, names, hang_seconds
        self._ending = threading.Lock()
        self._has_ended = False
        self._peers: dict[int, _Peer] = {}
        self._own_failure: tuple[str, int] | None = None
        self._is_done = False
        self._verdict: tuple[str, int] | None = None
        self._clock, self._first_failure = _Clock(), 0.0

    def open(self, host: str) -> tuple[int, int]:
        """On rank 0: listens; returns the port, and the token that the others must send."""
        self._token = secrets.randbits(62)
        self._listener = listen(host)
        self._listener.setblocking(False)
        self._strangers: list[Lines] = []
        self._peers = {rank: _Peer() for rank in range(1, len(self._names))}
        return self._listener.getsockname()[1], self._token

    def join(self, host: str, port: int, token: int) -> None:
        """Starts the thread; ranks other than 0 connect to rank 0."""
        if self.rank == 0:
            target = self._judge
        else:
            connection = socket.create_connection((host, port), timeout=30)
            self._server = Lines(connection)
            self._server.send(rank=self.rank, token=token)
            target = self._report
        atexit.register(self._leave)
        self._thread = threading.Thread(target=target, name="fastrl-watch", daemon=True)
        self._thread.start()

    def fail(self, message: str, status: int) -> None:
        """Reports that this rank raised; the run ends with `status`."""
        self._own_failure = message, status

    def done(self) -> None:
        """Reports that this rank is done: that it exits is no failure."""
        self._is_done = True
        ranks_are_done()

    def wait_for_verdict(self, seconds: float) -> None:
        """Waits until the thread knows which rank failed; it then ends this process."""
        self._thread.join(seconds)

    def _leave(self) -> None:
        """At exit: reports that this rank is done, or the exception that ended it."""
        error = getattr(sys, "last_value", None)
        if error is None or isinstance(error, SystemExit):
            self.done()
        elif self._own_failure is None:
            self.fail(f"{type(error).__name__}: {error}", 1)
        if not (self.rank == 0 and self._is_done):
            self._thread.join(2 * BEAT_SECONDS)

    # Ranks other than 0

    def _report(self) -> None:
        server, clock, heard, sent = self._server, _Clock(), 0.0, -BEAT_SECONDS
        selector = selectors.DefaultSelector()
        selector.register(server.socket, selectors.EVENT_READ)
        stop_dying_with_parent()
        while True:
            exit_if_frozen(3 * SILENT_SECONDS)
            now = clock.read()
            if self._own_failure is not None:
                message, status = self._own_failure
                server.send(failed=message[: MOST_BYTES // 16], status=status)
                self._own_failure = None
            if now - sent >= BEAT_SECONDS or self._is_done:
                server.send(beats=PULSE.beats, signal=PULSE.signal, done=self._is_done)
                sent = now
            if self._is_done:
                return
            selector.select(0.1)
            try:
                messages = server.receive()
            except ConnectionError:
                words = f"{self._names[0]} ended unexpectedly: was it killed?"
                self._end(words, 1, rank_zero_is_gone=True)
                return
            if messages:
                heard = now
            for message in messages:
                if "end" in message:
                    self._end(message["end"], message["status"])
                    return
                if message.get("done"):
                    self._is_done = True
            if now - heard > SILENT_SECONDS:
                words = f"{self._names[0]} did not answer for {SILENT_SECONDS:.0f} seconds"
                self._end(words, 1, rank_zero_is_gone=True)
                return

    # Rank 0

    def _judge(self) -> None:
        selector = selectors.DefaultSelector()
        selector.register(self._listener, selectors.EVENT_READ)
        sent, own = -BEAT_SECONDS, _Peer()
        while self._verdict is None:
            for key, _ in selector.select(0.1):
                if key.fileobj is self._listener:
                    self._accept(selector)
                elif key.data.socket.fileno() >= 0:  # else it was dropped a moment ago
                    self._hear(selector, key.data)
            now = self._clock.read()
            own.heard_at = now
            self._take_beats(own, PULSE.beats, now)
            if self._own_failure is not None and own.failure is None:
                own.failure = self._own_failure
            if now - sent >= BEAT_SECONDS or self._is_done:
                sent = now
                for peer in self._peers.values():
                    if peer.connection is not None:
                        peer.connection.send(beat=True, done=self._is_done)
            if self._is_done:
                return
            self._verdict = self._find({0: own, **self._peers}, now)
        message, status = self._verdict
        for peer in self._peers.values():
            if peer.connection is not None:
                peer.connection.send(end=message, status=status)
        self._end(message, status)

    def _accept(self, selector: selectors.BaseSelector) -> None:
        """Takes a connection of somebody who has to show that it is a rank."""
        with contextlib.suppress(OSError):
            lines = Lines(self._listener.accept()[0])
            selector.register(lines.socket, selectors.EVENT_READ, lines)
            self._strangers.append(lines)
        if len(self._strangers) > _MOST_STRANGERS:
            self._drop(selector, self._strangers.pop(0))

    @staticmethod
    def _drop(selector: selectors.BaseSelector, lines: Lines) -> None:
        selector.unregister(lines.socket)
        lines.socket.close()

    def _admit(self, selector: selectors.BaseSelector, lines: Lines, rank: int) -> None:
        """Notes the connection of a rank; after the last one nobody else is listened to."""
        self._strangers.remove(lines)
        self._peers[rank].connection = lines
        if all(peer.connection is not None for peer in self._peers.values()):
            selector.unregister(self._listener)
            self._listener.close()
            while self._strangers:
                self._drop(selector, self._strangers.pop())

    def _hear(self, selector: selectors.BaseSelector, lines: Lines) -> None:
        rank = next((r for r, peer in self._peers.items() if peer.connection is lines), None)
        now = self._clock.seconds
        try:
            messages = lines.receive()
        except (ConnectionError, ValueError, RecursionError):
            self._drop(selector, lines)
            if rank is None:
                self._strangers.remove(lines)
            elif not self._peers[rank].is_done:
                peer = self._peers[rank]
                peer.failure = peer.failure or (_describe_end(rank), 1)
            return
        for message in messages:
            if rank is None:
                rank = message.get("rank")
                waits = [other for other, peer in self._peers.items() if peer.connection is None]
                if message.get("token") != self._token or rank not in waits:
                    self._strangers.remove(lines)
                    self._drop(selector, lines)
                    return
                self._admit(selector, lines, rank)
            peer = self._peers[rank]
            peer.heard_at = now
            if "failed" in message:
                peer.failure = peer.failure or (message["failed"], message["status"])
            if "beats" in message:
                self._take_beats(peer, message["beats"], now)
                PULSE.signal = PULSE.signal or message["signal"]
                peer.is_done = message["done"]

    @staticmethod
    def _take_beats(peer: _Peer, beats: list[Any], now: float) -> None:
        count, waits, is_watched, slowness = beats
        if count != peer.beats[0] or waits or not is_watched:
            peer.progressed_at = now
        peer.beats = count, waits, is_watched, slowness

    def _find(self, peers: dict[int, _Peer], now: float) -> tuple[str, int] | None:
        """Returns why the run must end, and its exit status; None while nothing is wrong."""
        failures = {rank: peer.failure for rank, peer in peers.items() if peer.failure is not None}
        if failures:
            self._first_failure = self._first_failure or now
            if len(failures) < len(peers) and now - self._first_failure < _TOGETHER_SECONDS:
                return None
            rank, (message, status) = next(iter(failures.items()))
            if len(set(failures.values())) == 1 and len(failures) == len(peers):
                return message, status
            return f"{self._names[rank]}: {message}", status
        for rank, peer in peers.items():
            if peer.is_done:
                continue
            name = self._names[rank]
            if now - peer.heard_at > SILENT_SECONDS:
                return f"{name} did not answer for {SILENT_SECONDS:.0f} seconds", 1
            limit = self.hang_seconds * peer.beats[3]
            if limit and now - peer.progressed_at > limit:
                words = f"{name} hangs: no progress for {limit:.0f} seconds"
                return f"{words} (if the task is this slow, raise --rank-timeout)", 1
        return None

    def _end(self, message: str, status: int, rank_zero_is_gone: bool = False) -> None:
        """Ends this process; one process on each machine prints the reason."""
        with self._ending:
            if self._has_ended:
                return
            self._has_ended = True
        # If rank 0 is gone, then on its machine local rank 1 prints instead of local rank 0.
        is_its_machine = node_rank() == 0
        printer = 1 if rank_zero_is_gone and is_its_machine else 0
        if local_rank() == printer and status != 130:
            show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
            print(f"{show_cursor}error: {message}", file=sys.stderr, flush=True)
        elif local_rank() == printer:
            print("interrupted", file=sys.stderr, flush=True)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        end_ranks()
        if rank_zero_is_gone:
            end_parent()  # it may be alive, but stuck
        os._exit(status)


def _describe_end(rank: int) -> str:
    """Describes how the process of a rank ended, if this process is its parent."""
    local = children()
    if 1 <= rank <= len(local):  # the ranks of this machine come first
        with contextlib.suppress(Exception):
            code = local[rank - 1].wait(0.5)
            return f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
    return "ended unexpectedly: was it killed?"
