"""Pictures of the studio's pages for the documentation, small enough to be kept with the code."""

from __future__ import annotations

import io
import time
from pathlib import Path

from PIL import Image

from studio.browser import Browser

WIDTH, HEIGHT = 1100, 920
_COLORS = 96
# Nobody's folders are in a picture: last lines of jobs name them.
_NO_PATHS = """for (const line of document.querySelectorAll('.desk-queue .desk-line'))
    line.style.visibility = 'hidden';"""
_DRAWN_SECONDS = 1.5  # until a page that was made anew is drawn


def shoot(browser: Browser, folder: Path, name: str) -> None:
    """Writes `<name>_light.png` and `<name>_dark.png` of the page, which stays as it is.

    Args:
        browser: with the page.
        folder: where to.
        name: of the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = browser.driver.get_window_size()
    browser.driver.set_window_size(WIDTH, HEIGHT)
    browser.script("window.scrollTo(0, 0)")
    browser.until(lambda: not browser.all(".q-notification"), "the end of all messages", 30)
    browser.script(_NO_PATHS)
    for theme in ("light", "dark"):
        browser.script("Quasar.Dark.set(arguments[0])", theme == "dark")
        time.sleep(_DRAWN_SECONDS)
        with Image.open(io.BytesIO(browser.driver.get_screenshot_as_png())) as image:
            small = image.convert("RGB").quantize(_COLORS, dither=Image.Dither.NONE)
            small.save(folder / f"{name}_{theme}.png", optimize=True)
    browser.script("Quasar.Dark.set(false)")
    browser.driver.set_window_size(before["width"], before["height"])
