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
    total: Tensor
    squares: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("total", torch.zeros(width, dtype=torch.float64))  # of the rows
        self.register_buffer("squares", torch.zeros(width, dtype=torch.float64))  # around the mean
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    @torch.no_grad()
    def add(self, rows: Tensor, weight: Tensor) -> None:
        """Take in rows (N, W), each so many times (N,).

        Source: Chan et al. 1983, eq. 2.1.
        """
        rows, weight = rows.double(), weight.double()[:, None]
        n, sums = weight.sum(), (weight * rows).sum(0)
        shift = sums / n.clamp(min=1) - self.total / self.count.clamp(min=1)
        both = (self.count + n).clamp(min=1)
        self.squares += (weight * (rows - sums / n.clamp(min=1)).square()).sum(0)
        self.squares += shift.square() * self.count * n / both
        self.count += n
        self.total += sums
        self.mean.copy_(self.total / both)
        std = (self.squares / both).sqrt()
        self.std.copy_(torch.where(std < _STILL, 1.0, std))

    @torch.no_grad()
    def forget(self) -> None:
        """Begin anew."""
        for buffer in self.buffers():
            buffer.zero_()
        self.std.fill_(1)

    def scaled(self, rows: Tensor) -> Tensor:
        """Rows (..., W) with mean 0 and deviation 1."""
        return (rows - self.mean) / self.std

    def back(self, rows: Tensor) -> Tensor:
        """The inverse of `scaled`."""
        return rows * self.std + self.mean
