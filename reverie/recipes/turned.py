"""Boards that are the same game, seen another way: what a learner of board games may draw from.

Imports core, envs and models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.core.types import Batch
from reverie.envs.boards import symmetries
from reverie.models.muzero_nets import LEGAL


@dataclass(frozen=True)
class Turned:
    """Boards that are the same game: each segment is turned or mirrored by one of them.

    Attributes:
        cells: (G, cells): new cell i is the old cell [g, i]; see `envs.boards.symmetries`.
        moves: (G, A): the same of moves.
    """

    cells: Tensor
    moves: Tensor

    def __call__(self, batch: Batch) -> Batch:
        """The batch, each row seen another way; drawn from torch's default generator."""
        which = torch.randint(len(self.cells), (len(batch.mask),))
        cells, moves = self.cells[which], self.moves[which]  # (B, cells), (B, A)
        planes = batch.obs["vector"].unflatten(-1, (-1, cells.shape[1]))  # (B, T+1, 2, cells)
        obs = {
            "vector": _picked(planes, cells).flatten(2),
            LEGAL: _picked(batch.obs[LEGAL], moves),
        }
        assert batch.action is not None  # noqa: S101
        action = moves.argsort(1).gather(1, batch.action)
        policy = {n: _picked(x, moves) for n, x in batch.extra.items() if n == "search_policy"}
        return batch._replace(obs=obs, action=action, extra={**batch.extra, **policy})


def _picked(x: Tensor, order: Tensor) -> Tensor:
    """(B, ..., N) with the last axis in another order (B, N) for each row."""
    index = order.view(len(order), *(1,) * (x.dim() - 2), order.shape[1])
    return x.gather(-1, index.expand_as(x))


def turned(name: str) -> Turned | None:
    """The symmetries of a board game of `envs.boards`; None for any other world.

    Args:
        name: as `envs.make` takes it.
    """
    known = {"board/tic_tac_toe": (3, 3, False), "board/connect_four": (6, 7, True)}
    if name not in known:
        return None
    rows, columns, falling = known[name]
    cells = torch.from_numpy(symmetries(rows, columns, falling=falling))
    return Turned(cells, cells[:, :columns] if falling else cells)
