"""Bootstrapped ensembles of probabilistic networks over vectors: PETS, and the model of MBPO.

Each member says a Gaussian over what a step changes and over the reward. Where the members
differ nobody has looked yet (epistemic uncertainty); what each says of its own deviation is chance
(aleatoric). In the scaffold: Enc is the identity, the state is the observation and the member that
foretells it, Pred is s + N(mu_i, Sigma_i), and z is the member i and the noise.

`parts` learns from batches of any stream. The papers' way, whole epochs over everything with
members held apart by their bootstraps, is `models/ensemble_fit.py`.

Departures from both papers: targets are normalised as inputs are, so that a reward of tens does
not drown an angle; the floor of the log-variance never falls below where it begins.

Letters: E members, D numbers of an observation, A of an action, O of a target (D, and 1 for the
reward if it is learned).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.errors import BadConfig, SpaceMismatch
from reverie.core.model import Part, WorldModel
from reverie.core.types import Batch, Box, Card, Discrete, Heads, Loss, Optim, Space, check_batch
from reverie.models.known import ENDS, REWARDS
from reverie.nn.layers import Style, dense, mlp
from reverie.nn.members import Members
from reverie.nn.precision import PRECISIONS, Precision, products
from reverie.nn.scale import Scale

Propagation = Callable[[Tensor, Tensor], Tensor]  # (member so far or -1, one drawn) -> member
LOWER, _UPPER = -10.0, 0.5  # of the log-variance of normalised targets, at first


# Chua et al. 2018, section 4.2: a trajectory stays with the member that began it, so that what is
# not known stays not known; or another member each step.
PROPAGATIONS: dict[str, Propagation] = {
    "ts_infinity": lambda kept, drawn: torch.where(kept < 0, drawn, kept),
    "ts_one": lambda kept, drawn: drawn,
}


@dataclass(frozen=True)
class EnsembleConfig:
    """Sizes, and what is known of the world beforehand."""

    members: int = 5  # E
    elites: int = 5  # of them foretell: those that erred least on held-out data
    layers: int = 4
    units: int = 200
    propagation: str = "ts_infinity"  # how a trajectory keeps its member: see `PROPAGATIONS`
    reward: str = "learned"  # or a function of `known.REWARDS`
    ends: str | None = "learned"  # or a function of `known.ENDS`; None: the world never ends
    lr: float = 1e-3
    weight_decay: float = 3e-5
    penalty: float = 0.01  # weight of the distance between the bounds of the log-variance
    precision: Precision = "float32"  # of the products in `predict`

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense (BadConfig)."""
        if not 1 <= self.elites <= self.members or min(self.layers, self.units) < 1:
            raise BadConfig(
                f"An ensemble needs 1 <= elites <= members, layers and units, but has "
                f"{self.elites} elites of {self.members}, {self.layers} layers, {self.units} units."
            )
        choices = {
            "propagation": [*PROPAGATIONS],
            "reward": ["learned", *REWARDS],
            "ends": ["learned", None, *ENDS],
            "precision": [*PRECISIONS],
        }
        for name, some in choices.items():
            if getattr(self, name) not in some:
                raise BadConfig(f"EnsembleConfig.{name} is {getattr(self, name)!r}, not in {some}.")


class State(NamedTuple):
    """What the model knows at one moment."""

    x: Tensor  # (B, D) the observation
    member: Tensor  # (B,) int64 who foretold it; -1: it was seen
    reward: Tensor  # (B,) expected with it, where it was foretold and rewards are learned


class Z(NamedTuple):
    """What the present does not tell."""

    member: Tensor  # (B,) int64
    noise: Tensor  # (B, D) standard normal


class Transitions(NamedTuple):
    """N steps of the world, in no order."""

    before: Tensor  # (N, D)
    action: Tensor  # (N, A) float or (N,) int64
    reward: Tensor  # (N,)
    after: Tensor  # (N, D)
    terminated: Tensor  # (N,) bool


class Ensemble(WorldModel[State]):
    """Networks, scales and bounds behind the contract. PETS and MBPO give it a card.

    Args:
        config: sizes, and what is known.
        observations: must hold 'vector'.
        actions: Box or Discrete.

    Raises:
        SpaceMismatch: if there is no vector to read, or nothing acts.
    """

    elites: Tensor
    trusted: Tensor
    lower: Tensor
    upper: Tensor

    def __init__(
        self, config: EnsembleConfig, observations: dict[str, Space], actions: Space | None
    ) -> None:
        super().__init__()
        space = observations.get("vector")
        if not isinstance(space, Box) or len(space.shape) != 1 or actions is None:
            raise SpaceMismatch(
                f"{self.card.title} foretells the observation 'vector' under actions, but the "
                f"world shows {sorted(observations)} and acts in {actions}. Choose such a world, "
                "ask it for observe='vector', or choose a school that reads pictures."
            )
        self.config, self.actions, self.temperature = config, actions, 1.0
        self.observations = {"vector": space}  # type: ignore[assignment]
        self.size = space.shape[0]  # D
        acts = actions.n if isinstance(actions, Discrete) else math.prod(actions.shape)
        outputs = self.size + (config.reward == "learned")  # O
        self.inputs, self.targets = Scale(self.size + acts), Scale(outputs)
        self.net = Members(
            *(config.members, self.size + acts, 2 * outputs),
            layers=config.layers,
            units=config.units,
        )
        self.lower = nn.Parameter(torch.full((outputs,), LOWER))
        self.upper = nn.Parameter(torch.full((outputs,), _UPPER))
        self.ending = None  # the logit of an ending at a normalised observation
        if config.ends == "learned":
            hidden = mlp(self.size, 2, config.units, Style("silu", norm=False))
            self.ending = nn.Sequential(hidden, dense(config.units, 1))
        self.register_buffer("elites", torch.arange(config.members))  # best first
        # So many of them foretell: all, until somebody has told them apart.
        self.register_buffer("trusted", torch.tensor(config.members))

    # --- the contract ---------------------------------------------------------------------------

    def encode(self, obs: dict[str, Tensor]) -> Tensor:
        """(B, D) the vector itself."""
        return obs["vector"].float()

    def observe(
        self,
        state: State | None,
        action: Tensor | None,
        h: Tensor,
        *,
        first: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """What is seen is the state. See `WorldModel.observe`."""
        del state, action, first, generator
        unsaid = torch.full(h.shape[:-1], -1, dtype=torch.int64, device=h.device)
        return State(h, unsaid, torch.zeros_like(h[..., 0]))

    def predict(
        self,
        state: State,
        action: Tensor | None,
        *,
        z: Z | None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """A draw of the Gaussian of one member. See `WorldModel.predict`."""
        rows, config = len(state.x), self.config
        if z is None:
            unit = torch.rand(rows, generator=generator, device=state.x.device)
            rank = torch.minimum((unit * self.trusted).long(), self.trusted - 1)
            noise = torch.randn(state.x.shape, generator=generator, device=state.x.device)
            keep = PROPAGATIONS[config.propagation]
            z = Z(keep(state.member, self.elites[rank]), noise)
        with products(config.precision, state.x.device):
            raw = self.net.of(self._read(state.x, action), z.member)
        mean, log_var = self.said(raw)
        spread = self.targets.std[: self.size] * (0.5 * log_var[:, : self.size]).exp()
        mean = self.targets.back(mean)
        after = state.x + mean[:, : self.size] + self.temperature * spread * z.noise  # type: ignore
        reward = mean[:, -1] if config.reward == "learned" else torch.zeros_like(mean[:, 0])
        return State(after, z.member, reward)

    @property
    def heads(self) -> Heads:
        """Everything but a policy and a value."""
        return Heads(
            owner=self.card.name,
            reward=self.reward,
            cont=None if self.config.ends is None else self.cont,
            decode=lambda s: {"vector": s.x},
            embed=lambda s: self._near(s.x),
            features=lambda s: s.x,
            epistemic=lambda s, a: self.uncertainty(s, a)[0],
            aleatoric=lambda s, a: self.uncertainty(s, a)[1],
        )

    def reward(self, before: State, action: Tensor, after: State) -> Tensor:
        """(B,) known, or as foretold with the state, or the members' mean where it was seen."""
        if self.config.reward != "learned":
            return REWARDS[self.config.reward](before.x, action, after.x)
        seen = after.member < 0
        if not seen.any():  # waits for the device, and saves the network
            return after.reward
        mean, _ = self.said(self.net(self._read(before.x, action)))
        return torch.where(seen, self.targets.back(mean.mean(0))[:, -1], after.reward)

    def cont(self, after: State) -> Tensor:
        """(B,) that the episode goes on."""
        if self.ending is None:
            return (~ENDS[self.config.ends](after.x)).float()  # type: ignore[index]
        return (-self.ending(self._near(after.x))[:, 0]).sigmoid()

    def uncertainty(self, state: State, action: Tensor) -> tuple[Tensor, Tensor]:
        """What is not known and what is chance about a step, (B,) each.

        Deviations, root mean squares over the numbers of a target, in units of what a step
        usually changes: the deviation of the members' means, and that which they expect.

        Args:
            state: (B, ...).
            action: (B, A) or (B,).

        Source: Lakshminarayanan et al. 2017, section 2.4; the law of total variance.
        """
        mean, log_var = self.said(self.net(self._read(state.x, action)))
        epistemic = mean.var(0, unbiased=False).mean(-1).sqrt()
        return epistemic, log_var.exp().mean(0).mean(-1).sqrt()

    # --- learning -------------------------------------------------------------------------------

    def parts(self) -> tuple[Part, ...]:
        """All members learn together."""
        optim = Optim("model", self.config.lr, weight_decay=self.config.weight_decay)
        return (Part("ensemble", self, self._loss, optim),)

    def _loss(self, batch: Batch, states: None) -> Loss:
        """The members' likelihoods of the steps, each member with a bag of its own.

        A step counts for a member as often as a Poisson draw says: bagging for streams. In
        training the scales take in what they see.

        Source: Oza & Russell 2001, section 3.
        """
        del states
        check_batch(batch, self.observations, self.actions)
        seen, weight = batch.obs["vector"].float(), batch.mask.flatten().float()
        steps = Transitions(
            seen[:, :-1].flatten(0, 1),
            batch.action.flatten(0, 1),  # type: ignore[union-attr]
            torch.zeros_like(weight) if batch.reward is None else batch.reward.flatten(),
            seen[:, 1:].flatten(0, 1),
            batch.terminated.flatten(),
        )
        rows, target = self.raw(steps)
        if self.training:
            self.inputs.add(rows, weight)
            self.targets.add(target, weight)
            bags = torch.poisson(weight.expand(self.config.members, -1))
        else:
            bags = weight.expand(self.config.members, -1)
        nll, error = self.errors(self.inputs.scaled(rows), self.targets.scaled(target))
        share = bags / bags.sum(1, keepdim=True).clamp(min=1)
        likelihood, mse = (share * nll).sum(), (share * error).sum(1).mean()
        miss = self.ending_loss(steps.after, steps.terminated, weight)
        terms = {"nll": likelihood / (2 * self.config.members), "mse": mse, "ends": miss}
        terms = {name: value.detach() for name, value in terms.items()}
        return Loss(likelihood + self.bounds() + miss, terms, self.observe(None, None, seen))

    def raw(self, steps: Transitions) -> tuple[Tensor, Tensor]:
        """Inputs (N, D + A) and targets (N, O) of steps, in the world's own units."""
        target = [steps.after - steps.before]
        if self.config.reward == "learned":
            target.append(steps.reward[:, None])
        return self._rows(steps.before, steps.action), torch.cat(target, 1)

    def errors(self, rows: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Of normalised inputs and targets (N, ...) or (E, N, ...), the mean over targets.

        Returns:
            (E, N) twice the negative log-likelihood without its constant, and squared errors.
        """
        mean, log_var = self.said(self.net(rows))
        square = (mean - target).square()
        return (square * (-log_var).exp() + log_var).mean(-1), square.mean(-1)

    def bounds(self) -> Tensor:
        """() what keeps the bounds of the log-variance close."""
        return self.config.penalty * (self.upper - self.lower).sum()

    def said(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log-variances (..., O) of normalised targets, of raw outputs (..., 2O).

        Source: Chua et al. 2018, appendix A.1: soft bounds on both sides.
        """
        mean, log_var = raw.float().chunk(2, -1)
        lower = self.lower.clamp(min=LOWER)
        log_var = self.upper - F.softplus(self.upper - log_var)
        return mean, lower + F.softplus(log_var - lower)

    def ending_loss(
        self, after: Tensor, terminated: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """() cross-entropy of endings at observations (N, D); 0 if they are not learned."""
        if self.ending is None:
            return after.new_zeros(())
        logit, ended = self.ending(self._near(after))[:, 0], terminated.float()
        return F.binary_cross_entropy_with_logits(logit, ended, weight)

    def _near(self, x: Tensor) -> Tensor:
        """Observations (N, D) normalised."""
        return (x - self.inputs.mean[: self.size]) / self.inputs.std[: self.size]

    def _read(self, x: Tensor, action: Tensor | None) -> Tensor:
        """(N, D + A) normalised."""
        return self.inputs.scaled(self._rows(x, action))

    def _rows(self, x: Tensor, action: Tensor | None) -> Tensor:
        """(N, D + A)."""
        if action is None:
            raise SpaceMismatch(f"{self.card.title} foretells under actions, but action is None.")
        if isinstance(self.actions, Discrete):
            return torch.cat([x, F.one_hot(action, self.actions.n).float()], 1)
        return torch.cat([x, action.flatten(1)], 1)


class PETS(Ensemble):
    """The ensemble that is planned in; every trajectory keeps its member. See `Ensemble`."""

    card = Card(
        name="pets",
        title="PETS",
        family="C",
        state="observation, member of the ensemble",
        z="member, draw from its Gaussian",
        objective="likelihood of what a step changes and of the reward, bootstrapped",
        policy="planner (CEM over particles)",
        couplings=("planning", "imagination"),
        heads=("reward", "cont", "decode", "embed", "features", "epistemic", "aleatoric"),
        paper="Chua et al. 2018, arXiv:1805.12114",
    )


class MBPO(Ensemble):
    """The ensemble that a policy learns in; every step another elite. See `Ensemble`."""

    card = replace(
        PETS.card,
        name="mbpo",
        title="MBPO",
        policy="soft actor-critic on short branched rollouts",
        couplings=("imagination", "planning"),
        paper="Janner et al. 2019, arXiv:1906.08253",
    )


class School(NamedTuple):
    """A row of the table."""

    model: type[Ensemble]
    config: EnsembleConfig

    def default(self) -> Ensemble:
        """Of the paper's size, untrained, for HalfCheetah's numbers."""
        return self.model(self.config, {"vector": Box((18,), -torch.inf, torch.inf)}, Box((6,)))

    def small(self) -> Ensemble:
        """The same wiring, thin: what `reverie check` runs."""
        thin = replace(self.config, layers=2, units=16)
        return self.model(thin, {"vector": Box((3,), -torch.inf, torch.inf)}, Box((2,)))


SCHOOLS: dict[str, School] = {
    "pets": School(PETS, EnsembleConfig()),
    "mbpo": School(
        MBPO, EnsembleConfig(members=7, elites=5, propagation="ts_one", weight_decay=1e-5)
    ),
}
