"""Plots of a report, as SVG text for the inside of a page. Imports nothing of ours.

matplotlib draws (object API, no global state) with placeholder colours, which become CSS
variables: one plot serves light and dark pages, and its text takes the page's font. One unit of
a plot is one CSS pixel, so `width` is the width at which the letters have their true size.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from numpy.typing import ArrayLike

_CSS = {  # role -> the colour that matplotlib is given, replaced by var(--role)
    "ink": "#010a01",
    "muted": "#010a02",
    "faint": "#010a03",
    "real": "#010a04",
    "dream": "#010a05",
    "line": "#010a06",
    **{f"c{i}": f"#010a1{i}" for i in range(8)},  # one a model, where many are compared
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 12.5,
    "axes.edgecolor": _CSS["muted"],
    "axes.labelcolor": _CSS["muted"],
    "axes.titlecolor": _CSS["ink"],
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.labelsize": 12,
    "axes.titlesize": 13,
    "axes.titlepad": 8,
    "figure.facecolor": "none",
    "grid.color": _CSS["faint"],
    "grid.linewidth": 1.0,
    "legend.frameon": False,
    "legend.fontsize": 12,
    "legend.labelcolor": "linecolor",
    "text.color": _CSS["ink"],
    "xtick.color": _CSS["muted"],
    "ytick.color": _CSS["muted"],
    "xtick.labelsize": 11.5,
    "ytick.labelsize": 11.5,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


class Bar(NamedTuple):
    """One score with its 95% interval."""

    name: str
    value: float
    low: float
    high: float
    role: str  # "real": the agent; "muted": a baseline; "dream": dreamed
    values: tuple[float, ...] = ()  # of the single episodes


class Line(NamedTuple):
    """One curve."""

    x: ArrayLike
    y: ArrayLike
    low: ArrayLike | None = None  # of the band, or of the whiskers where `dots`
    high: ArrayLike | None = None
    label: str = ""
    role: str = "line"
    dashed: bool = False
    dots: bool = False


def number(value: float) -> str:
    """A number as people write it: 1,234 or 0.0123 or 3.2e-05."""
    if not np.isfinite(value):
        return "none"
    if value == 0 or 100 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def short(value: float, _position: Any = None) -> str:
    """A number on an axis: 12k, 0.5, 3M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def scores(bars: Sequence[Bar], unit: str, *, width: int) -> str:
    """Dots with intervals, one row each, names above; small ticks are the single episodes.

    Args:
        bars: from top to bottom.
        unit: of the axis.
        width: in CSS pixels.
    """

    def draw(figure: Figure) -> None:
        ax = figure.add_subplot()
        for row, bar in enumerate(bars):
            _bar(ax, -row, bar)
        ax.set_ylim(-len(bars) + 0.55, 0.75)
        ax.yaxis.set_major_locator(NullLocator())
        ax.spines["left"].set_visible(False)
        ax.grid(axis="x")
        every = [v for bar in bars for v in (bar.low, bar.high, *bar.values)]
        low = min(0, *every)
        span = max(every) - low or 1.0
        ax.set_xlim(low - 0.01 * span, max(every) + 0.03 * span)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.4g}"))
        ax.set_xlabel(unit)

    said = "; ".join(f"{b.name} {number(b.value)}" for b in bars)
    return _svg(f"Scores in {unit}: {said}", width, 48 + 54 * len(bars), draw)


def _bar(ax: Axes, y: float, bar: Bar) -> None:
    """One row of `scores`."""
    colour = _CSS[bar.role]
    if bar.values:
        ax.plot(bar.values, [y - 0.02] * len(bar.values), "|", color=colour, ms=9, alpha=0.22)
    strong = bar.role != "muted"
    ax.plot([bar.low, bar.high], [y, y], color=colour, lw=5 if strong else 3.5, alpha=0.45)
    face = "none" if bar.role == "dream" else colour
    ax.plot([bar.value], [y], "o", color=colour, mfc=face, ms=9 if strong else 7, mew=2)
    said = f"{number(bar.value)}  [{number(bar.low)}, {number(bar.high)}]"
    over = ax.get_yaxis_transform()
    ax.text(0, y + 0.42, bar.name, transform=over, va="center", color=_CSS["ink"])
    ax.text(1, y + 0.42, said, transform=over, va="center", ha="right", color=_CSS["ink"])


def lines(
    curves: Sequence[Line],
    title: str,
    *,
    xlabel: str = "update",
    ylabel: str = "",
    width: int = 320,
    height: int = 200,
    log_y: bool = False,
    xticks: Sequence[float] = (),
    ylim: tuple[float, float] | None = None,
) -> str:
    """Curves with bands (or dots with whiskers) in one plot; named ones get a legend.

    Args:
        curves: at least one.
        title: above the plot; the last value of a lone curve stands beside it.
        xlabel: with its unit.
        ylabel: with its unit.
        width: in CSS pixels.
        height: in CSS pixels.
        log_y: all values are above 0.
        xticks: exactly these, on a logarithmic axis.
        ylim: the y axis, where its range is known.
    """

    def draw(figure: Figure) -> None:
        ax = figure.add_subplot()
        for curve in curves:
            _curve(ax, curve)
        rows = _legend(ax, [curve.label for curve in curves if curve.label], width)
        ax.set_title(title, loc="left", pad=8 + 17 * rows, fontweight="bold")
        last = np.asarray(curves[0].y)[-1:]
        if not rows and len(curves) == 1 and last.size:
            ax.set_title(number(last.item()), loc="right", color=_CSS["muted"])
        _axes(ax, xticks, ylim, log_y=log_y)
        if xticks:
            ax.set_xticklabels(_staggered(xticks, 0.8 * width))
        ax.set_xlabel(xlabel)
        ax.set_ylabel(ylabel)

    return _svg(f"{title} against {xlabel}", width, height, draw)


def _legend(ax: Axes, labels: Sequence[str], width: int) -> int:
    """Names above the axes, on one row if there is room; returns how many rows."""
    if not labels:
        return 0
    columns = len(labels) if sum(7 * len(label) + 45 for label in labels) < width - 40 else 1
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=columns,
        borderpad=0,
        borderaxespad=0.3,
        labelspacing=0.25,
        handlelength=1.4,
        columnspacing=1.2,
    )
    return 1 if columns > 1 else len(labels)


def _curve(ax: Axes, curve: Line) -> None:
    """One curve of `lines`."""
    colour, x, y = _CSS[curve.role], np.asarray(curve.x), np.asarray(curve.y)
    lone = curve.dots or len(x) == 1
    if curve.low is not None and curve.high is not None:
        low, high = np.asarray(curve.low), np.asarray(curve.high)
        if lone:
            ax.vlines(x, low, high, color=colour, lw=5, alpha=0.35, capstyle="round")
        else:
            ax.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
    ax.plot(
        x,
        y,
        "--" if curve.dashed else "-",
        color=colour,
        lw=1.3 if curve.dashed else 1.8,
        marker="o" if lone else None,
        ms=6,
        label=curve.label or None,
    )


def _axes(
    ax: Axes, xticks: Sequence[float], ylim: tuple[float, float] | None, *, log_y: bool
) -> None:
    """Scales and the words on them."""
    if xticks:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(FixedLocator(list(xticks)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.margins(x=0.08)
    else:
        ax.locator_params(axis="x", nbins=5)
        ax.margins(x=0.02)
    ax.xaxis.set_major_formatter(FuncFormatter(short))
    if log_y:
        ax.set_yscale("log")
        ax.yaxis.set_minor_formatter(NullFormatter())
    else:
        ax.locator_params(axis="y", nbins=5)
    ax.yaxis.set_major_formatter(FuncFormatter(short))
    if ylim is not None:
        ax.set_ylim(*ylim)


def _staggered(ticks: Sequence[float], room: float) -> list[str]:
    """Labels on a logarithmic axis of so many pixels, moved down a line where they would touch."""
    span = np.log(max(ticks) / min(ticks)) or 1.0
    ends: list[float] = []  # of the last label on each line
    labels = []
    for tick in ticks:
        word = f"{tick:g}"
        middle, half = room * np.log(tick / min(ticks)) / span, 4 * len(word)
        line = next((i for i, end in enumerate(ends) if end < middle - half), len(ends))
        ends[line : line + 1] = [middle + half]
        labels.append("\n" * line + word)
    return labels


def _svg(label: str, width: int, height: int, draw: Callable[[Figure], None]) -> str:
    """One plot as the text of an <svg> element."""
    salt = hashlib.sha256(f"{label} {width}".encode()).hexdigest()[:12]
    with mpl.rc_context({**_STYLE, "svg.hashsalt": salt}):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.S)
    text = re.sub(r'<g id="[^"]*"/>\n?', "", text)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # the same in every plot: never referred to
    text = re.sub(r"font-family: [^;\"]*; ", "", text)  # the page's own
    for role, colour in _CSS.items():
        text = text.replace(colour, f"var(--{role})")
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" '
        f'aria-label="{escape(label)}">'
    )
    text = opening + text[text.index(">") + 1 :]
    return re.sub(r"\s*\n\s*", "\n", text).strip()
