"""The page that configures and starts runs."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from nicegui import ui  # pyright: ignore[reportMissingImports]

from fastrl.config.describing import ALGORITHMS
from fastrl.config.trust import code_named_in
from fastrl.presets import named_presets
from fastrl.processes.errors import is_expected, one_line
from fastrl.studio.desk import Desk
from fastrl.studio.drafts import Draft, Faults, faults_of, read_seeds, typed
from fastrl.studio.frame import SECONDS_TO_BUILD, frame, told
from fastrl.studio.pages.fields import Fields, described
from fastrl.studio.pages.settings_panel import SettingsPanel
from fastrl.studio.settings_files import read_layered, settings_in, typed_settings, unlike_defaults

_SETTLED_SECONDS = 0.4  # after the last key, before all settings are checked


def register(desk: Desk) -> None:
    """Adds the page that starts runs in a desk's log folder."""

    @ui.page("/new", response_timeout=SECONDS_TO_BUILD)
    async def _show(algo: str = "ppo", like: str = "") -> None:
        with frame("New run", "/new"):
            page = _Page(desk, algo if algo in ALGORITHMS else ALGORITHMS[0])
            await page.build()
            if like:
                await page.start_from_run(like)


class _Page:
    """The form as one browser tab shows it."""

    def __init__(self, desk: Desk, algo: str) -> None:
        self._desk, self._algo = desk, algo
        self._checks: ui.timer | None = None

    async def build(self) -> None:
        settings = SettingsPanel(self._desk, self.text, self.take_text, self.take_file)
        with ui.element("div").classes("desk-fields"):
            algorithm = ui.select(list(ALGORITHMS), value=self._algo, label="algorithm")
            algorithm.on_value_change(self._other_algorithm).mark("algorithm")
            self._preset = ui.select(self._presets(), value="auto", label="preset")
            self._preset.on_value_change(self._other_preset).mark("preset")
            self._seeds = ui.input("seeds", placeholder="42; or 1 2 3; or 1..5: a run for each")
            self._seeds.props("stack-label").mark("seeds").on_value_change(self._typed)
            self._agent = ui.input("agent", placeholder="the algorithm's own; or module:Class")
            self._agent.props("stack-label").mark("agent").on_value_change(self._typed)
            search = ui.input("search settings").props("clearable debounce=150").mark("search")
        self._algorithm = algorithm
        settings.build()
        self._panel = ui.column().classes("desk-body-part")
        with ui.element("div").classes("desk-bar"):
            self._help = ui.label().classes("desk-help").props("aria-live=polite").mark("help")
            self._wrong = ui.label().classes("desk-wrong").props("role=alert").mark("wrong")
            with ui.element("div").classes("desk-row"):
                self._starter = ui.button("Start", on_click=self._start).mark("Start")
                self._starter.props("no-caps icon=play_arrow")
                check = ui.button("Check", on_click=self._check).mark("Check")
                check.props("outline no-caps")
                self._imports = ui.label().classes("desk-note").mark("imports")
        with ui.element("div").classes("desk-panels"):
            self._command = _copied("Command line", "command")
            self._yaml = _copied("Settings as YAML", "yaml")
        search.on_value_change(lambda: self._fields.narrow(search.value or ""))
        await self._make_fields({})
        # A timer waits for the browser, and with it NiceGUI sends what there is of the page.
        self._checks = ui.timer(_SETTLED_SECONDS, self._check, active=False)

    # What the form says

    def draft(self) -> tuple[Draft, Faults]:
        """Returns what was typed, and what of it is no value."""
        settings: dict[str, Any] = {}
        wrong: dict[str, str] = {}
        for name, text in self._fields.given().items():
            try:
                settings[name] = typed(self._algo, self._fields.setting(name), text)
            except ValueError as error:
                wrong[name] = one_line(error)
        seeds: tuple[int, ...] = ()
        try:
            seeds = read_seeds(self._seeds.value or "")
        except ValueError as error:
            wrong["seeds"] = str(error)
        log_dir = self._desk.log_dir
        shown_dir = "" if log_dir == Path("logs").resolve() else str(log_dir)
        agent = (self._agent.value or "").strip()
        draft = Draft(self._algo, self._preset.value, settings, seeds, shown_dir, agent)
        return draft, Faults(wrong)

    def text(self) -> str:
        """Returns the form as a file of settings.

        Raises:
            ValueError: something in it is no value.
        """
        draft, wrong = self.draft()
        if wrong:
            self._tell(wrong)
            raise ValueError("first correct what is marked in the form")
        return draft.yaml()

    async def take_text(self, text: str) -> None:
        """Fills the form from the text of a file of settings.

        Raises:
            ValueError: it is no such text.
        """
        await self._take(settings_in(text), keeps=False)

    async def take_file(self, name: str) -> None:
        """Fills the form from a settings file; what the file does not say stays.

        Raises:
            ValueError: it is no such file.
            OSError: it cannot be read.
        """
        read = asyncio.to_thread(read_layered, self._desk.log_dir, name, self._algo)
        await self._take(await read, keeps=True)

    async def start_from_run(self, address: str) -> None:
        """Fills the form with what a run set that is not the default."""
        try:
            found = await asyncio.to_thread(self._desk.run_at, address)
            algo = str(found.config.get("algo"))
            if algo not in ALGORITHMS:
                raise ValueError(f"{address} names no algorithm of {', '.join(ALGORITHMS)}")
            if found.config.get("handed_over"):
                raise ValueError("its environments were handed over, which only Python can do")
            settings = await asyncio.to_thread(unlike_defaults, algo, dict(found.config))
            self._preset.value = "none"
            labels = {"algo": algo, "agent": found.config.get("agent", "")}
            await self._take({**settings, **labels}, keeps=False)
        except Exception as error:
            if not is_expected(error):
                raise
            self._tell(Faults(others=f"{address}: {one_line(error)}"))

    async def _take(self, settings: dict[str, Any], keeps: bool) -> None:
        algo = settings.get("algo", self._algo)
        if algo not in ALGORITHMS:
            raise ValueError(f"algo must be one of {', '.join(ALGORITHMS)}, not {algo!r}")
        agent = settings.get("agent", self._agent.value if keeps else "")
        if not isinstance(agent, str):
            raise ValueError(f"agent must be text such as my_ppo:MyPPO, not {agent!r}")
        values = await asyncio.to_thread(typed_settings, algo, settings)
        seed = values.pop("seed", None)
        self._algo, self._agent.value = algo, agent
        self._algorithm.value = algo
        if seed is not None:
            self._seeds.value = str(seed)
        await self._make_fields({**(self._fields.given() if keeps else {}), **values})

    # The fields

    async def _make_fields(self, values: dict[str, Any]) -> None:
        """Makes the fields of the algorithm, with values as typed text or as plain values."""
        task = values.get("env_id", "")
        preset = self._preset.value
        description = await asyncio.to_thread(described, self._algo, str(task), preset)
        self._panel.clear()
        with self._panel:
            self._fields = Fields(description, self._typed, self._other_task, self._tell_help)
            self._fields.build()
        self._fields.fill(values)
        self._typed()

    async def _other_algorithm(self) -> None:
        if self._algorithm.value != self._algo:
            self._algo = self._algorithm.value
            self._preset.set_options(self._presets(), value="auto")
            given = self._fields.given()
            known = {x["name"] for x in described(self._algo, "", "auto")["settings"]}
            await self._make_fields({name: x for name, x in given.items() if name in known})

    async def _other_preset(self) -> None:
        await self._describe_again()

    async def _other_task(self) -> None:
        await self._describe_again()

    async def _describe_again(self) -> None:
        task = self._fields.given().get("env_id", "")
        self._fields.describe(
            await asyncio.to_thread(described, self._algo, task, self._preset.value)
        )
        self._typed()

    def _presets(self) -> list[str]:
        return ["auto", "none", *named_presets(self._algo)]

    def _tell_help(self, text: str) -> None:
        self._help.text = text

    # Checking and starting

    def _typed(self) -> None:
        if self._checks is not None:
            self._checks.active = False
            self._checks.active = True
        draft, wrong = self.draft()
        if not wrong:
            self._command.text, self._yaml.text = draft.command_line(), draft.yaml()

    async def _check(self) -> Draft | None:
        """Marks what is wrong beside its field; returns the draft if nothing is."""
        if self._checks is not None:
            self._checks.active = False
        draft, wrong = self.draft()
        faults = wrong or await asyncio.to_thread(faults_of, draft)
        # As text: a draft with NaN in it does not equal itself.
        while repr(self.draft()) != repr((draft, wrong)):  # something was typed meanwhile
            draft, wrong = self.draft()
            faults = wrong or await asyncio.to_thread(faults_of, draft)
        named = code_named_in({**draft.settings, "agent": draft.agent})
        self._imports.text = f"will import: {named}" if named else ""
        self._tell(faults or Faults())
        return None if faults else draft

    def _tell(self, faults: Faults) -> None:
        fields = dict(faults.fields)
        self._seeds.error = fields.pop("seeds", None) or fields.pop("seed", None)
        rest = self._fields.mark(fields)
        self._wrong.text = "\n".join(filter(None, (faults.others, *rest)))

    async def _start(self) -> None:
        if not self._starter.enabled:  # pressed twice
            return
        self._starter.disable()
        draft = await self._check()
        if draft is None:
            self._starter.enable()
            ui.notify("something is wrong: see the marked settings", type="negative")
            return
        num_runs = len(draft.settings_of_runs())
        words = "1 run is" if num_runs == 1 else f"{num_runs} runs are"
        start = partial(self._desk.start_runs, draft)
        if await told(lambda: asyncio.to_thread(start), f"{words} in the queue"):
            ui.navigate.to("/")
        else:
            self._starter.enable()


def _copied(title: str, mark: str) -> Any:
    """Adds a text with a button that copies it; returns the text's element."""
    with ui.card().classes("desk-copied"):
        with ui.element("div").classes("desk-row"):
            ui.label(title).classes("desk-heading")
            button = ui.button(icon="content_copy").props(
                f'flat dense round aria-label="copy: {title}"'
            )
        text = ui.label().classes("desk-text").mark(mark)

    def copy() -> None:
        ui.clipboard.write(text.text)
        ui.notify("copied")

    button.on_click(partial(copy))
    return text
