"""What is registered, as people read it: the taxonomy of the schools, and one card in full.

`reverie list`, `reverie info` and the README's table come from here. Imports core, evidence and,
through the registry, the schools' own modules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from reverie.core import registry
from reverie.core.model import WorldModel
from reverie.core.types import Card, Heads, Space
from reverie.evidence import Evidence

FAMILIES = {
    "A": "generative",
    "B": "representation",
    "C": "for deciding",
    "oracle": "true model of a toy world",
}
_COLUMNS = ("school", "family", "state", "z", "objective", "policy", "coupling", "heads", "paper")
_WIDE = 160  # columns of a terminal that show the whole table


def cards(*, oracles: bool = False) -> list[Card]:
    """The taxonomy entries, by family and name.

    Args:
        oracles: also of the true models of the toy worlds.
    """
    found = [registry.model(name).card for name in registry.names("model")]
    if oracles:
        found += [registry.instance(name).card for name in registry.names("oracle")]
    return sorted(found, key=lambda card: (card.family, card.name))


def listing(found: Sequence[Card], width: int) -> RenderableType:
    """The taxonomy for a terminal: a table if it is wide enough, else one block a school."""
    if width < _WIDE:
        return Group(*(_block(card) for card in found))
    table = Table(*_COLUMNS, show_lines=True)
    for card in found:
        table.add_row(f"[bold]{card.name}[/]", *_cells(card)[1:])
    return table


def markdown(found: Iterable[Card], claims: Iterable[Evidence] = ()) -> str:
    """The README's table: one row a school, with what was measured of it."""
    claims = list(claims)
    rows = [
        "| school | family | state | z | behavior | heads | paper | measured |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for card in found:
        measured = [
            f"{claim.name} {claim.value:.4g} [{claim.low:.4g}, {claim.high:.4g}]"
            for claim in claims
            if claim.config.get("model") == card.name
        ]
        cells = (
            *(f"{card.title} (`{card.name}`)", f"{card.family}: {FAMILIES[card.family]}"),
            *(card.state, card.z, ", ".join(card.couplings), ", ".join(card.heads)),
            *(card.paper, "; ".join(measured)),
        )
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def describe(name: str) -> RenderableType:
    """One school or oracle in full: its card, spaces, heads, parts and parameters.

    Args:
        name: registered, as "world_models_2018" or "toy/clock".

    Raises:
        UnknownName: naming the nearest registered names.
    """
    model: WorldModel[Any] = registry.instance(name)
    heads = [head for head in Heads._fields if head != "owner" and getattr(model.heads, head)]
    observations = ", ".join(f"{key} {_space(space)}" for key, space in model.observations.items())
    rows = {
        "observations": observations,
        "actions": _space(model.actions),
        "heads here": ", ".join(heads),
        "parameters": f"{_count(model.parameters()):,}",
    }
    for part in model.parts():
        optim = part.optim
        rows[f"part {part.name}"] = (
            f"{_count(part.module.parameters()):,} parameters; {optim.kind} '{optim.name}', "
            f"learning rate {optim.lr:g}"
        )
    made = [recipe for recipe in registry.names("recipe") if recipe.partition(".")[0] == name]
    if made:
        rows["recipes"] = ", ".join(made)
    return Group(_block(model.card), _grid(rows))


def show(what: RenderableType) -> None:
    """Print to the terminal; wide where the output is a file or a pipe."""
    Console(width=None if Console().is_terminal else 2 * _WIDE, highlight=False).print(what)


def _cells(card: Card) -> tuple[str, ...]:
    """In the order of _COLUMNS."""
    return (
        *(card.name, f"{card.family} {FAMILIES[card.family]}", card.state, card.z),
        *(card.objective, card.policy, ", ".join(card.couplings), ", ".join(card.heads)),
        card.paper,
    )


def _block(card: Card) -> RenderableType:
    """One card, a line a field."""
    title = Text(f"{card.name}  ", style="bold").append(card.title, style="italic not bold")
    return Group(title, _grid(dict(zip(_COLUMNS[1:], _cells(card)[1:], strict=True))))


def _grid(rows: dict[str, str]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", min_width=14)
    grid.add_column()
    for key, value in rows.items():
        grid.add_row(f"  {key}", Text(value))
    return grid


def _count(parameters: Iterable[Any]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _space(space: Space | None) -> str:
    return "none: nothing acts" if space is None else str(space)
