"""The library's own store. Imports core and data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from reverie.data.episode import Episode
from reverie.data.formats.format import ColumnMap, Format
from reverie.data.schema import Schema
from reverie.data.source import Source, Stored
from reverie.data.store import Store


def _detect(path: Path) -> bool:
    return (path / "schema.json").is_file() and (path / "episodes.bin").is_file()


def _read(path: Path, columns: ColumnMap) -> Source:
    return Stored(Store.open(path))


def _write(path: Path, schema: Schema, episodes: Iterable[Episode]) -> None:
    made = Store.create(
        path,
        schema.observations,
        schema.actions,
        schema.extra,
        rewards=schema.rewards,
        bounds=schema.bounds,
    )
    with made as store:
        for episode in episodes:
            store.append(episode)


FORMAT = Format(
    name="store",
    title="Reverie's store: a folder of .npy columns",
    extra=None,
    lossy="",
    detect=_detect,
    read=_read,
    write=_write,
)
