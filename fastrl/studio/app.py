"""The application: its pages, its guard and its server."""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import socket
import sys
from typing import Any

from nicegui import app, json, ui  # pyright: ignore[reportMissingImports]

from fastrl.runs.folder import expanded
from fastrl.studio import files, frame
from fastrl.studio.desk import Desk
from fastrl.studio.encoding import encodable
from fastrl.studio.guard import Guard, is_loopback
from fastrl.studio.pages import compare, new_run, run, runs, sweeps

PAGES = (runs, new_run, run, sweeps, compare)
_strict_dumps = json.dumps


def build(desk: Desk, host: str = "127.0.0.1", token: str = "") -> None:
    """Adds the pages of a desk, and the guard before them, to NiceGUI's one application.

    Args:
        desk: what the pages show.
        host: address that the application will be served at.
        token: what the browser must know; empty if nothing is asked for.
    """
    json.dumps = _dumps
    ui.add_css(frame.STYLE, shared=True)
    app.colors(primary=frame.BLUE)
    for page in PAGES:
        page.register(desk)
    files.register(app, desk.log_dir)
    app.on_startup(desk.open)
    app.on_shutdown(desk.close)
    app.add_middleware(Guard, host=host, token=token)


def _dumps(value: Any, *args: Any, **more: Any) -> str:
    """Returns what NiceGUI's `json.dumps` does, and refuses no text and no number.

    All that is handed to a browser goes through it, so nothing that a folder says takes down the
    page on which it is shown.
    """
    try:
        return _strict_dumps(value, *args, **more)
    except TypeError:
        return _strict_dumps(encodable(value), *args, **more)


def serve(arguments: argparse.Namespace) -> int:
    """Serves the studio until Ctrl-C; returns the exit status.

    Args:
        arguments: the flags, as parsed and checked.

    Raises:
        OSError: the address is in use, or the log folder cannot be made.
    """
    desk = Desk(expanded(arguments.log_dir), arguments.at_once)
    host = arguments.host
    port = _free_port(host, arguments.port)
    needs_token = arguments.token or not is_loopback(host)
    token = secrets.token_urlsafe(32) if needs_token else ""
    build(desk, host, token)
    shown_host = f"[{host}]" if ":" in host else host
    query = f"?token={token}" if token else ""
    print(f"studio: http://{shown_host}:{port}/{query}  (Ctrl-C ends it; runs go on)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C, once the server has shut down
        _run(host, port, None if arguments.no_browser or not _has_display() else query)
    return 0


def _run(host: str, port: int, query: str | None) -> None:
    """Runs the server; opens a browser at its first page with a query, unless that is None."""
    ui.run(
        host=host,
        port=port,
        title="fastrl studio",
        favicon="🛬",
        dark=None,
        reload=False,
        show=False if query is None else f"/{query}",
        show_welcome_message=False,
        binding_refresh_interval=1.0,
        reconnect_timeout=30.0,  # a form that was filled outlives a short sleep of the laptop
        tailwind=False,
        fastapi_docs=False,
        server_header=False,
    )


def _has_display() -> bool:
    """Returns whether a browser would have a window; without one, some take the terminal."""
    names = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform in ("darwin", "win32") or any(map(os.environ.get, names))


def _free_port(host: str, port: int) -> int:
    """Returns the port, or a free one for 0; finds out early whether it can be had.

    Raises:
        OSError: it cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(
                f"cannot serve at {host}:{port} ({error.strerror}); give another --port, or 0 for "
                "any free one"
            ) from error
        return probe.getsockname()[1]
