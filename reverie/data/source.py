"""Episodes that are read one at a time, wherever they lie. Imports core, data and, late, envs.

A `Source` is what every format is read as: a schema and episodes by number, of which no more than
one is in memory. A `Store` opened to read becomes one with `Stored`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from reverie.core.errors import BadConfig
from reverie.core.types import Box, Space
from reverie.data.episode import Episode
from reverie.data.schema import Schema
from reverie.data.store import Store


class Source(Protocol):
    """Episodes by number."""

    @property
    def schema(self) -> Schema:
        """Spaces of all episodes."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What was guessed, dropped or rounded on the way, a sentence each."""
        ...

    def __len__(self) -> int:
        """How many episodes there are."""
        ...

    def __getitem__(self, i: int) -> Episode:
        """One episode.

        Raises:
            IndexError: if there is no such episode.
            BadData: if what lies there is none.
        """
        ...


def is_picture(space: Space) -> bool:
    """Whether an observation is a (C, H, W) uint8 image."""
    return isinstance(space, Box) and len(space.shape) == 3 and space.dtype == "uint8"


class Stored:
    """A store as a source."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.notes = (f"{store.report}.",) if store.report else ()

    @property
    def schema(self) -> Schema:
        """Of the store, its derived observations as if they had been recorded."""
        own = self.store.schema
        return Schema.of(
            own.observations, own.actions, own.extra, rewards=own.rewards, bounds=own.bounds
        )

    def __len__(self) -> int:
        """How many episodes there are."""
        return len(self.store)

    def __getitem__(self, i: int) -> Episode:
        """A copy of one episode."""
        return self.store[i]


class Subset:
    """Some episodes of a source, in the order given.

    Args:
        source: of all episodes.
        chosen: their numbers.
    """

    def __init__(self, source: Source, chosen: Sequence[int]) -> None:
        self._source, self._chosen = source, [int(i) for i in chosen]
        self.schema = source.schema

    @property
    def notes(self) -> tuple[str, ...]:
        """Of the source."""
        return self._source.notes

    def __len__(self) -> int:
        """How many were chosen."""
        return len(self._chosen)

    def __getitem__(self, i: int) -> Episode:
        """The i-th of the chosen."""
        return self._source[self._chosen[i]]


class Resized:
    """A source whose images are averaged down (or stretched) to a square.

    Args:
        source: of all episodes.
        size: height and width of each image.

    Raises:
        BadConfig: if there is no image or no such size.
    """

    def __init__(self, source: Source, size: int) -> None:
        spaces = source.schema.observations
        images = {n: s for n, s in spaces.items() if isinstance(s, Box) and is_picture(s)}
        if not images or size < 1:
            raise BadConfig(
                f"Images were to become {size} x {size}, but the data has "
                f"{sorted(source.schema.observations)}, {len(images)} of which are images. "
                "Leave the size out, or choose data with images and a size above 0."
            )
        self._source, self._size, self._names = source, size, tuple(images)
        own = source.schema
        small = {n: Box((s.shape[0], size, size), 0.0, 255.0, "uint8") for n, s in images.items()}
        spaces = {**own.observations, **small}
        self.schema = Schema.of(
            spaces, own.actions, own.extra, rewards=own.rewards, bounds=own.bounds
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Of the source."""
        return self._source.notes

    def __len__(self) -> int:
        """How many episodes there are."""
        return len(self._source)

    def __getitem__(self, i: int) -> Episode:
        """One episode with small images."""
        episode = self._source[i]
        small = {name: self._shrink(episode.obs[name]) for name in self._names}
        return replace(episode, obs={**episode.obs, **small})

    def _shrink(self, images: np.ndarray) -> np.ndarray:
        """(rows, C, H, W) to (rows, C, size, size)."""
        from reverie.envs.pixels import AreaResize

        height, width = images.shape[2:]
        resize = AreaResize(height, width, self._size, self._size)
        return np.stack([resize(image.transpose(1, 2, 0)) for image in images])
