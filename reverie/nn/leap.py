"""The bricks of JEPA world models: encoders with a projector, and a predictor that leaps.

`Encoder` and `Predictor` are small and learn two rooms in a minute; `ViTEncoder` here and the
predictor of `causal.py` are the published ones. Axes: N rows, D latent size, K frames of history, A
numbers of an action. Imports core's errors and bricks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.errors import BadConfig
from reverie.nn.causal import projector
from reverie.nn.vit import Block, cut, grid_of


class Encoder(nn.Module):
    """Pictures or vectors to embeddings, with the projector that SIGReg needs.

    Args:
        shape: of an observation, (C, H, W) or (V,).
        latent: D.
        channels: of the convolutions, each halving the picture.
        hidden: width of the projector.

    Raises:
        BadConfig: if the picture cannot be halved so often.

    Source:
        Projector with a batch norm inside: Maes et al. 2026, arXiv:2603.19312, section 3.1.
    """

    def __init__(
        self, shape: tuple[int, ...], latent: int, channels: tuple[int, ...], *, hidden: int = 256
    ) -> None:
        super().__init__()
        self.pixels = len(shape) == 3
        layers: list[nn.Module] = []
        width, area = shape[0], 1
        if self.pixels:
            _check_halving(shape, len(channels))
            for wider in channels:
                layers += [nn.Conv2d(width, wider, 4, 2, 1), nn.ReLU()]
                width = wider
            area = shape[1] * shape[2] // 4 ** len(channels)
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.project = nn.Sequential(
            *(nn.Linear(width * area, hidden), nn.BatchNorm1d(hidden), nn.ReLU()),
            nn.Linear(hidden, latent),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) float32 embeddings of (N, C, H, W) uint8 or (N, V) float32."""
        x = x.float() / 255 - 0.5 if self.pixels else x
        return self.project(self.body(x)).float()


@dataclass(frozen=True)
class ViTConfig:
    """Sizes as published: ViT-Tiny."""

    patch: int = 14  # pixels on each side
    width: int = 192
    layers: int = 12
    heads: int = 3
    hidden: int = 2048  # width of the projector


class ViTEncoder(nn.Module):
    """Pictures to embeddings: what a token of its own takes from all patches, and a projector.

    Args:
        shape: of a picture, (C, H, W).
        latent: D.
        config: sizes.

    Raises:
        BadConfig: if there is no picture, or the patch does not divide it.

    Source:
        Dosovitskiy et al. 2021, arXiv:2010.11929; Maes et al. 2026, arXiv:2603.19312, appendix D.
    """

    def __init__(self, shape: tuple[int, ...], latent: int, config: ViTConfig) -> None:
        super().__init__()
        if len(shape) != 3:
            raise BadConfig(
                f"A ViT reads pictures (C, H, W), but the observation is of shape {shape}. "
                "Show it a picture, or leave JEPAConfig.vit at None."
            )
        self.grid, width = grid_of(shape, config.patch, who="The ViT"), config.width
        self.embed = nn.Linear(shape[0] * config.patch**2, width)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.place = nn.Parameter(0.02 * torch.randn(1 + self.grid.size, width))
        self.blocks = nn.Sequential(*(Block(width, config.heads) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(width)
        self.project = projector(width, config.hidden, latent)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) float32 embeddings of (N, C, H, W) uint8."""
        return self.project(self.body(x)).float()

    def body(self, x: Tensor) -> Tensor:
        """(N, width) what the token took from the patches."""
        patches = self.embed(cut(x[:, None], self.grid).float() / 127.5 - 1)
        token = self.token.expand(len(x), -1, -1).to(patches.dtype)
        tokens = torch.cat([token, patches], 1) + self.place
        return self.norm(self.blocks(tokens)[:, 0])


class AdaLNBlock(nn.Module):
    """A residual layer that the condition shifts, scales and gates; at first it does nothing.

    Args:
        width: of what flows through.
        condition: size of the condition.

    Source:
        Peebles & Xie 2023, arXiv:2212.09748 (AdaLN-zero).
    """

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(condition, 3 * width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(N, width) of (N, width) and (N, condition)."""
        shift, scale, gate = self.modulate(condition).chunk(3, -1)
        return x + gate * self.mlp(self.norm(x) * (1 + scale) + shift)


class Predictor(nn.Module):
    """The embedding n steps after the anchor, from K embeddings and what was done since.

    Embeddings a block apart enter side by side (with so few frames attention has little to choose
    from); the actions condition every layer. The prediction is a change of the newest embedding.

    Args:
        latent: D.
        action: A.
        history: K.
        block: longest leap, in steps.
        width: of the layers.
        layers: how many.
    """

    def __init__(
        self, *, latent: int, action: int, history: int, block: int, width: int, layers: int
    ) -> None:
        super().__init__()
        self.block = block
        size = history * block * action + block
        self.condition = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width))
        self.enter = nn.Linear(history * latent, width)
        self.layers = nn.ModuleList(AdaLNBlock(width, width) for _ in range(layers))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, latent))

    def forward(self, z: Tensor, action: Tensor, n: Tensor) -> Tensor:
        """The embedding (N, D) at the moment asked for.

        Args:
            z: (N, K, D) embeddings a block apart, the anchor last.
            action: (N, K, block, A) what was done after each; zero after the moment asked for.
            n: (N,) int64 in 1..block: steps from the anchor to that moment.
        """
        when = F.one_hot(n - 1, self.block).to(z.dtype)
        condition = F.silu(self.condition(torch.cat([action.flatten(1), when], -1)))
        x = self.enter(z.flatten(1))
        for layer in self.layers:
            x = layer(x, condition)
        return z[:, -1] + self.leave(x).float()


def rows_of(x: Tensor, index: Tensor) -> Tensor:
    """For each row of x those moments that the index names.

    Args:
        x: (B, L, D).
        index: (B, I) int64 in 0..L-1.

    Returns:
        (B, I, D).
    """
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def _check_halving(shape: tuple[int, ...], times: int) -> None:
    """Refuse a picture whose sides do not divide."""
    if any(side % 2**times for side in shape[1:]):
        raise BadConfig(
            f"The encoder halves the picture {times} times, but {shape[1]} x {shape[2]} pixels do "
            f"not divide by {2**times}. Resize the picture, or give fewer channels."
        )
