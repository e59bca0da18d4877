"""Metrics of a run in TensorBoard and `metrics.csv`, and its `summary.json`.

`metrics.csv` has one row per `Logger.log` call and one column per metric ever logged, `env_steps`
first. A metric missing from a call is an empty cell; a non-finite one is `nan` or `inf`. When a new
metric appears, the file is rewritten with a wider header and replaced atomically, so
`pandas.read_csv` works at any time. Two calls may log the same step (training, then evaluation).
"""

import contextlib
import csv
import importlib.metadata
import io
import json
import math
import numbers
import platform
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from fastrl.processes.machine import available_cores, total_memory
from fastrl.runs.folder import check_replaceable, replaced_file

METRICS_NAME = "metrics.csv"
SUMMARY_NAME = "summary.json"
STEP_COLUMN = "env_steps"

_PACKAGES = ("fastrl", "torch", "lightning", "gymnasium", "envpool", "numpy")
_EVENTS_FLUSH_SECONDS = 10


class Logger:
    """Writes metrics over environment steps into a run folder.

    Too slow to call per environment step: a call costs about as much as one small tensor operation
    per metric.

    Args:
        folder: the run folder; must exist.
        resume: whether to append to the metrics of an earlier process. If false, a folder with
            metrics is an error.
        resume_step: environment steps of the checkpoint that was resumed. Later rows and points are
            dropped, so that steps never decrease. None: those at and after the first logged step
            are dropped.
        files: which are written: "csv", "tensorboard" or both.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        resume: bool = False,
        resume_step: int | None = None,
        files: Sequence[str] = ("csv", "tensorboard"),
    ) -> None:
        assert resume or resume_step is None, "resume_step has no effect without resume"
        folder = Path(folder)
        path = folder / METRICS_NAME
        if path.exists() and not resume:
            raise ValueError(f"{path} exists already; resume the run, or log into a new folder")
        check_replaceable(path)  # in a folder from elsewhere it may be a link to any file
        self._table = _MetricsTable(path) if "csv" in files else None
        self._events = _EventFile(folder) if "tensorboard" in files else None
        self._must_drop_later = resume
        if resume_step is not None:
            self._drop_from(resume_step + 1)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Writes one row and one point per metric.

        Args:
            metrics: Python or NumPy numbers by name. The caller converts tensors, because only it
                knows when to synchronise with the device.
            step: environment steps so far.
        """
        for name, value in metrics.items():
            assert isinstance(value, numbers.Real), f"{name} is a {type(value).__name__}"
        if self._must_drop_later:
            self._drop_from(step)
        if self._table:
            self._table.append(step, metrics)
        if self._events:
            self._events.write_scalars(metrics, step)

    def drop_rows(self, step: int, name: str) -> None:
        """Drops the rows of a step that have a metric; their points in TensorBoard stay."""
        if self._table:
            self._table.drop(step, name)

    def log_text(self, tag: str, text: str, step: int) -> None:
        """Writes a Markdown text to TensorBoard."""
        if self._events:
            self._events.write_text(tag, text, step)

    def close(self) -> None:
        """Flushes and closes the files; a second call does nothing."""
        if self._table:
            self._table.close()
        if self._events:
            self._events.close()

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _drop_from(self, step: int) -> None:
        self._must_drop_later = False
        if self._table:
            self._table.drop_from(step)
        if self._events:
            self._events.write_restart(step)


class _MetricsTable:
    """`metrics.csv`: rows are appended; the file is replaced when its columns change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._columns = [STEP_COLUMN]
        if path.exists():
            self._columns = self._read()[0]

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        assert STEP_COLUMN not in metrics, f"{STEP_COLUMN} is the step, not a metric"
        known = set(self._columns)
        new = [name for name in metrics if name not in known]
        if new or self._file is None:
            rows = self._read()[1] if self._path.exists() else []
            self._columns += new
            width = len(self._columns)
            self._replace([row + [""] * (width - len(row)) for row in rows])
        row = [str(step)]
        row += [_cell(metrics[name]) if name in metrics else "" for name in self._columns[1:]]
        assert self._file is not None
        # Unbuffered, one write per row: a killed process leaves no partial row.
        self._file.write(_csv_bytes([row]))

    def drop_from(self, step: int) -> None:
        if self._path.exists():
            self._replace([row for row in self._read()[1] if int(row[0]) < step])

    def drop(self, step: int, name: str) -> None:
        if name not in self._columns:
            return
        place, rows = self._columns.index(name), self._read()[1]
        self._replace([row for row in rows if int(row[0]) != step or not row[place]])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _replace(self, rows: list[list[str]]) -> None:
        self.close()
        with replaced_file(self._path) as file:
            file.write(_csv_bytes([self._columns, *rows]))
        self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115  closed in close()

    def _read(self) -> tuple[list[str], list[list[str]]]:
        """Returns the header and the complete rows, without one that a power failure cut off."""
        text = self._path.read_text(encoding="utf-8", errors="replace")
        lines = list(csv.reader(io.StringIO(text, newline="")))
        if not lines or lines[0][:1] != [STEP_COLUMN]:
            raise ValueError(f"{self._path} is not a metrics table: no first column {STEP_COLUMN}")
        header, rows = lines[0], lines[1:]
        if rows and not text.endswith("\n"):
            rows.pop()
        return header, [row for row in rows if len(row) == len(header) and row[0].isdecimal()]


class _EventFile:
    """The TensorBoard event file, without `torch.utils.tensorboard`, whose import takes 1 s."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        # These classes are created at run time, so a type checker cannot see them.
        self._event: Any = event_pb2
        self._summary: Any = summary_pb2
        self._tensor: Any = tensor_pb2
        self._shape: Any = tensor_shape_pb2
        self._folder = folder
        threading.excepthook = _without_tensorboard
        self._writer = EventFileWriter(
            str(folder), max_queue_size=1000, flush_secs=_EVENTS_FLUSH_SECONDS
        )

    def write_scalars(self, metrics: Mapping[str, float], step: int) -> None:
        value = self._summary.Summary.Value
        self._write(
            step, [value(tag=tag, simple_value=float(number)) for tag, number in metrics.items()]
        )

    def write_text(self, tag: str, text: str, step: int) -> None:
        plugin = self._summary.SummaryMetadata.PluginData(plugin_name="text")
        tensor = self._tensor.TensorProto(
            dtype="DT_STRING",
            string_val=[text.encode()],
            tensor_shape=self._shape.TensorShapeProto(
                dim=[self._shape.TensorShapeProto.Dim(size=1)]
            ),
        )
        metadata = self._summary.SummaryMetadata(plugin_data=plugin)
        self._write(step, [self._summary.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])

    def write_restart(self, step: int) -> None:
        """Makes TensorBoard drop the points at and after this step."""
        start = self._event.SessionLog(status=self._event.SessionLog.START)
        self._add(self._event.Event(wall_time=time.time(), step=step, session_log=start))

    def close(self) -> None:
        with self._naming_the_folder():
            self._writer.close()

    def _write(self, step: int, values: list[Any]) -> None:
        summary = self._summary.Summary(value=values)
        self._add(self._event.Event(wall_time=time.time(), step=step, summary=summary))

    def _add(self, event: Any) -> None:
        with self._naming_the_folder():
            self._writer.add_event(event)

    @contextlib.contextmanager
    def _naming_the_folder(self) -> Iterator[None]:
        """Says where it is that something cannot be written: on a full disk, say."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._folder)) from error


def _without_tensorboard(failed: threading.ExceptHookArgs) -> None:
    """Leaves out what ended TensorBoard's thread: the next event that is written raises it."""
    if not type(failed.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(failed)


def write_summary(folder: str | Path, summary: Mapping[str, Any]) -> None:
    """Writes `summary.json` atomically, with sorted keys; non-finite numbers become null."""
    text = json.dumps(_jsonable(summary), indent=2, sort_keys=True, allow_nan=False)
    with replaced_file(Path(folder) / SUMMARY_NAME) as file:
        file.write(text.encode() + b"\n")


def machine_facts() -> dict[str, str | int | float]:
    """Returns `cpu`, `cores` (usable by this process), `memory_gib`, `platform` and `python`."""
    return {
        "cpu": _cpu_model(),
        "cores": available_cores(),
        "memory_gib": round(total_memory() / 2**30, 1),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str | None]:
    """Returns the installed versions of the main packages, None if absent; imports none."""
    return {package: _version(package) for package in _PACKAGES}


@cache  # all of them take 20 ms to read
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cell(value: float) -> str:
    # repr of a Python number is the shortest string that parses to the same number.
    return repr(int(value)) if isinstance(value, numbers.Integral) else repr(float(value))


def _csv_bytes(rows: Iterable[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value) if math.isfinite(value) else None
    return value


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
