"""What the columns of a store are, and whether an episode fits them. Imports core only.

`Schema` is the whole of `schema.json`: the spaces, and for each column its file, dtype and shape.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reverie.core.errors import BadData, SpaceMismatch
from reverie.core.types import Box, Discrete, Space, space_from_json, space_to_json
from reverie.data.bounds import Bounds
from reverie.data.episode import Episode

VERSION = 1
HEADER = 256  # bytes before the first row of every column: a .npy header with room to grow
_NAME = re.compile(r"[A-Za-z0-9_]+")
_SLACK = 1e-5  # rounding that an action may stick out of its Box by


@dataclass(frozen=True)
class Column:
    """Where one column lies and what a row of it is."""

    file: str
    dtype: str  # as NumPy writes it: '|u1', '<f4', ...
    shape: tuple[int, ...]
    derived: bool = False  # computed from other columns; may be dropped and made again

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))

    def header(self, rows: int) -> bytes:
        """The .npy header (format 1.0) for so many rows, always `HEADER` bytes."""
        text = repr({"descr": self.dtype, "fortran_order": False, "shape": (rows, *self.shape)})
        body = (text.ljust(HEADER - 11) + "\n").encode()
        return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body

    def map(self, folder: Path, rows: int) -> np.ndarray:
        """A read-only view of the first rows on disk."""
        shape = (rows, *self.shape)
        if rows == 0:
            return np.empty(shape, self.dtype)
        path = folder / self.file
        return np.asarray(np.memmap(path, self.dtype, mode="r", offset=HEADER, shape=shape))


@dataclass(frozen=True)
class Schema:
    """The spaces of a store and its columns by name: 'obs.image', 'action', 'first', ...

    Attributes:
        bounds: the world's range of Box actions, which are recorded in [-1, 1]; None: that is it.
    """

    observations: dict[str, Space]
    actions: Space | None
    extra: dict[str, Space]
    rewards: bool
    columns: dict[str, Column]
    bounds: Bounds | None = None

    @classmethod
    def of(
        cls,
        observations: Mapping[str, Space],
        actions: Space | None,
        extra: Mapping[str, Space],
        *,
        rewards: bool,
        bounds: Bounds | None = None,
    ) -> Schema:
        """The schema that records these spaces.

        Raises:
            BadData: if there is no observation, or a name or space cannot be a column.
        """
        if not observations:
            raise BadData("A store needs at least one observation, but none was given. Name one.")
        spaces: dict[str, Space] = {f"obs.{name}": space for name, space in observations.items()}
        spaces |= {f"extra.{name}": space for name, space in extra.items()}
        if actions is not None:
            spaces["action"] = actions
        if rewards:
            spaces["reward"] = Box((), dtype="float32")
        for flag in ("terminated", "truncated", "first"):
            spaces[flag] = Box((), dtype="bool")
        columns = {name: column_for(name, space) for name, space in spaces.items()}
        return cls(dict(observations), actions, dict(extra), rewards, columns, bounds)

    @classmethod
    def read(cls, folder: Path) -> Schema:
        """Read `schema.json`.

        Raises:
            BadData: if it is absent, of another version, or not a schema.
        """
        try:
            return cls.parse((folder / "schema.json").read_text(), folder)
        except FileNotFoundError:
            raise BadData(
                f"A store was asked for at {folder}, but there is no schema.json. "
                "Give the folder that Store.create made."
            ) from None

    @classmethod
    def parse(cls, text: str, folder: Path) -> Schema:
        """What `to_bytes` wrote, found in a folder.

        Raises:
            BadData: if it is of another version, or not a schema.
        """
        try:
            value = json.loads(text)
            if value["version"] != VERSION:
                raise BadData(
                    f"{folder} is a store of version {value['version']}, but this is version "
                    f"{VERSION}. Use the release of Reverie that wrote it."
                )
            columns = {
                name: Column(c["file"], c["dtype"], tuple(c["shape"]), bool(c["derived"]))
                for name, c in value["columns"].items()
            }
            observations, extra = _spaces(value["observations"]), _spaces(value["extra"])
            actions = space_from_json(value["actions"])
            bounds = Bounds.from_json(value.get("bounds"))
            return cls(observations, actions, extra, bool(value["rewards"]), columns, bounds)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, BadData):
                raise
            raise BadData(
                f"{folder}/schema.json is not a store's schema ({type(error).__name__}: {error}). "
                "Copy the store again from where it came."
            ) from None

    def to_bytes(self) -> bytes:
        """What `read` reads."""
        value = {
            "version": VERSION,
            "header_bytes": HEADER,
            "observations": {n: space_to_json(s) for n, s in self.observations.items()},
            "actions": space_to_json(self.actions),
            "extra": {n: space_to_json(s) for n, s in self.extra.items()},
            "rewards": self.rewards,
            "bounds": self.bounds.to_json() if self.bounds else None,
            "columns": {name: asdict(column) for name, column in self.columns.items()},
        }
        return json.dumps(value, indent=2).encode() + b"\n"

    @property
    def derived(self) -> tuple[str, ...]:
        """Observations that were computed from others."""
        return tuple(n for n in self.observations if self.columns[f"obs.{n}"].derived)

    def with_derived(self, spaces: Mapping[str, Box]) -> Schema:
        """This schema and derived observations, in new files, for which old ones make way.

        Raises:
            BadData: if one has the name of a recorded observation.
        """
        recorded = sorted(set(spaces) & (set(self.observations) - set(self.derived)))
        if recorded:
            raise BadData(
                f"Observations {recorded} were to be computed, but they were recorded. "
                "Choose other names."
            )
        taken = {column.file for column in self.columns.values()}
        new = {}
        for name, space in spaces.items():
            files = (f"obs.{name}.{i}.npy" for i in itertools.count())
            file = next(file for file in files if file not in taken)
            new[f"obs.{name}"] = replace(column_for(f"obs.{name}", space), file=file, derived=True)
        return replace(
            self, observations={**self.observations, **spaces}, columns={**self.columns, **new}
        )

    def without(self, names: tuple[str, ...]) -> Schema:
        """This schema less some observations."""
        gone = {f"obs.{name}" for name in names}
        return replace(
            self,
            observations={n: s for n, s in self.observations.items() if n not in names},
            columns={n: c for n, c in self.columns.items() if n not in gone},
        )

    def rows_of(self, episode: Episode) -> dict[str, np.ndarray]:
        """An episode as (T+1, ...) contiguous rows of each column, zeros where it has only T.

        Raises:
            SpaceMismatch: if a modality, shape or dtype is not the store's.
            BadData: if a number is not finite or an action is out of range.
        """
        self._check_names(episode)
        rows = {}
        for kind, spaces in (("obs", self.observations), ("extra", self.extra)):
            values = episode.obs if kind == "obs" else episode.extra
            for name, space in spaces.items():
                check = in_range if isinstance(space, Discrete) else fitting
                rows[f"{kind}.{name}"] = check(f"{kind}['{name}']", values[name], space)
        if self.actions is not None and episode.action is not None:
            rows["action"] = in_range("action", episode.action, self.actions)
        if self.rewards and episode.reward is not None:
            rows["reward"] = fitting("reward", episode.reward, Box(()))
        rows |= {"terminated": episode.terminated, "truncated": episode.truncated}
        rows["first"] = np.arange(len(episode) + 1) == 0
        return {n: np.ascontiguousarray(_fill(x, len(episode) + 1)) for n, x in rows.items()}

    def _check_names(self, episode: Episode) -> None:
        """Refuse an episode that has less or more than the store records."""
        absent = [n for n in self.derived if n not in episode.obs]
        if absent:
            raise SpaceMismatch(
                f"The store has derived observations {absent}, but the episode has not. "
                "Drop them (store.drop_observations), append, then derive them again."
            )
        wanted = {"observations": set(self.observations), "extra": set(self.extra)}
        found = {"observations": set(episode.obs), "extra": set(episode.extra)}
        for kind, names in wanted.items():
            if names != found[kind]:
                raise SpaceMismatch(
                    f"The store records {kind} {sorted(names)}, but the episode has "
                    f"{sorted(found[kind])}. Make a store for these, or select the columns."
                )
        for kind, recorded, value in (
            ("actions", self.actions is not None, episode.action),
            ("rewards", self.rewards, episode.reward),
        ):
            if recorded != (value is not None):
                raise SpaceMismatch(
                    f"The store {'needs' if recorded else 'records no'} {kind}, but the episode "
                    f"has {'none' if recorded else 'some'}. Make a store for such episodes."
                )


def column_for(name: str, space: Space) -> Column:
    """The column that records a space.

    Raises:
        BadData: if the name cannot be a file's, or a row would be empty.
    """
    if not all(_NAME.fullmatch(part) for part in name.split(".", 1)):
        raise BadData(
            f"A column was to be named {name!r}, but names are made of letters, digits and "
            "underscores. Rename it."
        )
    shape = space.shape if isinstance(space, Box) else ()
    if 0 in shape:
        raise BadData(f"Column {name!r} has shape {shape}, so no element. Leave it out.")
    return Column(f"{name}.npy", dtype_of(space).str, tuple(int(n) for n in shape))


def dtype_of(space: Space) -> np.dtype:
    """What one element of a space is stored as."""
    return np.dtype(space.dtype) if isinstance(space, Box) else np.dtype(np.int64)


def fitting(name: str, value: np.ndarray, space: Space) -> np.ndarray:
    """Return (rows, ...) values if they have the space's shape and dtype and are finite.

    Raises:
        SpaceMismatch: if the shape or dtype is another one.
        BadData: if an element is NaN or infinite.
    """
    shape = space.shape if isinstance(space, Box) else ()
    if value.shape[1:] != shape or value.dtype != dtype_of(space):
        raise SpaceMismatch(
            f"{name} must be {dtype_of(space)} of shape {shape} in each row, but it is "
            f"{value.dtype} of shape {value.shape[1:]}. Convert the data or make a store for it."
        )
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        row = int((~np.isfinite(value.reshape(len(value), -1)).all(1)).argmax())
        raise BadData(
            f"{name} must be finite, but row {row} holds NaN or infinity. Mend what recorded it."
        )
    return value


def in_range(name: str, value: np.ndarray, space: Space) -> np.ndarray:
    """Return (rows, ...) values if they fit the space and lie inside it.

    Raises:
        SpaceMismatch: if the shape or dtype is another one.
        BadData: if an element is NaN, infinite, or out of range.
    """
    fitting(name, value, space)
    low, high = (space.low, space.high) if isinstance(space, Box) else (0, space.n - 1)
    if value.min() < low - _SLACK or value.max() > high + _SLACK:
        raise BadData(
            f"{name} must lie in [{low}, {high}], but it reaches from {value.min()} to "
            f"{value.max()}. Rescale it."
        )
    return value


def computed(
    values: Mapping[str, np.ndarray], spaces: Mapping[str, Box], rows: int
) -> dict[str, np.ndarray]:
    """Return what a function computed for a block of rows, if it is what was promised.

    Raises:
        SpaceMismatch: if names, rows, shapes or dtypes are others.
        BadData: if an element is NaN or infinite.
    """
    if set(values) != set(spaces):
        raise SpaceMismatch(
            f"Observations {sorted(spaces)} were to be computed, but the function returned "
            f"{sorted(values)}. Return one array for each."
        )
    for name, value in values.items():
        if len(value) != rows:
            raise SpaceMismatch(
                f"'{name}' was to be computed for {rows} rows, but the function returned "
                f"{len(value)}. Return one row for each row given."
            )
        fitting(f"computed '{name}'", value, spaces[name])
    return {name: np.ascontiguousarray(value) for name, value in values.items()}


def bytes_of(value: np.ndarray) -> memoryview:
    """The bytes of a contiguous array, not copied."""
    return value.reshape(-1).view(np.uint8).data


def _fill(value: np.ndarray, rows: int) -> np.ndarray:
    """Append a row of zeros if there is one too few."""
    if len(value) == rows:
        return value
    return np.concatenate([value, np.zeros((1, *value.shape[1:]), value.dtype)])


def _spaces(value: Mapping[str, Any]) -> dict[str, Space]:
    """Spaces by name from JSON."""
    spaces = {name: space_from_json(space) for name, space in value.items()}
    return {name: space for name, space in spaces.items() if space is not None}
