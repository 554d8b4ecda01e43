"""A report card in a terminal. Imports the card and what stands beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reverie.evaluate.card import measures_of
from reverie.evaluate.control import control_from_json
from reverie.evaluate.measure import Measure, measure_from_json


def table(card: Mapping[str, Any]) -> RenderableType:
    """The verdict, every measure beside its baselines, and control.

    Args:
        card: as `report_card` made it.
    """
    parts: list[RenderableType] = [Text(card["simulator"] or "no verdict", style="bold")]
    if card["knee"] is not None:
        knee = measure_from_json(card["knee"])
        parts.append(Text(f"history knee: {knee.value} {knee.unit}"))
    found = Table("measure", *card["states"], "beside", title_justify="left")
    kinds = {kind: measures_of(card, kind) for kind in card["states"]}
    for name, measure in next(iter(kinds.values())).items():
        values = (str(known[name].value) if name in known else "-" for known in kinds.values())
        found.add_row(line_name(measure), *values, _beside(measure))
    parts.append(found)
    if card["control"]:
        parts.append(_control(card))
    parts += [Text(sentence, style="dim") for sentence in card["missing"]]
    return Group(*parts)


def line_name(measure: Measure) -> str:
    """A measure with its unit and which way is better."""
    return f"{measure.name} ({measure.unit}, {measure.better} is better)"


def line(measure: Measure) -> str:
    """A measure as one line of text."""
    beside = _beside(measure)
    return f"{line_name(measure)}: {measure.value}" + (f"; {beside}" if beside else "")


def _beside(measure: Measure) -> str:
    return ", ".join(f"{who} {x.value:.4g}" for who, x in measure.baselines.items())


def _control(card: Mapping[str, Any]) -> Table:
    """One row an agent."""
    found = Table("agent", "episodes", f"mean {card['unit']} [95%]", "success [95%]", "ms", "steps")
    for value in card["control"]:
        score = control_from_json(value)
        rate = score.success_rate
        found.add_row(
            *(score.name, str(len(score.returns)), str(score.score)),
            *("-" if rate is None else str(rate), f"{1000 * score.thinking:.3g}"),
            f"{score.imagined:.4g}" if score.imagined else "-",
        )
    return found
