"""The settings of a run, and what differs from the preset of its task."""

from __future__ import annotations

import asyncio

from nicegui import ui  # pyright: ignore[reportMissingImports]

from fastrl.runs.run import Run
from fastrl.studio.differences import Row, rows_of
from fastrl.studio.run_view import RunView

_COLUMNS = (("name", "setting"), ("value", "value"), ("usual", "usually"), ("source", "from"))


class Settings:
    """A table of all settings, or of those that are not as usual."""

    def __init__(self, view: RunView) -> None:
        self._rows: list[Row] = []

    def build(self) -> None:
        """Builds the empty table."""
        with ui.element("div").classes("desk-row"):
            self._only = ui.switch("only what differs from preset and defaults")
            self._only.on_value_change(self._fill)
            self._filter = ui.input("filter").props("outlined dense clearable")
            self._filter.on_value_change(self._fill)
        self._words = ui.label().classes("desk-note")
        columns = [
            {"name": name, "label": label, "field": name, "align": "left", "sortable": True}
            for name, label in _COLUMNS
        ]
        self._table = ui.table(rows=[], columns=columns, row_key="name")
        self._table.props("dense flat wrap-cells").classes("desk-settings")

    async def turn_to(self, run: Run) -> None:
        """Reads the settings when the tab is opened."""
        await self.show(run)

    async def show(self, run: Run) -> None:
        """Shows the settings, which change where a run is resumed with others."""
        rows = await asyncio.to_thread(rows_of, run)
        if rows != self._rows or not self._words.text:
            self._rows = rows
            self._fill()

    def _fill(self) -> None:
        part = (self._filter.value or "").lower()
        differing = [row for row in self._rows if row.differs]
        shown = differing if self._only.value else self._rows
        self._table.rows = [
            {"name": row.name, "value": row.value, "usual": row.usual, "source": row.source}
            for row in shown
            if part in row.name.lower() or part in row.help.lower()
        ]
        names = ", ".join(f"{row.name}={row.value}" for row in differing)
        self._words.text = f"differs: {names}" if names else "as the preset and the defaults say"
