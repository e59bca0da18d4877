"""The studio in Chromium, as its user sees it: from a mistake in a form to a sweep's best agent.

The tests are one story and need each other's runs, in this order. With FASTRL_SCREENSHOTS=FOLDER
they leave a picture of every page, light and dark, there.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from urllib.parse import urlencode

import pytest

pytest.importorskip("selenium", reason='needs the extra "browser"')
pytest.importorskip("optuna", reason='needs the extra "sweep"')

from fastrl.runs.owner import signal_to
from fastrl.studio.addresses import page_of_run
from fastrl.studio.jobs import JobFolder
from studio.browser import CHROMIUM, DRIVER, Browser, chromium, studio
from studio.playing import make_run, make_unsendable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and its driver"),
]
LEARNED = 150.0  # a return that no untrained agent has on CartPole
PICTURES = os.environ.get("FASTRL_SCREENSHOTS")


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("studio") / "logs"


@pytest.fixture(scope="module")
def url(log_dir):
    log_dir.mkdir()
    try:
        with studio(log_dir) as address:
            yield address.rstrip("/")
    finally:  # runs outlive the studio
        for progress in JobFolder(log_dir).all():
            if progress.process is not None:
                signal_to(progress.process, signal.SIGINT)


@pytest.fixture(scope="module")
def whole_browser():
    with chromium() as found:
        yield found


@pytest.fixture
def browser(whole_browser, tmp_path):
    yield whole_browser
    whole_browser.shoot(tmp_path / "end.png")  # how it looked where the test ended
    assert not whole_browser.faults()


def start_run(browser: Browser, url: str, **settings: str) -> None:
    """Fills in the form of a new PPO run and starts it."""
    browser.open(f"{url}/new")
    browser.see("env_id")
    browser.unfold("written")
    for name, text in settings.items():
        browser.type(name, text)
    browser.press("Start")
    browser.until(lambda: browser.driver.current_url == f"{url}/", "the page of runs")


def open_run(browser: Browser, url: str, log_dir: Path, label: str) -> str:
    """Opens the page of the newest run with a label; returns its address."""

    def found() -> list[Path]:
        return sorted(log_dir.glob(f"ppo/*/CartPole-v1_{label}_*/config.yaml"))

    path = browser.until(found, f"a run folder of {label}")[-1].parent
    address = path.relative_to(log_dir).as_posix()
    browser.open(f"{url}/run/{address}")
    return address


def picture(browser: Browser, name: str) -> None:
    """Leaves a picture of the page, light and dark, if they are wanted."""
    if not PICTURES:
        return
    from studio.pictures import shoot

    shoot(browser, Path(PICTURES), name)


def test_a_mistake_is_shown_beside_its_field_and_nothing_starts(browser, url, log_dir):
    browser.open(f"{url}/new")
    browser.see("env_id")
    browser.type("env_id", "CartPole-v1")
    browser.type("total_timesteps", "-5")
    browser.press("Start")

    def message() -> str:
        fields = browser.all(".q-field--error")
        return next((x.text for x in fields if "total_timesteps" in x.text), "")

    assert "-5" in browser.until(message, "an error at the field total_timesteps")
    assert not list(log_dir.glob("ppo/*"))
    picture(browser, "new_run")


def test_the_curve_moves_while_the_run_learns(browser, url, log_dir):
    start_run(
        browser,
        url,
        env_id="CartPole-v1",
        total_timesteps="120000",
        exp_name="first",
        eval_every="40000",
    )
    open_run(browser, url, log_dir, "first")
    name = "Rewards/rew_avg_100"
    early = browser.until(lambda: browser.curve_points(name), "the first points of the curve")
    browser.until(lambda: browser.curve_points(name) > early, "further points of the curve")
    browser.see("finished", 240)
    match = re.search(r"test return ([\d.]+)", browser.text())
    assert match and float(match[1]) > LEARNED
    browser.see("mean return of the last 100 training episodes")
    picture(browser, "run")


def test_the_trained_agent_is_filmed_and_its_bars_follow_the_film(browser, url, log_dir):
    address = open_run(browser, url, log_dir, "first")
    browser.press("Films")
    browser.press("Film this now")
    browser.until(lambda: list((log_dir / address / "videos").glob("*.json")), "the film")
    state = "const v = document.querySelector('.desk-film video'); return v && v.readyState >= 2"
    browser.until(lambda: browser.script(f"{state} && v.currentTime > 0.2"), "a playing film")
    browser.see("step ")
    bars = browser.all(".desk-film-row")
    assert [bar.text.splitlines()[0] for bar in bars] == ["left", "right"]
    step = "return Number(document.querySelector('.desk-film-box').dataset.step)"
    first = browser.script(step)
    browser.until(lambda: browser.script(step) != first, "bars that follow the film")
    browser.until(lambda: "filming" not in browser.text(), "the end of the filming")
    picture(browser, "films")
    browser.press("Settings")
    browser.see("total_timesteps=120000")
    picture(browser, "settings")
    browser.press("Files")
    browser.see("last.pt")


def test_another_run_is_stopped_and_resumed(browser, url, log_dir):
    start_run(
        browser, url, env_id="CartPole-v1", total_timesteps="20000000", exp_name="second", seeds="2"
    )
    open_run(browser, url, log_dir, "second")
    browser.until(lambda: browser.curve_points("Rewards/rew_avg_100"), "the first points")
    browser.press("Stop")
    browser.see("stopped")
    steps = max(
        int(line.partition(",")[0])
        for line in next(log_dir.glob("ppo/*/CartPole-v1_second_*/metrics.csv"))
        .read_text()
        .splitlines()[1:]
    )
    browser.press("Resume")
    browser.type("environment steps in all; empty: as they were", str(steps + 20_000))
    browser.press("Resume", within=".desk-dialog")
    browser.see("finished", 240)


def test_both_are_compared(browser, url, log_dir):
    browser.open(f"{url}/")
    browser.until(lambda: len(browser.all(".ag-row .ag-checkbox-input-wrapper")) >= 2, "two runs")
    picture(browser, "runs")

    def marked() -> bool:
        for box in browser.all(".ag-row:not(.ag-row-selected) .ag-checkbox-input-wrapper"):
            box.click()
        return len(browser.all(".ag-row-selected")) >= 2

    browser.until(marked, "two marked runs")
    browser.press("Compare")
    browser.see("first")
    browser.see("second")
    code = (
        "return [...document.querySelectorAll('.nicegui-echart')].some(e => "
        "(getElement(Number(e.id.slice(1)))?.chart?.getOption()?.series ?? [])"
        ".filter(s => s.data.length > 1).length >= 2)"
    )
    browser.until(lambda: browser.script(code), "a chart with the curves of both")
    picture(browser, "compare")


def test_a_small_sweep_is_run_and_its_best_is_trained(browser, url, log_dir):
    browser.open(f"{url}/sweeps")
    browser.unfold("New sweep")
    browser.type("env_id", "CartPole-v1")
    browser.type("minutes", "0.5")
    browser.type("total_timesteps of a run", "8192")
    browser.press("Start sweep")
    browser.until(lambda: list(log_dir.glob("sweeps/*/sweep.yaml")), "the folder of the sweep")

    def opened() -> bool:
        for link in browser.all('a[href^="/sweep/"]')[:1]:
            browser.click(link)
        return "/sweep/" in browser.driver.current_url

    browser.until(opened, "the page of the sweep")
    browser.see("best: trial", 300)
    browser.until(lambda: "finished" in browser.text(), "the end of the sweep", 600)
    picture(browser, "sweep")
    browser.press("Train the best with 5 seeds")
    pattern = "ppo/*/CartPole-v1_best_*/summary.json"
    browser.until(lambda: len(list(log_dir.glob(pattern))) == 5, "five trained agents", 300)
    browser.open(f"{url}/sweeps")
    browser.see("ppo on CartPole-v1")
    browser.unfold("New sweep")
    picture(browser, "sweeps")


def test_a_narrow_window_shows_everything_without_scrolling_sideways(browser, url, log_dir):
    browser.driver.set_window_size(380, 800)
    try:
        for page in ("", "/new", "/sweeps"):
            browser.open(f"{url}{page or '/'}")
            check_width(browser, page)
        open_run(browser, url, log_dir, "first")
        for tab in ("Curves", "Films", "Log", "Settings", "Files"):
            browser.press(tab)
            check_width(browser, tab)
    finally:
        browser.driver.set_window_size(1280, 900)


def check_width(browser: Browser, what: str) -> None:
    code = "return document.documentElement.scrollWidth <= window.innerWidth + 1"
    browser.until(lambda: browser.script(code), f"{what or 'runs'} within a narrow window", 10)


NAMES = ("a'b\"c", "%2f", "a#b?c=d&e", "<b>x<_b>", "{{1}}", "a b", "\u65e5\u672c", "x" * 255)


def test_folders_of_any_name_and_contents_are_shown(browser, tmp_path):
    """It has a studio of its own, apart from the story."""
    log_dir = tmp_path / "logs"
    odd = make_unsendable(log_dir)
    named = [make_run(log_dir, name, f"n{number}") for number, name in enumerate(NAMES)]
    make_run(log_dir, os.fsdecode(b"latin\xe9_1"), "n99")
    with studio(log_dir) as address:
        browser.open(address)
        browser.see("1 run is left out")
        browser.until(lambda: len(browser.all(".ag-row a")) > 5, "rows")
        for run in (*odd, *named):
            browser.open(address.rstrip("/") + page_of_run(run))
            browser.see("no metrics yet" if run in named else "Curves")
            for tab in ("Films", "Settings", "Files"):
                browser.press(tab)
        browser.open(f"{address}compare?{urlencode([('run', run) for run in odd])}")
        browser.see("interquartile mean")
        browser.driver.get("about:blank")  # before its server ends
