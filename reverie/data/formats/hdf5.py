"""HDF5 files in three layouts, and in others with a mapping file. Imports core and data.

- groups, as robomimic: `data/demo_0/{obs/NAME, next_obs/NAME, actions, rewards, dones}`, one row a
  transition; o[T] is the last row of next_obs.
- flat columns with episode lengths, as stable-worldmodel: `NAME, action, reward, terminated,
  truncated, ep_len, ep_offset`, T+1 rows an episode; the action in row t was taken there, the
  reward *led* there; rows without one hold NaN.
- flat columns without lengths, as D4RL: `observations, actions, rewards, terminals, timeouts`, one
  row a transition; an episode ends where one of the last two is set.

Source: robomimic.github.io/docs/datasets/overview.html; stable-worldmodel,
data/formats/hdf5.py and world/world.py (`collect`); D4RL's README.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reverie.core import registry
from reverie.core.errors import BadData
from reverie.data.formats.format import ABSENT, ColumnMap, Format, Note
from reverie.data.formats.hdf5_write import NOTE, write_groups
from reverie.data.formats.reader import Raw, Reader
from reverie.data.formats.rows import Rows, align
from reverie.data.source import Source

MAGIC = b"\x89HDF\r\n\x1a\n"
_ACTION = ("action", "actions")
_REWARD = ("reward", "rewards")
_TERMINATED = ("terminated", "terminations", "terminals", "dones", "done")
_TRUNCATED = ("truncated", "truncations", "timeouts")
_LENGTHS, _OFFSETS = "ep_len", "ep_offset"
_KNOWN = {*_ACTION, *_REWARD, *_TERMINATED, *_TRUNCATED, _LENGTHS, _OFFSETS}
_KNOWN |= {"ep_idx", "step_idx", "next_observations"}


class _Columns:
    """What the columns of a file are called, by the user or by custom."""

    def __init__(self, have: Sequence[str], told: ColumnMap, where: str) -> None:
        self.have, self._where = list(have), where
        self.action = self._pick(told.action, _ACTION)
        self.reward = self._pick(told.reward, _REWARD)
        self.terminated = self._pick(told.terminated, _TERMINATED)
        self.truncated = self._pick(told.truncated, _TRUNCATED)
        named = [name for names in told.observations.values() for name in names]
        self.observations = named or self._usual()
        self.following = self._following(told)

    def _pick(self, told: str | None, usual: Sequence[str]) -> str:
        """The user's name, or the first usual one that is there; "" for none."""
        if told is None:
            return next((name for name in usual if name in self.have), ABSENT)
        if told:
            self._check(told)
        return told

    def _check(self, name: str) -> None:
        if name not in self.have:
            raise BadData(
                f"The mapping names column {name}, but {self._where} has {sorted(self.have)}. "
                "Name one of these."
            )

    def _usual(self) -> list[str]:
        """Columns of the group obs, or else all that are nothing else."""
        if inside := [name for name in self.have if name.startswith("obs/")]:
            return inside
        odd = ("extra/", "next_obs/", "infos/", "metadata/")
        return [n for n in self.have if n not in _KNOWN and not n.startswith(odd)]

    def _following(self, told: ColumnMap) -> dict[str, str]:
        """Observation column -> the column with what follows."""
        if told.next_observations:
            pairs = {}
            for modality, names in told.next_observations.items():
                for name in names:
                    self._check(name)
                pairs |= dict(zip(told.observations.get(modality, ()), names, strict=False))
            return pairs
        guesses = {n: n.replace("obs/", "next_obs/", 1) for n in self.observations}
        guesses |= {n: "next_observations" for n in self.observations if n == "observations"}
        return {n: g for n, g in guesses.items() if g in self.have and g != n}


class _Table:
    """Episodes of an open file; each layout says where the rows of one are."""

    action_range = None
    _columns: _Columns

    def __init__(self, file: Any, path: Path, told: ColumnMap) -> None:
        self._file, self.where, self._told = file, str(path), told
        self.said: list[str] = []
        note = file.attrs.get(NOTE)
        self.note = Note.load(str(note), path) if note is not None else None
        self._extra: dict[str, str] = {}  # name -> column
        if self.note:
            self._extra = {name: self._extra_column(name) for name in self.note.schema.extra}

    def _extra_column(self, name: str) -> str:
        raise NotImplementedError

    def _place(self, i: int) -> tuple[Any, slice]:
        """The group and the rows of an episode."""
        raise NotImplementedError

    def columns(self) -> Sequence[str]:
        """Observations, by their names in the file, or by ours where the file is."""
        return list(self.note.schema.observations) if self.note else self._columns.observations

    def raw(self, i: int, names: Sequence[str]) -> Raw:
        """One episode."""
        group, rows = self._place(i)
        columns, read = self._columns, self._read

        def optional(name: str) -> np.ndarray | None:
            return read(group, name, rows) if name else None

        inside = {name: self._full(name) for name in names}
        found = Rows(
            obs={name: read(group, full, rows) for name, full in inside.items()},
            following={
                name: read(group, columns.following[full], rows)
                for name, full in inside.items()
                if full in columns.following
            },
            action=optional(columns.action),
            reward=optional(columns.reward),
            terminated=optional(columns.terminated),
            truncated=optional(columns.truncated),
            extra={name: read(group, full, rows) for name, full in self._extra.items()},
        )
        where = f"Episode {i} of {self.where}"
        action_row, reward_row = self._convention()
        raw, cut = align(found, where, action_row=action_row, reward_row=reward_row)
        if cut:
            self.said.append(
                "The observation after the last action is not recorded, so the last step of each "
                "episode, with its reward and its end, is left out."
            )
        return raw

    def actions(self, i: int) -> np.ndarray | None:
        """(T, ...) of an episode; rows that hold none are left out."""
        if not self._columns.action:
            return None
        group, rows = self._place(i)
        action = self._read(group, self._columns.action, rows)
        bad = np.isnan(action.reshape(len(action), -1)).any(1) if action.dtype.kind == "f" else None
        return action if bad is None else action[~bad]

    def _full(self, name: str) -> str:
        """A column's name in the file."""
        inside = f"obs/{name}"
        return inside if self.note and inside in self._columns.have else name

    def _convention(self) -> tuple[str, str]:
        """Action row and reward row."""
        return self._told.action_row or "taken", self._told.reward_row or "taken"

    def _read(self, group: Any, name: str, rows: slice) -> np.ndarray:
        try:
            return np.asarray(group[name][rows])
        except (KeyError, OSError, ValueError) as error:
            raise BadData(
                f"Column {name} of {group.name} in {self.where} cannot be read ({error}). "
                "Record all episodes with the same columns, or copy the file again."
            ) from None


class _Groups(_Table):
    """One group an episode."""

    def __init__(self, file: Any, path: Path, told: ColumnMap) -> None:
        super().__init__(file, path, told)
        self._groups = _episodes(file, told.episodes or "data/*")
        have = list(_leaves(file[self._groups[0]])) if self._groups else []
        self._columns = _Columns(have, told, f"{path}/{self._groups[0] if self._groups else ''}")
        if self._columns.terminated in {"dones", "done"}:
            self.said.append(f"'{self._columns.terminated}' is taken to say that the world ended.")

    def __len__(self) -> int:
        return len(self._groups)

    def _extra_column(self, name: str) -> str:
        return f"extra/{name}"

    def _place(self, i: int) -> tuple[Any, slice]:
        return self._file[self._groups[i]], slice(None)


class _Flat(_Table):
    """All episodes in the same columns, one after another."""

    def __init__(self, file: Any, path: Path, told: ColumnMap) -> None:
        super().__init__(file, path, told)
        have = [name for name in _leaves(file) if name != told.lengths]
        self._columns = _Columns(have, told, str(path))
        self._by_length = (told.lengths or _LENGTHS) in file
        self._starts, self._lengths = self._cut()

    def __len__(self) -> int:
        return len(self._starts)

    def _extra_column(self, name: str) -> str:
        return f"extra.{name}"

    def _place(self, i: int) -> tuple[Any, slice]:
        start = int(self._starts[i])
        return self._file, slice(start, start + int(self._lengths[i]))

    def _convention(self) -> tuple[str, str]:
        usual = "led" if self._by_length and not self._told.lengths else "taken"
        return self._told.action_row or "taken", self._told.reward_row or usual

    def _cut(self) -> tuple[np.ndarray, np.ndarray]:
        """(E,) first rows and numbers of rows of the episodes."""
        rows = len(self._file[self._columns.observations[0]]) if self._columns.observations else 0
        if self._by_length:
            lengths = np.asarray(self._file[self._told.lengths or _LENGTHS][:], np.int64)
            starts = np.cumsum(lengths) - lengths
            if _OFFSETS in self._file and not self._told.lengths:
                starts = np.asarray(self._file[_OFFSETS][:], np.int64)
        else:
            starts, lengths = self._by_ends(rows)
        ends = starts + lengths
        if len(starts) and (
            starts.min() < 0 or ends.max() > rows or (starts[1:] < ends[:-1]).any()
        ):
            raise BadData(
                f"The episodes of {self.where} overlap or reach beyond its {rows} rows. "
                "Copy the file again, or write it anew."
            )
        if (left := rows - int(lengths.sum())) > 0:
            self.said.append(f"{left} of {rows} rows belong to no episode: left out.")
        short = lengths < 2
        if short.any():
            self.said.append(f"{int(short.sum())} episodes have a single row: left out.")
        return starts[~short], lengths[~short]

    def _by_ends(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Cut behind each row that is terminated or truncated."""
        ends = np.zeros(rows, bool)
        for name in (self._columns.terminated, self._columns.truncated):
            if name:
                ends |= np.asarray(self._file[name][:]).reshape(-1).astype(bool)
        if not ends.any():
            raise BadData(
                f"Nothing in {self.where} says where episodes end. Name the column with their "
                "lengths, or the groups that hold them, in a mapping file (see docs/your-data.md)."
            )
        stops = np.flatnonzero(ends) + 1
        if stops[-1] < rows:
            stops = np.append(stops, rows)
        starts = np.concatenate([[0], stops[:-1]])
        return starts, stops - starts


def _leaves(group: Any, prefix: str = "") -> Iterator[str]:
    """Names of the datasets inside, with their paths."""
    for name, item in group.items():
        if hasattr(item, "shape"):
            yield prefix + name
        else:
            yield from _leaves(item, f"{prefix}{name}/")


def _episodes(file: Any, pattern: str) -> list[str]:
    """Groups of a pattern with one * at its end or none, in the order of their numbers."""
    parent = pattern.removesuffix("*").strip("/")
    if parent and parent not in file:
        return []
    group = file[parent] if parent else file
    found = [f"{parent}/{name}".strip("/") for name, x in group.items() if not hasattr(x, "shape")]
    return sorted(found, key=_natural)


def _natural(name: str) -> list[tuple[int, str]]:
    """demo_2 before demo_10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def file_of(path: Path) -> Path:
    """The file itself, or the only one in a folder."""
    if path.is_file():
        return path
    files = [file for file in sorted(path.iterdir()) if is_hdf5(file)]
    if len(files) != 1:
        raise BadData(f"{path} holds {len(files)} HDF5 files. Name the one to read.")
    return files[0]


def is_hdf5(path: Path) -> bool:
    """Whether a file begins as HDF5."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _detect(path: Path) -> bool:
    if path.is_dir():
        return any(is_hdf5(file) for file in path.glob("*.h*5"))
    return is_hdf5(path)


def read(path: Path, columns: ColumnMap) -> Source:
    """The episodes of a file, in the layout that it has."""
    h5py = registry.require("h5py", "data")
    path = file_of(path)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise BadData(
            f"{path} was to be read as HDF5, but it cannot be ({error}). Copy it again."
        ) from None
    grouped = columns.episodes or (not columns.lengths and _episodes(file, "data/*"))
    table = (_Groups if grouped else _Flat)(file, path, columns)
    return Reader(table, columns)


FORMAT = Format(
    name="hdf5",
    title="HDF5: robomimic's groups, stable-worldmodel's or D4RL's columns, others with a mapping",
    extra="data",
    lossy="",
    detect=_detect,
    read=read,
    write=write_groups,
)
