"""Opens a page in the browser to start, watch, stop and compare runs.

python -m fastrl.studio --log-dir logs
"""

from __future__ import annotations

from fastrl.processes.signals import leaving_at_once

with leaving_at_once():
    import argparse
    import sys
    from collections.abc import Sequence
    from importlib.util import find_spec

    from fastrl.processes.errors import Parser, exit_status, how_to_install
    from fastrl.runs.folder import expanded

DEFAULT_PORT = 8080


def main(argv: Sequence[str] | None = None) -> int:
    """Serves the studio until Ctrl-C; returns 0, or 2 after a user error."""
    return exit_status(lambda: _run(parse(argv)))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses and checks the flags.

    Raises:
        ValueError: a user error.
    """
    description = "Serves a page in the browser to start, watch, stop and compare runs."
    parser = Parser(prog="python -m fastrl.studio", description=description)
    parser.add_argument(
        "--log-dir", metavar="DIR", default="logs", help="folder of the runs (default: logs)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to serve at (default: 127.0.0.1, this machine alone); with another one, the "
        "page asks for the token that is printed at the start",
    )
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help=f"default: {DEFAULT_PORT}; 0: any free one"
    )
    parser.add_argument(
        "--token",
        action="store_true",
        help="ask for a token on 127.0.0.1 too, where other users of this machine could connect",
    )
    parser.add_argument(
        "--at-once",
        type=int,
        metavar="RUNS",
        help="runs of the queue that train at the same time (default: one per core)",
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.port <= 65_535:
        raise ValueError(f"--port is {arguments.port}; it must be at least 0 and at most 65,535")
    if arguments.at_once is not None and arguments.at_once < 1:
        raise ValueError(f"--at-once is {arguments.at_once}; it must be at least 1")
    if not arguments.host:
        raise ValueError("--host is empty; give an address such as 127.0.0.1")
    folder = expanded(arguments.log_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--log-dir {folder} is not a folder")
    return arguments


def _run(arguments: argparse.Namespace) -> int:
    if find_spec("nicegui") is None:
        raise ValueError(f"the studio needs NiceGUI; {how_to_install('studio')}")
    from fastrl.studio.app import serve

    return serve(arguments)


if __name__ == "__main__":
    sys.exit(main())
