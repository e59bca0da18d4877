"""The files of a run: checkpoints to download, exports, and TensorBoard."""

from __future__ import annotations

import asyncio
from pathlib import Path

from nicegui import ui  # pyright: ignore[reportMissingImports]

from fastrl.runs.run import Run
from fastrl.studio.addresses import url_of_file
from fastrl.studio.asking import ask_for_trust
from fastrl.studio.frame import told
from fastrl.studio.pages.run_films import words_on
from fastrl.studio.run_view import RunView

_FORMATS = ("torchscript", "pt2", "onnx")
_NAMES = ("config.yaml", "metrics.csv", "summary.json")
_EXPORTS = ("policy.pt", "policy.pt2", "policy.onnx")

Row = tuple[str, int]  # path below the run folder, and bytes


class Files:
    """Links to download, and what makes further files."""

    def __init__(self, view: RunView) -> None:
        self._view = view
        self._rows: list[Row] = []
        self._checkpoints: list[str] = []

    def build(self) -> None:
        """Builds the buttons and the place of the list."""
        with ui.element("div").classes("desk-row"):
            self._which = ui.select([], label="checkpoint").style("min-width: 12rem")
            self._format = ui.select(list(_FORMATS), value=_FORMATS[0], label="format")
            for choice in (self._which, self._format):
                choice.props("outlined dense")
            self._button = ui.button("Export", icon="ios_share", on_click=self._export)
            self._button.props("no-caps")
            self._job = ui.label().classes("desk-note")
        with ui.element("div").classes("desk-row"):
            self._board_button = ui.button("TensorBoard", icon="insights", on_click=self._board)
            self._board_button.props("outline no-caps")
            self._board_link = ui.link("", "", new_tab=True)
            self._board_link.visible = False
        self._list = ui.column().classes("desk-files")

    async def turn_to(self, run: Run) -> None:
        """Lists the files when their tab is opened."""
        await self.show(run)

    async def show(self, run: Run) -> None:
        """Lists files that are new."""
        rows, self._job.text = await asyncio.to_thread(lambda: (self._find(run), self._words()))
        names = [Path(name).name for name, _ in rows if name.startswith("checkpoints/")]
        if names != self._checkpoints:
            self._checkpoints = names
            kept = self._which.value if self._which.value in names else None
            first = "last.pt" if "last.pt" in names else names[0] if names else None
            self._which.set_options(names, value=kept or first)
        self._button.set_enabled(bool(names))
        if rows != self._rows:
            self._rows = rows
            self._list.clear()
            with self._list:
                for name, size in rows:
                    with ui.element("div").classes("desk-row"):
                        url = url_of_file(f"{self._view.address}/{name}")
                        link = ui.link(name, url)
                        link.props["download"] = Path(name).name
                        ui.label(size_in_words(size)).classes("desk-note")

    def _find(self, run: Run) -> list[Row]:
        folder = self._view.folder
        rows = [(f"checkpoints/{file.path.name}", file.size) for file in run.checkpoints]
        for name in (*_NAMES, *_EXPORTS, *(f"{name}.json" for name in _EXPORTS)):
            path = folder / name
            if path.is_file() and not path.is_symlink():
                rows.append((name, path.stat().st_size))
        return rows

    def _words(self) -> str:
        jobs = [x for x in self._view.desk.jobs_of(self._view.address) if x.job.command == "export"]
        return words_on(jobs[-1], self._view, "export") if jobs else ""

    async def _export(self) -> None:
        view = self._view

        async def submit() -> None:
            trust = await ask_for_trust(view.desk, view.address)
            if trust is None:
                return
            checkpoint = str(view.folder / "checkpoints" / self._which.value)
            words = ("--checkpoint", checkpoint, "--format", self._format.value)
            await asyncio.to_thread(view.desk.export, view.address, words, trust)

        await told(submit)

    async def _board(self) -> None:
        async def start() -> None:
            self._board_button.props("loading")
            try:
                url = await asyncio.to_thread(self._view.desk.tensorboard.url)
            finally:
                self._board_button.props(remove="loading")
            self._board_link.text = f"open {url}"
            self._board_link.props["href"] = url
            self._board_link.visible = True

        await told(start)


def size_in_words(size: int) -> str:
    """Returns 512 bytes, 3.4 kB or 1.2 MB."""
    if size < 1000:
        return f"{size} bytes"
    for unit in ("kB", "MB"):
        size_in_unit = size / (1000 if unit == "kB" else 1_000_000)
        if size_in_unit < 1000:
            return f"{size_in_unit:.1f} {unit}"
    return f"{size / 1e9:.1f} GB"
