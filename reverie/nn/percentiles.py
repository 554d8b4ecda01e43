"""How large returns are, as a running range. Imports torch only."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Percentiles(nn.Module):
    """A running range of returns, from their 5th to their 95th percentile.

    Args:
        rate: of the moving average of both ends; they begin at 0.

    Source: Hafner et al. 2023, eq. 11.
    """

    ends: Tensor  # (2,) of the range

    def __init__(self, rate: float = 0.01) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("ends", torch.zeros(2))
        self.register_buffer("_levels", torch.tensor([0.05, 0.95]), persistent=False)

    @torch.no_grad()
    def forward(self, returns: Tensor) -> Tensor:
        """Take in returns, and give the range: (), at least 1."""
        now = torch.quantile(returns.detach().float().flatten(), self._levels)  # type: ignore
        self.ends.lerp_(now, self.rate)
        return (self.ends[1] - self.ends[0]).clamp(min=1.0)
