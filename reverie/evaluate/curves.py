"""Learning curves of a run: from `metrics.jsonl` to small plots, whatever the metrics are called.

A row is ``{"stage": ..., "update": ..., "seconds": ..., name: value, ...}``. Stages come in their
order, metrics in theirs; nothing here knows a school. Imports figures and page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reverie.evaluate import page
from reverie.evaluate.figures import Line, lines, number

BINS = 120  # more points than this are drawn as a mean with a band
_ASIDE = ("lr", "grad_norm")  # how it was stepped, not how well it learns
_SPREAD = (("worst", "mean", "best"), ("low", "mean", "high"))  # one plot: a mean in its band
_ONCE = "finish/"


@dataclass
class Curves:
    """All that one stage logged."""

    stage: str
    updates: int = 0  # the last that is logged
    seconds: float = 0.0  # that the stage took
    series: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)  # x and y
    last: dict[str, float] = field(default_factory=dict)  # scores that were taken once, at the end


@dataclass
class Log:
    """What could be read of `metrics.jsonl`."""

    stages: list[Curves]
    torn: int  # lines that could not be read

    @property
    def seconds(self) -> dict[str, float]:
        """How long each stage took, by name."""
        return {curves.stage: curves.seconds for curves in self.stages}


def read(path: Path) -> Log:
    """Read what is there; a line that is torn is counted, never fatal.

    Args:
        path: of `metrics.jsonl`; need not exist.
    """
    found: dict[str, Curves] = {}
    torn = 0
    clock = 0.0
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        row = _row(line)
        if row is None:
            torn += 1
            continue
        curves = found.setdefault(row["stage"], Curves(row["stage"]))
        now = float(row.get("seconds") or clock)
        curves.seconds += max(0.0, now - clock)
        clock = max(clock, now)
        curves.updates = max(curves.updates, row["update"])
        for name, value in row.items():
            if name not in ("stage", "update", "seconds"):
                _put(curves, name, row["update"], value)
    return Log(list(found.values()), torn)


def _row(line: bytes) -> dict[str, Any] | None:
    """A line as a row; None: torn."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    fits = isinstance(row, dict) and isinstance(row.get("stage"), str)
    return row if fits and isinstance(row.get("update"), int) else None


def _put(curves: Curves, name: str, update: int, value: Any) -> None:
    """One number to its series."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return
    if name.startswith(_ONCE):
        curves.last[name.removeprefix(_ONCE)] = float(value)
        return
    x, y = curves.series.setdefault(name, ([], []))
    x.append(float(update))
    y.append(float(value))


def show(log: Log, asked: Mapping[str, int], seconds: Mapping[str, float]) -> list[str]:
    """The curves as HTML, stage by stage.

    Args:
        log: of the run.
        asked: updates that each stage was to make, in order.
        seconds: that each stage took.
    """
    by_name = {curves.stage: curves for curves in log.stages}
    parts = []
    for stage in dict.fromkeys([*asked, *by_name]):
        curves = by_name.get(stage)
        if curves is not None:
            parts += _stage(curves, asked.get(stage, 0), seconds.get(stage, 0.0))
        elif asked.get(stage):
            parts.append(page.missing(f"Stage '{stage}' has not logged anything yet."))
    if log.torn:
        lines_were = "1 line was" if log.torn == 1 else f"{log.torn:,} lines were"
        words = f"{lines_were} torn and left out, as when a run is killed while it writes."
        parts.append(page.missing(f"In metrics.jsonl {words}"))
    return parts


def _stage(curves: Curves, asked: int, seconds: float) -> list[str]:
    """Heading, plots, what was scored at the end, and how it was stepped."""
    count = f"{curves.updates:,} updates" if curves.updates else ""
    if 0 < curves.updates < asked:
        count = f"{curves.updates:,} of {asked:,} updates"
    about = ", ".join(word for word in (count, duration(seconds) if seconds else "") if word)
    parts = [f"<h3>{page.text(curves.stage)}<small>{page.text(about)}</small></h3>"]
    main, aside = plots(curves)
    if main:
        parts.append(page.grid(main))
    if curves.last:
        said = ", ".join(f"{name} {number(value)}" for name, value in curves.last.items())
        parts.append(page.paragraph(f"At the end: {said}."))
    if aside:
        parts.append(page.details("How it was stepped", page.grid(aside)))
    return parts


def plots(curves: Curves) -> tuple[list[str], list[str]]:
    """The plots of one stage: what is learned, and how it was stepped."""
    prefixes = {name.rpartition("/")[0] for name in curves.series if not _is_aside(name)}
    short = len(prefixes) == 1
    main, aside, used = [], [], set[str]()
    for name, (x, y) in curves.series.items():
        if name in used or _repeats(name, curves):
            continue
        title = name.rpartition("/")[2] if short else name
        spread = _spread(name, curves)
        if spread is not None:
            used.update(spread)
            low, mean, high = (curves.series[n][1] for n in spread)
            words = ", ".join(n.rpartition("/")[2] for n in reversed(spread))
            main.append(lines([Line(x, mean, low, high)], words, xlabel="updates"))
        else:
            plot = lines([thinned(x, y)], title, xlabel="updates", log_y=_wide(y))
            (aside if _is_aside(name) else main).append(plot)
    return main, aside


def thinned(x: Sequence[float], y: Sequence[float]) -> Line:
    """A curve of at most `BINS` points; where it was thinned, the band holds 90% of each bin."""
    if len(x) <= BINS:
        return Line(x, y)
    groups = np.array_split(np.arange(len(x)), BINS)
    xs, ys = np.asarray(x), np.asarray(y)
    low, high = zip(*(np.quantile(ys[g], (0.05, 0.95)) for g in groups), strict=True)
    return Line([xs[g].mean() for g in groups], [ys[g].mean() for g in groups], low, high)


def duration(seconds: float) -> str:
    """Seconds as people say them: 8 s, 3 min 15 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _is_aside(name: str) -> bool:
    return name.rpartition("/")[2] in _ASIDE


def _wide(y: Sequence[float]) -> bool:
    """Whether only a logarithmic axis shows both ends."""
    return min(y) > 0 and max(y) > 30 * min(y)


def _repeats(name: str, curves: Curves) -> bool:
    """Whether this is a total that says nothing beside its only term."""
    prefix, _, last = name.rpartition("/")
    if last != "total":
        return False
    others = [n for n in curves.series if n.rpartition("/")[0] == prefix and n != name]
    return any(curves.series[n] == curves.series[name] for n in others)


def _spread(name: str, curves: Curves) -> tuple[str, str, str] | None:
    """The names of (low, mean, high) if this is one of three that belong together."""
    prefix, slash, last = name.rpartition("/")
    for names in _SPREAD:
        full = [prefix + slash + n for n in names]
        series = [curves.series.get(n) for n in full]
        if last in names and all(s is not None and s[0] == curves.series[name][0] for s in series):
            return full[0], full[1], full[2]
    return None
