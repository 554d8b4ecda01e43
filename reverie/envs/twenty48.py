"""2048 on a small board: a world in which chance moves after every action. Imports core, `envs`."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from reverie.core.errors import SpaceMismatch
from reverie.core.types import Box, Discrete
from reverie.envs.toyworld import ToyWorld

FOUR = 0.1  # chance that a new tile is a 4, not a 2
_SIDES = 4  # left, right, up, down


class Twenty48(ToyWorld):
    """Tiles slide to a side, equal ones merge, then a 2 or a 4 appears in a free cell.

    A move that changes nothing is not allowed; with none left the game is over. The reward is the
    sum of the tiles that merging made.

    Observations: 'vector' (S S K,) one-hot exponents of the cells, 0 for a free one; 'legal' (4,).
    Actions: 0 left, 1 right, 2 up, 3 down.

    Args:
        num_envs: games.
        side: S.
        time_limit: moves; 1000.
        seed: of the tiles.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        side: int = 3,
        time_limit: int | None = None,
        seed: int = 0,
    ) -> None:
        self._side, self._kinds = side, side * side + 2  # no tile above 2^(S S + 1) can come up
        super().__init__(
            num_envs,
            {
                "vector": Box((side * side * self._kinds,), 0.0, 1.0),
                "legal": Box((_SIDES,), 0.0, 1.0),
            },
            Discrete(_SIDES),
            time_limit=time_limit or 1000,
            seed=seed,
        )
        self.tiles = np.zeros((num_envs, side, side), dtype=np.int64)  # exponents; 0: free

    def _begin(self, rows: np.ndarray) -> None:
        self.tiles[rows] = 0
        self._appear(rows)
        self._appear(rows)

    def _move(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        games = np.arange(self.num_envs)
        after, earned = self._slid()
        wrong = (after[action, games] == self.tiles).all((1, 2))
        if wrong.any():
            row = int(wrong.argmax())
            raise SpaceMismatch(
                f"Move {int(action[row])} was asked for in game {row}, but it changes nothing "
                "there. Choose where the observation 'legal' is 1."
            )
        self.tiles = after[action, games].copy()
        self._appear(np.ones(self.num_envs, dtype=bool))
        over = ~np.logical_or.reduce(self._legal(), 1)
        return earned[action, games].astype(np.float64), over

    def _see(self) -> dict[str, np.ndarray]:
        vector = np.eye(self._kinds, dtype=np.float32)[self.tiles].reshape(self.num_envs, -1)
        return {"vector": vector, "legal": self._legal().astype(np.float32)}

    def _legal(self) -> np.ndarray:
        """(N, 4) bool: sides to which something moves."""
        changed = self._slid()[0] != self.tiles
        return np.logical_or.reduce(changed, (2, 3)).T

    def _slid(self) -> tuple[np.ndarray, np.ndarray]:
        """(4, N, S, S) boards after each move, before anything appears, and (4, N) rewards."""
        row, earned = slides(self._side, self._kinds)
        upright = self.tiles.swapaxes(1, 2)
        lines = np.stack([self.tiles, self.tiles[..., ::-1], upright, upright[..., ::-1]])
        code = lines @ (self._kinds ** np.arange(self._side))  # (4, N, S)
        left, right, up, down = row[code]
        boards = [left, right[..., ::-1], up.swapaxes(1, 2), down[..., ::-1].swapaxes(1, 2)]
        return np.stack(boards), earned[code].sum(-1)

    def _appear(self, rows: np.ndarray) -> None:
        """A tile in a free cell of some rows."""
        shape = (self.num_envs, self._side**2)
        places = np.where(self.tiles.reshape(shape) == 0, self._random.random(shape), -1.0)
        kind = 1 + (self._random.random(self.num_envs) < FOUR)
        flat = self.tiles.reshape(shape)
        flat[rows, places.argmax(1)[rows]] = kind[rows]


@lru_cache(maxsize=4)
def slides(side: int, kinds: int) -> tuple[np.ndarray, np.ndarray]:
    """What becomes of every line that slides left: (K^S, S) exponents and (K^S,) rewards.

    A line's number is the sum of its exponents times K^place. A tile that was merged does not
    merge again in the same move.
    """
    lines = np.array(np.unravel_index(np.arange(kinds**side), (kinds,) * side)[::-1]).T
    after, earned = np.zeros_like(lines), np.zeros(len(lines), dtype=np.int64)
    for number, line in enumerate(lines):
        place, whole = 0, True  # where the next tile goes; whether the one before may not merge
        for tile in line[line > 0]:
            if not whole and after[number, place - 1] == tile:
                after[number, place - 1] = tile + 1
                earned[number] += 2 ** (tile + 1)
                whole = True
            else:
                after[number, place] = tile
                place, whole = place + 1, False
    return np.minimum(after, kinds - 1), earned
