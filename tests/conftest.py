"""What all tests share: a folder of settings of their own, where the user's key is."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator
from typing import Any

import pytest

from fastrl.processes.machine import available_cores


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """A whole run of the fast tests has one process more than cores, since many tests wait.

    Named tests run in one process, since starting more takes longer than a few tests. So do slow
    ones unless `-n` says otherwise, since many use all cores themselves.
    """
    is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    is_plain = is_whole and config.option.markexpr.startswith("not ")
    return available_cores() + 1 if is_plain else 0


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Keeps the garbage collector from what is imported and made while tests are collected.

    All of that stays until the end, and a full collection looks through it in vain. NiceGUI alone
    makes two in each test of a page, which took three times as long.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _own_config_folder(tmp_path_factory):
    """Keeps tests, and the processes that they start, from the settings of who runs them."""
    before = os.environ.get("XDG_CONFIG_HOME")
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))
    yield
    os.environ.pop("XDG_CONFIG_HOME")
    if before is not None:
        os.environ["XDG_CONFIG_HOME"] = before
