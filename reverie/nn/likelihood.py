"""What a head's raw outputs mean: a loss against targets, and a mean in the target's units.

`UnitGaussian` (PlaNet, Dreamer 1 and 2), `FreeGaussian` (a standard deviation is learned too),
`SymlogError` and `TwoHot` (DreamerV3), `SymlogTwoHot` (TD-MPC2). `Head` is an MLP that ends in
one. Imports nn only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from reverie.nn.layers import Style, dense, mlp
from reverie.nn.symlog import symexp, symlog

LEAST_LOG_STD = -5.0  # of `FreeGaussian`: a density must not run away
_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class Likelihood(Protocol):
    """How raw numbers speak about a target of D numbers."""

    def width(self, size: int) -> int:
        """How many raw numbers D = size targets take."""
        ...

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        """(...,) summed over D: raw (..., W), target (..., D) in its own units."""
        ...

    def mean(self, raw: Tensor) -> Tensor:
        """(..., D) in the target's units, of raw (..., W)."""
        ...


@dataclass(frozen=True)
class UnitGaussian:
    """Variance 1: half the squared error, without the constant."""

    def width(self, size: int) -> int:
        """D."""
        return size

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        """See `Likelihood`."""
        return 0.5 * (raw.float() - target).square().sum(-1)

    def mean(self, raw: Tensor) -> Tensor:
        """See `Likelihood`."""
        return raw.float()


@dataclass(frozen=True)
class FreeGaussian:
    """Mean and standard deviation of each number are learned; the loss is the exact NLL, nats."""

    def width(self, size: int) -> int:
        """2 D."""
        return 2 * size

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        """See `Likelihood`."""
        mean, log_std = raw.float().chunk(2, -1)
        log_std = log_std.clamp(min=LEAST_LOG_STD)
        scaled = (target - mean) * (-log_std).exp()
        return (0.5 * scaled.square() + log_std + _HALF_LOG_TAU).sum(-1)

    def mean(self, raw: Tensor) -> Tensor:
        """See `Likelihood`."""
        return raw.float().chunk(2, -1)[0]


@dataclass(frozen=True)
class SymlogError:
    """Squared error, without the half, on the symlog scale."""

    def width(self, size: int) -> int:
        """D."""
        return size

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        """See `Likelihood`."""
        return (raw.float() - symlog(target)).square().sum(-1)

    def mean(self, raw: Tensor) -> Tensor:
        """See `Likelihood`."""
        return symexp(raw.float())


class TwoHot:
    """One number as weights on two neighbouring bins, which are spaced exponentially.

    Bins and interpolation are in the target's own units. The mean pairs bins of equal size and
    opposite sign, so that equal weights give exactly 0. Always float32: bins reach 4.9e8.

    Args:
        bins: an odd number, so that 0 is one of them.
        limit: symlog of the largest.

    Source: Hafner et al. 2023, eq. 8-10.
    """

    def __init__(self, bins: int = 255, limit: float = 20.0) -> None:
        self.half = bins // 2
        negative = symexp(torch.linspace(-limit, 0, self.half + 1, dtype=torch.float64)).float()
        self.bins = torch.cat([negative, -negative[:-1].flip(0)])  # (bins,)

    def width(self, size: int) -> int:
        """The number of bins; size must be 1."""
        return size * len(self.bins)

    def encode(self, target: Tensor) -> Tensor:
        """(..., bins) weights of targets (...,); beyond the last bin they stay in it."""
        index, share = self._between(target)
        weights = target.new_zeros(*target.shape, len(self.bins))
        weights.scatter_(-1, index, 1 - share)
        return weights.scatter_(-1, index + 1, share)

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy (...,) of raw (..., bins) against targets (..., 1)."""
        index, share = self._between(target[..., 0])
        said = raw.float().log_softmax(-1).gather(-1, torch.cat([index, index + 1], -1))
        return -torch.lerp(said[..., :1], said[..., 1:], share)[..., 0]

    def _between(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """The bin below targets (...,) and how far the next one is on, (..., 1) each."""
        bins = self.bins.to(target.device)
        target = target.float().clamp(bins[0], bins[-1]).unsqueeze(-1).contiguous()
        index = (torch.searchsorted(bins, target, right=True) - 1).clamp(0, len(bins) - 2)
        low, high = bins[index], bins[index + 1]
        return index, (target - low) / (high - low)

    def mean(self, raw: Tensor) -> Tensor:
        """(..., 1) expected value of raw (..., bins)."""
        weights = raw.float().softmax(-1)
        positive = weights[..., self.half + 1 :]
        negative = weights[..., : self.half].flip(-1)
        bins = self.bins[self.half + 1 :].to(raw.device)
        return ((positive - negative) * bins).sum(-1, keepdim=True)


class SymlogTwoHot:
    """One number as weights on two neighbouring bins, which are spaced evenly on the symlog scale.

    Unlike `TwoHot`, interpolation and mean are on that scale, so the mean of a spread belief lies
    below that in the target's units. Numbers beyond the last bin stay in it; the loss of a number
    that is not finite is NaN.

    Args:
        bins: an odd number, so that 0 is one of them.
        limit: symlog of the largest.

    Source: Hansen et al. 2024, section 3.1; reference code.
    """

    def __init__(self, bins: int = 101, limit: float = 10.0) -> None:
        self.limit, self.step = limit, 2 * limit / (bins - 1)
        self.bins = torch.linspace(-limit, limit, bins)  # (bins,)

    def width(self, size: int) -> int:
        """The number of bins; size must be 1."""
        return size * len(self.bins)

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy (...,) of raw (..., bins) against targets (..., 1)."""
        target = target.float()
        place = (symlog(target).clamp(-self.limit, self.limit) + self.limit) / self.step
        low = place.floor().clamp(max=len(self.bins) - 2)
        index = torch.cat([low, low + 1], -1).nan_to_num().long()
        said = raw.float().log_softmax(-1).gather(-1, index)
        share = place - low + 0 * target  # NaN where the target is not finite
        return -torch.lerp(said[..., :1], said[..., 1:], share)[..., 0]

    def mean(self, raw: Tensor) -> Tensor:
        """(..., 1) in the target's units, of raw (..., bins)."""
        weights, half = raw.float().softmax(-1), len(self.bins) // 2
        pairs = weights[..., half + 1 :] - weights[..., :half].flip(-1)  # equal weights give 0
        return symexp(pairs @ self.bins[half + 1 :].to(raw.device).unsqueeze(-1))


class Head(nn.Module):
    """An MLP that says numbers about features.

    Args:
        inputs: width of the features.
        layers: hidden ones.
        units: of each.
        style: of each.
        likelihood: what its raw outputs mean.
        size: D, numbers that it says.
        scale: of the last layer's first weights; 0: it says the same of everything at first.
    """

    def __init__(
        self,
        inputs: int,
        layers: int,
        units: int,
        style: Style,
        likelihood: Likelihood,
        *,
        size: int = 1,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.hidden = mlp(inputs, layers, units, style)
        self.out = dense(units if layers else inputs, likelihood.width(size), scale=scale)

    def forward(self, features: Tensor) -> Tensor:
        """Raw outputs (..., W) of features (..., F)."""
        return self.out(self.hidden(features))

    def loss(self, features: Tensor, target: Tensor) -> Tensor:
        """(...,) against targets (..., D)."""
        return self.likelihood.loss(self(features), target)

    def mean(self, features: Tensor) -> Tensor:
        """(..., D) in the target's units."""
        return self.likelihood.mean(self(features))
