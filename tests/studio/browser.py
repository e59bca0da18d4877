"""A studio as a process of its own, and a headless Chromium that looks at it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
WAIT_SECONDS = float(os.environ.get("FASTRL_WAIT_SECONDS", "90"))
_ADDRESS = re.compile(r"studio: (http://\S+)")


@contextlib.contextmanager
def studio(log_dir: Path, *flags: str) -> Iterator[str]:
    """Starts `python -m fastrl.studio` over a log folder; yields its address."""
    words = ["--log-dir", str(log_dir), "--port", "0", "--no-browser", *flags]
    output = log_dir.parent / "studio.txt"
    # NiceGUI serves otherwise where it sees that a test runs.
    environment = {name: x for name, x in os.environ.items() if not name.startswith("PYTEST_")}
    with open(output, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "fastrl.studio", *words],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**environment, "PYTHONUNBUFFERED": "1"},
        )
    try:

        def address() -> str:
            assert process.poll() is None, output.read_text()
            match = _ADDRESS.search(output.read_text())
            return match[1] if match else ""

        yield wait(address, "the studio's address")
        faults = [line for line in output.read_text().splitlines() if "Traceback" in line]
        assert not faults, output.read_text()
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def chromium(width: int = 1280, height: int = 900) -> Iterator[Browser]:
    """Starts Chromium without a display."""
    assert CHROMIUM and DRIVER
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in (
        "--headless=new",
        "--no-sandbox",  # as root, in continuous integration
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--hide-scrollbars",
        "--autoplay-policy=no-user-gesture-required",
        f"--window-size={width},{height}",
    ):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


class Browser:
    """What a user does: looks for words, types, presses buttons."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Opens an address and waits until its page talks to the server."""
        self.driver.get(url)
        self.until(
            lambda: self.script("return !!window.socket?.connected"), f"the connection of {url}"
        )

    def script(self, code: str, *values: Any) -> Any:
        """Returns what JavaScript returns."""
        return self.driver.execute_script(code, *values)

    def all(self, css: str) -> list[WebElement]:
        """Returns the visible elements of a CSS selector."""
        return [x for x in self.driver.find_elements(By.CSS_SELECTOR, css) if x.is_displayed()]

    def text(self) -> str:
        """Returns the visible words of the page."""
        return self.driver.find_element(By.TAG_NAME, "body").text

    def until(self, work: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
        """Returns what `work` returns as soon as that is true; an element may still move."""

        def tried() -> Any:
            with contextlib.suppress(WebDriverException):
                return work()

        return wait(tried, what, seconds, self.text)

    def see(self, words: str, seconds: float = WAIT_SECONDS) -> None:
        """Waits until the page shows some words."""
        self.until(lambda: words in self.text(), f"the words {words!r}", seconds)

    def click(self, element: WebElement) -> None:
        """Clicks an element, even while the page moves: where the mouse was would be another."""
        self.script("arguments[0].scrollIntoView({block: 'center'})", element)
        self.script("arguments[0].click()", element)

    def press(self, words: str, seconds: float = WAIT_SECONDS, within: str = "") -> None:
        """Presses the last button, tab or link with these words, which a dialog's are."""

        def pressed() -> bool:
            found = self.all(f"{within} button, {within} a, {within} .q-tab, {within} .q-item")
            for element in reversed(found):
                lines = [x.strip().lower() for x in element.text.splitlines()]
                label = (element.get_attribute("aria-label") or "").lower()
                is_it = words.lower() in (*lines, label)
                if is_it and element.is_enabled() and not element.get_attribute("disabled"):
                    self.click(element)
                    return True
            return False

        self.until(pressed, f"the button {words!r}", seconds)

    def unfold(self, words: str) -> None:
        """Opens the panel whose title begins with these words, if it is closed."""

        def opened() -> bool:
            for panel in self.all(".q-expansion-item"):
                titles = panel.text.lower().splitlines()[:2]  # an icon comes first
                if any(title.startswith(words.lower()) for title in titles):
                    if "q-expansion-item--expanded" not in (panel.get_attribute("class") or ""):
                        self.click(panel.find_element(By.CSS_SELECTOR, ".q-item"))
                    return True
            return False

        self.until(opened, f"the panel {words!r}")

    def field(self, label: str) -> WebElement:
        """Returns the input of the field with this label."""

        def found() -> WebElement | None:
            for element in self.all("input, textarea"):
                if (element.get_attribute("aria-label") or "").strip() == label:
                    return element
            return None

        return self.until(found, f"the field {label!r}")

    def type(self, label: str, text: str) -> None:
        """Types in place of what a field holds."""

        def typed() -> bool:
            element = self.field(label)
            self.click(element)
            element.send_keys(Keys.CONTROL, "a")
            element.send_keys(Keys.DELETE)
            element.send_keys(text)
            return element.get_attribute("value") == text

        self.until(typed, f"typing into {label!r}")

    def choose(self, label: str, option: str) -> None:
        """Chooses an option of a select."""

        def chosen() -> bool:
            for field in self.all(".q-select"):
                if field.text.splitlines()[:1] == [label] and not self.all(".q-menu .q-item"):
                    field.click()
            for element in self.all(".q-menu .q-item"):
                if element.text.strip() == option:
                    element.click()
                    return True
            return False

        self.until(chosen, f"the option {option!r} of {label!r}")

    def curve_points(self, name: str) -> int:
        """Returns how many points a curve has on the screen."""
        code = (
            "const e = [...document.querySelectorAll('.desk-curve')].find(x => "
            "x.getAttribute('aria-label') === arguments[0]); if (!e) return 0;"
            "const chart = getElement(Number(e.id.slice(1)))?.chart;"
            "return chart?.getOption()?.series?.[0]?.data?.length ?? 0;"
        )
        return self.script(code, f"curve of {name}") or 0

    def faults(self) -> list[str]:
        """Returns what the browser's console says of errors since the last call."""
        entries = self.driver.get_log("browser")
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def shoot(self, path: Path) -> None:
        """Writes a picture of the page as it is seen."""
        path.parent.mkdir(parents=True, exist_ok=True)
        assert self.driver.save_screenshot(str(path))


def wait(
    work: Callable[[], Any],
    what: str,
    seconds: float = WAIT_SECONDS,
    words: Callable[[], str] = lambda: "",
) -> Any:
    """Returns what `work` returns as soon as that is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := work():
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what}: not there after {seconds:.0f} s\n{words()}")
