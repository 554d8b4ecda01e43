"""Draw what was just collected once, before anything is drawn at random. Imports core only."""

from __future__ import annotations

from typing import Any

import numpy as np

from reverie.core.errors import BadCheckpoint
from reverie.data.strategy import Draw


class Fresh:
    """Every new stretch of data is in some batch soon; the rest of each batch is uniform.

    New segments wait in a queue that does not overlap: every `length`-th one. So each step is
    learned from at least once, and losses show at once how surprising the newest data is.

    Args:
        length: T, transitions of a segment.

    Source: Hafner et al. 2025, "online queue".
    """

    def __init__(self, length: int) -> None:
        self._stride = length + 1
        self._next = 0  # the segment that was never drawn and comes first

    def draw(self, rng: np.random.Generator, count: int, n: int) -> Draw:
        """Draw n of count segments: those that wait, then any."""
        waiting = np.arange(self._next, count, self._stride)[:n]
        if len(waiting):
            self._next = int(waiting[-1]) + self._stride
        anywhere = rng.integers(count, size=n - len(waiting))
        return Draw(np.concatenate([waiting, anywhere]), np.ones(n, np.float32))

    def state_dict(self) -> dict[str, Any]:
        """Where the queue stands."""
        return {"next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            BadCheckpoint: if it is another strategy's.
        """
        if set(state) != {"next"}:
            raise BadCheckpoint(
                f"A queue of fresh data was asked for, but the checkpoint's strategy has "
                f"{sorted(state)}. Resume with the strategy that the run began with."
            )
        self._next = state["next"]
