"""Mean, spread and range of columns that pass by once. Imports nothing of ours."""

from __future__ import annotations

import numpy as np


class Moments:
    """Running statistics of rows, element by element.

    Attributes:
        count: rows seen.
        mean: (...) of a row's shape, float64.
        low: (...) smallest.
        high: (...) largest.

    Source: Chan et al. 1983, "Algorithms for computing the sample variance", eq. 2.1 (pairwise
    update), so that large counts lose nothing.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = self._squares = np.zeros(())
        self.low, self.high = np.array(np.inf), np.array(-np.inf)

    def add(self, rows: np.ndarray) -> None:
        """Take in (n, ...) more rows."""
        if not len(rows):
            return
        rows = rows.astype(np.float64)
        n, mean = len(rows), rows.mean(0)
        squares = ((rows - mean) ** 2).sum(0)
        total = self.count + n
        shift = mean - self.mean
        self._squares = self._squares + squares + shift**2 * self.count * n / total
        self.mean = self.mean + shift * n / total
        self.low = np.minimum(self.low, rows.min(0))
        self.high = np.maximum(self.high, rows.max(0))
        self.count = total

    @property
    def std(self) -> np.ndarray:
        """(...) standard deviation of all rows (not of a sample)."""
        return np.sqrt(self._squares / max(1, self.count))
