"""JEPA world models learned end to end from pixels: LeWorldModel, PLDM and their siblings.

An encoder makes an embedding of each frame and a predictor makes the next one from it and the
actions; no picture is ever drawn. What keeps the embeddings from collapsing tells the siblings
apart: the terms of their losses. In the scaffold: Enc is the encoder, the state is the embeddings
and actions of the last moments, Pred is the predictor, there is no z.

The predictor leaps: one call covers a block of up to `block` world steps, as in the papers. How it
follows a world step by step all the same is in `models/leaping.py`.

Two sizes: the default learns two rooms in a minute; `PAPER` is LeWorldModel's as published, a ViT
and a causal transformer. The networks are in `nn/leap.py` and `nn/causal.py`. Letters: D latent
size, K frames of history, A numbers of an action, U leaps in the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from reverie.core.errors import BadConfig
from reverie.core.model import Part
from reverie.core.types import Batch, Box, Card, Loss, Optim, Space, check_batch
from reverie.models.leaping import Leaping, Segment, Window, readable
from reverie.nn.anticollapse import (
    Covariance,
    EMATarget,
    InverseDynamics,
    Seen,
    SIGReg,
    TemporalSimilarity,
    Term,
    Variance,
    alarms,
    masked_mean,
)
from reverie.nn.causal import CausalConfig, CausalPredictor
from reverie.nn.leap import Encoder, Predictor, ViTConfig, ViTEncoder

Terms = tuple[tuple[str, float], ...]  # names in `TERMS` and their weights

TERMS: dict[str, Callable[[float, int, int], Term]] = {  # (weight, D, numbers of a block)
    "sigreg": lambda weight, *_: SIGReg(weight, slices=64),
    "variance": lambda weight, *_: Variance(weight),
    "covariance": lambda weight, *_: Covariance(weight),
    "temporal_similarity": lambda weight, *_: TemporalSimilarity(weight),
    "inverse_dynamics": lambda weight, d, a: InverseDynamics(weight, latent=d, action=a),
}
NOTHING: Terms = ()  # but the prediction: what collapses
SIGREG: Terms = (("sigreg", 0.1),)  # LeWorldModel as published (section 3.1)
SIGREG_TEMPORAL: Terms = (*SIGREG, ("temporal_similarity", 1.0))  # distances show the way
VICREG_TEMPORAL: Terms = (  # PLDM with the coefficients of EB-JEPA's two rooms (arXiv:2602.03604)
    *(("variance", 16.0), ("covariance", 8.0)),
    *(("temporal_similarity", 12.0), ("inverse_dynamics", 1.0)),
)


@dataclass(frozen=True)
class JEPAConfig:
    """Sizes and terms; the defaults learn two rooms in a minute."""

    terms: Terms = SIGREG  # of the loss, beside the prediction
    momentum: float | None = None  # of a slow copy whose embeddings are predicted; None: our own
    latent: int = 64  # D
    history: int = 1  # K frames that the predictor reads, one block apart
    block: int = 5  # world steps in a leap
    leaps: int = 3  # U predictions in a row in the loss, each from the one before
    channels: tuple[int, ...] = (16, 32, 64)  # of the encoder's layers, each halving the picture
    hidden: int = 128  # width of the predictor
    layers: int = 2  # of the predictor
    vit: ViTConfig | None = None  # a ViT as the encoder, in place of `channels`
    causal: CausalConfig | None = None  # a causal predictor, in place of `hidden` and `layers`
    lr: float = 2e-3
    lr_decay: float = 1.0  # a step


class JEPA(Leaping):
    """Encoder and predictor behind the contract. The siblings give it a card.

    Args:
        config: sizes and terms.
        observations: must hold 'image' or 'vector'; the image is read if both are there.
        actions: Box or Discrete.

    Raises:
        SpaceMismatch: if there is nothing to read, or nothing acts.
        BadConfig: if a term is not known, or the picture is of an odd size; see `Encoder`.
    """

    def __init__(
        self, config: JEPAConfig, observations: dict[str, Space], actions: Space | None
    ) -> None:
        grows = config.causal is not None  # it learns from short windows too
        super().__init__(Window(config.history, config.block, config.leaps, grows), actions)
        self.reads, space = readable(observations)
        self.config = config
        self.observations = {self.reads: space}
        self.encoder = _encoder(config, space.shape)
        self.predictor = _predictor(config, self.acts)
        self.terms = _built(config, config.block * self.acts)
        slow = config.momentum
        self.target = None if slow is None else EMATarget(self.encoder, momentum=slow)

    def encode(self, obs: dict[str, Tensor]) -> Tensor:
        """(B, D) embeddings of the picture or vector."""
        return self.encoder(obs[self.reads])

    def parts(self) -> tuple[Part, ...]:
        """Encoder, predictor and terms learn together."""
        c = self.config
        optim = Optim("model", c.lr, "adamw", weight_decay=1e-3, clip_norm=1.0, decay=c.lr_decay)
        return (Part("model", self, self._loss, optim, self._follow),)

    def _follow(self) -> None:
        """Move the slow copy, if there is one."""
        if self.target is not None:
            self.target.update(self.encoder)

    def _loss(self, batch: Batch, states: None) -> Loss:
        """U leaps in a row, each judged where it lands, one moment inside a block, and the terms.

        A causal predictor is judged at the earlier frames too. Gradients flow into the prediction
        and into what is predicted alike, unless that is a slow copy's. A leap counts if everything
        up to its landing lies in one episode.
        """
        del states
        check_batch(batch, self.observations, self.actions)
        k, segment = self.window.history, self._segment(batch)
        shown = self._shown(batch.obs[self.reads], segment.inside)
        z = self._embedded(self.encoder, shown)  # (B, K+U+1, D)
        goal = z if self.target is None else self._embedded(self.target, shown)
        told, counts = self._landed(z[:, :k], segment), segment.counts  # (B, U+1, D), (B, U+1)
        if isinstance(self.predictor, CausalPredictor):
            earlier, known = self._earlier(self.predictor, z[:, :k], segment)
            told, counts = torch.cat([earlier, told], 1), torch.cat([known, counts], 1)
        error = (told - goal[:, -told.shape[1] :]).square().mean(-1)
        prediction = masked_mean(error, counts)
        return self._summed(prediction, Seen(z[:, :-1], segment.actions.flatten(2), segment.whole))

    def _earlier(
        self, predictor: CausalPredictor, z: Tensor, segment: Segment
    ) -> tuple[Tensor, Tensor]:
        """(B, K-1, D) what follows each frame but the last, and (B, K-1) whether it counts."""
        full = torch.full((len(z),), self.window.block, device=z.device)
        told = predictor.everywhere(z, segment.actions[:, : z.shape[1]], full)[:, :-1]
        whole = segment.whole.long().cumprod(1).bool()
        return told, whole[:, : z.shape[1] - 1]

    def _embedded(self, encoder: nn.Module, frames: Tensor) -> Tensor:
        """(B, F, D) of frames (B, F, ...)."""
        return encoder(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])

    def _summed(self, prediction: Tensor, seen: Seen) -> Loss:
        """The weighed sum, its terms, and the alarms."""
        found = {term.name: term(seen) for term in self.terms}  # type: ignore[union-attr]
        weighed = [term.weight * found[term.name] for term in self.terms]  # type: ignore
        total = torch.stack([prediction, *weighed]).sum()
        terms = {"prediction": prediction, **found}
        return Loss(total, {k: v.detach() for k, v in terms.items()} | alarms(seen))


class LeWorldModel(JEPA):
    """Prediction and SIGReg, nothing else: no slow copy, no stopped gradient.

    Departures from the paper, in the default size: a convolutional encoder where it has a ViT, and
    a predictor that takes its frames side by side; the loss unrolls three leaps where it has one.

    In `PAPER` too: one moment inside a block is learned as well, so that any step can be asked for,
    and the action encoder is told which. The next embedding is told at every frame of the window,
    as published; an episode's first windows are as short as it is.
    """

    card = Card(
        name="lewm",
        title="LeWorldModel",
        family="B",
        state="embeddings and actions of the last moments",
        z="none",
        objective="squared error of embeddings + SIGReg",
        policy="planner",
        couplings=("planning",),
        heads=("embed", "features"),
        paper="Maes et al. 2026, arXiv:2603.19312",
    )


class PLDM(JEPA):
    """Prediction, VICReg's variance and covariance, similarity in time, inverse dynamics."""

    card = replace(
        LeWorldModel.card,
        name="pldm",
        title="PLDM",
        objective="squared error of embeddings + VICReg + similarity in time + inverse dynamics",
        paper="Sobal et al. 2025, arXiv:2502.14819",
    )


class SelfPredictive(JEPA):
    """Prediction of a slow copy's embeddings: BYOL's way, with actions."""

    card = replace(
        LeWorldModel.card,
        name="self_predictive",
        title="Self-predictive representations",
        objective="squared error of the embeddings of a slow copy",
        paper="Schwarzer et al. 2021, arXiv:2007.05929; Grill et al. 2020, arXiv:2006.07733",
    )


class School(NamedTuple):
    """A row of the table."""

    model: type[JEPA]
    config: JEPAConfig

    def default(self) -> JEPA:
        """Of the size that learns two rooms, untrained."""
        return self.model(self.config, PIXELS, Box((2,)))

    def small(self) -> JEPA:
        """The same wiring, thin, with a history: what `reverie check` runs."""
        sizes = {"latent": 8, "history": 2, "block": 2, "leaps": 1, "channels": (4, 4)}
        return self.model(replace(self.config, hidden=16, **sizes), PIXELS, Box((2,)))


PAPER = JEPAConfig(  # LeWorldModel's appendix D: 18M weights for 224 x 224 pixels
    latent=192, history=3, leaps=1, vit=ViTConfig(), causal=CausalConfig(), lr=5e-5
)
PIXELS: dict[str, Space] = {"image": Box((3, 32, 32), 0, 255, "uint8")}
SCHOOLS: dict[str, School] = {
    "lewm": School(LeWorldModel, JEPAConfig(terms=SIGREG)),
    "pldm": School(PLDM, JEPAConfig(terms=VICREG_TEMPORAL)),
    "self_predictive": School(SelfPredictive, JEPAConfig(terms=NOTHING, momentum=0.99)),
}


def _encoder(config: JEPAConfig, shape: tuple[int, ...]) -> nn.Module:
    """The one that the config chooses."""
    if config.vit is not None:
        return ViTEncoder(shape, config.latent, config.vit)
    return Encoder(shape, config.latent, config.channels)


def _predictor(config: JEPAConfig, acts: int) -> nn.Module:
    """The one that the config chooses, for actions of so many numbers."""
    sizes = {"latent": config.latent, "history": config.history, "block": config.block}
    if config.causal is not None:
        return CausalPredictor(**sizes, action=acts, config=config.causal)
    return Predictor(**sizes, action=acts, width=config.hidden, layers=config.layers)


def _built(config: JEPAConfig, action: int) -> nn.ModuleList:
    """The terms that the config names."""
    if unknown := [name for name, _ in config.terms if name not in TERMS]:
        raise BadConfig(f"JEPAConfig.terms names {unknown}. Choose of {sorted(TERMS)}.")
    return nn.ModuleList(TERMS[name](w, config.latent, action) for name, w in config.terms)
