"""Which patches a masked predictor is shown and which it is asked for: blocks, tubes, the future.

Masks are drawn for a whole batch at once, on the CPU, so that how many patches are left is known
without waiting for a device. The size of blocks is drawn once a batch, their places once a row.
Imports `nn/vit` only.

Letters: B rows, N blocks a row, K places shown, M places asked for.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from reverie.nn.vit import Grid


class Blocks(NamedTuple):
    """How blocks are drawn."""

    count: int
    scale: tuple[float, float]  # share of the picture that one covers
    aspect: tuple[float, float]  # height over width


class Asked(NamedTuple):
    """A question to a masked predictor."""

    shown: Tensor  # (B, K) int64 places
    asked: Tensor  # (B, M) or (B, N, M) int64 places

    def to(self, device: torch.device) -> Asked:
        """The same on another device."""
        return Asked(self.shown.to(device), self.asked.to(device))


def multiblock(grid: Grid, batch: int, target: Blocks, context: Blocks, *, least: int) -> Asked:
    """Target blocks, and what a large context block leaves of the picture around them.

    Where the targets leave fewer patches than `least`, the context overlaps them.

    Args:
        grid: of pictures.
        batch: B.
        target: blocks to ask for, each a question of its own.
        context: the block that is shown.
        least: patches that are shown at least.

    Returns:
        Places; (B, N, M) are asked for.

    Source:
        Assran et al. 2023, arXiv:2301.08243, section 3.
    """
    asked = _placed(grid, batch, target)
    shown = _union(grid, _placed(grid, batch, context)) & ~_union(grid, asked)
    return Asked(_some(shown, least=least), asked)


def tubes(grid: Grid, batch: int, blocks: Blocks, *, least: int) -> Asked:
    """The union of some blocks is hidden in every frame, so that no other moment shows it.

    Args:
        grid: of clips.
        batch: B.
        blocks: that are hidden.
        least: patches of a frame that are shown at least.

    Returns:
        Places; what is shown and what is asked for, of as many patches in each row.

    Source:
        Bardes et al. 2024, arXiv:2404.08471, section 3.2.
    """
    hidden = _union(grid, _placed(grid, batch, blocks))
    return Asked(
        _through_time(_some(~hidden, least=least), grid), _through_time(_some(hidden), grid)
    )


def future(grid: Grid, batch: int) -> Asked:
    """All from some moment on is hidden, the same moment in all rows.

    Args:
        grid: of clips, of at least two moments.
        batch: B.
    """
    begins = grid.area * (1 + _whole(grid.frames - 1))
    places = torch.arange(grid.size).expand(batch, -1)
    return Asked(places[:, :begins], places[:, begins:])


def hidden_block(
    grid: Grid, batch: int, blocks: Blocks, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """(B, h w) bool: the union of some blocks of middling size.

    Args:
        grid: of pictures.
        batch: B.
        blocks: to draw.
        generator: on the device; None: torch's default one.
        device: where to draw.
    """
    size = _size(grid, sum(blocks.scale) / 2, sum(blocks.aspect) / 2)
    share = torch.rand(2, batch, blocks.count, generator=generator, device=device)
    return _union(grid, _at(grid, size, share))


def _placed(grid: Grid, batch: int, blocks: Blocks) -> Tensor:
    """(B, N, M) places of blocks of one size, drawn."""
    scale, aspect = (
        low + (high - low) * float(torch.rand(())) for low, high in (blocks.scale, blocks.aspect)
    )
    size = _size(grid, scale, aspect)
    return _at(grid, size, torch.rand(2, batch, blocks.count))


def _size(grid: Grid, scale: float, aspect: float) -> tuple[int, int]:
    """Height and width of a block; never the whole height or width, unless that is 1."""
    area = scale * grid.area
    height, width = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
    return (
        min(max(height, 1), max(grid.rows - 1, 1)),
        min(max(width, 1), max(grid.columns - 1, 1)),
    )


def _at(grid: Grid, size: tuple[int, int], share: Tensor) -> Tensor:
    """(B, N, M) places of blocks; shares (2, B, N) in [0, 1) say where among the possible ones."""
    free = torch.tensor([grid.rows - size[0] + 1, grid.columns - size[1] + 1], device=share.device)
    top, left = (share * free[:, None, None]).long().unbind(0)
    down = torch.arange(size[0], device=share.device)
    right = torch.arange(size[1], device=share.device)
    rows = top[..., None, None] + down[:, None]
    return (rows * grid.columns + left[..., None, None] + right).flatten(2)


def _union(grid: Grid, places: Tensor) -> Tensor:
    """(B, h w) bool of places (B, N, M)."""
    none = torch.zeros(len(places), grid.area, dtype=torch.bool, device=places.device)
    return none.scatter(1, places.flatten(1), value=True)


def _some(chosen: Tensor, *, least: int = 1) -> Tensor:
    """(B, K) places, as many in each row: random ones of the chosen (B, P), K as all rows have.

    Rows that have fewer than `least` get others too.
    """
    count = max(int(chosen.sum(1).min()), min(least, chosen.shape[1]))
    order = torch.rand(chosen.shape) + (~chosen).float()
    return order.argsort(dim=1, stable=True)[:, :count]


def _through_time(places: Tensor, grid: Grid) -> Tensor:
    """(B, t K) the same places (B, K) at every moment."""
    moments = grid.area * torch.arange(grid.frames)
    return (moments[:, None] + places[:, None]).flatten(1)


def _whole(n: int) -> int:
    """One of 0..n-1."""
    return int(torch.randint(n, ()))
