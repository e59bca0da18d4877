"""What can be done with a run: stop it, resume it, test it."""

from __future__ import annotations

import asyncio

from nicegui import ui  # pyright: ignore[reportMissingImports]

from fastrl.runs.run import Run
from fastrl.studio.asking import ask_for_trust
from fastrl.studio.frame import told
from fastrl.studio.run_view import RunView


class Actions:
    """The row of buttons; those that make no sense now are off."""

    def __init__(self, view: RunView) -> None:
        self._view = view
        self._has_steps = False  # filled in once: then it is the user's
        with ui.element("div").classes("desk-row"):
            self._stop = ui.button("Stop", icon="stop", on_click=self._stop_run)
            self._resume = ui.button("Resume", icon="play_arrow", on_click=self._resume_run)
            self._steps = ui.number("up to steps", min=1, step=1, format="%d")
            self._steps.props("outlined dense").style("max-width: 11rem")
            self._test = ui.button("Test", icon="fact_check", on_click=self._test_run)
            for button in (self._stop, self._resume, self._test):
                button.props("outline dense no-caps padding='0.2rem 0.6rem'")

    def show(self, run: Run) -> None:
        """Turns buttons on and off for a run as it is now."""
        is_running, has_checkpoint = run.state == "running", bool(run.checkpoints)
        self._stop.set_enabled(is_running)
        self._resume.set_enabled(not is_running and has_checkpoint)
        self._test.set_enabled(has_checkpoint)
        if not self._has_steps and run.total_env_steps:
            self._has_steps = True
            self._steps.value = run.settings.get("total_timesteps", run.total_env_steps)

    async def _stop_run(self) -> None:
        view = self._view

        async def stop() -> None:
            await asyncio.to_thread(view.desk.stop, view.address)

        await told(stop, "the run saves and stops")

    async def _resume_run(self) -> None:
        steps = self._steps.value
        words = ("--total-timesteps", str(int(steps))) if steps else ()
        await self._submit("resume", words)

    async def _test_run(self) -> None:
        await self._submit("evaluate", ())

    async def _submit(self, action: str, words: tuple[str, ...]) -> None:
        view = self._view
        work = view.desk.resume if action == "resume" else view.desk.evaluate

        async def submit() -> None:
            trust = await ask_for_trust(view.desk, view.address)
            if trust is not None:
                await asyncio.to_thread(work, view.address, words, trust)

        await told(submit, f"{action}: queued")
