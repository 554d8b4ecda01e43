"""The world's own range of each action element, which -1 and 1 stand for in a store.

Imports core only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from reverie.core.errors import BadData


@dataclass(frozen=True)
class Bounds:
    """What maps actions between the world's units and [-1, 1], element by element.

    Attributes:
        low: (A,) what -1 stands for, in the world's units.
        high: (A,) what 1 stands for; above low.

    Raises:
        BadData: if the two are not finite, equally long and in order.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check that every element has a width."""
        low, high = np.asarray(self.low, float), np.asarray(self.high, float)
        fits = low.shape == high.shape and low.ndim == 1 and low.size > 0
        if not fits or not np.isfinite([low, high]).all() or not (low < high).all():
            raise BadData(
                f"The range of an action needs low < high for each element, but it is "
                f"{self.low} to {self.high}. Give finite numbers in order."
            )

    @classmethod
    def of(cls, low: Any, high: Any) -> Bounds | None:
        """Bounds from arrays; None where they are [-1, 1] already and nothing is to be mapped."""
        low, high = np.asarray(low, np.float64).ravel(), np.asarray(high, np.float64).ravel()
        if (low == -1).all() and (high == 1).all():
            return None
        return cls(tuple(low.tolist()), tuple(high.tolist()))

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Bounds | None:
        """What `to_json` wrote."""
        if value is None:
            return None
        return cls(tuple(map(float, value["low"])), tuple(map(float, value["high"])))

    def to_json(self) -> dict[str, list[float]]:
        """A JSON value."""
        return {"low": list(self.low), "high": list(self.high)}

    def from_world(self, action: np.ndarray) -> np.ndarray:
        """(..., A) in the world's units to float32 in [-1, 1]."""
        low, high = np.asarray(self.low), np.asarray(self.high)
        return ((action - low) / (high - low) * 2 - 1).astype(np.float32)

    def to_world(self, action: np.ndarray) -> np.ndarray:
        """(..., A) in [-1, 1] to float32 in the world's units."""
        low, high = np.asarray(self.low), np.asarray(self.high)
        return ((action.astype(np.float64) + 1) / 2 * (high - low) + low).astype(np.float32)
