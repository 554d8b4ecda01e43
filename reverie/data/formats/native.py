"""The library's own store. Imports core and data."""

from __future__ import annotations

from pathlib import Path

from reverie.data.bulk import write_store
from reverie.data.formats.format import ColumnMap, Format
from reverie.data.source import Source, Stored
from reverie.data.store import Store


def _detect(path: Path) -> bool:
    return (path / "schema.json").is_file() and (path / "episodes.bin").is_file()


def _read(path: Path, columns: ColumnMap) -> Source:
    return Stored(Store.open(path))


FORMAT = Format(
    name="store",
    title="Reverie's store: a folder of .npy columns",
    extra=None,
    lossy="",
    detect=_detect,
    read=_read,
    write=write_store,
)
