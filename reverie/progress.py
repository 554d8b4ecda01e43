"""How far a long job is: bars in a terminal, quiet lines elsewhere. Imports nothing of ours.

Collecting, encoding, training and evolution all report through one small protocol::

    with progress.task("collect", total=100) as task:
        for episode in ...:
            task.advance(1, reward=episode.reward.sum())

`terminal()` picks `Bars` (rich, with the time left) or `Lines` (one line every ten seconds, for
log files); `Silent` says nothing. Tasks may be nested.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

_SHOWN = 4  # at most so many metrics beside a bar


class Task(Protocol):
    """One job that is under way; leaving its `with` block ends it."""

    def advance(self, n: int = 1, **metrics: float) -> None:
        """Say that n more units are done; metrics replace those shown before."""
        ...

    def __enter__(self) -> Task: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Progress(Protocol):
    """Where jobs report."""

    def task(self, name: str, total: int, done: int = 0) -> Task:
        """Announce a job.

        Args:
            name: what the user reads.
            total: how many units it has.
            done: how many were done before (a resumed run).
        """
        ...


def terminal(stream: TextIO | None = None) -> Progress:
    """Bars if the stream (stdout by default) is a terminal, else lines."""
    out: TextIO = sys.stdout if stream is None else stream
    return Bars(Console(file=out)) if out.isatty() else Lines(out)


class _Block:
    """Entering and leaving a task; subclasses say what leaving does."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    def close(self) -> None:
        """End the task."""


class Silent:
    """Says nothing."""

    def task(self, name: str, total: int, done: int = 0) -> Task:
        """A task that nobody hears of."""
        return _SilentTask()


class _SilentTask(_Block):
    """Ignores what it is told."""

    def advance(self, n: int = 1, **metrics: float) -> None:
        """Nothing."""


class Lines:
    """One line now and then, for logs and pipes.

    Args:
        stream: where lines go; stdout by default.
        every: seconds between the lines of one task.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stdout
        self._every = every
        self._clock = clock

    def task(self, name: str, total: int, done: int = 0) -> Task:
        """A task that writes a line every so often and one at its end."""
        return _LineTask(name, total, done, self._stream, self._every, self._clock)


class _LineTask(_Block):
    """Counts, and writes lines."""

    def __init__(
        self,
        name: str,
        total: int,
        done: int,
        stream: TextIO,
        every: float,
        clock: Callable[[], float],
    ) -> None:
        self._name, self._total, self._stream = name, total, stream
        self._start, self._done = done, done
        self._every, self._clock = every, clock
        self._began = self._spoke = clock()
        self._metrics: Mapping[str, float] = {}

    def advance(self, n: int = 1, **metrics: float) -> None:
        """Count, and write a line if the last one is old enough."""
        self._done += n
        self._metrics = metrics or self._metrics
        if self._clock() - self._spoke >= self._every:
            self._line()

    def close(self) -> None:
        """The last line, unless nothing was done."""
        if self._done > self._start:
            self._line()

    def _line(self) -> None:
        self._spoke = self._clock()
        spent = self._spoke - self._began
        left = spent / max(1, self._done - self._start) * (self._total - self._done)
        percent = 100 * self._done // max(1, self._total)
        words = [f"{self._name} {self._done}/{self._total} ({percent}%)", f"{_time(spent)} spent"]
        if self._done < self._total:
            words.append(f"{_time(left)} left")
        if self._metrics:
            words.append(_show(self._metrics))
        self._stream.write(", ".join(words) + "\n")
        self._stream.flush()


class Bars:
    """Live bars with the time left and the key metrics.

    The bar of an outermost task stays on the screen when it ends; inner ones disappear.

    Args:
        console: of rich; stdout by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live: RichProgress | None = None
        self._open = 0

    def task(self, name: str, total: int, done: int = 0) -> Task:
        """A bar."""
        if self._live is None:
            self._live = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[shown]}", style="cyan"),
                console=self._console,
                refresh_per_second=4,
                speed_estimate_period=60.0,
            )
            self._live.start()
        self._open += 1
        bar = self._live.add_task(name, total=total, completed=done, shown="")
        return _BarTask(self._live, bar, self._close)

    def _close(self, bar: TaskID) -> None:
        """Remove an inner bar; leave the outermost one where it is and let go of the screen."""
        self._open -= 1
        if self._live is not None and self._open > 0:
            self._live.remove_task(bar)
        elif self._live is not None:
            self._live.stop()
            self._live = None


class _BarTask(_Block):
    """One bar of a live display."""

    def __init__(self, live: RichProgress, bar: TaskID, close: Callable[[TaskID], None]) -> None:
        self._live, self._bar, self._end = live, bar, close

    def advance(self, n: int = 1, **metrics: float) -> None:
        """Move the bar."""
        if metrics:
            self._live.update(self._bar, advance=n, shown=_show(metrics))
        else:
            self._live.update(self._bar, advance=n)

    def close(self) -> None:
        """End the bar."""
        self._end(self._bar)


def _show(metrics: Mapping[str, float]) -> str:
    """The first few metrics, four digits each."""
    return "  ".join(f"{name} {value:.4g}" for name, value in list(metrics.items())[:_SHOWN])


def _time(seconds: float) -> str:
    """h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"
