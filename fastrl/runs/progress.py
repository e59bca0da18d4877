"""Progress display: live lines on a terminal, else a plain line every half minute."""

import contextlib
import math
import sys
from collections import deque
from collections.abc import Callable, Iterator
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

_REFRESHES_PER_SECOND = 4
_SECONDS_BETWEEN_LINES = 30.0  # in a file
_SILENT_SECONDS = 5.0  # of a stage, before its first line in a file
_NUM_SAMPLES = 60  # of the latest refreshes, from which the time left is estimated


class Progress:
    """One live line on stderr: bar, steps, steps/s, mean return and time left.

    Used as a context: it shows the line on entry and restores the terminal on exit, also after an
    exception. Meanwhile, printed output appears above the line. If stderr is not a terminal, it
    prints a plain line to stdout every half minute, and never imports rich.

    Args:
        total_env_steps: environment steps at which the run ends; None: there are only stages.
        initial: environment steps already done (a resumed run).
        enabled: whether the line is live; None asks whether stderr is a terminal.
        speaks: if False, nothing is shown or printed.
    """

    def __init__(
        self,
        total_env_steps: int | None,
        *,
        initial: int = 0,
        enabled: bool | None = None,
        speaks: bool = True,
    ) -> None:
        enabled = _is_terminal(sys.stderr) if enabled is None else enabled
        self.enabled, self._speaks = enabled and speaks, speaks
        self._total = total_env_steps
        self._initial = initial
        self._line: RichProgress | None = None
        self._next_at = math.inf  # time of the next refresh
        self._unshown: tuple[int, float, float | None] | None = None
        self._samples: deque[tuple[int, float]] = deque(maxlen=_NUM_SAMPLES)

    def __enter__(self) -> "Progress":
        self._next_at = perf_counter() + (0 if self.enabled else _SECONDS_BETWEEN_LINES)
        if self.enabled:
            self._line = _rich_line()
            if self._total is not None:
                self._line.add_task("", total=self._total, completed=self._initial, status="")
            self._line.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._next_at = math.inf
        if self._line is not None:
            self._show()
            self._line.stop()
            self._line = None

    def update(
        self, env_steps: int, steps_per_second: float, mean_return: float | None = None
    ) -> None:
        """Sets the contents of the line. Cheap to call often: the display refreshes rarely.

        Args:
            env_steps: environment steps so far.
            steps_per_second: environment steps per second.
            mean_return: mean return of recent episodes; None or NaN if none has ended.
        """
        self._unshown = env_steps, steps_per_second, mean_return
        if not self._samples:
            self._sample(env_steps, steps_per_second)
        if perf_counter() < self._next_at:
            return
        self._show()
        seconds = 1 / _REFRESHES_PER_SECOND if self.enabled else _SECONDS_BETWEEN_LINES
        self._next_at = perf_counter() + seconds

    def _show(self) -> None:
        if self._unshown is None or self._total is None:
            return
        (env_steps, steps_per_second, mean_return), self._unshown = self._unshown, None
        seconds_left = self._seconds_left(env_steps, steps_per_second)
        status = _status(env_steps, self._total, steps_per_second, mean_return, seconds_left)
        if self._line is None:
            self.print(status)
        else:
            self._line.update(self._line.task_ids[0], completed=env_steps, status=status)

    def _sample(self, env_steps: int, steps_per_second: float) -> None:
        if math.isfinite(steps_per_second) and steps_per_second > 0:
            self._samples.append((env_steps, env_steps / steps_per_second))

    def _seconds_left(self, env_steps: int, steps_per_second: float) -> float:
        """Estimates it from the latest steps: the first ones may wait for a compiler. Or NaN."""
        self._sample(env_steps, steps_per_second)
        if not self._samples or self._total is None:
            return math.nan
        (first_steps, first_seconds), (steps, seconds) = self._samples[0], self._samples[-1]
        if steps == first_steps or seconds <= first_seconds:
            return math.nan
        return max(0, self._total - env_steps) * (seconds - first_seconds) / (steps - first_steps)

    @contextlib.contextmanager
    def stage(self, words: str, unit: str) -> Iterator[Callable[..., None]]:
        """Context of work that takes no steps, with a bar of its own.

        Args:
            words: what is done.
            unit: of what it has a number.

        Yields:
            A function of how much is done, of how much there is, and of a step that is under way
            if there is one; cheap to call often.
        """
        line, seconds = self._line, 1 / _REFRESHES_PER_SECOND
        task = None if line is None else line.add_task("", total=None, status=words)
        next_at = perf_counter() + (_SILENT_SECONDS if line is None else 0)

        def show(done: int, total: int, step: int = 0) -> None:
            nonlocal next_at
            if perf_counter() < next_at:
                return
            status = f"{words}: {done:,}/{total:,} {unit}{f', step {step:,}' if step else ''}"
            if line is None or task is None:
                self.print(status)
            else:
                line.update(task, completed=done, total=total, status=status)
            next_at = perf_counter() + (_SECONDS_BETWEEN_LINES if line is None else seconds)

        try:
            yield show
        finally:
            if line is not None and task is not None:
                line.remove_task(task)

    def print(self, text: str) -> None:
        """Prints a plain line to stdout, above the live line if there is one."""
        if not self._speaks:
            return
        # While the line is live on a terminal, rich redirects stdout.
        with contextlib.suppress(OSError):  # a closed pipe must not end the training
            print(text, flush=True)


def check_verbose(verbose: Any) -> int:
    """Returns 1 if a run prints how it goes, 0 if it prints nothing; ValueError for all else."""
    if verbose not in (0, 1):
        raise ValueError(f"verbose must be 0 or 1, not {verbose!r}")
    return int(verbose)


@contextlib.contextmanager
def waiting(words: str) -> Iterator[None]:
    """Prints what a long piece of work is; on a terminal a bar moves meanwhile."""
    print(words, flush=True)
    if not _is_terminal(sys.stderr):
        yield
        return
    with _rich_line(transient=True) as line:
        line.add_task("", total=None, status="")
        yield


def _rich_line(transient: bool = False) -> "RichProgress":
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        BarColumn(bar_width=20),
        TextColumn("{task.fields[status]}", markup=False),
        console=Console(stderr=True),
        refresh_per_second=_REFRESHES_PER_SECOND,
        transient=transient,  # leaves nothing on the screen
        # Output redirected to a file must stay redirected.
        redirect_stdout=_is_terminal(sys.stdout),
    )


def _is_terminal(stream: TextIO | None) -> bool:
    """Returns whether a stream is a terminal; it is None if closed before the program started."""
    return stream is not None and stream.isatty()


def _status(
    env_steps: int,
    total_env_steps: int,
    steps_per_second: float,
    mean_return: float | None,
    seconds_left: float = math.nan,
) -> str:
    """Returns text such as `12,288/500,000 steps  34,567/s  return -123.4  left 0:14`."""
    parts = [f"{env_steps:,}/{total_env_steps:,} steps"]
    if math.isfinite(steps_per_second) and steps_per_second > 0:
        parts.append(f"{steps_per_second:,.0f}/s")
    if mean_return is not None and math.isfinite(mean_return):
        parts.append(f"return {mean_return:.1f}")
    if math.isfinite(seconds_left):
        minutes, seconds = divmod(math.ceil(seconds_left), 60)
        hours, minutes = divmod(minutes, 60)
        clock = f"{hours}:{minutes:02}" if hours else f"{minutes}"
        parts.append(f"left {clock}:{seconds:02}")
    return "  ".join(parts)
