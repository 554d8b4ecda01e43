"""Numbers brought to mean 0 and deviation 1 by what was seen so far. Imports torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_STILL = 1e-6  # a number that deviates by less never varies


class Scale(nn.Module):
    """Mean and deviation of all rows so far, in double precision; what never varies has 1.

    Args:
        width: W, numbers of a row.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(width, dtype=torch.float64))

    @torch.no_grad()
    def add(self, rows: Tensor, weight: Tensor) -> None:
        """Take in rows (N, W), each so many times (N,)."""
        rows, weight = rows.double(), weight.double()[:, None]
        n, total = weight.sum(), (self.count + weight.sum()).clamp(min=1e-12)
        mean = (weight * rows).sum(0) / n.clamp(min=1e-12)
        shift = mean - self.mean
        self.squares += (weight * (rows - mean).square()).sum(0)
        self.squares += shift.square() * self.count * n / total
        self.mean += shift * n / total
        self.count += n

    def forget(self) -> None:
        """Begin anew."""
        for buffer in self.buffers():
            buffer.zero_()

    @property
    def std(self) -> Tensor:
        """(W,) float32."""
        std = (self.squares / self.count.clamp(min=1)).sqrt()
        return torch.where(std < _STILL, 1.0, std).float()

    def scaled(self, rows: Tensor) -> Tensor:
        """Rows (..., W) with mean 0 and deviation 1."""
        return (rows - self.mean.float()) / self.std

    def back(self, rows: Tensor) -> Tensor:
        """The inverse of `scaled`."""
        return rows * self.std + self.mean.float()
