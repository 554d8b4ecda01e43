"""Convolution stacks between images and vectors. Imports nn only.

`Valid` is the stack of PlaNet and Dreamer 1 and 2: kernel 4, stride 2, no padding, 64x64 only.
`Halving` is DreamerV3's: kernel 5, each stage halves the side, by a stride of 2 or by a stride of
1 and a 2x2 maximum; it takes any side that halves down to between 4 and 8.

Both are specifications; `encoder(shape)` and `decoder(shape, ...)` build the modules. Images are
float, (N, C, H, W); weights lie in channels-last order, which convolutions on a CPU prefer.
Where an activation is computed with the norm before it, `nn.Identity` keeps its place, so that
weights saved earlier keep their names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from reverie.core.errors import SpaceMismatch
from reverie.nn.folded import Doubled, Halved, Same, Transposed
from reverie.nn.layers import BlockLinear, RMSNorm, Style, dense, initialise
from reverie.nn.onepass import rms_silu

Shape = tuple[int, int, int]  # (C, H, W)
_Kernel = TypeVar("_Kernel", nn.Conv2d, nn.ConvTranspose2d)
_LEAST, _MOST = 4, 8  # side of the smallest picture inside `Halving`
_SIDE = 64  # of `Valid`


class Stack(Protocol):
    """How images become vectors and the other way round."""

    def encoder(self, shape: Shape) -> tuple[nn.Module, int]:
        """(N, C, H, W) -> (N, E), and E."""
        ...

    def decoder(self, shape: Shape, memory: int, latent: int, units: int) -> nn.Module:
        """Memory (N, M) and latent (N, Z) -> pictures (N, C, H, W) without bound.

        `units` is the width of hidden layers, where there are any.
        """
        ...


def as_floats(image: Tensor) -> Tensor:
    """Pictures (N, C, H, W) of 0..255 as new float32 in [0, 1], channels last."""
    return (
        image.contiguous(memory_format=torch.channels_last).to(torch.float32, copy=True).div_(255)
    )


@dataclass(frozen=True)
class Valid:
    """Four convolutions of kernel 4 and stride 2; deconvolutions of kernel 5, 5, 6, 6.

    Source: Ha & Schmidhuber 2018, appendix A.1; Hafner et al. 2019, appendix A.
    """

    depth: int = 32  # channels of the first stage
    activation: str = "relu"

    def encoder(self, shape: Shape) -> tuple[nn.Module, int]:
        """See `Stack`.

        Raises:
            SpaceMismatch: if the picture is not 64 x 64.
        """
        if shape[1:] != (_SIDE, _SIDE):
            raise SpaceMismatch(
                f"This convolution stack takes {_SIDE}x{_SIDE} pictures, but found {shape}. "
                f"Make the environment with size={_SIDE}, or choose dreamer_v3."
            )
        layers: list[nn.Module] = []
        widths = [shape[0], *(self.depth * 2**i for i in range(4))]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2), *self._style.after(after)]
        return _ChannelsLast(nn.Sequential(*layers)), 4 * widths[-1]

    def decoder(self, shape: Shape, memory: int, latent: int, units: int) -> nn.Module:
        """See `Stack`."""
        flat, d = 32 * self.depth, self.depth
        plan = ((flat, 4 * d, 5), (4 * d, 2 * d, 5), (2 * d, d, 6), (d, shape[0], 6))
        layers: list[nn.Module] = []
        for before, after, kernel in plan:
            layers += [nn.ConvTranspose2d(before, after, kernel, 2), *self._style.after(after)]
        expand = nn.Sequential(dense(memory + latent, flat), nn.Unflatten(1, (flat, 1, 1)))
        return _Joined(nn.Sequential(expand, *layers[:-1]))

    @property
    def _style(self) -> Style:
        return Style(self.activation, norm=False)


@dataclass(frozen=True)
class Halving:
    """At most four stages of kernel 5 with 2, 3, 4, 4 times `depth` channels.

    Source: Hafner et al. 2025, reference code (stride 1 with pooling is its default).
    """

    depth: int = 4
    pooled: bool = True  # stride 1 and a 2x2 maximum; False: stride 2, about half the work

    def encoder(self, shape: Shape) -> tuple[nn.Module, int]:
        """See `Stack`.

        Raises:
            SpaceMismatch: if a side does not halve down to between 4 and 8.
        """
        depths, height, width = self._plan(shape)
        layers: list[nn.Module] = []
        for before, after in zip([shape[0], *depths], depths, strict=False):
            layers += [_initialised(Same(before, after) if self.pooled else Halved(before, after))]
            layers += [*[nn.MaxPool2d(2)] * self.pooled, ChannelNorm(after), nn.Identity()]
        return _ChannelsLast(nn.Sequential(*layers)), depths[-1] * height * width

    def decoder(self, shape: Shape, memory: int, latent: int, units: int) -> nn.Module:
        """See `Stack`."""
        depths, height, width = self._plan(shape)
        plan = (depths, height, width)
        return _Growing(shape, (memory, latent, units), plan, pooled=self.pooled)

    def _plan(self, shape: Shape) -> tuple[list[int], int, int]:
        """Channels of each stage, and the smallest picture's height and width."""
        depths, (height, width) = [], shape[1:]
        for factor in (2, 3, 4, 4):
            if height % 2 or width % 2 or min(height, width) < 2 * _LEAST:
                break
            depths.append(factor * self.depth)
            height, width = height // 2, width // 2
        if not depths or max(height, width) > _MOST:
            raise SpaceMismatch(
                f"This convolution stack halves a picture down to between {_LEAST} and {_MOST} "
                f"pixels a side, but {shape} ends at {height}x{width}. "
                "Make the environment with size=64."
            )
        return depths, height, width


class ChannelNorm(RMSNorm):
    """RMSNorm over the channels of (N, C, H, W), and SiLU."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return rms_silu(x.permute(0, 2, 3, 1), self.scale).permute(0, 3, 1, 2)


class _Growing(nn.Module):
    """DreamerV3's decoder: block-linear memory plus an MLP of z, then doubling stages."""

    def __init__(
        self,
        shape: Shape,
        widths: tuple[int, int, int],
        plan: tuple[list[int], int, int],
        *,
        pooled: bool,
    ) -> None:
        super().__init__()
        depths, self.height, self.width = plan
        memory, latent, units = widths
        self.blocks = math.gcd(8, depths[-1])  # each gives a share of the channels
        flat = depths[-1] * self.height * self.width
        self.memory = BlockLinear(memory, flat, self.blocks)
        self.latent = nn.Sequential(
            *(dense(latent, 2 * units), *Style().after(2 * units), dense(2 * units, flat))
        )
        layers: list[nn.Module] = [ChannelNorm(depths[-1]), nn.Identity()]
        stages = list(zip(depths[::-1], [*depths[-2::-1], shape[0]], strict=False))
        for before, after in stages:
            grow = Doubled(before, after) if pooled else _initialised(Transposed(before, after))
            layers += [grow, ChannelNorm(after), nn.Identity()]
        self.layers = nn.Sequential(*layers[:-2])
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, memory: Tensor, z: Tensor) -> Tensor:
        """(N, M), (N, Z) -> (N, C, H, W)."""
        small = (self.height, self.width)
        blocks = self.memory(memory).unflatten(1, (self.blocks, *small, -1))
        x = blocks.permute(0, 2, 3, 1, 4).flatten(3) + self.latent(z).unflatten(1, (*small, -1))
        return self.layers(x.permute(0, 3, 1, 2))  # channels last, seen as (N, C, H, W)


class _ChannelsLast(nn.Module):
    """A stack whose pictures go in channels last and come out flat."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, E)."""
        x = self.layers(image.contiguous(memory_format=torch.channels_last))
        return x.permute(0, 2, 3, 1).flatten(1)


class _Joined(nn.Module):
    """A decoder that reads memory and latent as one vector."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, memory: Tensor, z: Tensor) -> Tensor:
        """(N, M), (N, Z) -> (N, C, H, W)."""
        return self.layers(torch.cat([memory, z], -1))


def _initialised(layer: _Kernel) -> _Kernel:
    """A convolution of kernel 5 with zero bias and `initialise`d weights."""
    initialise(layer.weight, 25 * layer.in_channels)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
