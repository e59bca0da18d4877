"""The page of a run."""

from __future__ import annotations

from nicegui import ui  # pyright: ignore[reportMissingImports]

from fastrl.studio.desk import Desk
from fastrl.studio.frame import frame


def register(desk: Desk) -> None:
    """Adds the page of a run; its address is the path of its folder below the log folder."""

    @ui.page("/run/{address:path}")
    def _show(address: str) -> None:
        with frame(address, "/"):
            try:
                desk.folder(address)
            except ValueError as error:
                ui.status_code(404)
                ui.label(str(error)).classes("desk-wrong")
