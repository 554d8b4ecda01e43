"""Dense layers, their initialisation, RMS normalisation, block-diagonal products. Imports torch.

A `Style` says which activation and whether layers are normalised; `mlp` reads it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nn.onepass import rms_silu

_ACTIVATIONS = {"relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU}
_TRUNCATED = 1.1368  # standard deviation lost by cutting a normal at two of them


@dataclass(frozen=True)
class Style:
    """How hidden layers look."""

    activation: str = "silu"  # "relu" | "elu" | "silu"
    norm: bool = True  # RMSNorm before each activation

    def after(self, width: int) -> list[nn.Module]:
        """What follows a linear layer of this width."""
        if self.norm and self.activation == "silu":
            return [RMSNormSiLU(width), nn.Identity()]  # which keeps the activation's place
        norm = [RMSNorm(width)] if self.norm else []
        return [*norm, _ACTIVATIONS[self.activation]()]


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + 1e-4) times a learned scale, over the last axis, in float32.

    Args:
        width: of the last axis.

    Source: Zhang & Sennrich 2019, eq. 4.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return F.rms_norm(x.float(), self.scale.shape, self.scale, 1e-4)


class RMSNormSiLU(RMSNorm):
    """`RMSNorm`, then SiLU, in one pass where that is quicker."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D), float32."""
        return rms_silu(x, self.scale)


@torch.no_grad()
def initialise(weight: Tensor, fan: int, scale: float = 1.0) -> None:
    """Fill a weight in place from a normal cut at two standard deviations.

    Args:
        weight: any shape.
        fan: inputs of one output; the variance is scale^2 / fan.
        scale: 0 fills it with zeros.
    """
    std = _TRUNCATED * scale / fan**0.5
    if std == 0:
        weight.zero_()
    else:
        nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def dense(
    inputs: int, outputs: int, *, scale: float = 1.0, fan: int | None = None, bias: bool = True
) -> nn.Linear:
    """A linear layer with zero bias and `initialise`d weights.

    Args:
        inputs: D.
        outputs: D'.
        scale: of the weights.
        fan: inputs that are summed, if this is one of several products of a sum; None: inputs.
        bias: whether there is one.
    """
    layer = nn.Linear(inputs, outputs, bias=bias)
    initialise(layer.weight, fan or inputs, scale)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def mlp(inputs: int, layers: int, units: int, style: Style) -> nn.Sequential:
    """So many dense layers of so many units, each followed by what the style says."""
    found: list[nn.Module] = []
    for _ in range(layers):
        found += [dense(inputs, units), *style.after(units)]
        inputs = units
    return nn.Sequential(*found)


class BlockLinear(nn.Module):
    """Block-diagonal linear map: block g of the outputs reads block g of the inputs alone.

    Args:
        inputs: D, a multiple of blocks.
        outputs: D', a multiple of blocks.
        blocks: G.
        bias: whether there is one.
        fan: as in `dense`; None: inputs, the full matrix's, as DreamerV3 has it.
    """

    def __init__(
        self, inputs: int, outputs: int, blocks: int, *, bias: bool = True, fan: int | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(blocks, inputs // blocks, outputs // blocks))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        initialise(self.weight, fan or inputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, D')."""
        parts = x.unflatten(-1, (self.weight.shape[0], -1)).transpose(0, 1)  # (G, N, D / G)
        y = torch.bmm(parts, self.weight).transpose(0, 1).flatten(1)
        return y if self.bias is None else y + self.bias
