"""An append-only store of episodes on disk. Imports core and progress.

A store is a folder that NumPy alone can read::

    schema.json       spaces and columns; replaced by rename, never edited
    obs.image.npy     one .npy file a column, all with the same rows: `np.load(..., mmap_mode="r")`
    action.npy ...    an episode takes T+1 rows in EVERY column; its last row holds zeros for what
    first.npy         has only T; `first` is True on each episode's first row, so that any slice of
                      rows is a segment and row i is a transition exactly where not first[i + 1]
    episodes.bin      one 32-byte record an episode with a checksum, written last
    info.jsonl        one line an episode

An episode exists once its record is on disk, after its rows. A writer that was killed therefore
leaves at most bytes that nobody mentions: the store opens at its last whole episode and says so.
One process writes at a time; any number read.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reverie.core.errors import BadData
from reverie.core.types import Box, Space
from reverie.data import index
from reverie.data.bounds import Bounds
from reverie.data.episode import Episode
from reverie.data.files import Held, full_disk, replace, sync_folder
from reverie.data.schema import HEADER, Column, Schema, bytes_of, computed
from reverie.progress import Progress, Silent

_log = logging.getLogger(__name__)
_INDEX, _INFO = "episodes.bin", "info.jsonl"


class Store:
    """Episodes on disk. Make one with `Store.create` or `Store.open`; close it after writing.

    Attributes:
        path: the folder.
        schema: spaces and columns.
        report: what was dropped when it was opened, in one sentence; empty if nothing was.
    """

    def __init__(self, path: Path, *, writable: bool) -> None:
        """Use `Store.create` or `Store.open`."""
        self.path = path
        self.schema = Schema.read(path)
        self._held = Held(path) if writable else None
        self._maps: dict[str, np.ndarray] | None = None  # made when asked for
        self._index, torn = self._read_index()
        if self._held:
            self._held.hold(self._sizes())
            cut = self._held.cut(self._sizes())
            torn = torn or (f"{cut} bytes of an append that was cut short are gone" if cut else "")
            self._write_headers(self._held, self.rows)
            self._sweep()
        self.report = f"{path} opens at its {len(self)} whole episodes: {torn}" if torn else ""
        if torn:
            _log.warning("%s.", self.report)

    # --- making and opening -------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | Path,
        observations: Mapping[str, Space],
        actions: Space | None,
        extra: Mapping[str, Space] | None = None,
        *,
        rewards: bool = True,
        bounds: Bounds | None = None,
    ) -> Store:
        """Make an empty store and open it for writing.

        Args:
            path: a folder that does not exist yet, or is empty.
            observations: at least one modality; names are letters, digits and underscores.
            actions: Box, Discrete, or None where no actions are recorded.
            extra: what agents write beside each action.
            rewards: whether rewards are recorded.
            bounds: the world's range of Box actions, which are recorded in [-1, 1].

        Raises:
            BadData: if the path is taken or a name cannot be a file's.
            StorageFull: if the disk is full.
        """
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise BadData(
                f"A new store was asked for at {path}, but something is there. "
                "Open it with Store.open, or choose another path."
            )
        schema = Schema.of(observations, actions, extra or {}, rewards=rewards, bounds=bounds)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        with full_disk(path, lambda: "no store was made"):
            try:
                temporary.mkdir(parents=True)
                for column in schema.columns.values():
                    replace(temporary / column.file, column.header(0))
                for name in (_INDEX, _INFO):
                    (temporary / name).touch()
                replace(temporary / "schema.json", schema.to_bytes())
                temporary.replace(path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            sync_folder(path.parent)
        return cls(path, writable=True)

    @classmethod
    def open(cls, path: str | Path, *, writable: bool = False) -> Store:
        """Open a store at its last whole episode.

        Args:
            path: the folder.
            writable: to append; one process at a time. What is torn is cut off.

        Raises:
            BadData: if it is not a store; to write only: if it is damaged before its tail, or
                another process is writing it.
        """
        return cls(Path(path), writable=writable)

    def close(self) -> None:
        """Give the writer's place free. Reading goes on working."""
        if self._held:
            self._held.cut(self._sizes())
            self._held.close()
            self._held = None

    def __enter__(self) -> Store:
        """The store itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    # --- reading ------------------------------------------------------------------------------

    @property
    def observations(self) -> dict[str, Space]:
        """Modalities by name, derived ones included."""
        return self.schema.observations

    @property
    def actions(self) -> Space | None:
        """The action space; None: recorded without actions."""
        return self.schema.actions

    def __len__(self) -> int:
        """How many episodes there are."""
        return len(self._index)

    @property
    def rows(self) -> int:
        """Rows in every column: T+1 for each episode."""
        return self.steps + len(self)

    @property
    def steps(self) -> int:
        """Transitions of all episodes."""
        return int(self._index["steps"].sum())

    @property
    def lengths(self) -> np.ndarray:
        """(E,) int64: T of each episode."""
        return self._index["steps"].astype(np.int64)

    @property
    def starts(self) -> np.ndarray:
        """(E,) int64: the first row of each episode."""
        return self._index["start"].astype(np.int64)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Read-only views of all rows on disk, by column name ('obs.image', 'action', ...).

        A view keeps its length and stays valid while the store grows; ask again for the new rows.
        """
        if self._maps is None:
            columns = self.schema.columns.items()
            self._maps = {name: column.map(self.path, self.rows) for name, column in columns}
        return self._maps

    def __getitem__(self, i: int) -> Episode:
        """A copy of one episode; negative counts from the end.

        Raises:
            IndexError: if there is no such episode.
            BadData: if the bytes on disk are no longer an episode.
        """
        start, steps = int(self._index[i]["start"]), int(self._index[i]["steps"])
        columns = self.columns

        def cut(name: str, rows: int = steps) -> np.ndarray:
            return columns[name][start : start + rows].copy()

        return Episode(
            obs={name: cut(f"obs.{name}", steps + 1) for name in self.observations},
            action=None if self.actions is None else cut("action"),
            reward=cut("reward") if self.schema.rewards else None,
            terminated=cut("terminated"),
            truncated=cut("truncated"),
            extra={name: cut(f"extra.{name}") for name in self.schema.extra},
            info=self.info(i),
        )

    def __iter__(self) -> Iterator[Episode]:
        """All episodes in the order in which they were written."""
        return (self[i] for i in range(len(self)))

    def info(self, i: int) -> dict[str, Any]:
        """One episode's info, without reading its frames.

        Raises:
            IndexError: if there is no such episode.
            BadData: if the line on disk is not JSON.
        """
        record = self._index[i]
        with (self.path / _INFO).open("rb") as file:
            file.seek(int(record["info_start"]))
            line = file.read(int(record["info_bytes"]))
        try:
            return json.loads(line)
        except ValueError:
            raise BadData(
                f"The info of episode {i} in {self.path} is not JSON any more. "
                "Copy the store again from where it came."
            ) from None

    # --- writing ------------------------------------------------------------------------------

    def append(self, episode: Episode) -> int:
        """Write one episode; when this returns it is on disk. See `extend`."""
        return self.extend([episode])

    def extend(self, episodes: Sequence[Episode]) -> int:
        """Write episodes at once, forced to disk together: many short ones cost as much as one.

        Returns:
            How many there were before: the first one's index.

        Raises:
            SpaceMismatch: if an episode does not fit the store's spaces; nothing is written.
            BadData: if one holds NaN, infinities or actions out of range, or the store is not open
                for writing.
            StorageFull: if the disk is full; the episodes before are whole and the store stays
                usable.
        """
        held = self._writer()
        rows = [self.schema.rows_of(episode) for episode in episodes]
        lines = [json.dumps(episode.info).encode() + b"\n" for episode in episodes]
        end, info_start = self.rows, index.info_end(self._index)
        told, records = info_start, []
        for episode, line in zip(episodes, lines, strict=True):
            records.append(index.record(end, len(episode), told, len(line)))
            end, told = end + len(episode) + 1, told + len(line)
        new = np.concatenate([self._index, *records])
        with full_disk(self.path, lambda: f"its {len(self)} episodes are whole"):
            try:
                for name, column in self.schema.columns.items():
                    data = b"".join(bytes_of(row[name]) for row in rows)
                    held.write(column.file, data, self._bytes(column))
                held.write(_INFO, b"".join(lines), info_start)
                held.sync(*(file for file in self._sizes() if file != _INDEX))
                self._write_headers(held, end)
                held.write(_INDEX, new[len(self) :].tobytes(), self._index.nbytes)
                held.sync(_INDEX)
            except BaseException:
                held.cut(self._sizes())
                with contextlib.suppress(OSError):  # the next append does it again
                    self._write_headers(held, self.rows)
                raise
        first, self._index, self._maps = len(self), new, None
        return first

    def truncate(self, episodes: int) -> None:
        """Forget all but the first episodes, as when a run resumes from a checkpoint.

        No sampler may be drawing from the store.

        Raises:
            BadData: if there are fewer, or the store is not open for writing.
        """
        held = self._writer()
        if not 0 <= episodes <= len(self):
            raise BadData(
                f"{self.path} was to keep {episodes} episodes, but it has {len(self)}. "
                "Use the store that belongs to this run."
            )
        self._index, self._maps = self._index[:episodes].copy(), None
        held.cut({_INDEX: self._index.nbytes})
        held.sync(_INDEX)
        self._write_headers(held, self.rows)

    def add_observations(
        self,
        spaces: Mapping[str, Box],
        fn: Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]],
        *,
        block: int = 512,
        progress: Progress | None = None,
    ) -> None:
        """Compute observations from those that are there, row by row: latents of frames.

        All new columns appear together once their last row is on disk, or not at all. Running it
        again computes them again and replaces them.

        Args:
            spaces: what is computed, by name.
            fn: (N, ...) read-only rows of each observation by name -> (N, ...) rows of each new.
            block: the largest N.
            progress: told of the rows that are done.

        Raises:
            BadData: if a name is that of a recorded observation, a value is not finite, or the
                store is not open for writing.
            SpaceMismatch: if fn returns other names, shapes or dtypes than `spaces`.
            StorageFull: if the disk is full; the store is as it was.
        """
        held = self._writer()
        schema = self.schema.with_derived(spaces)
        new = {name: schema.columns[f"obs.{name}"] for name in spaces}
        kept = "no observation was added"
        with full_disk(self.path, lambda: kept), contextlib.ExitStack() as stack:
            stack.callback(self._sweep)
            files = {
                n: stack.enter_context((self.path / c.file).open("wb")) for n, c in new.items()
            }
            for name, file in files.items():
                file.write(new[name].header(self.rows))
            bar = stack.enter_context(
                (progress or Silent()).task(f"compute {', '.join(spaces)}", self.rows)
            )
            for start in range(0, self.rows, block):
                stop = min(start + block, self.rows)
                values = fn({n: self.columns[f"obs.{n}"][start:stop] for n in self.observations})
                for name, value in computed(values, spaces, stop - start).items():
                    files[name].write(bytes_of(value))
                bar.advance(stop - start)
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
            self._replace_schema(held, schema)

    def drop_observations(self, *names: str) -> None:
        """Remove derived observations, so that episodes can be appended again.

        Raises:
            BadData: if one was recorded rather than derived, or the store is not open for writing.
        """
        held = self._writer()
        kept = sorted(set(names) - set(self.schema.derived))
        if kept:
            raise BadData(
                f"{kept} were to be dropped, but only {list(self.schema.derived)} were computed "
                "with add_observations. What was recorded stays."
            )
        with full_disk(self.path, lambda: "nothing was dropped"):
            self._replace_schema(held, self.schema.without(names))
        self._sweep()

    # --- the files ----------------------------------------------------------------------------

    def _writer(self) -> Held:
        """The files to write, if they are ours and nobody else has written since."""
        if self._held is None:
            raise BadData(
                f"{self.path} is open to read only. Use Store.open(path, writable=True) to write."
            )
        if self._held.size(_INDEX) != self._index.nbytes:
            raise BadData(
                f"{self.path} was changed by another writer since it was opened. Open it again, "
                "and let one writer at a time have it."
            )
        return self._held

    def _bytes(self, column: Column) -> int:
        """How long a column's file is when it holds just the episodes of the index."""
        return HEADER + self.rows * column.row_bytes

    def _sizes(self) -> dict[str, int]:
        """The same of every file."""
        sizes = {column.file: self._bytes(column) for column in self.schema.columns.values()}
        return sizes | {_INFO: index.info_end(self._index), _INDEX: self._index.nbytes}

    def _read_index(self) -> tuple[np.ndarray, str]:
        """The records of whole episodes, and what is wrong with the rest, if anything."""
        try:
            records, torn, more = index.read(self.path / _INDEX)
            ends = {
                c.file: (records["start"] + records["steps"] + 1) * c.row_bytes + HEADER
                for c in self.schema.columns.values()
            }
            ends[_INFO] = records["info_start"] + records["info_bytes"]
            kept = {
                file: int(np.searchsorted(end, (self.path / file).stat().st_size, side="right"))
                for file, end in ends.items()
            }
        except FileNotFoundError as error:
            raise BadData(
                f"{self.path} lacks its file {Path(error.filename).name}. "
                "Copy the store again from where it came."
            ) from None
        if self._held and more:
            raise BadData(
                f"{self.path} is damaged at episode {len(records)}, but has whole ones behind it, "
                "which writing would lose. Open it to read and copy what you need to a new store."
            )
        whole = min(kept.values())
        short = [file for file, n in kept.items() if n < len(records)]
        found = [f"{torn} bytes of {_INDEX} are torn"] if torn else []
        found += [f"{', '.join(short)} end {len(records) - whole} episodes early"] if short else []
        return records[:whole], " and ".join(found)

    def _write_headers(self, held: Held, rows: int) -> None:
        """Tell NumPy how many rows there are; Reverie itself asks the index."""
        for column in self.schema.columns.values():
            held.write(column.file, column.header(rows), 0)

    def _replace_schema(self, held: Held, schema: Schema) -> None:
        """Change what columns there are, at one moment."""
        replace(self.path / "schema.json", schema.to_bytes())
        self.schema, self._maps = schema, None
        held.hold(self._sizes())

    def _sweep(self) -> None:
        """Remove what a killed process or a replaced column left behind."""
        for path in (*self.path.glob("obs.*.*.npy"), *self.path.glob("schema.json.*.tmp")):
            if path.name not in self._sizes():
                path.unlink(missing_ok=True)
