"""MuZero: a latent good enough to predict what planning needs, and nothing else.

    s_0 = h(o_t)      r_k, s_k = g(s_{k-1}, a_k)      p_k, v_k = f(s_k)

Three networks by their letters: `representation` h, `dynamics` g, `prediction` f. They are unrolled
for K steps from an observation; at each the policy learns what a search found there, the value an
n-step return that ends in a search's value, and the reward what was observed. Read `MuZero.loss`
first. `targets` is what they learn, `Consistency` EfficientZero's addition.

Gumbel MuZero is this model under another search, Sampled MuZero this model with Box actions;
two-player games have `players=2`, and worlds with rules an observation 'legal'. Imports core, nn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reverie.core.errors import BadConfig, SpaceMismatch
from reverie.core.model import Part, WorldModel
from reverie.core.types import (
    Batch,
    Box,
    Card,
    Discrete,
    Heads,
    Loss,
    Optim,
    Space,
    check_batch,
)
from reverie.models.muzero_nets import (
    LEGAL,
    Representation,
    Siamese,
    Sizes,
    acting_in,
    action_width,
    allowed,
    as_input,
    distribution,
    halved,
    policy_width,
    stretch,
)
from reverie.models.search_targets import Goal, Targets, policy_loss, summed, taken, targets
from reverie.nn.conv import Halving, Stack
from reverie.nn.likelihood import Likelihood
from reverie.nn.support import Support

_STACK, _SUPPORT = Halving(8, pooled=False), Support(50)
_OPTIM = Optim("model", 3e-3, weight_decay=1e-4, clip_norm=5.0)


class Seen(NamedTuple):
    """What `encode` gives."""

    latent: Tensor  # (B, D) h(o), in [0, 1]
    legal: Tensor  # (B, A) bool; (B, 0) where actions are a Box


class State(NamedTuple):
    """A latent and what is said of it: g and f speak once, where a state is made."""

    latent: Tensor  # (B, D) in [0, 1], each row from 0 to 1
    policy: Tensor  # (B, W) raw: logits, or what a distribution over a Box takes
    value: Tensor  # (B,) expected return, in the world's units, of whoever is to move
    reward: Tensor  # (B,) of the transition into it, of whoever moved; 0 where it was observed
    legal: Tensor  # (B, A) bool; all True where it was predicted: f has learned the rules


@dataclass(frozen=True)
class Consistency:
    """A predicted latent must be that of what was then seen (SimSiam).

    Attributes:
        weight: of minus the cosine.
        projected: width in which they are compared.
        hidden: of the predictor, which only the predicted side has.

    Source: Ye et al. 2021, section 4.1.
    """

    weight: float = 2.0
    projected: int = 128
    hidden: int = 64


@dataclass(frozen=True)
class MuZeroConfig:
    """Sizes and targets. h, g and f are MLPs of `layers` hidden ReLU layers of `units`."""

    latent: int = 64  # D
    units: int = 128
    layers: int = 1
    stack: Stack = _STACK  # of pictures, before h
    reward: Likelihood = _SUPPORT
    value: Likelihood = _SUPPORT
    unroll: int = 5  # K
    steps: int = 5  # n, rewards before a value is trusted
    discount: float = 0.997
    players: int = 1  # 2: turns alternate, and what is good for one is bad for the other
    value_weight: float = 0.25
    reward_weight: float = 1.0
    consistency: Consistency | None = None
    optim: Optim = _OPTIM

    def __post_init__(self) -> None:
        """Refuse numbers out of range.

        Raises:
            BadConfig: naming them.
        """
        if self.unroll < 1 or self.steps < 1 or self.players not in {1, 2}:
            raise BadConfig(
                "MuZero needs unroll and steps of 1 or more and 1 or 2 players, but they are "
                f"{self.unroll}, {self.steps} and {self.players}. Choose other numbers."
            )
        if not 0 <= self.discount <= 1:
            raise BadConfig(
                f"MuZero's discount must be in 0..1, but it is {self.discount}. Two players are "
                "players=2, not a negative discount."
            )

    @property
    def sizes(self) -> Sizes:
        """Of h, g and f."""
        return Sizes(self.latent, self.units, self.layers)

    @property
    def goal(self) -> Goal:
        """What the targets need to know."""
        fade = -self.discount if self.players == 2 else self.discount
        return Goal(self.unroll, self.steps, fade)


class MuZero(WorldModel[State]):
    """The model of MuZero, and of all that is planned with it.

    Observations are vectors, which are joined, and pictures; one named 'legal' (A,) is not read as
    an input but says which Discrete actions are allowed: elsewhere the policy's logit is -inf.

    Args:
        config: sizes and targets.
        observations: modalities to read.
        actions: Discrete, or Box for a search of sampled actions.

    Raises:
        SpaceMismatch: if nothing acts, or 'legal' does not fit the actions.
        BadConfig: if a number of the config is out of its range.

    Source: Schrittwieser et al. 2020; Hubert et al. 2021 for Box actions.
    """

    card = Card(
        name="muzero",
        title="MuZero",
        family="C",
        state="latent, and what f says of it",
        z="none: s' = g(s, a)",
        objective="policy, value and reward along K unrolled steps, towards a search's results",
        policy="learned inside, improved by search",
        couplings=("search", "planning"),
        heads=("reward", "value", "policy", "features"),
        paper="Schrittwieser et al. 2020, arXiv:1911.08265",
    )

    def __init__(
        self, config: MuZeroConfig, observations: dict[str, Space], actions: Space | None
    ) -> None:
        super().__init__()
        self.config, self.observations = config, observations
        self.actions: Space = acting_in(actions, observations)
        sizes, extra = config.sizes, config.consistency
        self.representation = Representation(observations, sizes, config.stack)
        inputs, outputs = action_width(self.actions), policy_width(self.actions)
        rewards, values = config.reward.width(1), config.value.width(1)
        self.dynamics = sizes.network(sizes.latent + inputs, sizes.latent + rewards)
        self.prediction = sizes.network(sizes.latent, outputs + values)
        self.siamese = (
            None if extra is None else Siamese(sizes.latent, extra.projected, extra.hidden)
        )

    def encode(self, obs: dict[str, Tensor]) -> Seen:
        """h(o), and what is allowed. See `WorldModel.encode`."""
        return Seen(self.representation(obs), allowed(obs, self.actions))

    def observe(
        self,
        state: State | None,
        action: Tensor | None,
        h: Seen,
        *,
        first: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """f of what was seen: nothing is remembered. See `WorldModel.observe`."""
        del state, action, first, generator
        policy, value = self.said(h.latent)
        return State(h.latent, policy, value, torch.zeros_like(value), h.legal)

    def predict(
        self,
        state: State,
        action: Tensor | None,
        *,
        z: None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """g, then f. See `WorldModel.predict`."""
        del z, generator
        if action is None:
            raise SpaceMismatch(f"MuZero acts in {self.actions}, but got no action. Give one.")
        latent, raw = self.step(state.latent, action)
        policy, value = self.said(latent)
        reward = self.config.reward.mean(raw)[:, 0]
        return State(latent, policy, value, reward, torch.ones_like(state.legal))

    def step(self, latent: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """g: the next latent (B, D), and what it says of the reward, raw (B, W)."""
        after = self.dynamics(torch.cat([latent, as_input(action, self.actions)], -1))
        return stretch(after[:, : self.config.latent]), after[:, self.config.latent :]

    def said(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """f: the raw policy (B, W) and the value (B,) of latents (B, D)."""
        policy, value = self.prediction(latent).tensor_split([policy_width(self.actions)], -1)
        return policy, self.config.value.mean(value)[..., 0]

    @property
    def heads(self) -> Heads:
        """What f and g said where the state was made."""
        return Heads(
            owner=self.card.name,
            reward=lambda s, a, n: n.reward,
            value=lambda s: s.value,
            policy=lambda s: distribution(s.policy, s.legal, self.actions),
            features=lambda s: s.latent,
        )

    def parts(self) -> tuple[Part, ...]:
        """All of it, with one optimizer."""
        return (Part("model", self, self.loss, self.config.optim),)

    def loss(self, batch: Batch, states: Any = None) -> Loss:
        """Policy, value and reward along K steps from the first observation of each segment.

        Gradients that enter g are halved, so that no step outweighs the others; the losses of
        steps 1..K count 1/K each. Where `extra['weight']` stands beside the batch, its first
        column (B,) weighs the rows: what prioritised sampling asks for.

        Args:
            batch: (B, T), T > K is wanted; `extra` has what a search wrote: see `targets`.
            states: ignored.

        Source: Schrittwieser et al. 2020, appendix G.
        """
        del states
        check_batch(batch, self.observations, self.actions)
        config, aims = self.config, self.targets(batch)
        depth = aims.reward.shape[1]
        actions = taken(batch, self.actions, depth)
        latents, rewards = (
            [self.representation({name: x[:, 0] for name, x in batch.obs.items()})],
            [],
        )
        for k in range(depth):
            latent, reward = self.step(halved(latents[-1]), actions[:, k])
            latents.append(latent)
            rewards.append(reward)
        latent = torch.stack(latents, 1)  # (B, K+1, D)
        policy, value = self.prediction(latent).tensor_split([policy_width(self.actions)], -1)
        lost = {
            "policy": aims.acted * policy_loss(policy, aims, self.actions),
            "value": aims.known * config.value.loss(value, aims.value[..., None]),
            "reward": aims.lasting * config.reward.loss(torch.stack(rewards, 1), aims.reward),
        }
        weights = {"policy": 1.0, "value": config.value_weight}
        weights["reward"] = config.reward_weight
        if self.siamese is not None and config.consistency is not None:
            lost["consistency"] = self._consistency(batch, latent[:, 1:], aims.seen)
            weights["consistency"] = config.consistency.weight
        return summed(batch, lost, weights)

    def targets(self, batch: Batch) -> Targets:
        """What the unrolled steps are to say. See `targets`."""

        def value() -> Tensor:
            steps = batch.mask.shape[1]
            obs = {name: batch.obs[name][:, :steps].flatten(0, 1) for name in self.observations}
            with torch.no_grad():
                return self.said(self.representation(obs))[1].view(batch.mask.shape)

        return targets(batch, self.actions, self.config.goal, value)

    def _consistency(self, batch: Batch, latent: Tensor, seen: Tensor) -> Tensor:
        """(B, K) 1 minus the cosine of predicted latents (B, K, D) and those of what was seen."""
        assert self.siamese is not None  # noqa: S101
        depth = latent.shape[1]
        obs = {n: batch.obs[n][:, 1 : depth + 1].flatten(0, 1) for n in self.observations}
        with torch.no_grad():
            found = self.representation(obs).unflatten(0, (-1, depth))
        return seen * self.siamese(latent, found)


PIXELS: dict[str, Space] = {"image": Box((3, 64, 64), 0, 255, "uint8")}
_RULES: dict[str, Space] = {"vector": Box((3,), -2.0, 2.0), LEGAL: Box((3,), 0.0, 1.0)}


def default() -> MuZero:
    """A middling size, untrained, for pictures and six actions; the paper's are residual towers."""
    return MuZero(MuZeroConfig(latent=256, units=512, value_weight=0.25), PIXELS, Discrete(6))


def small() -> MuZero:
    """The same wiring, thin, with all that is optional: rules, a picture, consistency."""
    config = MuZeroConfig(
        latent=8,
        units=16,
        stack=Halving(2, pooled=False),
        reward=Support(3),
        value=Support(3),
        unroll=3,
        consistency=Consistency(projected=8, hidden=8),
    )
    return MuZero(config, {**_RULES, "image": Box((3, 16, 16), 0, 255, "uint8")}, Discrete(3))
