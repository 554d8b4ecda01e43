"""What a format is, and what a user may say about a file. Imports core and data.

A format is one file of this folder that ends with a `Format`. What others' files call their
columns is guessed from their conventions; a mapping file (JSON, read by `ColumnMap`) says it
where nothing can be guessed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from reverie.core.errors import BadConfig, BadData
from reverie.data.episode import Episode
from reverie.data.schema import Schema
from reverie.data.source import Source

ABSENT = ""  # a column that the user says is not there


@dataclass(frozen=True)
class ColumnMap:
    """What the columns of a file are called. Whatever is left out is guessed; null: not recorded.

    Attributes:
        episodes: HDF5: the groups that hold one episode each, as "data/*".
        lengths: HDF5: the column with the rows of each episode, where columns are flat.
        observations: modality -> the column, or the columns to be joined into one vector.
        next_observations: modality -> the column that holds o[t+1] beside o[t].
        action: the column of actions.
        reward: the column of rewards.
        terminated: the column that says the world ended.
        truncated: the column that says the clock ended.
        action_row: "taken": the action in row t was taken at o[t]; "led": it led to o[t].
        reward_row: the same of the reward and the ends.
        action_low: what -1 stands for, in the world's units: one number, or one an element.
        action_high: what 1 stands for.
    """

    episodes: str | None = None
    lengths: str | None = None
    observations: dict[str, tuple[str, ...]] = field(default_factory=dict)
    next_observations: dict[str, tuple[str, ...]] = field(default_factory=dict)
    action: str | None = None
    reward: str | None = None
    terminated: str | None = None
    truncated: str | None = None
    action_row: str | None = None
    reward_row: str | None = None
    action_low: float | list[float] | None = None
    action_high: float | list[float] | None = None

    @classmethod
    def load(cls, path: str | Path) -> ColumnMap:
        """Read a mapping file.

        Raises:
            BadConfig: if it is not JSON, or names a field that does not exist.
        """
        try:
            value = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadConfig(
                f"A mapping file (JSON) was asked for at {path}, but it cannot be read "
                f"({error}). See docs/your-data.md for one."
            ) from None
        return cls.of(value)

    @classmethod
    def of(cls, value: Any) -> ColumnMap:
        """From what a mapping file holds.

        Raises:
            BadConfig: if a field does not exist or has a value that it cannot have.
        """
        known = [f.name for f in fields(cls)]
        wrong = sorted(set(value) - set(known)) if isinstance(value, dict) else [type(value)]
        if wrong:
            raise BadConfig(f"A mapping has no field {wrong[0]}. It has: {', '.join(known)}.")
        told: dict[str, Any] = {
            name: ABSENT if item is None else item for name, item in value.items()
        }
        for name in ("observations", "next_observations"):
            if name in told:
                told[name] = _groups(name, told[name])
        for name in ("action_row", "reward_row"):
            if told.get(name, "led") not in {"led", "taken"}:
                raise BadConfig(f"{name} of a mapping is 'taken' or 'led', not {told[name]!r}.")
        return cls(**told)


def _groups(name: str, value: Any) -> dict[str, tuple[str, ...]]:
    """Modality to columns."""
    if not isinstance(value, dict):
        raise BadConfig(f"{name} of a mapping is {{modality: column}}, not {value!r}.")
    return {k: (v,) if isinstance(v, str) else tuple(map(str, v)) for k, v in value.items()}


class Format(NamedTuple):
    """One way to lay episodes out on disk.

    Fields that are functions take a path first; `write` gets a path that is not there yet and
    episodes one by one, and need not be safe against being killed: `convert` is.
    """

    name: str
    title: str  # what the files are, for the list of formats
    extra: str | None  # the extra that brings its libraries; None: needs none
    lossy: str  # what becomes of images, in one sentence; empty: all survives writing
    detect: Callable[[Path], bool]  # by content; must not need the extra
    read: Callable[[Path, ColumnMap], Source]
    write: Callable[[Path, Schema, Iterable[Episode]], None] | None  # None: read only


@dataclass(frozen=True)
class Note:
    """What our writers leave beside others' columns, so that reading back is exact.

    Attributes:
        schema: of the episodes that were written.
        infos: of each episode.
    """

    schema: Schema
    infos: tuple[dict[str, Any], ...]

    def dump(self) -> str:
        """One line of JSON."""
        value = {"schema": json.loads(self.schema.to_bytes()), "infos": list(self.infos)}
        return json.dumps(value)

    @classmethod
    def load(cls, text: str, path: Path) -> Note:
        """What `dump` wrote, found at a path.

        Raises:
            BadData: if it is something else.
        """
        try:
            value = json.loads(text)
            schema = Schema.parse(json.dumps(value["schema"]), path)
            return cls(schema, tuple(dict(info) for info in value["infos"]))
        except (KeyError, TypeError, ValueError) as error:
            raise BadData(
                f"Reverie's note about {path} is damaged ({type(error).__name__}: {error}). "
                "Copy the data again, or remove the note to have the columns guessed."
            ) from None


def flat_schema(schema: Schema) -> Schema:
    """The same spaces, none of them derived, in a store's usual files."""
    return Schema.of(
        schema.observations,
        schema.actions,
        schema.extra,
        rewards=schema.rewards,
        bounds=schema.bounds,
    )
