"""The formats by name, and which of them a path is. Imports core and data.

    source = open_source("demos.hdf5")     # a Source: episodes by number, one in memory
    FORMATS["minari"].write(path, schema, episodes)

Detection looks into the files, not only at their names; the first format that recognises a path
reads it.
"""

from __future__ import annotations

from pathlib import Path

from reverie.core import registry
from reverie.core.errors import BadConfig, BadData
from reverie.data.formats import hdf5, hdf5_flat, lerobot, minari, native, npz, video
from reverie.data.formats.format import ColumnMap, Format
from reverie.data.source import Resized, Source

# In the order of detection: what is told by a file of its own first, what only by its kind last.
FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT
    for module in (native, lerobot, minari, hdf5, hdf5_flat, npz, video)
}


def named(name: str) -> Format:
    """The format of a name.

    Raises:
        UnknownName: naming the nearest and all known ones.
    """
    if name not in FORMATS:
        raise registry.unknown("format", name, FORMATS)
    return FORMATS[name]


def detect(path: str | Path) -> Format:
    """Which format a path is.

    Raises:
        BadData: if nothing is there, or no format knows it; lists all that are supported.
    """
    path = Path(path)
    if not path.exists():
        raise BadData(f"Data was asked for at {path}, but nothing is there. Check the path.")
    for form in FORMATS.values():
        if form.detect(path):
            return form
    raise BadData(
        f"{path} is of no format that is known. Supported: {supported()}. "
        "Convert it to one of these."
    )


def supported() -> str:
    """All formats with what brings them, for messages."""
    return "; ".join(
        f"{form.name} ({form.title}"
        + (f"; pip install 'reverie[{form.extra}]')" if form.extra else ")")
        for form in FORMATS.values()
    )


def open_source(
    path: str | Path, *, columns: ColumnMap | None = None, size: int | None = None
) -> Source:
    """The episodes at a path, whatever format they are in.

    Args:
        path: a file or folder.
        columns: what its columns are called, where that cannot be guessed.
        size: height and width to which images are averaged; None: as they are.

    Raises:
        BadData: if nothing is there, no format knows it, or it is damaged.
        MissingExtra: if its library is not installed.
    """
    source = detect(path).read(Path(path), columns or ColumnMap())
    return source if size is None else Resized(source, size)


def writable(name: str) -> Format:
    """The format of a name, if episodes can be written in it.

    Raises:
        UnknownName: if there is no such format.
        BadConfig: if it can only be read.
    """
    form = named(name)
    if form.write is None:
        can = ", ".join(other.name for other in FORMATS.values() if other.write)
        raise BadConfig(f"Format {name} can only be read. Write one of: {can}.")
    return form
