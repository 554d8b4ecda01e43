"""A whole store written at once, where nobody reads before it is done. Imports core and data.

`Store.append` forces every episode to disk before the index mentions it, so that a collector that
is killed loses at most the last one. A conversion writes under a temporary name and forces
everything to disk once, at its end; here is the writing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path

from reverie.data import index
from reverie.data.episode import Episode
from reverie.data.schema import Schema, bytes_of


def write_store(path: Path, schema: Schema, episodes: Iterable[Episode]) -> None:
    """Write a store that `Store.open` opens. The caller forces it to disk.

    Args:
        path: a folder that does not exist yet.
        schema: of the episodes.
        episodes: read one at a time.

    Raises:
        SpaceMismatch: if an episode does not fit the schema.
        BadData: if one holds NaN, infinities or actions out of range.
    """
    path.mkdir()
    (path / "schema.json").write_bytes(schema.to_bytes())
    rows, told = 0, 0
    with contextlib.ExitStack() as stack:
        files = {
            name: stack.enter_context((path / column.file).open("wb"))
            for name, column in schema.columns.items()
        }
        records = stack.enter_context((path / "episodes.bin").open("wb"))
        infos = stack.enter_context((path / "info.jsonl").open("wb"))
        for name, column in schema.columns.items():
            files[name].write(column.header(0))
        for episode in episodes:
            for name, value in schema.rows_of(episode).items():
                files[name].write(bytes_of(value))
            line = json.dumps(episode.info).encode() + b"\n"
            infos.write(line)
            records.write(index.record(rows, len(episode), told, len(line)).tobytes())
            rows, told = rows + len(episode) + 1, told + len(line)
        for name, column in schema.columns.items():
            files[name].seek(0)
            files[name].write(column.header(rows))
