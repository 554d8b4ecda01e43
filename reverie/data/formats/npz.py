"""Folders of .npz files as the Dreamers write them. Imports core and data.

A file holds rows of a stream: one observation each, with `is_first`, `is_last` and `is_terminal`.
The reward in row t is the one that *led* to its observation (0 in a first row). The action depends
on who wrote it: DreamerV3 stores the one *taken* at the observation (zeros in a last row),
DreamerV2 and its kin the one that *led* to it (zeros in a first row). The zeros tell which.
DreamerV3's files are chunks of a stream, named time-id-successor-length, and an episode may run
over several; other files begin anew.

Source: danijar/dreamerv3, embodied/core/{driver,chunk}.py; danijar/dreamerv2, common/driver.py.
"""

from __future__ import annotations

import contextlib
import itertools
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reverie.core.errors import BadData
from reverie.data.episode import Episode
from reverie.data.formats.format import ABSENT, ColumnMap, Format, Note
from reverie.data.formats.layout import check_free, led, pictures_last, taken, world_action
from reverie.data.formats.reader import Raw, Reader
from reverie.data.schema import Schema
from reverie.data.source import Source

_NOTE = "reverie.json"
_FLAGS = ("is_first", "is_last", "is_terminal", "is_truncated")
_OURS = frozenset({"action", "reward", "discount", "reset", "stepid", "consec", *_FLAGS})
_NOT_SEEN = ("log_", "log/", "dyn/", "enc/", "dec/", "extra.")  # beside observations
_PROBED = 32  # episodes whose actions tell the convention


class _Piece(NamedTuple):
    """Rows start..stop-1 of one file."""

    file: Path
    start: int
    stop: int


class _Table:
    """The rows of all files, cut into episodes."""

    def __init__(self, path: Path, columns: ColumnMap) -> None:
        self.where, self.said = str(path), []
        self.action_range: int | None = None
        self.note = _note(path)
        self._map = columns
        self._held: tuple[Path, dict[str, np.ndarray]] | None = None
        files = [path] if path.is_file() else sorted(path.glob("*.npz"))
        self._keys = self._names(files[0])
        self._episodes = self._cut(files)
        self._action = self._column(columns.action, "action")
        self._reward = self._column(columns.reward, "reward")
        self._one_hot = False
        self._taken = True
        if self._action and self.note is None:
            self._taken = self._was_taken()
            self._one_hot = self._is_one_hot()

    def __len__(self) -> int:
        return len(self._episodes)

    def columns(self) -> Sequence[str]:
        """All columns that are not something else."""
        other = _OURS | {self._action, self._reward}
        return [n for n in self._keys if n not in other and not n.startswith(_NOT_SEEN)]

    def actions(self, i: int) -> np.ndarray | None:
        """(T, ...) of an episode."""
        if not self._action:
            return None
        rows = self._rows(i, [self._action])[self._action]
        value = rows[:-1] if self._taken else rows[1:]
        return value.argmax(1) if self._one_hot else value

    def raw(self, i: int, names: Sequence[str]) -> Raw:
        """One episode."""
        extra = [n for n in self._keys if n.startswith("extra.")] if self.note else []
        flags = [self._column(told, name) for told, name in self._flags()]
        wanted = [*names, *extra, *flags, self._action, self._reward]
        rows = self._rows(i, [n for n in wanted if n])
        count = len(next(iter(rows.values())))
        last, terminal, truncated = (rows[n].astype(bool) if n else None for n in flags)
        ended = np.zeros(count, bool) if terminal is None else terminal
        clock = np.zeros(count, bool) if last is None else last & ~ended
        return Raw(
            obs={name: rows[name] for name in names},
            action=self.actions(i),
            reward=rows[self._reward][1:] if self._reward else None,
            terminated=ended[1:],
            truncated=(clock if truncated is None else truncated)[1:],
            extra={name.removeprefix("extra."): rows[name][:-1] for name in extra},
        )

    def _flags(self) -> list[tuple[str | None, str]]:
        told = self._map
        return [(None, "is_last"), (told.terminated, "is_terminal"), (told.truncated, _FLAGS[3])]

    def _column(self, told: str | None, usual: str) -> str:
        """The column to read, "" if there is none."""
        if told is None:
            return usual if usual in self._keys else ABSENT
        if told and told not in self._keys:
            raise BadData(
                f"The mapping names column {told}, but {self.where} has {sorted(self._keys)}. "
                "Name one of these."
            )
        return told

    def _names(self, file: Path) -> list[str]:
        with _load(file) as arrays:
            return list(arrays.keys())

    def _cut(self, files: Sequence[Path]) -> list[list[_Piece]]:
        """Episodes as pieces of files."""
        episodes: list[list[_Piece]] = []
        short = 0
        for chain in _chains(files):
            found = [e for e in self._chain(chain) if sum(p.stop - p.start for p in e) > 1]
            short += self._count - len(found)
            episodes += found
        if short:
            self.said.append(
                f"{short} pieces hold a single observation, so no transition: left out."
            )
        if "is_first" not in self._keys:
            self.said.append("There is no column is_first: each file is read as one episode.")
        return episodes

    def _chain(self, files: Sequence[Path]) -> list[list[_Piece]]:
        """The episodes of a stream that runs over files."""
        episodes: list[list[_Piece]] = [[]]
        for file in files:
            with _load(file) as arrays:
                first = self._first(file, arrays)
            starts = [0, *np.flatnonzero(first), len(first)]
            for start, stop in itertools.pairwise(starts):
                if first[start : start + 1].any():
                    episodes.append([])
                if stop > start:
                    episodes[-1].append(_Piece(file, int(start), int(stop)))
        found = [episode for episode in episodes if episode]
        self._count = len(found)
        return found

    def _first(self, file: Path, arrays: Any) -> np.ndarray:
        """(rows,) where an episode begins."""
        if "is_first" in arrays:
            return arrays["is_first"].astype(bool).reshape(-1)
        name = next((n for n in ("reward", "action", *arrays) if n in arrays), None)
        if name is None:
            raise BadData(f"{file} holds no array. Remove it, or copy it again.")
        return np.arange(len(arrays[name])) == 0

    def _rows(self, i: int, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns of one episode."""
        pieces = [self._piece(piece, names) for piece in self._episodes[i]]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in names}

    def _piece(self, piece: _Piece, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Rows of one file; the file is kept, since the next episode often lies in it too."""
        if self._held is None or self._held[0] != piece.file:
            self._held = (piece.file, {})
        held = self._held[1]
        if missing := [name for name in names if name not in held]:
            with _load(piece.file) as arrays:
                if absent := [name for name in missing if name not in arrays]:
                    raise BadData(
                        f"{piece.file} lacks column {absent[0]}, which other files have. Record "
                        "all episodes with the same columns, or move this file away."
                    )
                held |= {name: arrays[name] for name in missing}
        return {name: held[name][piece.start : piece.stop] for name in names}

    def _was_taken(self) -> bool:
        """Whether row t holds the action that was taken there."""
        if self._map.action_row:
            return self._map.action_row == "taken"
        silent: dict[str, list[bool]] = {"is_first": [], "is_last": []}
        flags = [name for name in silent if name in self._keys]
        for i in range(min(len(self), _PROBED)):
            rows = self._rows(i, [self._action, *flags])
            zero = ~np.any(
                rows[self._action].reshape(len(rows[self._action]), -1), 1, keepdims=True
            )
            for name in flags:
                silent[name] += zero[rows[name].reshape(-1).astype(bool)].ravel().tolist()
        firsts, lasts = (all(silent[name]) for name in silent)
        led_here = firsts and not lasts
        where = "first" if led_here else "last"
        sure = firsts != lasts
        self.said.append(
            f"An action is taken to have {'led to' if led_here else 'been taken at'} the "
            f"observation of its row ({f'the {where} rows hold zeros' if sure else 'as DreamerV3'})"
            "; say action_row in a mapping file if it is not so."
        )
        return not led_here

    def _is_one_hot(self) -> bool:
        """Whether each action is a 1 among zeros."""
        for i in range(min(len(self), _PROBED)):
            value = self.actions(i)
            if value is None or value.ndim != 2 or value.shape[1] < 2:
                return False
            if not (((value == 0) | (value == 1)).all() and (value.sum(1) == 1).all()):
                return False
        self.action_range = int(self._rows(0, [self._action])[self._action].shape[1])
        self.said.append(f"Actions are one-hot: read as one of {self.action_range}.")
        return True


@contextlib.contextmanager
def _load(file: Path) -> Iterator[Any]:
    """The arrays of a file, read when asked for; nothing in it is run."""
    try:
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as arrays:
            yield arrays
    except BadData:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise BadData(
            f"{file} was to be read as .npz, but it cannot be ({error}). "
            "Copy it again, or move it away."
        ) from None


def _chains(files: Sequence[Path]) -> list[list[Path]]:
    """Files that go on from one another, by the successor in their names."""
    parts = {file: file.stem.split("-") for file in files}
    named = {p[1]: file for file, p in parts.items() if len(p) == 4}
    if len(named) != len(files):
        return [[file] for file in files]
    followers = {parts[file][2] for file in files}
    begins = [file for file in files if parts[file][1] not in followers]
    chains, seen = [], set()
    for file in (*begins, *files):  # what no beginning leads to, as in a circle, comes last
        chain, here = [], file
        while here is not None and here not in seen:
            seen.add(here)
            chain.append(here)
            here = named.get(parts[here][2])
        chains += [chain] if chain else []
    return chains


def _note(path: Path) -> Note | None:
    """What our writer left."""
    file = path / _NOTE
    return Note.load(file.read_text(encoding="utf-8"), path) if file.is_file() else None


def _detect(path: Path) -> bool:
    files = [path] if path.is_file() else path.glob("*.npz")
    file = next(iter(files), None)
    if file is None or not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    return bool(names) and all(name.endswith(".npy") for name in names)


def _read(path: Path, columns: ColumnMap) -> Source:
    return Reader(_Table(path, columns), columns)


def _write(path: Path, schema: Schema, episodes: Iterable[Episode]) -> None:
    check_free(schema, _OURS, "npz")
    path.mkdir()
    infos = []
    for number, episode in enumerate(episodes):
        infos.append(episode.info)
        np.savez_compressed(path / f"{number:08d}-{len(episode) + 1}.npz", **rows(schema, episode))
    (path / _NOTE).write_text(Note(schema, tuple(infos)).dump(), encoding="utf-8")


def rows(schema: Schema, episode: Episode) -> dict[str, Any]:
    """(T+1, ...) columns of an episode as DreamerV3 has them."""
    count = len(episode) + 1
    ended = led(episode.terminated | episode.truncated)
    columns = {
        **pictures_last(schema, episode),
        **{f"extra.{name}": taken(value) for name, value in episode.extra.items()},
        "is_first": np.arange(count) == 0,
        "is_last": ended,
        "is_terminal": led(episode.terminated),
        "is_truncated": led(episode.truncated),
    }
    action = world_action(schema, episode)
    if action is not None:
        columns["action"] = taken(action)
    if episode.reward is not None:
        columns["reward"] = led(episode.reward)
    return columns


FORMAT = Format(
    name="npz",
    title="a folder of .npz files with is_first and is_last, as DreamerV2 and V3 write them",
    extra=None,
    lossy="",
    detect=_detect,
    read=_read,
    write=_write,
)
