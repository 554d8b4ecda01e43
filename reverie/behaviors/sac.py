"""Soft actor-critic: two critics, the tanh of a Gaussian, a temperature that finds itself.

It learns from single steps, real ones (alone it is a model-free baseline) or dreamed ones
(`behaviors/branching.py`: MBPO). What it reads of a moment are a model's features; without states
from a part before it, each observation is looked at alone, which is all that there is to know in
a model without memory. Imports core and nn.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reverie.behaviors.actor_critic import width_of
from reverie.core import tree
from reverie.core.errors import BadConfig, SpaceMismatch
from reverie.core.model import Part, WorldModel, need
from reverie.core.types import Batch, Box, Heads, Loss, Optim
from reverie.nn.members import Members
from reverie.nn.policy import TanhNormal

_LOG_STD = (-5.0, 2.0)  # the paper's lower end of -20 begins with no exploration at all


@dataclass(frozen=True)
class SACConfig:
    """How a behavior learns."""

    lr: float = 3e-4  # of critics, actor and temperature
    layers: int = 2
    units: int = 256
    discount: float = 0.99
    slow_rate: float = 0.005  # of the slow critics' step towards the critics
    begin: float = 1.0  # temperature at first
    entropy: float | None = None  # nats that the temperature aims at; None: minus A


class Moves(NamedTuple):
    """What the critics' part hands to the actor's."""

    features: Tensor  # (N, F) before
    weight: Tensor  # (N,) 0 where there is no step; sums to 1


class SAC(nn.Module):
    """A policy and two critics over a model's features.

    Args:
        model: needs `features`; it is not trained here.
        config: how it learns.
        heads: instead of the model's own.

    Raises:
        MissingHead: if the model has no features.
        SpaceMismatch: if the actions are not a Box in [-1, 1].

    Source: Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications", algorithm 1.
    """

    def __init__(
        self, model: WorldModel[Any], config: SACConfig | None = None, *, heads: Heads | None = None
    ) -> None:
        super().__init__()
        self.config, self._model = config or SACConfig(), (model,)  # not a submodule
        self._heads = heads or model.heads
        (self._features,) = need(self._heads, "features", what="SAC")
        self.actions, c = _box(model), self.config
        acts = math.prod(self.actions.shape)
        self._target = -float(acts) if c.entropy is None else c.entropy
        sizes: dict[str, Any] = {"layers": c.layers, "units": c.units, "activation": "relu"}
        inputs = width_of(model, self._features)
        self.actor = Members(1, inputs, TanhNormal.width(self.actions), **sizes)
        self.critic = Members(2, inputs + acts, 1, **sizes)
        self.slow = deepcopy(self.critic).requires_grad_(requires_grad=False)
        self.temperature = _Temperature(c.begin)

    # --- acting ---------------------------------------------------------------------------------

    def distribution(self, features: Tensor) -> TanhNormal:
        """Over actions (N, A), of features (N, F)."""
        return TanhNormal(self.actor(features)[0], self.actions, _LOG_STD)

    def values(self, features: Tensor, action: Tensor, *, slow: bool = False) -> Tensor:
        """(2, N) what each critic says of actions (N, A) at features (N, F)."""
        critic = self.slow if slow else self.critic
        return critic(torch.cat([features, action.flatten(1)], 1))[..., 0]

    def policy(self, state: Any, generator: torch.Generator | None = None) -> Tensor:
        """(B, A) the tanh of the mean at states (B, ...)."""
        del generator
        return self.distribution(self._features(state)).mode

    def explore(self, state: Any, generator: torch.Generator | None = None) -> Tensor:
        """(B, A) a draw at states (B, ...)."""
        return self.distribution(self._features(state)).sample(generator=generator)

    @property
    def heads(self) -> Heads:
        """The model's heads with `policy`, and `value`: the lesser critic at the mode."""

        def value(state: Any) -> Tensor:
            features = self._features(state)
            return self.values(features, self.distribution(features).mode).amin(0)

        return self._heads._replace(
            policy=lambda s: self.distribution(self._features(s)), value=value
        )

    # --- learning -------------------------------------------------------------------------------

    def parts(self) -> tuple[Part, ...]:
        """The critics, the actor, the temperature: one after another, each with its own step."""
        critic, actor, warmth = (
            Optim(name, self.config.lr) for name in ("critic", "actor", "temperature")
        )
        return (
            Part("critic", self.critic, self._critic_loss, critic, self._follow),
            Part("actor", self.actor, self._actor_loss, actor),
            Part("temperature", self.temperature, self._temperature_loss, warmth),
        )

    def _critic_loss(self, batch: Batch, states: Any) -> Loss:
        """Half the squared error of both critics against the soft return of one step."""
        if batch.reward is None or batch.action is None:
            raise BadConfig(
                "SAC learns from rewards and actions, but the data was recorded without them. "
                "Give it a store that has both."
            )
        features = self._seen(batch, states)  # (B, T+1, F)
        before, after = (x.flatten(0, 1) for x in (features[:, :-1], features[:, 1:]))
        weight = batch.mask.flatten().float()
        weight = weight / weight.sum().clamp(min=1)
        with torch.no_grad():
            action, density = self.distribution(after).drawn()
            worth = self.values(after, action, slow=True).amin(0) - self.alpha * density
            goes_on = self.config.discount * (~batch.terminated.flatten()).float()
            goal = batch.reward.flatten() + goes_on * worth
        found = self.values(before.detach(), batch.action.flatten(0, 1))
        loss = 0.5 * ((found - goal).square() * weight).sum()
        terms = {"loss": loss.detach(), "q": (found.detach() * weight).sum() / 2}
        return Loss(loss, terms, Moves(before.detach(), weight))

    def _actor_loss(self, batch: Batch, moves: Moves) -> Loss:
        """Prefer what the lesser critic likes, and stay as undecided as the temperature asks."""
        del batch
        action, density = self.distribution(moves.features).drawn()
        worth = self.values(moves.features, action).amin(0)
        loss = (moves.weight * (self.alpha * density - worth)).sum()
        entropy = -(moves.weight * density).sum().detach()
        return Loss(loss, {"loss": loss.detach(), "entropy": entropy}, entropy)

    def _temperature_loss(self, batch: Batch, entropy: Tensor) -> Loss:
        """Warmer where the policy is surer than it should be."""
        del batch
        loss = self.temperature.log * (entropy - self._target)
        return Loss(loss, {"alpha": self.alpha})

    @property
    def alpha(self) -> Tensor:
        """() the temperature, without gradient."""
        return self.temperature.log.detach().exp()

    def _seen(self, batch: Batch, states: Any) -> Tensor:
        """(B, T+1, F) features of inferred states, or of each observation by itself."""
        if states is None:
            (model,) = self._model
            obs = {name: batch.obs[name].flatten(0, 1) for name in model.observations}
            alone = model.observe(None, None, model.encode(obs))
            return self._features(alone).unflatten(0, batch.first.shape)
        return self._features(tree.flatten(states)).unflatten(0, batch.first.shape)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the slow critics."""
        pairs = zip(self.slow.parameters(), self.critic.parameters(), strict=True)
        for slow, now in pairs:
            slow.lerp_(now, self.config.slow_rate)


class _Temperature(nn.Module):
    """One number, as a module, so that it can be a part's.

    Args:
        begin: its value at first.
    """

    def __init__(self, begin: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(begin)))


def _box(model: WorldModel[Any]) -> Box:
    """The model's actions, if SAC can take them."""
    space = model.actions
    if not isinstance(space, Box) or (space.low, space.high) != (-1.0, 1.0):
        raise SpaceMismatch(
            f"SAC acts in a Box of [-1, 1], but these actions are {space}. Choose a world with "
            "such actions, or another behavior (ActorCritic takes Discrete ones)."
        )
    return space
