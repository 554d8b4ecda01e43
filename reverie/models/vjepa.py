"""V-JEPA: tell the features of hidden parts of a video, and with them those of the next moment.

No frame is drawn, and nothing acts. In the scaffold: Enc is a vision transformer over tubelets,
the state is the last frames and the features of the newest moment, Pred tells the features of
moments that were not looked at; there is no z but the places. A slow copy of the encoder makes
the features that are to be told. Surprise is how far they are from what was told.

Three kinds of questions teach one predictor: small tubes (many blocks hidden at every moment),
large tubes, and the future (all from some moment on). The last one is not in the papers' training;
they ask it of a model that was trained on tubes alone. A share of the clips are one frame held
still, as pictures among videos are in V-JEPA 2.

The networks are in `nn/masked.py`, the masks in `nn/blockmask.py`. Letters: F frames of a clip,
t h w its grid, P = t h w patches, V numbers of a patch, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from reverie.core.errors import BadConfig, ShapeMismatch
from reverie.core.model import Part, WorldModel
from reverie.core.types import Batch, Card, Heads, Loss, Optim, Space, check_batch
from reverie.models.ijepa import OPTIM, PIXELS, picture
from reverie.nn.anticollapse import masked_mean
from reverie.nn.blockmask import Asked, Blocks, future, tubes
from reverie.nn.masked import Masked, MaskedConfig, at, signs
from reverie.nn.vit import Sketch, cut, grid_of

SMALL_TUBES = Blocks(8, (0.15, 0.15), (0.75, 1.5))
LARGE_TUBES = Blocks(2, (0.7, 0.7), (0.75, 1.5))
FUTURE = 2  # the last of the kinds of questions: small tubes, large tubes, future


@dataclass(frozen=True)
class VJEPAConfig:
    """Sizes for clips of 32 x 32 pixels; the tubes are the paper's."""

    patch: int = 4  # pixels on each side
    tubelet: int = 2  # frames in a patch
    frames: int = 8  # F, of a clip
    networks: MaskedConfig = field(default_factory=lambda: MaskedConfig(momentum=0.998))
    short: Blocks = SMALL_TUBES
    long: Blocks = LARGE_TUBES
    least: int = 4  # patches of a frame that are shown
    still: float = 0.1  # share of clips that are one frame held still
    optim: Optim = OPTIM


class State(NamedTuple):
    """What the model knows at one moment. Before an episode, the world stood still."""

    frames: Tensor  # (B, F, C, H, W) uint8: the last ones that were looked at
    tokens: Tensor  # (B, h w, D) features of the newest tubelet, seen or told
    ahead: Tensor  # (B,) int64: steps from the newest frame to now


class VJEPA(WorldModel[State]):
    """Encoder, narrow predictor and slow copy behind the contract.

    `predict` goes one frame further without looking, up to F less a tubelet; beyond that nothing
    that was seen is left to tell from, and the features stay.

    Departures from the papers: sines and cosines for positions also where V-JEPA 2 rotates; no
    weight decay schedule; the third kind of question.

    Args:
        config: sizes, masks.
        observations: must hold 'image'.
        actions: not read: videos are learned from without them.

    Raises:
        SpaceMismatch: if there is no picture.
        BadConfig: if the patches do not divide it, the tubelets the clip, or the heads a width; or
            if a clip has no past and future.
    """

    card = Card(
        name="vjepa",
        title="V-JEPA",
        family="B",
        state="the last frames, features of the patches now",
        z="which places and moments are hidden",
        objective="L1 of a slow copy's features",
        policy="none",
        couplings=("probes", "surprise", "frozen encoder"),
        heads=("embed", "features"),
        paper="Bardes et al. 2024, arXiv:2404.08471; Assran et al. 2025, arXiv:2506.09985",
    )

    def __init__(
        self, config: VJEPAConfig, observations: dict[str, Space], actions: Space | None = None
    ) -> None:
        super().__init__()
        del actions
        space = picture(observations, self.card.title)
        self.config, self.actions = config, None
        self.observations = {"image": space}
        self.grid = grid_of(
            *(space.shape, config.patch),
            frames=config.frames,
            tubelet=config.tubelet,
            who=self.card.title,
        )
        if self.grid.frames < 2:
            raise BadConfig(
                f"V-JEPA tells the future of a clip from its past, but {config.frames} frames in "
                f"tubelets of {config.tubelet} are one moment. Choose at least two tubelets."
            )
        values = space.shape[0] * config.tubelet * config.patch**2
        self.masked = Masked(config.networks, self.grid, values, kinds=3)
        self.sketch = Sketch(self.grid.area * config.networks.width)

    def encode(self, obs: dict[str, Tensor]) -> Tensor:
        """(B, C, H, W) uint8: the frame; features are made of several."""
        return obs["image"]

    def observe(
        self,
        state: State | None,
        action: Tensor | None,
        h: Tensor,
        *,
        first: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """Take in a frame; moments that nobody looked at stood still. See `WorldModel`."""
        del action, generator
        frames = h[:, None].expand(-1, self.config.frames, *h.shape[1:])
        if state is not None:
            moved = torch.cat([_moved(state.frames, state.ahead + 1)[:, :-1], h[:, None]], 1)
            begins = torch.zeros_like(state.ahead, dtype=torch.bool) if first is None else first
            frames = torch.where(begins[:, None, None, None, None], frames, moved)
        tokens = self.features_of(frames)[:, -self.grid.area :]
        return State(frames, tokens, torch.zeros(len(h), dtype=torch.int64, device=h.device))

    def predict(
        self,
        state: State,
        action: Tensor | None,
        *,
        z: None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """One frame further from the newest that was seen. See `WorldModel.predict`."""
        del action, z, generator
        length, tubelet = self.config.frames, self.config.tubelet
        ahead = (state.ahead + 1).clamp(max=length - tubelet)
        pixels = cut(_moved(state.frames, ahead), self.grid)
        newest = torch.arange(tubelet - 1, length, tubelet, device=ahead.device)  # of each tubelet
        hidden = newest >= length - ahead[:, None]  # (B, t)
        told = self.masked.filled(pixels, hidden.repeat_interleave(self.grid.area, 1), kind=FUTURE)
        return State(state.frames, told[:, -self.grid.area :], ahead)

    @property
    def heads(self) -> Heads:
        """embed: all features of the newest tubelet, sketched; features: their mean."""
        return Heads(owner=self.card.name, embed=self._embed, features=self._features)

    def features_of(self, frames: Tensor) -> Tensor:
        """(B, P, D) float32, normalised: the slow copy's features of (B, F, C, H, W) uint8."""
        return self.masked.targets(cut(frames, self.grid))

    def _embed(self, state: State) -> Tensor:
        return self.sketch(state.tokens.flatten(1))

    def _features(self, state: State) -> Tensor:
        return state.tokens.mean(1)

    def parts(self) -> tuple[Part, ...]:
        """Encoder and predictor; the slow copy follows after each step."""
        return (Part("model", self.masked, self._loss, self.config.optim, self.masked.follow),)

    def _loss(self, batch: Batch, states: None) -> Loss:
        """The mean over the kinds of questions; clips with a seam in them do not count."""
        del states
        clips, valid = self._clips(batch)
        pixels = cut(clips, self.grid)
        wanted = self.masked.targets(pixels)
        found = {}
        for kind, (name, question) in enumerate(self._questions(clips).items()):
            told = self.masked.told(pixels, question, kind=kind)
            error = (told - at(wanted, question.asked)).abs().mean((1, 2))
            found[name] = masked_mean(error, valid)
        total = torch.stack(list(found.values())).mean()
        errors = {name: x.detach() for name, x in found.items()}
        return Loss(total, {**errors, **signs(wanted, self.grid, valid)})

    def _questions(self, clips: Tensor) -> dict[str, Asked]:
        """One of each kind, in the order of the kinds."""
        c, rows = self.config, len(clips)
        drawn = {
            "short": tubes(self.grid, rows, c.short, least=c.least),
            "long": tubes(self.grid, rows, c.long, least=c.least),
            "future": future(self.grid, rows),
        }
        return {name: question.to(clips.device) for name, question in drawn.items()}

    def _clips(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B, F, C, H, W) uint8, some of them held still, and (B,) bool: within one episode."""
        check_batch(batch, self.observations, None)
        length = self.config.frames
        if batch.first.shape[1] < length:
            raise ShapeMismatch(
                f"V-JEPA learns from clips of {length} frames ({length - 1} transitions), but "
                f"these have {batch.first.shape[1]}. "
                "Sample longer ones, or build it with fewer frames."
            )
        clips = batch.obs["image"][:, :length]
        still = torch.rand(len(clips), device=clips.device) < self.config.still
        held = clips[:, :1].expand_as(clips)
        clips = torch.where(still[:, None, None, None, None], held, clips)
        return clips, batch.mask[:, : length - 1].all(1) | still


def _moved(frames: Tensor, steps: Tensor) -> Tensor:
    """Clips (B, F, ...) so many steps (B,) later; the newest frame is held."""
    length = frames.shape[1]
    index = (torch.arange(length, device=steps.device) + steps[:, None]).clamp(max=length - 1)
    return frames[torch.arange(len(frames), device=steps.device)[:, None], index]


def default() -> VJEPA:
    """Of the size that learns sprites, untrained."""
    return VJEPA(VJEPAConfig(), PIXELS)


def small() -> VJEPA:
    """The same wiring, thin: what `reverie check` runs."""
    thin = MaskedConfig(16, 1, 2, 8, 1, 2, momentum=0.9)
    return VJEPA(VJEPAConfig(patch=8, frames=4, networks=thin, least=2), PIXELS)
