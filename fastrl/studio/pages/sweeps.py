"""The page of sweeps."""

from __future__ import annotations

from nicegui import ui  # pyright: ignore[reportMissingImports]

from fastrl.studio.desk import Desk
from fastrl.studio.frame import frame


def register(desk: Desk) -> None:
    """Adds the page of the sweeps in a desk's log folder."""

    @ui.page("/sweeps")
    def _show() -> None:
        with frame("Sweeps", "/sweeps"):
            ui.label(f"sweeps in {desk.log_dir}").classes("desk-note")
