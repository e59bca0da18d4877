from __future__ import annotations

from importlib.util import find_spec

import pytest

if find_spec("nicegui") is None:  # it comes with the extra `studio`
    collect_ignore_glob = ["test_*.py"]
else:
    from fastrl.studio.desk import Desk

    @pytest.fixture
    def desk(tmp_path):
        return Desk(tmp_path / "logs", at_once=1)
