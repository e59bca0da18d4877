"""Files of runs that the browser may show or download."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Response  # pyright: ignore[reportMissingImports]
from fastapi.responses import (  # pyright: ignore[reportMissingImports]
    FileResponse,
    PlainTextResponse,
)

from fastrl.runs.folder import CONFIG_NAME
from fastrl.studio.addresses import path_of

_SHOWN = {".mp4": "video/mp4", ".gif": "image/gif", ".png": "image/png"}
_DOWNLOADED = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".onnx": "application/octet-stream",
    ".pt": "application/octet-stream",
    ".pt2": "application/octet-stream",
    ".txt": "text/plain",
    ".yaml": "application/yaml",
}


def register(app: FastAPI, log_dir: Path) -> None:
    """Serves the files of runs below a log folder under `/files/`."""

    @app.get("/files/{address:path}")
    def _file(address: str) -> Response:
        try:
            path = servable(log_dir, address)
        except ValueError as error:
            return PlainTextResponse(str(error), 404)
        is_shown = path.suffix in _SHOWN
        return FileResponse(
            path,
            media_type=_SHOWN.get(path.suffix) or _DOWNLOADED[path.suffix],
            filename=path.name,
            content_disposition_type="inline" if is_shown else "attachment",
            headers={
                "cache-control": "no-cache",  # a video may be made anew under its name
                "content-security-policy": "default-src 'none'; sandbox",
            },
        )


def servable(log_dir: Path, address: str) -> Path:
    """Returns the path of a file that may be served: one of a run, and of a kind that runs have.

    Raises:
        ValueError: it may not.
    """
    path = path_of(log_dir, address)
    is_file = path.is_file() and path.suffix in {**_SHOWN, **_DOWNLOADED}
    folders = [folder for folder in path.parents if folder.is_relative_to(log_dir)]
    if not is_file or not any((folder / CONFIG_NAME).is_file() for folder in folders):
        raise ValueError("this is not a file of a run")
    return path
