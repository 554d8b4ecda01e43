"""Stochastic latents: what raw outputs mean, how one is drawn, how far two are apart.

`Gaussian` and `Categorical` are interchangeable. The randomness itself is drawn apart, by
`noise`, so that a whole sequence's can be drawn at once. Imports torch only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Latent(Protocol):
    """A family of distributions over a vector z."""

    @property
    def size(self) -> int:
        """Z: width of z as networks read it."""
        ...

    @property
    def width(self) -> int:
        """W: raw numbers that say one distribution."""
        ...

    def noise(self, lead: tuple[int, ...], generator: torch.Generator | None, like: Tensor) -> Any:
        """The randomness (*lead, ...) behind draws, on like's device."""
        ...

    def draw(self, raw: Tensor, noise: Tensor) -> Tensor:
        """(..., Z) of raw (..., W); gradients flow to raw."""
        ...

    def kl(self, raw: Tensor, other: Tensor) -> Tensor:
        """KL(raw || other) (...,), nats, summed over z."""
        ...


@dataclass(frozen=True)
class Gaussian:
    """Diagonal, with a standard deviation of softplus + a floor."""

    size: int = 30
    least_std: float = 0.1

    @property
    def width(self) -> int:
        """Mean and raw standard deviation."""
        return 2 * self.size

    def noise(
        self, lead: tuple[int, ...], generator: torch.Generator | None, like: Tensor
    ) -> Tensor:
        """Standard normal."""
        return torch.randn((*lead, self.size), generator=generator, device=like.device)

    def draw(self, raw: Tensor, noise: Tensor) -> Tensor:
        """See `Latent`."""
        mean, std = self._both(raw)
        return mean + std * noise

    def kl(self, raw: Tensor, other: Tensor) -> Tensor:
        """See `Latent`."""
        (mean, std), (mean0, std0) = self._both(raw), self._both(other)
        ratio, shift = std / std0, (mean - mean0) / std0
        return (0.5 * (ratio.square() + shift.square() - 1) - ratio.log()).sum(-1)

    def _both(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = raw.float().chunk(2, -1)
        return mean, F.softplus(std) + self.least_std


@dataclass(frozen=True)
class Categorical:
    """Groups of one-hot classes with straight-through gradients.

    z and raw numbers are (classes, groups), flattened: reductions over classes then run over
    whole rows, which a CPU does many times faster than over a last axis of 4 or 8.

    Source: Hafner et al. 2021, algorithm 1; Hafner et al. 2023, "unimix".
    """

    groups: int = 32
    classes: int = 32
    unimix: float = 0.01  # share of the uniform distribution in each

    @property
    def size(self) -> int:
        """One-hot, flat."""
        return self.groups * self.classes

    @property
    def width(self) -> int:
        """Logits."""
        return self.size

    def noise(
        self, lead: tuple[int, ...], generator: torch.Generator | None, like: Tensor
    ) -> Tensor:
        """Uniform in [0, 1), one for each group: (*lead, groups)."""
        return torch.rand((*lead, self.groups), generator=generator, device=like.device)

    def draw(self, raw: Tensor, noise: Tensor) -> Tensor:
        """One-hot (..., Z): the class whose stretch of the summed probabilities noise falls on."""
        p = self._probabilities(raw)
        with torch.no_grad():
            edges = p.cumsum(-2)
            passed = (edges[..., :-1, :] <= noise.unsqueeze(-2) * edges[..., -1:, :]).to(p.dtype)
            hard = F.pad(passed, (0, 0, 1, 0), value=1.0) - F.pad(passed, (0, 0, 0, 1))
        if torch.is_grad_enabled():
            hard = hard + (p - p.detach())
        return hard.flatten(-2)

    def kl(self, raw: Tensor, other: Tensor) -> Tensor:
        """See `Latent`."""
        p, q = self._probabilities(raw), self._probabilities(other)
        return (p * (p.log() - q.log())).sum((-2, -1))

    def _probabilities(self, raw: Tensor) -> Tensor:
        """(..., classes, groups)."""
        logit = raw.float().unflatten(-1, (self.classes, self.groups))
        weight = (logit - logit.detach().amax(-2, keepdim=True)).exp()
        p = weight / weight.sum(-2, keepdim=True)
        return (1 - self.unimix) * p + self.unimix / self.classes


@dataclass(frozen=True)
class Divergence:
    """KL(posterior || prior) with free nats, its two gradients weighed apart.

    The four papers are four settings: PlaNet clips each moment's KL at 3 nats, Dreamer the
    batch's mean; DreamerV2 balances 0.8 to 0.2; DreamerV3 clips each moment at 1 and weighs the
    prior 1 and the posterior 0.1. Where both weights are 1 the gradient is the plain KL's.

    Source: Hafner et al. 2019, section 3; 2020, appendix; 2021, algorithm 2; 2023, eq. 3.
    """

    nats: float  # below which nothing is learned
    prior: float = 1.0  # weight of the KL that moves the prior towards the posterior ("dyn")
    posterior: float = 1.0  # weight of the KL that moves the posterior ("rep")
    mean: bool = False  # whether the mean over the batch is clipped, rather than each moment

    def loss(
        self, latent: Latent, posterior: Tensor, prior: Tensor, weight: Tensor
    ) -> dict[str, Tensor]:
        """Unweighted terms "dyn" and "rep", () each, of raw (B, T, W) where weight (B, T) says."""
        terms = {
            "dyn": latent.kl(posterior.detach(), prior),
            "rep": latent.kl(posterior, prior.detach()),
        }
        return {name: self._floored(kl, weight) for name, kl in terms.items()}

    @property
    def weights(self) -> dict[str, float]:
        """Of the terms."""
        return {"dyn": self.prior, "rep": self.posterior}

    def _floored(self, kl: Tensor, weight: Tensor) -> Tensor:
        """The mean over real moments, clipped before or after."""
        share = weight / weight.sum().clamp(min=1)
        if self.mean:
            return (kl * share).sum().clamp(min=self.nats)
        return (kl.clamp(min=self.nats) * share).sum()
