"""A choice before and after a coin: where chance must not be taken for one's own doing.

Imports core and `envs`.
"""

from __future__ import annotations

import numpy as np

from reverie.core.types import Box, Discrete
from reverie.envs.toyworld import ToyWorld

SAFE = 2.5  # of declining
PRIZE, COST = 4.0, 1.0  # of claiming; a coin that is played right is worth half the prize


class Coin(ToyWorld):
    """Take the safe 2.5, or toss a coin, look at it, and claim or fold.

    Claiming earns 4 on heads and costs 1 on tails; folding earns 0. Who plays right claims on
    heads and folds on tails, so a toss is worth 2, and the best is to decline. A model without
    chance sees that claims are nearly always followed by the prize, as hardly anybody claims on
    tails; it takes the prize for the claim's doing, and tosses.

    Observations: 'vector' (3,): whether it is to be chosen, heads, tails. Actions: 0 declines or
    folds, 1 tosses or claims.

    Args:
        num_envs: rows.
        time_limit: decisions; None: 2.
        seed: of the coins.
    """

    def __init__(self, num_envs: int = 1, *, time_limit: int | None = None, seed: int = 0) -> None:
        super().__init__(
            num_envs,
            {"vector": Box((3,), 0.0, 1.0)},
            Discrete(2),
            time_limit=time_limit or 2,
            seed=seed,
        )
        self._face = np.zeros(num_envs, dtype=np.int64)  # 0 no coin, 1 heads, 2 tails

    def _begin(self, rows: np.ndarray) -> None:
        self._face[rows] = 0

    def _move(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        choosing, yes = self._face == 0, action == 1
        claimed = np.where(yes, np.where(self._face == 1, PRIZE, -COST), 0.0)
        reward = np.where(choosing, np.where(yes, 0.0, SAFE), claimed)
        tossed = choosing & yes
        coin = 1 + (self._random.random(self.num_envs) < 0.5)
        self._face = np.where(tossed, coin, 0)
        return reward, ~tossed

    def _see(self) -> dict[str, np.ndarray]:
        return {"vector": np.eye(3, dtype=np.float32)[self._face]}
