"""I-JEPA: tell the features of hidden blocks of a picture from the rest of it.

No picture is drawn, and nothing acts. In the scaffold: Enc is a vision transformer, the state is
the features of all patches, Pred tells the features at places that were hidden, and z says which
places those are. A slow copy of the encoder makes the features that are to be told; it sees the
whole picture, so the hidden thing is the output, not the input.

The networks are in `nn/masked.py`, the masks in `nn/blockmask.py`. Letters: P patches, D width,
V numbers of a patch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.errors import SpaceMismatch
from reverie.core.model import Part, WorldModel
from reverie.core.types import (
    Batch,
    Box,
    Card,
    Heads,
    Loss,
    Optim,
    Space,
    check_batch,
    check_shape,
)
from reverie.nn.blockmask import Blocks, hidden_block, multiblock
from reverie.nn.masked import Masked, MaskedConfig, at, signs
from reverie.nn.vit import Sketch, cut, grid_of

TARGET = Blocks(4, (0.15, 0.2), (0.75, 1.5))
CONTEXT = Blocks(1, (0.85, 1.0), (1.0, 1.0))
OPTIM = Optim("model", 1e-3, "adamw", weight_decay=0.0, clip_norm=1.0)


@dataclass(frozen=True)
class IJEPAConfig:
    """Sizes for 32 x 32 pixels; the masks are the paper's."""

    patch: int = 4  # pixels on each side
    networks: MaskedConfig = field(default_factory=MaskedConfig)
    target: Blocks = TARGET
    context: Blocks = CONTEXT  # less the targets
    least: int = 10  # patches in a context
    optim: Optim = OPTIM


class State(NamedTuple):
    """A picture, and what is known of it."""

    pixels: Tensor  # (B, P, V) uint8
    tokens: Tensor  # (B, P, D) features: seen, or told where they were hidden


class IJEPA(WorldModel[State]):
    """Encoder, narrow predictor and slow copy behind the contract.

    Departures from the paper: no weight decay schedule; a learning rate without warm-up.

    Args:
        config: sizes, masks.
        observations: must hold 'image'.
        actions: not read: pictures are learned from without them.

    Raises:
        SpaceMismatch: if there is no picture.
        BadConfig: if the patches do not divide it, or the heads a width.
    """

    card = Card(
        name="ijepa",
        title="I-JEPA",
        family="B",
        state="features of the patches of a picture",
        z="which places are hidden",
        objective="smooth L1 of a slow copy's features",
        policy="none",
        couplings=("probes",),
        heads=("embed", "features"),
        paper="Assran et al. 2023, arXiv:2301.08243",
    )

    def __init__(
        self, config: IJEPAConfig, observations: dict[str, Space], actions: Space | None = None
    ) -> None:
        super().__init__()
        del actions
        space = picture(observations, self.card.title)
        self.config, self.actions = config, None
        self.observations = {"image": space}
        self.grid = grid_of(space.shape, config.patch, who=self.card.title)
        values = space.shape[0] * config.patch**2
        self.masked = Masked(config.networks, self.grid, values)
        self.sketch = Sketch(self.grid.size * config.networks.width)

    def encode(self, obs: dict[str, Tensor]) -> State:
        """The slow copy's features of the whole picture."""
        pixels = cut(obs["image"][:, None], self.grid)
        return State(pixels, self.masked.targets(pixels))

    def observe(
        self,
        state: State | None,
        action: Tensor | None,
        h: State,
        *,
        first: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """Another picture: nothing is remembered. See `WorldModel.observe`."""
        del state, action, first, generator
        return h

    def predict(
        self,
        state: State,
        action: Tensor | None,
        *,
        z: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """The same picture, hidden places told from the rest.

        Args:
            state: holds the picture.
            action: not read.
            z: (B, P) bool: the places to hide; None: a target block is drawn.
            generator: of the draw.
        """
        del action
        rows = len(state.pixels)
        if z is None:
            block = self.config.target._replace(count=1)
            z = hidden_block(self.grid, rows, block, generator, state.pixels.device)
        check_shape("z", z, (rows, self.grid.size))
        told = self.masked.filled(state.pixels, z)
        return State(state.pixels, torch.where(z[..., None], told, state.tokens))

    @property
    def heads(self) -> Heads:
        """embed: all features, sketched; features: their mean over the places."""
        return Heads(owner=self.card.name, embed=self._embed, features=self._features)

    def _embed(self, state: State) -> Tensor:
        return self.sketch(state.tokens.flatten(1))

    def _features(self, state: State) -> Tensor:
        return state.tokens.mean(1)

    def parts(self) -> tuple[Part, ...]:
        """Encoder and predictor; the slow copy follows after each step."""
        return (Part("model", self.masked, self._loss, self.config.optim, self.masked.follow),)

    def _loss(self, batch: Batch, states: None) -> Loss:
        """Every observation is a picture; each of its target blocks is asked for by itself."""
        del states
        check_batch(batch, self.observations, None)
        frames, c = batch.obs["image"], self.config
        pixels = cut(frames.flatten(0, 1)[:, None], self.grid)
        question = multiblock(self.grid, len(pixels), c.target, c.context, least=c.least)
        question = question.to(pixels.device)
        wanted = self.masked.targets(pixels)
        told = self.masked.told(pixels, question)
        prediction = F.smooth_l1_loss(told, at(wanted, question.asked))
        seen = wanted.view(len(frames), -1, wanted.shape[-1])
        found = signs(seen, self.grid, batch.mask.all(1))
        return Loss(prediction, {"prediction": prediction.detach(), **found})


def picture(observations: dict[str, Space], who: str) -> Box:
    """The space of 'image', if it is there.

    Raises:
        SpaceMismatch: if it is not a picture.
    """
    space = observations.get("image")
    if not isinstance(space, Box) or len(space.shape) != 3:
        raise SpaceMismatch(
            f"{who} reads 'image' of shape (C, H, W), but found {dict(observations)}. "
            "Choose a world that shows pictures, or draws them (`observe='image'`)."
        )
    return space


PIXELS: dict[str, Space] = {"image": Box((3, 32, 32), 0, 255, "uint8")}


def default() -> IJEPA:
    """Of the size that learns sprites, untrained."""
    return IJEPA(IJEPAConfig(), PIXELS)


def small() -> IJEPA:
    """The same wiring, thin: what `reverie check` runs."""
    thin = MaskedConfig(16, 1, 2, 8, 1, 2, momentum=0.9)
    return IJEPA(IJEPAConfig(patch=8, networks=thin, least=4), PIXELS)
