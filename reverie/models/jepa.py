"""JEPA world models learned end to end from pixels: LeWorldModel, PLDM and their siblings.

An encoder makes an embedding of each frame and a predictor makes the next one from it and the
actions; no picture is ever drawn. What keeps the embeddings from collapsing tells the siblings
apart: the terms of their losses. In the scaffold: Enc is the encoder, the state is the embeddings
and actions of the last moments, Pred is the predictor, there is no z.

The predictor leaps: one call covers a block of up to `block` world steps, as in the papers. Here
`predict` still takes single steps: it notes the action, and the network is called where a block is
full, or where a head asks for a moment inside one.

The networks are in `nn/leap.py`. Letters: D latent size, K frames of history, A numbers of an
action, U leaps in the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.errors import BadConfig, ShapeMismatch, SpaceMismatch
from reverie.core.model import Part, WorldModel
from reverie.core.types import Batch, Box, Card, Discrete, Heads, Loss, Optim, Space, check_batch
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
from reverie.nn.leap import Encoder, Predictor, rows_of

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
    lr: float = 2e-3
    lr_decay: float = 1.0  # a step


class State(NamedTuple):
    """What the model knows at one moment. Before an episode, the world stood still."""

    z: Tensor  # (B, (K-1) block + 1, D) embeddings up to the anchor, one a step, newest last
    action: Tensor  # (B, K block, A) what led to each moment up to now, newest last
    ahead: Tensor  # (B,) int64 in 0..block-1: steps from the anchor to now


class Moment(NamedTuple):
    """One moment a row, drawn anew for every loss, so that no step of a leap stays unlearned."""

    leap: Tensor  # (B,) int64 in 0..U-1: within which leap it lies
    n: Tensor  # (B,) int64 in 1..block: how many steps in
    when: Tensor  # (B,) int64: its index in the segment


class JEPA(WorldModel[State]):
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
        super().__init__()
        self.reads, space = _readable(observations)
        self.config = config
        self.observations = {self.reads: space}
        if actions is None:
            raise SpaceMismatch(
                f"{self.card.title} predicts under actions, but the world has none. "
                "Choose a school that learns from video alone (see `reverie list`)."
            )
        self.actions = actions
        self.acts = actions.n if isinstance(actions, Discrete) else actions.shape[0]  # A
        self.encoder = Encoder(space.shape, config.latent, config.channels)
        self.predictor = Predictor(
            latent=config.latent,
            action=self.acts,
            history=config.history,
            block=config.block,
            width=config.hidden,
            layers=config.layers,
        )
        self.terms = _built(config, config.block * self.acts)
        slow = config.momentum
        self.target = None if slow is None else EMATarget(self.encoder, momentum=slow)

    def encode(self, obs: dict[str, Tensor]) -> Tensor:
        """(B, D) embeddings of the picture or vector."""
        return self.encoder(obs[self.reads])

    def observe(
        self,
        state: State | None,
        action: Tensor | None,
        h: Tensor,
        *,
        first: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """Take in an embedding: it is the new anchor. See `WorldModel.observe`.

        Moments that were predicted before count as their anchor: nobody looked at them.
        """
        del generator
        length = (self.config.history - 1) * self.config.block + 1
        blank = h.new_zeros(len(h), self.config.history * self.config.block, self.acts)
        ahead = torch.zeros_like(h[:, 0], dtype=torch.int64)
        begun = State(h[:, None].expand(-1, length, -1), blank, ahead)
        if state is None:
            return begun
        shift = torch.arange(length, device=h.device) + state.ahead[:, None] + 1
        z = rows_of(state.z, shift.clamp(max=length - 1))
        z = torch.cat([z[:, :-1], h[:, None]], 1)
        going = State(z, self._pushed(state.action, action), ahead)
        if first is None:
            return going
        fresh = first[:, None, None]
        z, pushed = (torch.where(fresh, b, g) for b, g in zip(begun[:2], going[:2], strict=True))
        return State(z, pushed, ahead)

    def predict(
        self,
        state: State,
        action: Tensor | None,
        *,
        z: None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """One step further from the anchor; a full block is a leap. See `WorldModel.predict`."""
        del z, generator
        pushed, ahead = self._pushed(state.action, action), state.ahead + 1
        full = ahead == self.config.block
        if not full.any():  # waits for the device, and saves the network
            return State(state.z, pushed, ahead)
        landed = self._leap(state.z, pushed, ahead)[:, None]
        between = state.z[:, -1:].expand(-1, self.config.block - 1, -1)
        moved = torch.cat([state.z, between, landed], 1)[:, -state.z.shape[1] :]
        moved = torch.where(full[:, None, None], moved, state.z)
        return State(moved, pushed, ahead.masked_fill(full, 0))

    @property
    def heads(self) -> Heads:
        """embed and features: the embedding of the moment."""
        return Heads(owner=self.card.name, embed=self.embed, features=self.embed)

    def embed(self, state: State) -> Tensor:
        """(B, D) the embedding of the state's moment; the network is called inside a block."""
        newest = state.z[:, -1]
        if not state.ahead.any():  # waits for the device, and saves the network
            return newest
        inside = self._leap(state.z, state.action, state.ahead.clamp(min=1))
        return torch.where(state.ahead[:, None] == 0, newest, inside)

    def _leap(self, z: Tensor, action: Tensor, n: Tensor) -> Tensor:
        """The embedding (B, D) n steps after the anchor, where `action` ends n steps after it."""
        k, block = self.config.history, self.config.block
        steps = torch.arange(k * block, device=z.device) + block - n[:, None]
        done = rows_of(action, steps.clamp(max=k * block - 1))
        done = done * (steps < k * block)[..., None]
        return self.predictor(z[:, ::block], done.unflatten(1, (k, block)), n)

    def _pushed(self, before: Tensor, action: Tensor | None) -> Tensor:
        """(B, K block, A): the newest action at the end, the oldest gone."""
        if action is None:
            raise SpaceMismatch(f"{self.card.title} predicts under actions, but action is None.")
        return torch.cat([before[:, 1:], self._numbers(action)[:, None]], 1)

    def _numbers(self, action: Tensor) -> Tensor:
        """Actions as (..., A) floats."""
        if isinstance(self.actions, Discrete):
            return F.one_hot(action, self.acts).float()
        return action

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

        Gradients flow into the prediction and into what is predicted alike, unless that is a slow
        copy's. A leap counts if everything up to its landing lies in one episode.
        """
        del states
        check_batch(batch, self.observations, self.actions)
        k, block, steps = self.config.history, self.config.block, self._steps(batch)
        mask, action = batch.mask[:, :steps], self._numbers(batch.action[:, :steps])  # type: ignore
        actions = action.unflatten(1, (-1, block))  # (B, K-1+U, block, A)
        inside = self._drawn(mask)
        frames, rows = batch.obs[self.reads], torch.arange(len(mask), device=mask.device)
        shown = torch.cat([frames[:, : steps + 1 : block], frames[rows, inside.when][:, None]], 1)
        z = self._embedded(self.encoder, shown)  # (B, K+U+1, D)
        goal = z if self.target is None else self._embedded(self.target, shown)
        windows = self._unrolled(z[:, :k], actions)
        landed = [window[:, -1] for window in windows[1:]] + [self._met(windows, actions, inside)]
        error = (torch.stack(landed, 1) - goal[:, k:]).square().mean(-1)  # (B, U+1)
        whole = mask.unflatten(1, (-1, block)).all(-1)  # (B, K-1+U)
        prediction = masked_mean(error, self._counts(mask, whole, inside))
        return self._summed(prediction, Seen(z[:, :-1], actions.flatten(2), whole))

    def _drawn(self, mask: Tensor) -> Moment:
        """A moment for each row of the mask (B, T)."""
        c, like = self.config, {"size": (len(mask),), "device": mask.device}
        leap, n = torch.randint(c.leaps, **like), torch.randint(1, c.block + 1, **like)
        return Moment(leap, n, c.block * (c.history - 1 + leap) + n)

    def _unrolled(self, window: Tensor, actions: Tensor) -> list[Tensor]:
        """The K embeddings (B, K, D) that stand before each of U leaps in a row, and after all.

        Args:
            window: (B, K, D) seen.
            actions: (B, K-1+U, block, A).
        """
        k, block = self.config.history, self.config.block
        full = torch.full((len(window),), block, device=window.device)
        windows = [window]
        for u in range(self.config.leaps):
            landed = self.predictor(windows[-1], actions[:, u : u + k], full)
            windows.append(torch.cat([windows[-1][:, 1:], landed[:, None]], 1))
        return windows

    def _met(self, windows: list[Tensor], actions: Tensor, inside: Moment) -> Tensor:
        """The embedding (B, D) that is foreseen for the drawn moment."""
        k, block = self.config.history, self.config.block
        rows = torch.arange(len(actions), device=actions.device)
        done = actions.unfold(1, k, 1).movedim(-1, 2)[rows, inside.leap]  # (B, K, block, A)
        step = torch.arange(k * block, device=actions.device).view(k, block) - (k - 1) * block
        done = done * (step < inside.n[:, None, None])[..., None]
        return self.predictor(torch.stack(windows, 1)[rows, inside.leap], done, inside.n)

    def _counts(self, mask: Tensor, whole: Tensor, inside: Moment) -> Tensor:
        """(B, U+1) bool: all up to the landing, or to the drawn moment, is one episode."""
        leaps = whole.long().cumprod(1)[:, self.config.history - 1 :].bool()
        later = torch.arange(mask.shape[1], device=mask.device) >= inside.when[:, None]
        return torch.cat([leaps, (mask | later).all(1, keepdim=True)], 1)

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

    def _steps(self, batch: Batch) -> int:
        """Transitions that the loss looks at, if the batch has them."""
        c = self.config
        steps = c.block * (c.history - 1 + c.leaps)
        if batch.mask.shape[1] < steps:
            raise ShapeMismatch(
                f"{self.card.title} learns from segments of {steps} transitions ({c.history} "
                f"frame(s) of history and {c.leaps} leap(s) of {c.block} steps), but these have "
                f"{batch.mask.shape[1]}. Sample longer ones, or build it with a shorter window."
            )
        return steps


class LeWorldModel(JEPA):
    """Prediction and SIGReg, nothing else: no slow copy, no stopped gradient.

    Departures from the paper: a convolutional encoder where it has a ViT, and a predictor that
    takes its frames side by side; the loss unrolls three leaps where it has one.
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


PIXELS: dict[str, Space] = {"image": Box((3, 32, 32), 0, 255, "uint8")}
SCHOOLS: dict[str, School] = {
    "lewm": School(LeWorldModel, JEPAConfig(terms=SIGREG)),
    "pldm": School(PLDM, JEPAConfig(terms=VICREG_TEMPORAL)),
    "self_predictive": School(SelfPredictive, JEPAConfig(terms=NOTHING, momentum=0.99)),
}


def _built(config: JEPAConfig, action: int) -> nn.ModuleList:
    """The terms that the config names."""
    if unknown := [name for name, _ in config.terms if name not in TERMS]:
        raise BadConfig(f"JEPAConfig.terms names {unknown}. Choose of {sorted(TERMS)}.")
    return nn.ModuleList(TERMS[name](w, config.latent, action) for name, w in config.terms)


def _readable(observations: dict[str, Space]) -> tuple[str, Box]:
    """What the encoder reads, if it is there."""
    for name in ("image", "vector"):
        if isinstance(space := observations.get(name), Box):
            return name, space
    raise SpaceMismatch(
        f"A JEPA world model reads 'image' or 'vector', but found {sorted(observations)}. "
        "Choose a world that shows one of them."
    )
