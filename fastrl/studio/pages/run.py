"""The page of a run: how far it is, its curves, films, log, settings and files."""

from __future__ import annotations

import asyncio
from pathlib import Path

from nicegui import ui  # pyright: ignore[reportMissingImports]

from fastrl.studio.desk import Desk
from fastrl.studio.frame import frame
from fastrl.studio.pages.run_actions import Actions
from fastrl.studio.pages.run_curves import Curves
from fastrl.studio.pages.run_files import Files
from fastrl.studio.pages.run_films import Films
from fastrl.studio.pages.run_settings import Settings
from fastrl.studio.pages.run_state import Log, State
from fastrl.studio.run_view import RunView

_SECONDS = 1.0  # between two looks at the folder
_SCRIPT = Path(__file__).parents[1].joinpath("run.js").read_text(encoding="utf-8")


def register(desk: Desk) -> None:
    """Adds the page of a run; its address is the path of its folder below the log folder."""

    @ui.page("/run/{address:path}")
    async def _show(address: str) -> None:
        with frame(address, "/"):
            try:
                view = await asyncio.to_thread(RunView, desk, address)
            except ValueError as error:
                ui.status_code(404)
                ui.label(str(error)).classes("desk-wrong")
                return
            await _RunPage(view).build()


class _RunPage:
    """The parts of the page; those in tabs are kept up to date while they are seen."""

    def __init__(self, view: RunView) -> None:
        self._view = view
        self._is_busy = False

    async def build(self) -> None:
        ui.add_body_html(f"<script>{_SCRIPT}</script>")
        view = self._view
        self._run = await asyncio.to_thread(view.read)
        self._state = State()
        self._actions = Actions(view)
        parts = {
            "Curves": Curves(view),
            "Films": Films(view),
            "Log": Log(view),
            "Settings": Settings(view),
            "Files": Files(view),
        }
        with ui.tabs().props("align=left inline-label dense no-caps") as tabs:
            for name in parts:
                ui.tab(name)
        with ui.tab_panels(tabs, value="Curves").classes("desk-tabs"):
            for name, part in parts.items():
                with ui.tab_panel(name):
                    part.build()
        self._parts, self._tabs = parts, tabs
        tabs.on_value_change(self._turn)
        self._state.show(self._run)
        self._actions.show(self._run)
        await self._turn()
        ui.timer(_SECONDS, self._tick)

    async def _turn(self) -> None:
        """Shows the tab that was chosen as it is now: while unseen it was left alone."""
        await self._parts[str(self._tabs.value)].turn_to(self._run)

    async def _tick(self) -> None:
        if self._is_busy:  # a slow disk
            return
        self._is_busy = True
        try:
            self._run = await asyncio.to_thread(self._view.read)
            self._state.show(self._run)
            self._actions.show(self._run)
            await self._parts[str(self._tabs.value)].show(self._run)
        finally:
            self._is_busy = False
