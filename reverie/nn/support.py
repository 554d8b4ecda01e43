"""A number as a categorical over evenly spaced bins on a squeezed scale. Imports torch only.

MuZero's value and reward heads: `Support` is a `Likelihood` as those of `nn/likelihood.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_SLOPE = 1e-3  # of the linear part, which keeps the inverse Lipschitz


def squeeze(x: Tensor) -> Tensor:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + 0.001 x.

    Source: Pohlen et al. 2018, proposition A.2; Schrittwieser et al. 2020, appendix F.
    """
    return x.sign() * ((x.abs() + 1).sqrt() - 1) + _SLOPE * x


def unsqueeze(y: Tensor) -> Tensor:
    """The inverse of `squeeze`, in float64 inside: 4 eps |y| would drown in float32."""
    size = y.abs().double()
    root = (1 + 4 * _SLOPE * (size + 1 + _SLOPE)).sqrt()
    return (y.sign() * (((root - 1) / (2 * _SLOPE)).square() - 1)).to(y.dtype)


@dataclass(frozen=True)
class Support:
    """One number as weights on two neighbouring bins -limit..limit of its squeezed scale.

    Unlike `TwoHot`, interpolation and mean are on the squeezed scale, as in the paper. Numbers
    beyond the last bin stay in it.

    Attributes:
        limit: `squeeze` of the largest number; there are 2 limit + 1 bins. The paper has 300
            (numbers up to 58,705); 20 reaches 422, 50 reaches 2,364.

    Source: Schrittwieser et al. 2020, appendix F.
    """

    limit: int = 50

    def width(self, size: int) -> int:
        """The number of bins; size must be 1."""
        return size * (2 * self.limit + 1)

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy (...,) of raw (..., bins) against targets (..., 1)."""
        place = squeeze(target.float()).clamp(-self.limit, self.limit) + self.limit
        low = place.floor().clamp(max=2 * self.limit - 1)
        index = torch.cat([low, low + 1], -1).long()
        said = raw.float().log_softmax(-1).gather(-1, index)
        return -torch.lerp(said[..., :1], said[..., 1:], place - low)[..., 0]

    def mean(self, raw: Tensor) -> Tensor:
        """(..., 1) in the target's units, of raw (..., bins)."""
        bins = torch.arange(-self.limit, self.limit + 1.0, device=raw.device)
        return unsqueeze(raw.float().softmax(-1) @ bins.unsqueeze(-1))
