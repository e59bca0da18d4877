"""The films of a run: the newest or a chosen one, with what the policy did, and all others."""

from __future__ import annotations

import asyncio
import json
from functools import partial

from nicegui import ui  # pyright: ignore[reportMissingImports]

from fastrl.runs.run import Run
from fastrl.studio.addresses import url_of_file
from fastrl.studio.asking import ask_for_trust
from fastrl.studio.films import Film, films_of, read_actions
from fastrl.studio.frame import told
from fastrl.studio.jobs import Progress
from fastrl.studio.run_view import RunView

_MOST_SHOWN = 60  # of the newest


class Films:
    """Plays the newest film, or the one that the user chose."""

    def __init__(self, view: RunView) -> None:
        self._view = view
        self._films: list[Film] = []
        self._chosen: str | None = None  # name; None: the newest
        self._playing: Film | None = None
        self._checkpoints: list[str] = []

    def build(self) -> None:
        """Builds the player, the row of buttons and the place of the grid."""
        with ui.element("div").classes("desk-row"):
            self._which = ui.select([], label="checkpoint").style("min-width: 14rem")
            self._which.props("outlined dense")
            self._button = ui.button("Film this now", icon="videocam", on_click=self._film)
            self._button.props("no-caps")
            self._job = ui.label().classes("desk-note")
        self._none = ui.label(
            "No film yet. Film a checkpoint now, or train with capture_video (--capture-video)."
        )
        self._title = ui.label().classes("desk-heading")
        with ui.element("div").classes("desk-film") as self._player:
            # Not ui.video, which serves a source by itself where it finds such a file.
            self._video = ui.element("video").props("controls autoplay muted loop playsinline")
            self._video.props["aria-label"] = "film of the agent"
            self._box = ui.element("div").classes("desk-film-box")
        self._grid = ui.element("div").classes("desk-thumbs")

    async def turn_to(self, run: Run) -> None:
        """Plays the film anew when its tab is opened."""
        self._playing = None
        await self.show(run)

    async def show(self, run: Run) -> None:
        """Shows films and checkpoints that are new."""
        self._show_checkpoints(run)
        await self._show_job()
        films = films_of(run)[:_MOST_SHOWN]
        names = {film.name for film in films}
        if self._chosen not in names:
            self._chosen = None
        is_new = films != self._films
        self._films = films
        film = next((x for x in films if x.name == self._chosen), films[0] if films else None)
        must_play = film != self._playing
        if must_play:
            await self._play(film)
        if is_new or must_play:
            self._fill_grid()

    async def _play(self, film: Film | None) -> None:
        self._playing = film
        self._none.visible, self._player.visible = film is None, film is not None
        self._title.text = "" if film is None else film.title
        if film is None:
            return
        self._video.props["src"] = self._url(film, "mp4")
        self._video.update()
        facts = await asyncio.to_thread(read_actions, film)
        ids = f"{self._video.id}, {self._box.id}"
        ui.run_javascript(f"fastrlFilm({ids}, {json.dumps(facts)})")

    def _url(self, film: Film, suffix: str) -> str:
        address = f"{self._view.address}/videos/{film.name}.{suffix}"
        return f"{url_of_file(address)}?at={film.written}"  # made anew, it is another one

    def _fill_grid(self) -> None:
        self._grid.clear()
        self._grid.visible = len(self._films) > 1
        with self._grid:
            for film in self._films:
                with ui.element("button").classes("desk-thumb") as thumb:
                    thumb.on("click", partial(self._choose, film))
                    if film == self._playing:
                        thumb.classes("desk-thumb-shown")
                    if film.has_gif:
                        picture = ui.element("img").props("loading=lazy alt=''")
                        picture.props["src"] = self._url(film, "gif")
                    ui.label(film.title).classes("desk-note")

    async def _choose(self, film: Film) -> None:
        self._chosen = film.name
        await self._play(film)
        self._fill_grid()

    def _show_checkpoints(self, run: Run) -> None:
        names = [file.path.name for file in reversed(run.checkpoints)]
        first = [name for name in ("last.pt", "best.pt") if name in names]
        names = [*first, *(name for name in names if name not in first)]
        if names != self._checkpoints:
            self._checkpoints = names
            kept = self._which.value if self._which.value in names else None
            self._which.set_options(names, value=kept or (names[0] if names else None))
        self._button.set_enabled(bool(names))

    async def _film(self) -> None:
        view, checkpoint = self._view, self._which.value

        async def submit() -> None:
            trust = await ask_for_trust(view.desk, view.address)
            if trust is None:
                return
            name = str(view.folder / "checkpoints" / checkpoint)
            words = ("--video", "--episodes", "1", "--checkpoint", name)
            await asyncio.to_thread(view.desk.evaluate, view.address, words, trust)
            self._chosen = None

        await told(submit)

    async def _show_job(self) -> None:
        self._job.text = await asyncio.to_thread(self._words_on_job)

    def _words_on_job(self) -> str:
        """Returns how the latest filming goes; "" if it is done, or if there was none."""
        jobs = [x for x in self._view.desk.jobs_of(self._view.address) if "--video" in x.job.words]
        return words_on(jobs[-1], self._view, "filming") if jobs else ""


def words_on(progress: Progress, view: RunView, what: str) -> str:
    """Returns how a job goes, with its last line if it failed; "" if it is done."""
    if progress.state == "waiting":
        return f"{what}: waits for a free core"
    if progress.state == "running":
        return f"{what} ..."
    if progress.state != "failed":
        return ""
    lines = view.desk.jobs.printed(progress.job).strip().splitlines()
    return f"{what} failed: {lines[-1] if lines else f'status {progress.status}'}"
