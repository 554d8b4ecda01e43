"""What a model says about states, in one batch: pictures, vectors, chances, values, policies.

Only heads are asked, so every school can be looked at; what a model cannot say is None. The
spread of several predictions of one step stands for its uncertainty. Imports core, evaluate.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from reverie.core import tree
from reverie.core.model import WorldModel
from reverie.core.types import Box, Discrete, Heads
from reverie.evaluate.film import rgb

LARGEST = 256  # numbers of a vector that are shown


class Glimpse(NamedTuple):
    """One state, as far as it can be shown."""

    picture: np.ndarray | None = None  # (3, h, w) uint8
    vector: np.ndarray | None = None  # (D,) float32, at most LARGEST numbers
    embed: np.ndarray | None = None  # (D,) float32
    cont: float | None = None  # chance that the episode goes on
    value: float | None = None  # expected return from here
    policy: tuple[float, ...] | None = None  # probabilities of a Discrete, mean of a Box

    @property
    def bytes(self) -> int:
        """What it weighs."""
        return sum(x.nbytes for x in (self.picture, self.vector, self.embed) if x is not None)


def shown(model: WorldModel[Any], spaces: dict[str, Any]) -> str | None:
    """The modality to look at: 'image', else the first that has rows and columns; None: none.

    Args:
        model: whose own observations come first.
        spaces: by name, or arrays with a shape, without batch axis.
    """
    pictures = [name for name, space in spaces.items() if len(getattr(space, "shape", ())) == 3]
    own = [name for name in pictures if name in model.observations]
    return "image" if "image" in pictures else next(iter([*own, *pictures]), None)


@torch.no_grad()
def look(model: WorldModel[Any], heads: Heads, states: Any) -> list[Glimpse]:
    """What can be said about states (B, ...), a glimpse a row."""
    rows = tree.size(states)
    drawn = {} if heads.decode is None else decoded(model, heads.decode(states))
    name = shown(model, {key: value[0] for key, value in drawn.items()})
    pictures = None if name is None else rgb(drawn[name])
    columns = {
        "picture": pictures,
        "vector": _vectors(heads, states, drawn, rows),
        "embed": None if heads.embed is None else _numbers(heads.embed(states)),
        "cont": None if heads.cont is None else heads.cont(states).tolist(),
        "value": None if heads.value is None else heads.value(states).tolist(),
        "policy": None if heads.policy is None else _policy(model, heads.policy(states)),
    }
    given = {key: column for key, column in columns.items() if column is not None}
    return [Glimpse(**{key: column[i] for key, column in given.items()}) for i in range(rows)]


def decoded(model: WorldModel[Any], drawn: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """What `decode` drew as arrays in the dtypes of observations; unknown pictures are uint8."""
    found = {}
    for name, value in drawn.items():
        space = model.observations.get(name)
        dtype = space.dtype if isinstance(space, Box) else None
        if dtype is None:  # drawn, but never read: a picture of four axes is in 0..255
            dtype = "uint8" if value.dim() == 4 else "float32"
        if dtype == "uint8" and value.is_floating_point():
            value = value.round().clamp(0, 255)  # noqa: PLW2901
        found[name] = value.cpu().numpy().astype(dtype)
    return found


def spread(heads: Heads, states: Any, draws: int) -> list[float]:
    """How far several predictions of one step lie apart: 0 where nothing is left to chance.

    Args:
        heads: `embed`, `features` or `decode` is asked, the first that there is.
        states: (N * draws, ...), the draws of one step beside each other.
        draws: at least 2.

    Returns:
        N standard deviations, the root of the mean over all numbers.
    """
    head = heads.embed or heads.features
    if head is not None:
        x = head(states)
    elif heads.decode is not None:
        x = torch.cat([value.float().flatten(1) for value in heads.decode(states).values()], 1)
    else:
        return [0.0] * (tree.size(states) // draws)
    x = x.float().unflatten(0, (-1, draws)).flatten(2)
    return x.var(1).mean(-1).sqrt().tolist()


def _vectors(
    heads: Heads, states: Any, drawn: dict[str, np.ndarray], rows: int
) -> np.ndarray | None:
    """(B, D) the numbers that are drawn, else features, else the embedding."""
    flat = [value.reshape(rows, -1) for value in drawn.values() if value.ndim == 2]
    if flat:
        return np.concatenate(flat, 1)[:, :LARGEST].astype(np.float32)
    if drawn:
        return None
    head = heads.features or heads.embed
    return None if head is None else _numbers(head(states))[:, :LARGEST]


def _numbers(x: Tensor) -> np.ndarray:
    """(B, D) float32."""
    return x.float().flatten(1).cpu().numpy()


def _policy(model: WorldModel[Any], distribution: Any) -> list[tuple[float, ...]]:
    """Probabilities (B, n) or means (B, A) of a distribution over actions."""
    if isinstance(model.actions, Discrete):
        return [tuple(row) for row in distribution.probs.tolist()]
    return [tuple(row) for row in distribution.mean.flatten(1).clamp(-1, 1).tolist()]
