"""The leaderboard in a terminal. Imports nothing of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def table(board: Mapping[str, Any]) -> RenderableType:
    """Models and baselines with control and prediction, then the rank correlations.

    Args:
        board: as `leaderboard` made it.
    """
    metrics = list(dict.fromkeys(n for row in board["rows"] for n in row["prediction"]))
    head = [board["task"], f"control, {board['unit']}", "shuffled", *metrics]
    found = Table(*head, "reads", "parameters", "s", "ms a decision")
    for row in board["rows"]:
        values = [row["prediction"].get(name, {}).get("value") for name in metrics]
        found.add_row(
            Text(row["name"], style="bold"),
            *map(_cell, (row["control"], row["scrambled"], *values)),
            ", ".join(row["reads"]),
            f"{row['parameters']:,}",
            f"{row['seconds']:.0f}",
            _milliseconds(row),
        )
    found.add_section()
    for row in board["baselines"]:
        empty = [""] * (len(metrics) + 4)
        found.add_row(row["name"], _cell(row["control"]), *empty, _milliseconds(row))
    return Group(found, _correlation(board))


def _correlation(board: Mapping[str, Any]) -> RenderableType:
    """Which metric tells who controls."""
    if not board["correlation"]:
        return Text("No metric could be ranked against control.", style="dim")
    found = Table("metric", "Spearman's rho with control", "checkpoints")
    for row in board["correlation"]:
        found.add_row(row["metric"], _cell(row["rho"]), str(row["points"]))
    return found


def _cell(value: Mapping[str, float] | None) -> str:
    if value is None:
        return "-"
    return f"{value['value']:.3g} [{value['low']:.3g}, {value['high']:.3g}]"


def _milliseconds(row: Mapping[str, Any]) -> str:
    return "-" if row["thinking"] is None else f"{1000 * row['thinking']:.3g}"
