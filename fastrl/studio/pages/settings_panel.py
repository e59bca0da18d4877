"""The panel of settings files: choose some, edit them as text, save one's own, start from them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from nicegui import ui  # pyright: ignore[reportMissingImports]

from fastrl.studio.desk import Desk
from fastrl.studio.frame import told
from fastrl.studio.settings_files import read_saved, save, saved_names

Take = Callable[[str], Awaitable[None]]


class SettingsPanel:
    """The panel.

    Args:
        desk: whose files.
        text: returns the form as YAML; raises ValueError if something in it is wrong.
        take: fills the form from YAML.
        take_file: fills the form from a settings file, by its name.
    """

    def __init__(self, desk: Desk, text: Callable[[], str], take: Take, take_file: Take) -> None:
        self._desk, self._text, self._take, self._take_file = desk, text, take, take_file

    def build(self) -> None:
        """Adds the panel, closed."""
        panel = ui.expansion("settings files: choose, edit and save your own", icon="folder_open")
        panel.classes("desk-group").mark("settings-panel")
        with panel:
            with ui.element("div").classes("desk-row"):
                self._names = ui.select([], multiple=True, label="settings files", with_input=True)
                self._names.props("use-chips dense outlined").classes("desk-wide")
                self._names.mark("chosen-files")
                self._button("Use", self._use, "later files override earlier ones")
                self._button("Edit", self._edit, "shows the last one as text")
            self._area = ui.textarea("YAML").props("autogrow outlined dense input-class=desk-text")
            self._area.classes("full-width").mark("YAML")
            with ui.element("div").classes("desk-row"):
                self._button("Form to text", self._from_form)
                self._button("Text to form", self._to_form)
                self._name = ui.input("name", placeholder="cartpole, or network/wide")
                self._name.props("dense outlined stack-label").mark("file-name")
                self._replaces = ui.checkbox("replace").mark("replace")
                self._button("Save settings", self._save)
        panel.on_value_change(self._list)

    def _button(self, words: str, work: Callable[[], Awaitable[None]], hint: str = "") -> None:
        button = (
            ui.button(words, on_click=lambda: told(work)).props("outline dense no-caps").mark(words)
        )
        if hint:
            with button:
                ui.tooltip(hint)

    async def _list(self) -> None:
        names = await asyncio.to_thread(saved_names, self._desk.log_dir)
        chosen = [name for name in self._names.value or [] if name in names]
        self._names.set_options(names, value=chosen)

    async def _use(self) -> None:
        for name in self._names.value or []:
            await self._take_file(name)

    async def _edit(self) -> None:
        if not self._names.value:
            raise ValueError("choose a settings file first")
        name = self._names.value[-1]
        self._area.value = await asyncio.to_thread(read_saved, self._desk.log_dir, name)
        self._name.value = name

    async def _from_form(self) -> None:
        self._area.value = self._text()

    async def _to_form(self) -> None:
        await self._take(self._area.value or "")

    async def _save(self) -> None:
        text = self._area.value or self._text()
        name, replaces = (self._name.value or "").strip(), bool(self._replaces.value)
        await asyncio.to_thread(save, self._desk.log_dir, name, text, replaces)
        await self._list()
        ui.notify(f"saved as settings/{name}.yaml in the log folder", type="positive")
