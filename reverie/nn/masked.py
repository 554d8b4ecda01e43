"""Predict the features of hidden patches: what I-JEPA and V-JEPA share.

An encoder sees some patches of a clip; a narrow predictor is told the places of others, never what
is there, and gives the features that a slow copy of the encoder made of the whole clip. Imports
core's types and nn.

Letters: as in `nn/vit.py`; C kinds of questions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nn.anticollapse import EMATarget, Seen, alarms
from reverie.nn.blockmask import Asked
from reverie.nn.vit import Grid, MaskedPredictor, ViT, take

_FOLLOW = 0.02  # share of a batch in the running mean


@dataclass(frozen=True)
class MaskedConfig:
    """Sizes of the three networks, and how fast the slow copy follows."""

    width: int = 96  # D
    layers: int = 4  # of the encoder
    heads: int = 3  # of the encoder
    narrow: int = 48  # width of the predictor
    predictor_layers: int = 3
    predictor_heads: int = 3
    momentum: float = 0.996  # of the slow copy at first; it rises on a line
    momentum_updates: int = 100_000  # after which it is 1, and the copy stands still
    centred: bool = False  # what all clips have in common at a place is no target: see `Masked`


class Masked(nn.Module):
    """Encoder, predictor and slow copy.

    Small pictures hold little that one part tells of another, and a small network soon finds
    features that tell the place and nothing else: predicted perfectly, and empty. Centred targets
    are the mend: a running mean over clips is taken off at each place before they are normalised.

    Args:
        config: sizes.
        grid: of the clips.
        values: V.
        kinds: C.
    """

    updates: Tensor
    centre: Tensor  # (P, D)

    def __init__(self, config: MaskedConfig, grid: Grid, values: int, *, kinds: int = 1) -> None:
        super().__init__()
        self.config, self.grid = config, grid
        self.encoder = ViT(
            grid, values, width=config.width, layers=config.layers, heads=config.heads
        )
        self.predictor = MaskedPredictor(
            *(grid, config.width),
            width=config.narrow,
            layers=config.predictor_layers,
            heads=config.predictor_heads,
            kinds=kinds,
        )
        self.target = EMATarget(self.encoder, momentum=config.momentum)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("centre", torch.zeros(grid.size, config.width))

    def targets(self, pixels: Tensor) -> Tensor:
        """(B, P, D) float32, normalised: what the slow copy makes of the whole clip (B, P, V)."""
        found = self.target(pixels).float()
        if self.config.centred and self.training:  # as a batch norm's mean follows
            weight = (1 / (self.updates + 1)).clamp(min=_FOLLOW)
            self.centre.lerp_(found.mean(0), weight)
        return normalised(found - self.centre)

    def alone(self, pixels: Tensor) -> Tensor:
        """(B, h w, D) float32: what the encoder makes of the first moment (B, h w, V) alone."""
        where = torch.arange(self.grid.area, device=pixels.device).expand(len(pixels), -1)
        return self.encoder(pixels, where=where).float()

    def told(self, pixels: Tensor, question: Asked, *, kind: int = 0) -> Tensor:
        """The features at the places asked for, from those shown.

        Args:
            pixels: (B, P, V).
            question: of B rows; each of its N blocks is asked for by itself.
            kind: of question.

        Returns:
            (B, M, D), or (B, N, M, D), float32.
        """
        tokens = self.encoder(pixels, where=question.shown)
        if question.asked.dim() == 2:
            return self.predictor(tokens, question.shown, question.asked, kind=kind).float()
        blocks = question.asked.shape[1]
        tokens, shown = (x.repeat_interleave(blocks, 0) for x in (tokens, question.shown))
        told = self.predictor(tokens, shown, question.asked.flatten(0, 1), kind=kind)
        return told.unflatten(0, (-1, blocks)).float()

    def filled(self, pixels: Tensor, hidden: Tensor, *, kind: int = 0) -> Tensor:
        """(B, P, D) the features of all places, from those that are not hidden.

        Args:
            pixels: (B, P, V); hidden ones are not looked at.
            hidden: (B, P) bool.
            kind: of question.
        """
        tokens = self.encoder(pixels, seen=~hidden)
        return self.predictor.fill(tokens, hidden, kind=kind).float()

    @torch.no_grad()
    def follow(self) -> None:
        """Move the slow copy after a step of the others, by a momentum that rises to 1."""
        self.updates += 1
        rise = (self.updates / self.config.momentum_updates).clamp(max=1)
        self.target.momentum = self.config.momentum + (1 - self.config.momentum) * rise
        self.target.update(self.encoder)


def normalised(features: Tensor) -> Tensor:
    """Features (..., D) with mean 0 and deviation 1 over D, without learned scales, in float32."""
    return F.layer_norm(features.float(), features.shape[-1:])


def at(features: Tensor, asked: Tensor) -> Tensor:
    """(B, M, D) or (B, N, M, D): features (B, P, D) at the places asked for."""
    return take(features, asked.flatten(1)).view(*asked.shape, -1)


@torch.no_grad()
def signs(features: Tensor, grid: Grid, valid: Tensor) -> dict[str, Tensor]:
    """The signs of collapse in features of patches; see `alarms`.

    What all clips have in common at a place is taken off first: features that tell the place and
    nothing else have collapsed too, though their deviation looks healthy.

    Args:
        features: (B, L P, D) of L pictures, or of one clip.
        grid: of a picture, or of the clip.
        valid: (B,) bool: rows within one episode.
    """
    own = features - features.mean(0)
    rows = own.unflatten(1, (-1, grid.area)).transpose(1, 2).flatten(0, 1)  # (B h w, t, D)
    counts = valid.repeat_interleave(grid.area)[:, None].expand(-1, rows.shape[1] - 1)
    return alarms(Seen(rows, rows[:, :-1], counts))
