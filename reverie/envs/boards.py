"""Games for one and two players, vectorised numpy: board/tic_tac_toe and their kin.

Two players share a world and take turns in it: what is seen is the board as whoever is to move has
it, and a reward is of whoever moved. 'legal' says which moves are allowed; another is an error.
`BOARDS` is the table, `board` what `envs.make` calls. Imports core and `envs`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from reverie.core import registry
from reverie.core.errors import SpaceMismatch
from reverie.core.types import Box, Discrete
from reverie.envs.coin import Coin
from reverie.envs.toyworld import ToyWorld
from reverie.envs.twenty48 import Twenty48


class InARow(ToyWorld):
    """Who first has so many stones in a row wins: 1 for the move that does it, else 0.

    Observations: 'vector' (2 R C,), 1 where the mover has a stone, then 1 where the other has
    one, both row by row from the top; 'legal' (A,), all 0 once the game is over.

    Args:
        num_envs: games.
        rows: R.
        columns: C.
        connect: stones that win.
        falling: whether a move names a column and its stone falls; else a move names a cell.
        time_limit: moves; None: until the board is full.
        seed: ignored: nothing is drawn.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        rows: int,
        columns: int,
        connect: int,
        falling: bool,
        time_limit: int | None = None,
        seed: int = 0,
    ) -> None:
        cells = rows * columns
        moves = columns if falling else cells
        super().__init__(
            num_envs,
            {"vector": Box((2 * cells,), 0.0, 1.0), "legal": Box((moves,), 0.0, 1.0)},
            Discrete(moves),
            time_limit=time_limit or cells,
            seed=seed,
        )
        self.rows, self.columns, self.falling = rows, columns, falling
        self.lines = lines(rows, columns, connect)
        self._stones = np.zeros((num_envs, 2, cells), dtype=bool)  # of who is to move; the other's

    def _begin(self, rows: np.ndarray) -> None:
        self._stones[rows] = False

    def _move(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        free = self._free()
        games = np.arange(self.num_envs)
        wrong = ~self._legal(free)[games, action]
        if wrong.any():
            row = int(wrong.argmax())
            raise SpaceMismatch(
                f"Move {int(action[row])} was asked for in game {row}, but it is not allowed "
                f"there: the allowed ones are {np.flatnonzero(self._legal(free)[row]).tolist()}. "
                "Choose where the observation 'legal' is 1."
            )
        cell = action
        if self.falling:
            depth = free.reshape(-1, self.rows, self.columns).sum(1)[games, action] - 1
            cell = depth * self.columns + action
        self._stones[games, 0, cell] = True
        in_line = np.logical_and.reduce(self._stones[:, 0][:, self.lines], 2)
        won = np.logical_or.reduce(in_line, 1)
        full = np.logical_and.reduce(~self._free(), 1)
        self._stones = self._stones[:, ::-1].copy()
        return won.astype(np.float64), np.logical_or(won, full)

    def _see(self) -> dict[str, np.ndarray]:
        legal = self._legal(self._free()) & ~self._over[:, None]
        vector = self._stones.reshape(self.num_envs, -1)
        return {"vector": vector.astype(np.float32), "legal": legal.astype(np.float32)}

    def _free(self) -> np.ndarray:
        """(N, R C) bool: no stone."""
        return ~np.logical_or(self._stones[:, 0], self._stones[:, 1])

    def _legal(self, free: np.ndarray) -> np.ndarray:
        """(N, A) bool."""
        return free[:, : self.columns] if self.falling else free


def lines(rows: int, columns: int, connect: int) -> np.ndarray:
    """(L, connect) cells of every line of so many, across, down and both ways aslant."""
    found = []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        for row in range(rows):
            for column in range(columns):
                end_row = row + (connect - 1) * down
                end_column = column + (connect - 1) * right
                if end_row < rows and 0 <= end_column < columns:
                    steps = np.arange(connect)
                    found.append((row + steps * down) * columns + column + steps * right)
    return np.stack(found)


def symmetries(rows: int, columns: int, *, falling: bool) -> np.ndarray:
    """(G, R C) boards that are the same game: new cell i is the old cell [g, i].

    The 8 turns and mirrors of a square; where stones fall, or of another rectangle, the board and
    its mirror. The first one is the board itself.
    """
    board = np.arange(rows * columns).reshape(rows, columns)
    turns = 1 if falling or rows != columns else 4
    turned = [np.rot90(board, k) for k in range(turns)]
    return np.stack([b.ravel() for one in turned for b in (one, one[:, ::-1])])


def tic_tac_toe(num_envs: int = 1, **options: Any) -> InARow:
    """3 in a row on 3 x 3."""
    return InARow(num_envs, rows=3, columns=3, connect=3, falling=False, **options)


def connect_four(num_envs: int = 1, **options: Any) -> InARow:
    """4 in a row on 6 x 7; stones fall."""
    return InARow(num_envs, rows=6, columns=7, connect=4, falling=True, **options)


BOARDS: dict[str, Callable[..., VectorEnv]] = {  # (num_envs, *, time_limit, seed)
    "tic_tac_toe": tic_tac_toe,
    "connect_four": connect_four,
    "twenty48": Twenty48,
    "coin": Coin,
}


def board(name: str, **options: Any) -> VectorEnv:
    """The world board/NAME.

    Args:
        name: of `BOARDS`.
        **options: num_envs, time_limit, seed.

    Raises:
        UnknownName: if there is no such game.
    """
    if name not in BOARDS:
        raise registry.unknown("environment", f"board/{name}", [f"board/{n}" for n in BOARDS])
    return BOARDS[name](**options)
