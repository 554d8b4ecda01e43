"""From a table of someone's columns to a source of episodes: names, layouts, units, spaces.

A format's file says which rows are whose (`Raw`, in the file's own layout and units); here they
become what the contract wants: images (C, H, W), vectors float32, actions in [-1, 1] or counted
from 0. What our own writers wrote is told by their note and comes back exactly; the rest is
inferred, and every guess is said in `notes`. Imports core and data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from reverie.core.errors import BadData
from reverie.core.types import Box, Discrete, Space
from reverie.data.bounds import Bounds
from reverie.data.episode import Episode
from reverie.data.formats.format import ColumnMap, Note
from reverie.data.schema import Schema, dtype_of
from reverie.data.source import is_picture

_CHANNELS = frozenset({1, 3, 4})
_CLOSE = 1e-5  # by which recorded actions may stick out of [-1, 1] and count as inside


class Raw(NamedTuple):
    """One episode in its file's own layout and units, aligned: o[t] --a[t]--> r[t], o[t+1]."""

    obs: dict[str, np.ndarray]  # (T+1, ...) by column
    action: np.ndarray | None  # (T, ...)
    reward: np.ndarray | None  # (T,)
    terminated: np.ndarray  # (T,) bool
    truncated: np.ndarray  # (T,) bool
    extra: Mapping[str, np.ndarray] = {}  # (T, ...) by name
    info: Mapping[str, Any] = {}


class Table(Protocol):
    """What a format's file provides."""

    @property
    def where(self) -> str:
        """The path, for messages."""
        ...

    @property
    def note(self) -> Note | None:
        """What our writer left."""
        ...

    @property
    def said(self) -> list[str]:
        """What the user should know; may grow as episodes are read."""
        ...

    @property
    def action_range(self) -> tuple[Any, Any] | int | None:
        """What the file tells of it: (low, high), or a count."""
        ...

    def __len__(self) -> int: ...

    def columns(self) -> Sequence[str]:
        """Names of the observations."""
        ...

    def raw(self, i: int, names: Sequence[str]) -> Raw:
        """One episode with these observations."""
        ...

    def actions(self, i: int) -> np.ndarray | None:
        """(T, ...) the actions of an episode alone; cheaper than `raw` where it can be."""
        ...


Convert = Callable[[Mapping[str, np.ndarray]], np.ndarray]


class Reader:
    """A source over a table.

    Args:
        table: of the file.
        columns: what the user said.

    Raises:
        BadData: if there is no episode, or no observation that can be used.
    """

    def __init__(self, table: Table, columns: ColumnMap) -> None:
        if len(table) == 0:
            raise BadData(f"{table.where} was to be read, but it holds no episode. Record some.")
        self._table, self._said = table, table.said
        first = table.raw(0, _wanted(table, columns))
        self._plan = self._observations(first, columns)
        self._names = sorted({name for _, _, names in self._plan.values() for name in names})
        actions, bounds, self._act = self._actions(first, columns)
        self.schema = Schema.of(
            {name: space for name, (space, _, _) in self._plan.items()},
            actions,
            table.note.schema.extra if table.note else {},
            rewards=first.reward is not None,
            bounds=bounds,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What was guessed, dropped or rounded, a sentence each."""
        return tuple(dict.fromkeys(self._said))

    def __len__(self) -> int:
        """How many episodes there are."""
        return len(self._table)

    def __getitem__(self, i: int) -> Episode:
        """One episode in the library's own terms.

        Raises:
            IndexError: if there is no such episode.
            BadData: if what lies there is none.
        """
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        i %= len(self)
        raw = self._table.raw(i, self._names)
        note = self._table.note
        extra = {
            name: np.ascontiguousarray(raw.extra[name], dtype_of(space))
            for name, space in self.schema.extra.items()
        }
        return Episode(
            obs={name: convert(raw.obs) for name, (_, convert, _) in self._plan.items()},
            action=None if raw.action is None or self._act is None else self._act(raw.action),
            reward=None if raw.reward is None else raw.reward.reshape(-1).astype(np.float32),
            terminated=raw.terminated,
            truncated=raw.truncated,
            extra=extra,
            info={**raw.info, **(note.infos[i] if note else {})},
        )

    # --- observations ------------------------------------------------------------------------

    def _observations(
        self, first: Raw, columns: ColumnMap
    ) -> dict[str, tuple[Space, Convert, tuple[str, ...]]]:
        """Modality -> its space, what makes it, and the columns that it is made of."""
        if self._table.note and not columns.observations:
            spaces = self._table.note.schema.observations
            return {name: (space, _exactly(name, space), (name,)) for name, space in spaces.items()}
        if columns.observations:
            return {
                name: (*self._joined(first, names), names)
                for name, names in columns.observations.items()
            }
        plan = {}
        for name, value in first.obs.items():
            if value.dtype.kind not in "fiub":
                self._said.append(f"Column {name} holds {value.dtype}, not numbers: left out.")
                continue
            plan[_clean(name)] = (*self._alone(name, value), (name,))
        if not plan:
            raise BadData(
                f"{self._table.where} was to be read, but none of its columns {sorted(first.obs)} "
                "is an observation. Name them in a mapping file (see docs/your-data.md)."
            )
        return self._renamed(plan)

    def _alone(self, name: str, value: np.ndarray) -> tuple[Space, Convert]:
        """The space of one column and what makes it."""
        order = _picture(value)
        if order is not None:
            sample = order(value[:1])
            space = Box(sample.shape[1:], 0.0, 255.0, "uint8")
            return space, lambda obs: np.ascontiguousarray(order(obs[name]))
        if value.dtype != np.float32:
            self._said.append(f"Column {name} is {value.dtype}: read as float32.")
        shape = value.shape[1:] or (1,)
        space = Box(shape, -np.inf, np.inf)
        return space, lambda obs: obs[name].astype(np.float32).reshape(-1, *shape)

    def _joined(self, first: Raw, names: tuple[str, ...]) -> tuple[Space, Convert]:
        """The space of columns that the user named, joined if there are several."""
        absent = [name for name in names if name not in first.obs]
        if absent:
            raise BadData(
                f"The mapping names column {absent[0]}, but {self._table.where} has "
                f"{sorted(first.obs)}. Name one of these."
            )
        if len(names) == 1:
            return self._alone(names[0], first.obs[names[0]])

        def join(obs: Mapping[str, np.ndarray]) -> np.ndarray:
            parts = [obs[name].reshape(len(obs[name]), -1) for name in names]
            return np.concatenate(parts, axis=1).astype(np.float32)

        return Box(join(first.obs).shape[1:], -np.inf, np.inf), join

    def _renamed(self, plan: dict[str, Any]) -> dict[str, Any]:
        """A single image is 'image' and a single vector 'vector': what models ask for."""
        images = [name for name, (space, _, _) in plan.items() if is_picture(space)]
        groups = {"image": images, "vector": [name for name in plan if name not in images]}
        for new, names in groups.items():
            if len(names) == 1 and new not in plan:
                self._said.append(f"Column {plan[names[0]][2][0]} is read as '{new}'.")
                plan = {new if name == names[0] else name: item for name, item in plan.items()}
        return plan

    # --- actions -----------------------------------------------------------------------------

    def _actions(
        self, first: Raw, columns: ColumnMap
    ) -> tuple[Space | None, Bounds | None, Callable[[np.ndarray], np.ndarray] | None]:
        """The action space, the world's range, and what turns the file's actions into ours."""
        if first.action is None:
            return None, None, None
        note = self._table.note
        if note and note.schema.actions is not None and columns.action_low is None:
            space, bounds = note.schema.actions, note.schema.bounds
            return space, bounds, _counted if isinstance(space, Discrete) else _scaled(bounds)
        flat = first.action.reshape(len(first.action), -1)
        if first.action.dtype.kind in "iub" and flat.shape[1] == 1:
            return Discrete(self._count()), None, _counted
        if first.action.dtype.kind not in "fiub":
            raise BadData(
                f"Actions in {self._table.where} are {first.action.dtype}, not numbers. Name "
                "another column in a mapping file, or null for data without actions."
            )
        bounds = self._range(columns, flat.shape[1])
        return Box((flat.shape[1],)), bounds, _scaled(bounds)

    def _count(self) -> int:
        """How many actions there are."""
        if isinstance(self._table.action_range, int):
            return self._table.action_range
        low, high = self._scan()
        if low.min() < 0:
            raise BadData(
                f"Actions in {self._table.where} are whole numbers from {low.min():g} on, but "
                "they are counted from 0. Record them so, or as floating-point numbers."
            )
        count = int(high.max()) + 1
        self._said.append(f"Actions are taken as 0..{count - 1}, all that the data holds.")
        return count

    def _range(self, columns: ColumnMap, size: int) -> Bounds | None:
        """What -1 and 1 stand for: as the user, the file or else the data says."""
        known = self._table.action_range
        if columns.action_low is not None and columns.action_high is not None:
            known = (columns.action_low, columns.action_high)
        if known is not None and not isinstance(known, int):
            low, high = (np.broadcast_to(np.asarray(x, float).ravel(), size) for x in known)
            if np.isfinite(low).all() and np.isfinite(high).all():
                return Bounds.of(low, high)
        low, high = self._scan()
        if low.min() >= -1 - _CLOSE and high.max() <= 1 + _CLOSE:
            self._said.append("Actions lie in [-1, 1] and are taken as they are.")
            return None
        still = low == high
        bounds = Bounds.of(low - still, high + still)
        self._said.append(
            "The range of the actions is not told, so [-1, 1] stands for what the data holds: "
            f"{np.round(low, 4).tolist()} to {np.round(high, 4).tolist()}."
        )
        return bounds

    def _scan(self) -> tuple[np.ndarray, np.ndarray]:
        """(A,) smallest and largest of all actions."""
        lows, highs = [], []
        for i in range(len(self._table)):
            action = self._table.actions(i)
            if action is not None and len(action):
                flat = action.reshape(len(action), -1)
                lows.append(flat.min(0))
                highs.append(flat.max(0))
        return np.min(lows, 0).astype(np.float64), np.max(highs, 0).astype(np.float64)


def _wanted(table: Table, columns: ColumnMap) -> Sequence[str]:
    """The columns to look at first."""
    have = table.columns()
    named = {name for names in columns.observations.values() for name in names}
    return [name for name in have if name in named] if named else have


def _exactly(name: str, space: Space) -> Convert:
    """What brings back a column that our writer wrote."""

    def convert(obs: Mapping[str, np.ndarray]) -> np.ndarray:
        value = obs[name].transpose(0, 3, 1, 2) if is_picture(space) else obs[name]
        shape = space.shape if isinstance(space, Box) else ()
        return np.ascontiguousarray(value, dtype_of(space)).reshape(-1, *shape)

    return convert


def _picture(value: np.ndarray) -> Callable[[np.ndarray], np.ndarray] | None:
    """What turns a column of images into (rows, C, H, W); None: it holds none."""
    if value.dtype != np.uint8 or value.ndim not in {3, 4}:
        return None
    if value.ndim == 3:
        return lambda x: x[:, None]
    if value.shape[3] in _CHANNELS:
        return lambda x: x.transpose(0, 3, 1, 2)
    return (lambda x: x) if value.shape[1] in _CHANNELS else None


def _counted(action: np.ndarray) -> np.ndarray:
    """(T,) int64."""
    return action.reshape(-1).astype(np.int64)


def _scaled(bounds: Bounds | None) -> Callable[[np.ndarray], np.ndarray]:
    """From the world's units to (T, A) float32 in [-1, 1]."""

    def scale(action: np.ndarray) -> np.ndarray:
        flat = action.reshape(len(action), -1)
        return bounds.from_world(flat) if bounds else flat.astype(np.float32)

    return scale


def _clean(name: str) -> str:
    """A column's name as a store can have it."""
    short = name.removeprefix("observation.").removeprefix("images.")
    return re.sub(r"[^A-Za-z0-9_]+", "_", short).strip("_") or "observation"
