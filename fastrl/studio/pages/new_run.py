"""The page that configures and starts runs."""

from __future__ import annotations

from nicegui import ui  # pyright: ignore[reportMissingImports]

from fastrl.studio.desk import Desk
from fastrl.studio.frame import frame


def register(desk: Desk) -> None:
    """Adds the page that starts runs in a desk's log folder."""

    @ui.page("/new")
    def _show() -> None:
        with frame("New run", "/new"):
            ui.label(f"runs start in {desk.log_dir}").classes("desk-note")
