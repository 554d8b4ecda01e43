"""The bricks of vision transformers: patches, fixed positions, blocks, masked prediction.

A clip is cut into a grid of patches, each a few frames deep (a tubelet; one frame for pictures). An
encoder may be shown all of them or some; a predictor is shown what an encoder made of some, and is
asked about others by their place alone. Imports core's errors only.

Letters: B clips, F frames, P = t h w places of the grid, K of them shown, M of them asked for,
V numbers of a patch, D width.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.errors import BadConfig
from reverie.nn.layers import initialise

_SLOWEST = 10_000.0  # wavelengths of positions go from 2 pi to this times 2 pi, in patches


class Grid(NamedTuple):
    """How a clip is cut; places are numbered frame by frame, then row by row."""

    frames: int  # t, tubelets one after another
    rows: int  # h
    columns: int  # w

    @property
    def area(self) -> int:
        """Places at one moment, h w."""
        return self.rows * self.columns

    @property
    def size(self) -> int:
        """P, all places."""
        return self.frames * self.area


def grid_of(
    shape: tuple[int, ...], patch: int, *, frames: int = 1, tubelet: int = 1, who: str
) -> Grid:
    """The grid of patches of a clip.

    Args:
        shape: of a frame, (C, H, W).
        patch: pixels on each side.
        frames: of the clip.
        tubelet: frames in a patch.
        who: cuts, for the message.

    Raises:
        BadConfig: if the picture or the clip does not divide.
    """
    height, width = shape[1:]
    if height % patch or width % patch:
        whole = [p for p in range(2, min(height, width)) if not height % p and not width % p]
        raise BadConfig(
            f"{who} cuts pictures into patches of {patch} x {patch} pixels, but {height} x {width} "
            f"do not divide by {patch}. Choose a patch of {_words(whole)}, or resize the pictures."
        )
    if frames % tubelet:
        raise BadConfig(
            f"{who} reads clips of {frames} frames in tubelets of {tubelet}, which do not divide. "
            f"Choose a multiple of {tubelet} frames."
        )
    return Grid(frames // tubelet, height // patch, width // patch)


def _words(numbers: list[int]) -> str:
    """A choice of numbers."""
    return " or ".join(map(str, numbers)) if numbers else "another size"


def cut(clips: Tensor, grid: Grid) -> Tensor:
    """Clips as rows of pixels, one for each place.

    Args:
        clips: (B, F, C, H, W).
        grid: that divides them.

    Returns:
        (B, P, V) of the same dtype, V = tubelet C patch patch.
    """
    batch, frames, channels, height, width = clips.shape
    t, h, w = grid
    parts = clips.view(batch, t, frames // t, channels, h, height // h, w, width // w)
    return parts.permute(0, 1, 4, 6, 2, 3, 5, 7).reshape(batch, grid.size, -1)


def positions(grid: tuple[int, ...], width: int) -> Tensor:
    """Sines and cosines of where each place is, the dimensions shared out evenly among the axes.

    Args:
        grid: lengths of the axes, the last one counting fastest.
        width: D; what the axes' even shares are too many is cut off at the end.

    Returns:
        (P, D).

    Source:
        Vaswani et al. 2017, section 3.5; shared among axes as Bardes et al. 2024,
        arXiv:2404.08471.
    """
    share = math.ceil(width / (2 * len(grid)))  # frequencies of an axis
    rate = _SLOWEST ** -(torch.arange(share, dtype=torch.float64) / share)
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = [axis.flatten()[:, None] * rate for axis in axes]
    waves = [wave for angle in angles for wave in (angle.sin(), angle.cos())]
    return torch.cat(waves, 1)[:, :width].float()


class Block(nn.Module):
    """Attention, then two dense layers, each of normalised input and added to what came in.

    Args:
        width: D.
        heads: of the attention; they divide the width.
        ratio: width of the hidden layer, times D.

    Raises:
        BadConfig: if the heads do not divide the width.

    Source:
        Dosovitskiy et al. 2021, arXiv:2010.11929, equations 2 and 3.
    """

    def __init__(self, width: int, heads: int, *, ratio: int = 4) -> None:
        super().__init__()
        if width % heads:
            raise BadConfig(f"{heads} heads do not divide a width of {width}. Change one of them.")
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        hidden = ratio * width
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, D) of (B, L, D).

        Args:
            x: (B, L, D).
            mask: bool that goes over (B, heads, L, L): True where a row may look at a column.
        """
        q, k, v = self.mix(self.before(x)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        seen = F.scaled_dot_product_attention(
            *(each.transpose(1, 2) for each in (q, k, v)), attn_mask=mask
        )
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.mlp(self.between(x))


class ViT(nn.Module):
    """An encoder of patches that may be shown only some of them.

    Args:
        grid: of the clips.
        values: V, numbers of a patch.
        width: D.
        layers: blocks.
        heads: of each.
    """

    place: Tensor

    def __init__(self, grid: Grid, values: int, *, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.grid, self.width = grid, width
        self.embed = nn.Linear(values, width)
        self.register_buffer("place", positions(_axes(grid), width), persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        _initialise(self)

    def forward(
        self, pixels: Tensor, *, where: Tensor | None = None, seen: Tensor | None = None
    ) -> Tensor:
        """Tokens of the patches that are shown.

        Args:
            pixels: (B, P, V) uint8, from `cut`.
            where: (B, K) int64: the places to show; None: all.
            seen: (B, P) bool, instead of `where`: places that anyone may look at. Tokens come out
                for the others too, but nobody looked at them.

        Returns:
            (B, K or P, D).
        """
        place: Tensor = self.place
        if where is not None:
            pixels, place = take(pixels, where), place[where]
        x = self.embed(pixels.float() / 127.5 - 1) + place
        mask = None if seen is None else seen[:, None, None]
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)


class MaskedPredictor(nn.Module):
    """Tells the tokens at places that it knows by their position only.

    Args:
        grid: of the clips.
        outside: D, width of the tokens.
        width: its own, narrower.
        layers: blocks.
        heads: of each.
        kinds: of questions; each has a mask token of its own.

    Source:
        Assran et al. 2023, arXiv:2301.08243, section 3.
    """

    place: Tensor

    def __init__(
        self, grid: Grid, outside: int, *, width: int, layers: int, heads: int, kinds: int = 1
    ) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(outside, width), nn.Linear(width, outside)
        self.register_buffer("place", positions(_axes(grid), width), persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        _initialise(self)
        self.asking = nn.Parameter(torch.zeros(kinds, width))

    def forward(self, tokens: Tensor, where: Tensor, asked: Tensor, *, kind: int = 0) -> Tensor:
        """(B, M, D) the tokens at places that are asked for.

        Args:
            tokens: (B, K, D) what an encoder made of some places.
            where: (B, K) int64, those places.
            asked: (B, M) int64, other places.
            kind: of question.
        """
        known = self.enter(tokens) + self.place[where]
        unknown = self.asking[kind] + self.place[asked]
        x = torch.cat([known, unknown.to(known.dtype)], 1)
        return self._told(x)[:, tokens.shape[1] :]

    def fill(self, tokens: Tensor, hidden: Tensor, *, kind: int = 0) -> Tensor:
        """(B, P, D) the tokens at all places, told from those that are not hidden.

        Args:
            tokens: (B, P, D); those at hidden places are not looked at.
            hidden: (B, P) bool.
            kind: of question.
        """
        known = torch.where(hidden[..., None], self.asking[kind], self.enter(tokens))
        return self._told(known + self.place)

    def _told(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.leave(self.norm(x))


class Sketch(nn.Module):
    """Many numbers as few, so that Euclidean distances stay what they were, up to some percent.

    A projection that is fixed once and for all: the same for every model of these sizes.

    Args:
        inputs: numbers that come in; if they are few already, they stay as they are.
        outputs: numbers that come out, at most. The squared distance is off by a share of about
            sqrt(2 / outputs).

    Source:
        Johnson & Lindenstrauss 1984.
    """

    along: Tensor | None

    def __init__(self, inputs: int, outputs: int = 128) -> None:
        super().__init__()
        along = None
        if inputs > outputs:
            generator = torch.Generator().manual_seed(0)
            along = torch.randn(inputs, outputs, generator=generator) / outputs**0.5
        self.register_buffer("along", along, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, outputs) float32 of (B, inputs)."""
        return x.float() if self.along is None else x.float() @ self.along


def take(x: Tensor, where: Tensor) -> Tensor:
    """(B, K, D) the rows of (B, P, D) that (B, K) int64 names."""
    return x.gather(1, where[..., None].expand(-1, -1, x.shape[-1]))


def _axes(grid: Grid) -> tuple[int, ...]:
    """Pictures have two axes, clips three."""
    return grid[1:] if grid.frames == 1 else tuple(grid)


def _initialise(module: nn.Module) -> None:
    """Dense layers by their inputs: the papers' .02 would let places outshout narrow ones."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            initialise(layer.weight, layer.in_features)
            nn.init.zeros_(layer.bias)
