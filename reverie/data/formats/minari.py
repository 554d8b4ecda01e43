"""Minari data sets, through Minari's own library. Imports core and data.

Minari has T+1 observations and T of all else, so nothing is shifted. Its spaces tell the range of
the actions. What an agent wrote (`extra`) goes to `infos`, which have T+1 rows there.

Source: minari.farama.org, "Dataset standards"; minari 0.5, dataset/minari_storage.py.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reverie.core import registry
from reverie.core.errors import BadData
from reverie.core.types import Discrete, Space
from reverie.data.episode import Episode
from reverie.data.formats.format import ColumnMap, Format, Note
from reverie.data.formats.layout import pictures_last, taken, world_action
from reverie.data.formats.reader import Raw, Reader
from reverie.data.schema import Schema
from reverie.data.source import Source, is_picture

_NOTE = "reverie"  # key of metadata.json
_ALONE = "observation"  # the name of observations that have none


class _Table:
    """The episodes of a data set."""

    def __init__(self, path: Path) -> None:
        minari = registry.require("minari", "data")
        folder = _data(path.resolve())
        self.where, self.said = str(path), []
        metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        note = metadata.get(_NOTE)
        self.note = Note.load(note, path) if note else None
        try:
            self._set = minari.MinariDataset(folder)
        except (ImportError, KeyError, ValueError, AssertionError) as error:
            raise BadData(
                f"{path} was to be read as a Minari data set, but Minari refuses it ({error}). "
                "Install what it asks for, or copy the data again."
            ) from None
        self.action_range = self._range(self._set.action_space)
        self._start = int(getattr(self._set.action_space, "start", 0))
        self._names = [name for name, _ in _flat(self._set.observation_space)]
        pictures = [n for n, s in _flat(self._set.observation_space) if _is_jpeg(s)]
        if metadata.get("jpeg_encoding", True) and pictures:
            self.said.append(f"Minari kept {', '.join(pictures)} as JPEG: small losses are in it.")
        self._held: tuple[int, Any] | None = None

    def __len__(self) -> int:
        return int(self._set.total_episodes)

    def columns(self) -> Sequence[str]:
        """Leaves of the observation space."""
        return self._names

    def actions(self, i: int) -> np.ndarray | None:
        """(T, ...) of an episode."""
        action = np.asarray(self._episode(i).actions)
        return action - self._start if self._start else action

    def raw(self, i: int, names: Sequence[str]) -> Raw:
        """One episode."""
        episode = self._episode(i)
        leaves = dict(_flat(episode.observations))
        extra = self.note.schema.extra if self.note else {}
        infos = episode.infos or {}
        if infos and not extra:
            self.said.append(f"Infos {sorted(infos)} are not read.")
        return Raw(
            obs={name: np.asarray(leaves[name]) for name in names},
            action=self.actions(i),
            reward=np.asarray(episode.rewards),
            terminated=np.asarray(episode.terminations).astype(bool),
            truncated=np.asarray(episode.truncations).astype(bool),
            extra={name: np.asarray(infos[name])[:-1] for name in extra},
        )

    def _episode(self, i: int) -> Any:
        """An episode; the last one is kept, since it is asked for twice."""
        if self._held is None or self._held[0] != i:
            try:
                (episode,) = self._set.iterate_episodes([i])
            except (KeyError, OSError, ValueError) as error:
                raise BadData(
                    f"Minari cannot read episode {i} of {self.where} ({error}). "
                    "Copy the data again, or load it with the Minari that wrote it."
                ) from None
            self._held = (i, episode)
        return self._held[1]

    def _range(self, space: Any) -> tuple[Any, Any] | int | None:
        """The range of the actions, as the space tells it."""
        kind = type(space).__name__
        if kind == "Discrete":
            return int(space.n)
        if kind == "Box":
            return space.low, space.high
        raise BadData(
            f"{self.where} has actions of {space}, but actions are Box or Discrete here. "
            "Flatten them before recording."
        )


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested observations, or of their space, with their names."""
    inner = getattr(tree, "spaces", tree)
    if isinstance(inner, dict):
        parts: Iterable[tuple[str, Any]] = inner.items()
    elif isinstance(inner, tuple) or type(tree).__name__ == "Tuple":
        parts = ((str(i), part) for i, part in enumerate(inner))
    else:
        yield prefix or _ALONE, tree
        return
    for name, part in parts:
        clean = re.sub(r"[^A-Za-z0-9_]", "_", str(name))
        yield from _flat(part, f"{prefix}_{clean}" if prefix else clean)


def _is_jpeg(space: Any) -> bool:
    """Whether Minari would encode it."""
    return getattr(space, "dtype", None) == np.uint8 and len(space.shape or ()) in {2, 3}


def _data(path: Path) -> Path:
    """The folder with metadata.json: the path, or its folder `data`."""
    return path if (path / "metadata.json").is_file() else path / "data"


def _detect(path: Path) -> bool:
    try:
        text = (_data(path) / "metadata.json").read_text(encoding="utf-8")
        return "data_format" in json.loads(text) and "total_episodes" in json.loads(text)
    except (OSError, ValueError):
        return False


def _read(path: Path, columns: ColumnMap) -> Source:
    return Reader(_Table(path), columns)


def _write(path: Path, schema: Schema, episodes: Iterable[Episode]) -> None:
    minari = registry.require("minari", "data")
    registry.require("h5py", "data")
    from minari.dataset.minari_storage import MinariStorage

    if schema.actions is None or not schema.rewards:
        raise BadData(
            "A Minari data set was asked for, but it always has actions and rewards, and this data "
            "was recorded without. Choose store, npz, hdf5 or lerobot."
        )
    folder = path.resolve() / "data"  # Minari loses its way from a relative one
    folder.mkdir(parents=True)
    storage = MinariStorage.new(
        folder,
        observation_space=_observations(schema),
        action_space=_space(schema.actions, schema),
        jpeg_encoding=False,
    )
    told = {"dataset_id": _identity(path), "minari_version": minari.__version__}
    storage.update_metadata(told)
    infos: list[dict[str, Any]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        storage.update_episodes(_buffers(schema, episodes, infos))
    storage.update_metadata({_NOTE: Note(schema, tuple(infos)).dump()})


def _identity(path: Path) -> str:
    """A data set's name in Minari, of its folder's: with a version at its end."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.name.strip(".").split(".")[0]).strip("-")
    return name if re.search(r"\w-v\d+$", name) else f"{name or 'reverie'}-v0"


def _buffers(
    schema: Schema, episodes: Iterable[Episode], infos: list[dict[str, Any]]
) -> Iterator[Any]:
    """Episodes as Minari takes them; their infos go into the list."""
    from minari.data_collector.episode_buffer import EpisodeBuffer

    for number, episode in enumerate(episodes):
        actions: Any = world_action(schema, episode)
        infos.append(episode.info)
        yield EpisodeBuffer(
            id=number,
            observations=pictures_last(schema, episode),
            actions=actions,
            rewards=list(episode.reward) if episode.reward is not None else [],
            terminations=list(episode.terminated),
            truncations=list(episode.truncated),
            infos={name: taken(value) for name, value in episode.extra.items()},
        )


def _observations(schema: Schema) -> Any:
    """The Dict space of the observations."""
    from gymnasium import spaces

    return spaces.Dict({name: _space(space) for name, space in schema.observations.items()})


def _space(space: Space, schema: Schema | None = None) -> Any:
    """A Gymnasium space; with a schema: of actions, in the world's units."""
    from gymnasium import spaces

    if isinstance(space, Discrete):
        return spaces.Discrete(space.n)
    bounds = schema.bounds if schema else None
    if bounds:
        return spaces.Box(*np.array([bounds.low, bounds.high], np.float32), dtype=np.float32)
    shape = _last(space.shape) if is_picture(space) else space.shape
    dtype = np.dtype(space.dtype)
    low, high = space.low, space.high
    if dtype.kind != "f":
        least, most = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        low, high = max(low, least), min(high, most)
    return spaces.Box(np.full(shape, low, dtype), np.full(shape, high, dtype), dtype=dtype.type)


def _last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(C, H, W) to (H, W, C)."""
    return (*shape[1:], shape[0])


FORMAT = Format(
    name="minari",
    title="a Minari data set: a folder with data/metadata.json",
    extra="data",
    lossy="",
    detect=_detect,
    read=_read,
    write=_write,
)
