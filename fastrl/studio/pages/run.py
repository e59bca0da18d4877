"""The page of a run: how far it is, its curves, films, log, settings and files."""

from __future__ import annotations

import asyncio
from pathlib import Path

from nicegui import ui  # pyright: ignore[reportMissingImports]

from fastrl.runs.run import Run
from fastrl.studio.desk import Desk
from fastrl.studio.frame import frame
from fastrl.studio.pages.chosen import buttons
from fastrl.studio.pages.run_curves import Curves
from fastrl.studio.pages.run_files import Files
from fastrl.studio.pages.run_films import Films
from fastrl.studio.pages.run_settings import Settings
from fastrl.studio.pages.run_state import Log, State
from fastrl.studio.run_view import RunView

_SECONDS = 2.0  # between two looks at the folder
_ACTIONS = ("Stop", "Resume", "Evaluate", "New like this")
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
        with ui.element("div").classes("desk-row"):
            self._buttons = buttons(view.desk, self._this, self._tick, _ACTIONS)
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
        self._show_head(self._run)
        await self._turn()
        ui.timer(_SECONDS, self._tick)

    async def _this(self) -> list[str]:
        return [self._view.address]

    def _show_head(self, run: Run) -> None:
        """Shows how far the run is; buttons that make no sense now are off."""
        self._state.show(run)
        is_running, has_checkpoint = run.state == "running", bool(run.checkpoints)
        self._buttons["Stop"].set_enabled(is_running)
        self._buttons["Resume"].set_enabled(not is_running and has_checkpoint)
        self._buttons["Evaluate"].set_enabled(has_checkpoint)

    async def _turn(self) -> None:
        """Shows the tab that was chosen as it is now: while unseen it was left alone."""
        await self._parts[str(self._tabs.value)].turn_to(self._run)

    async def _tick(self) -> None:
        if self._is_busy:  # a slow disk
            return
        self._is_busy = True
        try:
            self._run = await asyncio.to_thread(self._view.read)
            self._show_head(self._run)
            await self._parts[str(self._tabs.value)].show(self._run)
        finally:
            self._is_busy = False
