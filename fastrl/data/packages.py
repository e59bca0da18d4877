"""The packages of the extra `data`, which are imported where they are used."""

from __future__ import annotations

from typing import Any

from fastrl.processes.errors import how_to_install


def check_packages() -> None:
    """Raises ValueError if Minari or h5py is missing."""
    try:
        import h5py  # noqa: F401
        import minari  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"trajectories need the package {error.name}; {how_to_install('data')}"
        ) from error


def hdf5() -> Any:
    """Returns the package h5py, of whose low-level modules type checkers know nothing."""
    import h5py

    return h5py
