"""What ranks listen on, loopback unless several machines train, and lines of JSON between them.

Imports no torch.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import struct
from typing import Any

LOOPBACK = "127.0.0.1"
MOST_BYTES = 2**16
"""Of a message between ranks: a stranger may send one without end."""


def listen(host: str, port: int = 0) -> socket.socket:
    """Returns a socket that listens on one address of this machine.

    On all of them only if `host` is not an address of its own, as behind NAT.

    Args:
        host: the address, or a name that stands for it.
        port: 0: any free one.

    Raises:
        OSError: the port is taken, or may not be used.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL and not isinstance(error, socket.gaierror):
            raise
        return socket.create_server(("", port), backlog=1024)


def choose_interface(host: str, port: int) -> None:
    """Makes gloo and NCCL use the network interface that reaches an address.

    By themselves they take the one that the host's name resolves to, and so listen to other
    machines where there is only one, or to no other where there are several. On several machines
    a choice of the user's stays.
    """
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port or 9))  # sends nothing, only looks up the route
        own = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            if _address_of(name) == own:
                for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
                    if host == LOOPBACK or variable not in os.environ:
                        os.environ[variable] = name
                return


def _address_of(interface: str) -> str:
    """Returns the IPv4 address of a network interface, or "" if it has none."""
    import fcntl

    get_address = 0x8915  # SIOCGIFADDR on Linux; fails elsewhere
    request = struct.pack("256s", interface.encode()[:15])
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return socket.inet_ntoa(fcntl.ioctl(probe.fileno(), get_address, request)[20:24])
    return ""


class Lines:
    """A non-blocking socket that carries one JSON object per line."""

    def __init__(self, connection: socket.socket) -> None:
        """Takes over a connection."""
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket, self._rest = connection, b""

    def send(self, **message: Any) -> None:
        """Sends if possible: a peer that stops reading is detected by its missing heartbeats."""
        with contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]]:
        """Returns the messages that arrived; ConnectionError if the peer has closed."""
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return []
        except OSError as error:
            raise ConnectionError(str(error)) from error
        if not data:
            raise ConnectionError("closed")
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MOST_BYTES:
            raise ConnectionError("a message without end")
        return [message for message in map(json.loads, lines) if isinstance(message, dict)]
