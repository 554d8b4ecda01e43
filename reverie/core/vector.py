"""What every vectorised world of ours shares: its spaces, its reset mask, its seed.

A world is a `gymnasium.vector.VectorEnv` with autoreset disabled: a row whose episode is over is
begun again by ``reset(options={"reset_mask": mask})``, so no last frame is lost or shifted.
Imports core only (and gymnasium).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from reverie.core.errors import ShapeMismatch
from reverie.core.types import Box, Space


def gymnasium_space(space: Space) -> gymnasium.Space[Any]:
    """The same space in Gymnasium's words (one row, without the batch axis)."""
    if isinstance(space, Box):
        dtype = np.dtype(space.dtype)
        return gymnasium.spaces.Box(space.low, space.high, space.shape, dtype.type)
    return gymnasium.spaces.Discrete(space.n)


def reset_rows(options: Mapping[str, Any] | None, num_envs: int) -> np.ndarray:
    """The rows that a reset begins again, all of them if no mask is given.

    Args:
        options: of `VectorEnv.reset`; "reset_mask" is (num_envs,) bool.
        num_envs: rows.

    Returns:
        (num_envs,) bool.

    Raises:
        ShapeMismatch: if the mask is not an array of num_envs bools.
    """
    if options is None or "reset_mask" not in options:
        return np.ones(num_envs, dtype=bool)
    mask = np.asarray(options["reset_mask"])
    if mask.shape != (num_envs,) or mask.dtype != np.bool_:
        raise ShapeMismatch(
            f"reset_mask must have shape ({num_envs},) and dtype bool, but it has {mask.shape} "
            f"and {mask.dtype}. Give one bool for each of the {num_envs} environments."
        )
    return mask


def refuse_finished(over: np.ndarray) -> None:
    """Refuse to step rows whose episode is over.

    Args:
        over: (num_envs,) bool.

    Raises:
        gymnasium.error.ResetNeeded: naming the rows.
    """
    if over.any():
        rows = np.flatnonzero(over)[:8].tolist()
        raise gymnasium.error.ResetNeeded(
            f"step was asked of all rows, but the episodes of rows {rows} are over or not begun. "
            "Begin them with reset(options={'reset_mask': mask}) first."
        )


def stream_seed(seed: int | Sequence[int | None] | None) -> int | None:
    """One seed for the one random stream that all rows share; None: the stream goes on.

    Args:
        seed: as `VectorEnv.reset` takes it; of a sequence all numbers count together.
    """
    if seed is None or isinstance(seed, int):
        return seed
    numbers = [int(number) for number in seed if number is not None]
    return int(np.random.SeedSequence(numbers).generate_state(1)[0]) if numbers else None
