"""The frame around every page: navigation, light and dark, and how errors are shown."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from nicegui import ui  # pyright: ignore[reportMissingImports]

from fastrl.processes.errors import is_expected, one_line

SECONDS_TO_BUILD = 60.0
"""After which NiceGUI gives up on a page; while runs train, its 3 seconds are not enough."""
STYLE = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
BLUE = "#2b6cb0"
"""Of buttons, on which white is easily read; style.css has a lighter one for the dark."""
_LINKS = (("Runs", "/"), ("New run", "/new"), ("Sweeps", "/sweeps"))
_THEMES = ("auto", "light", "dark")
_THEME_COOKIE = "fastrl_theme"
_THEME_ICONS = {"auto": "brightness_auto", "light": "light_mode", "dark": "dark_mode"}


def progress_bar() -> ui.linear_progress:
    """Adds a bar that moves at once: one that glides has the browser draw 60 times a second."""
    bar = ui.linear_progress(0, show_value=False)
    return bar.props('instant-feedback aria-label="progress"')


@contextlib.contextmanager
def frame(title: str, current: str = "") -> Iterator[None]:
    """Builds the frame of a page; the context's elements go into its body.

    Args:
        title: title of the page, shown in the tab of the browser and as the first heading.
        current: the link of the navigation that this page belongs to, such as "/".
    """
    ui.page_title(f"{title} - fastrl studio")
    with ui.header().classes("desk-header"):
        ui.link("fastrl studio", "/").classes("desk-name")
        with ui.element("nav").props('aria-label="pages"').classes("desk-nav"):
            for words, target in _LINKS:
                link = ui.link(words, target).classes("desk-link")
                if target == current:
                    link.classes("desk-current").props('aria-current="page"')
        _theme_button()
    with ui.column().classes("desk-body") as body:
        ui.label(title).props("role=heading aria-level=1").classes("desk-title")
        yield
    ui.skip_link(target=body)


def theme() -> str:
    """Returns what the browser's cookie says of light and dark: auto, light or dark."""
    chosen = ui.context.client.request.cookies.get(_THEME_COOKIE, "auto")
    return chosen if chosen in _THEMES else "auto"


def _theme_button() -> None:
    dark = ui.dark_mode({"auto": None, "light": False, "dark": True}[theme()])
    shown = theme()

    def turn() -> None:
        nonlocal shown
        shown = _THEMES[(_THEMES.index(shown) + 1) % len(_THEMES)]
        dark.value = {"auto": None, "light": False, "dark": True}[shown]
        button.props(f"icon={_THEME_ICONS[shown]}")
        hint.text = f"theme: {shown}"
        ui.run_javascript(
            f"document.cookie = '{_THEME_COOKIE}={shown};path=/;max-age=31536000;samesite=lax'"
        )

    button = ui.button(icon=_THEME_ICONS[shown], on_click=turn)
    button.props('flat round dense color=white aria-label="light or dark"').mark("theme")
    with button:
        hint = ui.tooltip(f"theme: {shown}")


async def told(work: Callable[[], Awaitable[object]], done: str = "") -> bool:
    """Awaits an action on behalf of the user; says in a line what came of it.

    Args:
        work: the action.
        done: what to say if it succeeds; nothing if empty.

    Returns:
        Whether it succeeded. An expected error (see `is_expected`) is shown; others are raised.
    """
    try:
        await work()
    except Exception as error:
        if not is_expected(error):
            raise
        ui.notify(one_line(error), type="negative", multi_line=True, close_button="close")
        return False
    if done:
        ui.notify(done, type="positive")
    return True
