"""The extension serves if it is there, was built for these files and is not forbidden."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import pytest

from fastrl.kernels.extension import VERSION, has_extension


@pytest.fixture(autouse=True)
def is_allowed(monkeypatch):
    monkeypatch.delenv("FASTRL_NO_EXTENSION", raising=False)


@pytest.mark.parametrize("found", [{}, {"VERSION": VERSION - 1}, {"VERSION": VERSION + 1}])
def test_a_build_of_another_version_is_not_used_and_one_line_says_so(monkeypatch, caplog, found):
    monkeypatch.setitem(sys.modules, "fastrl._C", SimpleNamespace(**found))
    with caplog.at_level(logging.WARNING, "fastrl"):
        assert not has_extension()
    assert len(caplog.records) == 1
    assert f"not {VERSION}" in caplog.text


def test_without_a_build_torch_serves_and_one_line_says_so(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "fastrl._C", None)
    with caplog.at_level(logging.WARNING, "fastrl"):
        assert not has_extension()
    assert len(caplog.records) == 1


def test_a_build_of_this_version_serves_unless_it_is_forbidden(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "fastrl._C", SimpleNamespace(VERSION=VERSION))
    assert has_extension()
    monkeypatch.setenv("FASTRL_NO_EXTENSION", "1")
    assert not has_extension()
    assert not caplog.records
