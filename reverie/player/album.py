"""Real moments of a world: where dreams begin, and what a dream without pixels may resemble.

An album is any sequence of episodes: a run's store, or a few that were played for the purpose.
Imports core, data and the agent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from reverie.core.errors import BadData
from reverie.core.model import WorldModel
from reverie.core.types import Heads, check_obs
from reverie.data.episode import Episode
from reverie.data.store import Store
from reverie.evaluate.film import rgb
from reverie.player.glimpse import shown

CONTEXT = 32  # frames that a model watches before it dreams on
NEAREST = 256  # moments among which the nearest is looked for


class Album:
    """Episodes to begin from.

    Args:
        model: that watches them.
        episodes: a store, or a list; empty: there is nothing real.
    """

    def __init__(self, model: WorldModel[Any], episodes: Store | Sequence[Episode]) -> None:
        self._model, self._episodes = model, episodes
        self._cached: tuple[int, Episode] | None = None
        stored = isinstance(episodes, Store)
        self.lengths: list[int] = (
            episodes.lengths.tolist() if stored else [len(episode) for episode in episodes]
        )

    def __len__(self) -> int:
        """How many episodes there are."""
        return len(self.lengths)

    def episode(self, i: int) -> Episode:
        """One episode; the one asked for last is kept.

        Raises:
            BadData: if there is no such episode.
        """
        if not 0 <= i < len(self):
            raise BadData(f"There is no episode {i}: there are {len(self)}. Choose another.")
        if self._cached is None or self._cached[0] != i:
            self._cached = (i, self._episodes[i])
        return self._cached[1]

    def moment(self, i: int, step: int) -> tuple[Episode, int]:
        """An episode and a step at which a dream may begin.

        Raises:
            BadData: if there is no such episode or step.
        """
        episode = self.episode(i)
        if not 0 <= step <= len(episode):
            raise BadData(
                f"Episode {i} has no frame {step}: it has 0 to {len(episode)}. Choose another."
            )
        return episode, step

    def frame(self, i: int, step: int) -> np.ndarray | None:
        """What is seen there, (3, h, w) uint8; None where the world shows no picture.

        Raises:
            BadData: if there is no such episode or step.
        """
        episode, step = self.moment(i, step)
        return picture_of(self._model, {name: x[step] for name, x in episode.obs.items()})


def picture_of(model: WorldModel[Any], obs: dict[str, np.ndarray]) -> np.ndarray | None:
    """The picture in one observation (3, h, w) uint8, or None.

    Args:
        model: whose own modalities come first.
        obs: by modality, without batch axis.
    """
    name = shown(model, obs)
    return None if name is None else rgb(obs[name])


def tensors(model: WorldModel[Any], obs: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Observations (B, ...) of the modalities that the model reads, where it lives.

    Raises:
        SpaceMismatch: if one is missing or of another shape.
    """
    rows = len(next(iter(obs.values())))
    found = {n: torch.from_numpy(x).to(model.device) for n, x in obs.items()}
    seen = check_obs(found, model.observations, (rows,))
    return {name: seen[name] for name in model.observations}


@torch.no_grad()
def watched(
    model: WorldModel[Any], episode: Episode, step: int, generator: torch.Generator | None = None
) -> Any:
    """The state (1, ...) after watching an episode up to a step, CONTEXT frames at most.

    Raises:
        SpaceMismatch: if the episode is of another world.
    """
    begin = max(0, step - CONTEXT)
    obs = tensors(model, {name: x[begin : step + 1] for name, x in episode.obs.items()})
    state = None
    for t in range(step + 1 - begin):
        seen = model.encode({name: x[t : t + 1] for name, x in obs.items()})
        led = None
        if t > 0 and model.actions is not None and episode.action is not None:
            led = torch.from_numpy(episode.action[begin + t - 1 : begin + t]).to(model.device)
        first = torch.tensor([t == 0], device=model.device)
        state = model.observe(state, led, seen, first=first, generator=generator)
    return state


class Nearest(NamedTuple):
    """Real pictures and where they lie in a model's embedding."""

    pictures: np.ndarray  # (N, 3, h, w) uint8
    embed: np.ndarray  # (N, D)

    def of(self, embed: np.ndarray) -> np.ndarray:
        """The picture whose embedding is nearest to one (D,)."""
        return self.pictures[int(np.square(self.embed - embed).sum(1).argmin())]


@torch.no_grad()
def nearest(model: WorldModel[Any], heads: Heads, album: Album) -> Nearest | None:
    """Moments spread over the album; None where there are no pictures or no embedding."""
    if heads.embed is None or not len(album) or album.frame(0, 0) is None:
        return None
    few = np.linspace(0, len(album) - 1, min(8, len(album))).round().astype(int)
    pictures, rows = [], []
    for i in np.unique(few):
        episode = album.episode(int(i))
        every = max(1, len(episode) // (NEAREST // len(few)))
        pictures.append(rgb(episode.obs[str(shown(model, _row(episode.obs)))][::every]))
        obs = tensors(model, {name: x[::every] for name, x in episode.obs.items()})
        state = model.observe(None, None, model.encode(obs))
        rows.append(heads.embed(state).float().flatten(1).cpu().numpy())
    return Nearest(np.concatenate(pictures), np.concatenate(rows))


def _row(obs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The first of each."""
    return {name: x[0] for name, x in obs.items()}
