"""World models on a frozen encoder: V-JEPA 2-AC and DINO-WM.

The encoder was trained before, without actions, and stays as it is; a transformer learns what
actions do to its features. In the scaffold: Enc is the frozen encoder, the state is the features
and actions of the last moments, Pred is the transformer, there is no z. Behavior is planning: the
energy of a plan is how far its features are from those of a goal's picture.

The transformer sees whole frames of patch features and goes forward in time block by block: a token
looks at all tokens of its own frame and of those before. V-JEPA 2-AC gives it the action as a
token of its own, DINO-WM beside every patch. The two are rows of one table, `SCHOOLS`.

How such a model follows a world step by step is in `models/leaping.py`, the encoders in
`models/frozen.py`. Letters: n patches of a frame, E their width, D = n E, K frames of history, A
numbers of an action, U leaps in the loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.model import Part
from reverie.core.types import Batch, Box, Card, Heads, Loss, Optim, Space, check_batch, check_obs
from reverie.models.frozen import FrozenEncoder, OwnFrames
from reverie.models.ijepa import PIXELS, picture
from reverie.models.leaping import Leaping, Moment, State, Window
from reverie.models.vjepa import VJEPA, VJEPAConfig
from reverie.nn.anticollapse import masked_mean
from reverie.nn.masked import MaskedConfig, normalised
from reverie.nn.vit import Block, Sketch, positions

FEATURES = "features"  # the modality of a store in which an encoder's features were kept


@dataclass(frozen=True)
class FrozenWorldConfig:
    """Sizes for two rooms; what tells the schools apart is in `SCHOOLS`."""

    token: bool = True  # the action is a token of its own; else it stands beside every patch
    normalise: bool = True  # features, and what is predicted, to mean 0 and deviation 1 of a patch
    power: int = 1  # of the error: 1 absolute, 2 squared
    history: int = 1  # K frames that the predictor reads, one block apart
    block: int = 5  # world steps in a leap
    leaps: int = 2  # U: the first is teacher forcing, each other starts from the one before
    width: int = 64  # of the transformer
    layers: int = 3
    heads: int = 2
    action: int = 10  # size of an action's embedding beside a patch
    optim: Optim = Optim("model", 1e-3, "adamw", clip_norm=1.0)  # noqa: RUF009


class FramePredictor(nn.Module):
    """A transformer over the patches of some frames, causal from frame to frame.

    Args:
        encoder: whose features it foresees.
        config: sizes.
        acts: A.
    """

    place: Tensor
    sight: Tensor

    def __init__(self, encoder: FrozenEncoder, config: FrozenWorldConfig, acts: int) -> None:
        super().__init__()
        self.config, self.patches = config, encoder.patches
        width, beside = config.width, 0 if config.token else config.action
        done = config.block * acts + config.block
        self.act = nn.Linear(done, width if config.token else config.action)
        self.enter = nn.Linear(encoder.width + beside, width)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.layers))
        self.norm, self.leave = nn.LayerNorm(width), nn.Linear(width, encoder.width)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        axes = (config.history, *encoder.grid)
        where = positions(axes, width).unflatten(0, (config.history, -1))
        self.register_buffer("place", where, persistent=False)
        frame = torch.arange(config.history).repeat_interleave(self.patches + int(config.token))
        self.register_buffer("sight", frame[:, None] >= frame, persistent=False)

    def forward(self, z: Tensor, action: Tensor, n: Tensor) -> Tensor:
        """(N, D) the features n steps after the last frame. See `leaping.Predict`."""
        return self.everywhere(z, action, n)[:, -1]

    def everywhere(self, z: Tensor, action: Tensor, n: Tensor) -> Tensor:
        """(N, K, D) the features a leap after each frame, in parallel.

        Args:
            z: (N, K, D) frames a block apart.
            action: (N, K, block, A) what was done after each.
            n: (N,) int64 steps that the last leap takes; the others take a whole block.
        """
        tokens = z.unflatten(-1, (self.patches, -1))  # (N, K, n, E)
        x = self._placed(tokens, self._done(action, n))
        sight = self.sight if self.config.history > 1 else None
        for block in self.blocks:
            x = block(x, sight)
        x = x.unflatten(1, (self.config.history, -1))[:, :, -self.patches :]
        foreseen = tokens + self.leave(self.norm(x)).float()
        return (normalised(foreseen) if self.config.normalise else foreseen).flatten(2)

    def _done(self, action: Tensor, n: Tensor) -> Tensor:
        """(N, K, width or action) embeddings of what was done after each frame."""
        block = self.config.block
        steps = n[:, None].new_full((len(n), self.config.history), block)
        steps = torch.cat([steps[:, 1:], n[:, None]], 1)
        when = F.one_hot(steps - 1, block).to(action.dtype)
        return self.act(torch.cat([action.flatten(2), when], -1))

    def _placed(self, tokens: Tensor, done: Tensor) -> Tensor:
        """(N, K (n or n + 1), width) what the transformer reads."""
        beside = done[:, :, None].expand(-1, -1, self.patches, -1)
        if self.config.token:
            x = self.enter(tokens) + self.place
            first = done[:, :, None] + self.place[:, :1]
            return torch.cat([first.to(x.dtype), x], 2).flatten(1, 2)
        x = torch.cat([tokens, beside.to(tokens.dtype)], -1)
        return (self.enter(x) + self.place).flatten(1, 2)


class FrozenWorld(Leaping):
    """A frozen encoder and a predictor of its features. The siblings give it a card.

    A batch may hold the modality 'features' (see `recipes/masked.py`) instead of pictures.

    Args:
        config: sizes, and what tells the schools apart.
        observations: must hold 'image'.
        actions: Box or Discrete.
        encoder: of frames; it is not trained.

    Raises:
        SpaceMismatch: if there is no picture, or nothing acts.
        BadConfig: if the heads do not divide the width.
    """

    predictor: FramePredictor

    def __init__(
        self,
        config: FrozenWorldConfig,
        observations: dict[str, Space],
        actions: Space | None,
        encoder: FrozenEncoder,
    ) -> None:
        super().__init__(Window(config.history, config.block, config.leaps), actions)
        self.config, self.encoder = config, encoder
        self.observations = {"image": picture(observations, self.card.title)}
        self.predictor = FramePredictor(encoder, config, self.acts)
        self.size = encoder.patches * encoder.width  # D
        self.sketch = Sketch(self.size)

    def encode(self, obs: dict[str, Tensor]) -> Tensor:
        """(B, D) the features of a picture, each frame by itself."""
        with torch.no_grad():
            return self._ready(self.encoder(obs["image"]))

    @property
    def heads(self) -> Heads:
        """embed: all features, sketched; features: their mean over the patches."""
        return Heads(owner=self.card.name, embed=self._sketched, features=self._mean)

    def _sketched(self, state: State) -> Tensor:
        return self.sketch(self.embed(state))

    def _mean(self, state: State) -> Tensor:
        return self.embed(state).unflatten(-1, (self.encoder.patches, -1)).mean(1)

    def _ready(self, features: Tensor) -> Tensor:
        """(..., n, E) features as they are predicted, (..., D)."""
        features = normalised(features) if self.config.normalise else features.float()
        return features.flatten(-2)

    def parts(self) -> tuple[Part, ...]:
        """Only the predictor learns."""
        return (Part("model", self.predictor, self._loss, self.config.optim),)

    def _loss(self, batch: Batch, states: None) -> Loss:
        """Teacher forcing, leaps from one's own predictions, and one moment inside a block."""
        del states
        k, segment = self.window.history, self._segment(batch)
        z = self._seen(batch, segment.inside)  # (B, K+U+1, D)
        error = self._error(self._landed(z[:, :k], segment), z[:, k:])  # (B, U+1)
        counts, leaps = segment.counts, self.window.leaps
        terms = {
            "teacher": masked_mean(error[:, :1], counts[:, :1]),
            "rollout": masked_mean(error[:, 1:leaps], counts[:, 1:leaps]),
            "inside": masked_mean(error[:, leaps:], counts[:, leaps:]),
        }
        if k > 1:
            terms["earlier"] = self._earlier(z[:, :k], segment.actions[:, :k], segment.whole)
        total = torch.stack(list(terms.values())).sum()
        copied = self._error(z[:, k - 1 : k], z[:, k : k + 1])  # who says that nothing moves
        terms["copy"] = masked_mean(copied, counts[:, :1])
        return Loss(total, {name: x.detach() for name, x in terms.items()})

    def _earlier(self, z: Tensor, actions: Tensor, whole: Tensor) -> Tensor:
        """Teacher forcing from fewer frames than K, which the same pass gives."""
        full = torch.full((len(z),), self.window.block, device=z.device)
        told = self.predictor.everywhere(z, actions, full)[:, :-1]
        return masked_mean(self._error(told, z[:, 1:]), whole[:, : z.shape[1] - 1])

    def _error(self, told: Tensor, seen: Tensor) -> Tensor:
        """(B, L) mean over the features."""
        return (told - seen).abs().pow(self.config.power).mean(-1)

    def _seen(self, batch: Batch, inside: Moment) -> Tensor:
        """(B, K+U+1, D) features of the frames that the loss looks at."""
        lead = tuple(batch.first.shape)
        if FEATURES in batch.obs:
            space = Box((self.encoder.patches, self.encoder.width))
            check_obs(batch.obs, {FEATURES: space}, lead)
            return self._ready(self._shown(batch.obs[FEATURES], inside))
        check_batch(batch, self.observations, self.actions)
        frames = self._shown(batch.obs["image"], inside)
        return self.encode({"image": frames.flatten(0, 1)}).unflatten(0, frames.shape[:2])


class VJEPA2AC(FrozenWorld):
    """V-JEPA 2-AC: absolute error, normalised features, a token for the action, two leaps.

    Departures from the paper: added positions where it rotates; the prediction is a change of the
    newest frame; no token for the arm's pose, which these worlds do not have; a block of actions in
    one token; one moment inside a block is learned too, so that any step can be asked for.
    """

    card = Card(
        name="vjepa2_ac",
        title="V-JEPA 2-AC",
        family="B",
        state="frozen patch features and actions of the last moments",
        z="none",
        objective="L1 of a frozen encoder's features, teacher forcing + rollout",
        policy="planner",
        couplings=("planning",),
        heads=("embed", "features"),
        paper="Assran et al. 2025, arXiv:2506.09985",
    )


class DINOWM(FrozenWorld):
    """DINO-WM: squared error, features as they are, the action beside every patch, teacher forcing.

    Departures from the paper: fixed positions where it learns them; the prediction is a change of
    the newest frame; one moment inside a block is learned too.
    """

    card = replace(
        VJEPA2AC.card,
        name="dino_wm",
        title="DINO-WM",
        objective="squared error of a frozen encoder's features, teacher forcing",
        paper="Zhou et al. 2025, arXiv:2411.04983",
    )


class School(NamedTuple):
    """A row of the table."""

    model: type[FrozenWorld]
    config: FrozenWorldConfig

    def default(self) -> FrozenWorld:
        """Of the size that learns two rooms, on an encoder that was not trained."""
        return self.model(self.config, PIXELS, Box((2,)), OwnFrames(VJEPA(ENCODER, PIXELS)))

    def small(self) -> FrozenWorld:
        """The same wiring, thin, with a history: what `reverie check` runs."""
        thin = MaskedConfig(8, 1, 2, 8, 1, 2)
        encoder = VJEPA(replace(ENCODER, patch=16, frames=4, networks=thin), PIXELS)
        config = replace(self.config, history=2, block=1, leaps=2, width=8, layers=1)
        return self.model(config, PIXELS, Box((2,)), OwnFrames(encoder))


ENCODER = VJEPAConfig(
    patch=8, networks=MaskedConfig(64, 3, 2, 32, 2, 2, momentum=0.99, momentum_updates=3000)
)
SCHOOLS: dict[str, School] = {
    "vjepa2_ac": School(VJEPA2AC, FrozenWorldConfig()),
    "dino_wm": School(
        DINOWM, FrozenWorldConfig(token=False, normalise=False, power=2, history=3, leaps=1)
    ),
}
