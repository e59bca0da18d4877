"""The page of all runs."""

from __future__ import annotations

from nicegui import ui  # pyright: ignore[reportMissingImports]

from fastrl.studio.desk import Desk
from fastrl.studio.frame import frame


def register(desk: Desk) -> None:
    """Adds the page of a desk's runs."""

    @ui.page("/")
    def _show() -> None:
        with frame("Runs", "/"):
            ui.label(f"runs in {desk.log_dir}").classes("desk-note")
