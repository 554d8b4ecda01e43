"""`reverie data`: convert, inspect, validate, split and stats over data of any format.

The functions behind the words, and their options beside them. Nothing heavy is imported until one
of them runs. Imports core, data and progress.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from reverie.core.errors import BadConfig, BadData

if TYPE_CHECKING:
    from rich.console import RenderableType

    from reverie.data.source import Source
    from reverie.data.stats import Stats

_PARTS = "train=0.9,test=0.1"
_LOOKED = 32  # episodes that `inspect` reads
_BARS = " ▁▂▃▄▅▆▇█"
_WIDE = 6  # elements of a column that a table shows one by one


class Action(NamedTuple):
    """One word after `reverie data`."""

    help: str
    options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def options(parser: argparse.ArgumentParser) -> None:
    """Declare the words and their options."""
    words = parser.add_subparsers(
        dest="action", metavar="ACTION", required=True, parser_class=type(parser)
    )
    for name, action in ACTIONS.items():
        own = words.add_parser(name, help=action.help, description=action.help, allow_abbrev=False)
        own.add_argument("data", type=Path, help="a file or folder; the format is detected")
        action.options(own)
        own.add_argument("--mapping", type=Path, help="JSON that names the columns")
        own.add_argument("--size", type=int, help="average images to this height and width")


def run(options: argparse.Namespace, rest: list[str]) -> None:
    """Run one word."""
    ACTIONS[options.action].run(options)


# -- convert, split ------------------------------------------------------------------------------


def _convert_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", type=Path, help="where nothing is yet")
    parser.add_argument("--to", help="format: store (default), npz, hdf5, minari, lerobot, ...")


def _convert(options: argparse.Namespace) -> None:
    from reverie.data.convert import convert, readable
    from reverie.progress import terminal

    done = convert(
        options.data,
        options.target,
        to=options.to,
        columns=_columns(options),
        size=options.size,
        progress=terminal(),
    )
    _say_all(done.notes)
    _say(
        f"{options.target} holds {done.episodes:,} episodes, {done.steps:,} steps, "
        f"{readable(done.size)} as {done.target}; they were {done.source}."
    )


def _split_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", type=Path, help="a new folder for the parts")
    parser.add_argument("--parts", default=_PARTS, help=f"NAME=SHARE,..., default {_PARTS}")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffle, default 0")
    parser.add_argument("--to", default="store", help="format of the parts, default store")


def _split(options: argparse.Namespace) -> None:
    from reverie.data.convert import split
    from reverie.progress import terminal

    counts = split(
        options.data,
        options.target,
        _fractions(options.parts),
        seed=options.seed,
        to=options.to,
        columns=_columns(options),
        size=options.size,
        progress=terminal(),
    )
    shares = ", ".join(f"{count:,} in {name}" for name, count in counts.items())
    _say(f"{options.target} holds {sum(counts.values()):,} episodes: {shares}.")


def _fractions(text: str) -> dict[str, float]:
    """Parts from the command line."""
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): float(share) for name, share in pairs}
    except ValueError:
        raise BadConfig(
            f"Parts are NAME=SHARE,NAME=SHARE, but these are {text!r}. Example: {_PARTS}"
        ) from None


# -- inspect, validate, stats --------------------------------------------------------------------


def _inspect_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sheet", type=Path, help="contact sheet, default NAME-sheet.png here")


def _inspect(options: argparse.Namespace) -> None:
    from reverie.data.convert import bytes_at, readable
    from reverie.data.formats.registry import detect
    from reverie.data.sheet import contact_sheet
    from reverie.data.source import Subset
    from reverie.data.stats import measure

    form = detect(options.data)
    source = _open(options)
    rows = {"format": f"{form.name}, {readable(bytes_at(options.data))}"}
    rows |= _spaces(source)
    if len(source):
        looked = measure(Subset(source, range(min(len(source), _LOOKED))))
        rows |= _outcomes(looked, len(source))
    _show(options.data, rows)
    _say_all(source.notes)
    if len(source):
        sheet = options.sheet or Path(f"{options.data.resolve().name}-sheet.png")
        contact_sheet(source, sheet)
        _say(f"The contact sheet is {sheet}")


def _validate(options: argparse.Namespace) -> None:
    from reverie.data.source import Stored
    from reverie.data.validate import validate

    source = _open(options)
    report = validate(source.store if isinstance(source, Stored) else source)
    _say_all((*report.findings, *report.notes, *source.notes))
    if not report.ok:
        raise BadData(f"{options.data} breaks the data contract: see the findings above.")
    _say(f"{options.data} keeps the data contract.")


def _stats_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _stats(options: argparse.Namespace) -> None:
    from reverie.data.stats import measure
    from reverie.progress import Silent, terminal

    source = _open(options)
    found = measure(source, progress=Silent() if options.json else terminal())
    if options.json:
        _say(json.dumps(found.to_json(), indent=1))
        return
    _show(options.data, _outcomes(found, len(source)))
    _print(_column_table(found))
    if found.actions is not None:
        _print(_action_table(found))


def _nothing(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


# -- what they share -----------------------------------------------------------------------------


def _open(options: argparse.Namespace) -> Source:
    from reverie.data.formats.registry import open_source

    return open_source(options.data, columns=_columns(options), size=options.size)


def _columns(options: argparse.Namespace) -> Any:
    """What the mapping file says."""
    if options.mapping is None:
        return None
    from reverie.data.formats.format import ColumnMap

    return ColumnMap.load(options.mapping)


def _spaces(source: Source) -> dict[str, str]:
    """Rows of the table about the schema."""
    schema = source.schema
    rows = {"observations": ", ".join(f"{k} {s}" for k, s in schema.observations.items())}
    rows["actions"] = "none: nothing acts" if schema.actions is None else str(schema.actions)
    if schema.bounds:
        rows["in the world"] = f"actions from {schema.bounds.low} to {schema.bounds.high}"
    rows["rewards"] = "recorded" if schema.rewards else "none"
    return rows | {"episodes": f"{len(source):,}"}


def _outcomes(found: Stats, episodes: int) -> dict[str, str]:
    """Rows of the table about lengths, returns and ends."""
    count = len(found.lengths)
    rows = {"episodes": f"{count:,}"} if count == episodes else {}
    if count < episodes:
        rows["looked at"] = f"the first {count} of {episodes:,} episodes, for what follows"
    rows["steps"] = f"{int(found.lengths.sum()):,}"
    rows["length"] = _range(found.lengths)
    if found.returns is not None:
        rows["return"] = _range(found.returns)
    rows["ends"] = ", ".join(f"{n:,} {end}" for end, n in found.ends.items() if n)
    if found.success[0]:
        rows["success"] = f"{found.success[1]} of {found.success[0]} episodes"
    return rows


def _range(values: Any) -> str:
    return f"{values.min():.4g} to {values.max():.4g}, mean {values.mean():.4g}"


def _column_table(found: Stats) -> RenderableType:
    """Mean, spread and range of each column, element by element where they are few."""
    from rich.table import Table

    table = Table("column", "rows", "mean", "std", "min", "max")
    for name, moments in found.columns.items():
        values = [moments.mean, moments.std, moments.low, moments.high]
        table.add_row(name, f"{moments.count:,}", *(_numbers(value) for value in values))
    return table


def _numbers(value: Any) -> str:
    """The elements, or where they reach if they are many."""
    flat = value.ravel()
    if flat.size <= _WIDE:
        return " ".join(f"{x:.4g}" for x in flat)
    return f"{flat.min():.4g} .. {flat.max():.4g} ({flat.size} elements)"


def _action_table(found: Stats) -> RenderableType:
    """How often each action, or each tenth of an element's range, was chosen."""
    from rich.table import Table

    counts = found.actions
    if counts is None:
        return ""
    table = Table("action", "histogram", "counts")
    for element, row in enumerate(counts):
        peak = max(1, int(row.max()))
        bars = "".join(_BARS[-(-8 * int(n) // peak)] for n in row)
        name = "all" if len(counts) == 1 else str(element)
        table.add_row(name, bars, " ".join(f"{int(n)}" for n in row[:32]))
    return table


def _show(path: Path, rows: dict[str, str]) -> None:
    """A titled table of two columns."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", min_width=14)
    grid.add_column()
    for key, value in rows.items():
        grid.add_row(f"  {key}", Text(value))
    _print(Group(Text(str(path), style="bold"), grid))


def _print(what: RenderableType) -> None:
    """To the terminal; wide where the output is a file or a pipe."""
    from rich.console import Console

    Console(width=None if Console().is_terminal else 320, highlight=False).print(what)


def _say_all(sentences: tuple[str, ...]) -> None:
    for sentence in sentences:
        _say(sentence)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


ACTIONS: dict[str, Action] = {
    "convert": Action("write data in another format", _convert_options, _convert),
    "inspect": Action("a table and a contact sheet of what is there", _inspect_options, _inspect),
    "validate": Action(
        "whether actions, rewards and ends are where the contract says", _nothing, _validate
    ),
    "split": Action("parts that share no episode", _split_options, _split),
    "stats": Action(
        "mean, spread and range of each column; lengths, returns, actions", _stats_options, _stats
    ),
}
