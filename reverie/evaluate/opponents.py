"""Who a board player is measured against: any legal move, one move ahead, and perfect play.

They read the observations 'vector' and 'legal' of `envs/boards.py` alone, so they are agents as
others are; the carry is None. Imports core and envs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.core.types import Act
from reverie.envs.boards import lines


class Legal:
    """Any move that is allowed, all alike."""

    def initial(self, batch: int) -> None:
        """There is nothing to remember.

        Args:
            batch: games B.
        """
        del batch

    def act(
        self,
        carry: None,
        obs: dict[str, Tensor],
        first: Tensor,
        *,
        explore: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[None, Act]:
        """See `Agent.act`."""
        del carry, first, explore
        return None, any_of(self.moves(obs), generator)

    def moves(self, obs: dict[str, Tensor]) -> Tensor:
        """(B, A) bool: the moves that it chooses among."""
        return obs["legal"] > 0.5


class OneAhead:
    """Wins if one move does it, else stops a win that the other's next move would be; else any.

    Args:
        rows: of the board.
        columns: of the board.
        connect: stones that win.
        falling: whether stones fall.
        blocks: whether it looks at the other's next move as well.
    """

    def __init__(
        self, rows: int, columns: int, connect: int, *, falling: bool, blocks: bool = True
    ) -> None:
        self._shape, self._falling, self._blocks = (rows, columns), falling, blocks
        self._lines = lines(rows, columns, connect)

    def initial(self, batch: int) -> None:
        """There is nothing to remember.

        Args:
            batch: games B.
        """
        del batch

    def act(
        self,
        carry: None,
        obs: dict[str, Tensor],
        first: Tensor,
        *,
        explore: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[None, Act]:
        """See `Agent.act`."""
        del carry, first, explore
        legal = obs["legal"].numpy() > 0.5
        stones = obs["vector"].numpy().reshape(len(legal), 2, -1) > 0.5
        after = self._landing(np.logical_or(stones[:, 0], stones[:, 1]), legal.shape[1])
        wins = self._wins(stones[:, 0], after) & legal
        stops = self._wins(stones[:, 1], after) & legal & self._blocks
        chosen = np.where(stops.any(1, keepdims=True), stops, legal)
        chosen = np.where(wins.any(1, keepdims=True), wins, chosen)
        return None, any_of(torch.from_numpy(chosen), generator)

    def _landing(self, taken: np.ndarray, moves: int) -> np.ndarray:
        """(B, A, cells) bool: where the stone of each move comes to lie."""
        cells, columns = taken.shape[1], self._shape[1]
        cell = np.broadcast_to(np.arange(moves), (len(taken), moves))
        if self._falling:
            depth = (~taken).reshape(-1, *self._shape).sum(1) - 1
            cell = np.maximum(depth, 0) * columns + cell
        return cell[..., None] == np.arange(cells)

    def _wins(self, stones: np.ndarray, landing: np.ndarray) -> np.ndarray:
        """(B, A) bool: the move makes a line of whoever has these stones."""
        after = stones[:, None] | landing
        return np.logical_or.reduce(np.logical_and.reduce(after[..., self._lines], -1), -1)


class Perfect:
    """Tic-tac-toe as minimax plays it: any of the moves that lead to the best end, all alike."""

    def initial(self, batch: int) -> None:
        """There is nothing to remember.

        Args:
            batch: games B.
        """
        del batch

    def act(
        self,
        carry: None,
        obs: dict[str, Tensor],
        first: Tensor,
        *,
        explore: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[None, Act]:
        """See `Agent.act`."""
        del carry, first, explore
        stones = obs["vector"].numpy().reshape(-1, 2, 9) > 0.5
        code = (stones * np.array([[1], [2]])).sum(1) @ 3 ** np.arange(9)
        best = minimax()[1][code]
        return None, any_of(torch.from_numpy(best), generator)


@lru_cache(maxsize=1)
def minimax() -> tuple[dict[tuple[int, ...], int], np.ndarray]:
    """The value of every tic-tac-toe position that can come up, and the best moves everywhere.

    Returns:
        board (9 of 0 free, 1 the mover's, 2 the other's) -> 1, 0 or -1 for the mover; and
        (3^9, 9) bool, by the board as a number in base 3; all True where the game is over.
    """
    values: dict[tuple[int, ...], int] = {}
    best = np.ones((3**9, 9), dtype=bool)
    winning = lines(3, 3, 3).tolist()

    def value(board: tuple[int, ...]) -> int:
        if board not in values:
            values[board] = judged(board)
        return values[board]

    def judged(board: tuple[int, ...]) -> int:
        if any(all(board[cell] == 2 for cell in line) for line in winning):
            return -1
        free = [cell for cell in range(9) if board[cell] == 0]
        if not free:
            return 0
        ends = {cell: -value(_turned(board, cell)) for cell in free}
        top = max(ends.values())
        number = sum(stone * 3**cell for cell, stone in enumerate(board))
        best[number] = [ends.get(cell) == top for cell in range(9)]
        return top

    value((0,) * 9)
    return values, best


def _turned(board: tuple[int, ...], cell: int) -> tuple[int, ...]:
    """The board after a move, as the other player has it."""
    after = (*board[:cell], 1, *board[cell + 1 :])
    return tuple((0, 2, 1)[stone] for stone in after)


def any_of(moves: Tensor, generator: torch.Generator | None) -> Act:
    """One of the moves (B, A) bool that are True, each alike."""
    luck = torch.rand(moves.shape, generator=generator)
    return Act(torch.where(moves, luck, -1.0).argmax(1), {})


def opponents(name: str) -> dict[str, Any]:
    """Who there is to play against in a game of `envs.boards`, the weakest first.

    Args:
        name: "tic_tac_toe" or "connect_four".
    """
    shape = {"tic_tac_toe": (3, 3, 3), "connect_four": (6, 7, 4)}[name]
    falling = name == "connect_four"
    found: dict[str, Any] = {
        "random": Legal(),
        "takes wins": OneAhead(*shape, falling=falling, blocks=False),
        "one ahead": OneAhead(*shape, falling=falling),
    }
    return found if falling else {**found, "perfect": Perfect()}
