"""Stochastic MuZero: chance moves after every action, and a search may ask what it does.

    as_k = phi(s_k, a_k)      sigma_k, Q_k = psi(as_k)      r_{k+1}, s_{k+1} = g(as_k, c_{k+1})

An afterstate as is what the action alone makes of a state; sigma says how likely each of C chance
codes is, and g what becomes of the afterstate under one. What a code means is learned: e looks at
two observations in a row and names the code that must have come between. h and f are MuZero's;
`chances` is what a search with chance nodes asks. Imports core, nn and MuZero's bricks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.errors import BadConfig, SpaceMismatch
from reverie.core.model import Part, WorldModel
from reverie.core.types import Batch, Box, Card, Discrete, Heads, Loss, Space, check_batch
from reverie.models.muzero import MuZeroConfig, Seen, State
from reverie.models.muzero_nets import (
    LEGAL,
    Representation,
    acting_in,
    action_width,
    allowed,
    as_input,
    distribution,
    halved,
    policy_width,
    stretch,
)
from reverie.models.search_targets import Targets, policy_loss, summed, taken, targets
from reverie.nn.conv import Halving
from reverie.nn.support import Support


@dataclass(frozen=True)
class StochasticConfig:
    """MuZero's, and what chance is made of."""

    muzero: MuZeroConfig
    codes: int = 32  # C, things that chance may do
    chance_weight: float = 1.0  # of the cross-entropy of sigma against the code that came
    commitment_weight: float = 1.0  # of how far e is from the code it names


class StochasticMuZero(WorldModel[State]):
    """MuZero with afterstates and chance codes.

    Args:
        config: sizes and targets.
        observations: as for `MuZero`.
        actions: as for `MuZero`.

    Raises:
        SpaceMismatch: as for `MuZero`.
        BadConfig: if there are fewer than two codes, or the config has a consistency loss.

    Source: Antonoglou et al. 2022, sections 4 and 5.
    """

    card = Card(
        name="stochastic_muzero",
        title="Stochastic MuZero",
        family="C",
        state="latent, and what f says of it",
        z="one of C chance codes, between afterstate and state",
        objective="MuZero's, and of afterstates the value and the chance code that came",
        policy="learned inside, improved by search with chance nodes",
        couplings=("search", "planning"),
        heads=("reward", "value", "policy", "features", "aleatoric"),
        paper="Antonoglou et al. 2022, ICLR",
    )

    def __init__(
        self, config: StochasticConfig, observations: dict[str, Space], actions: Space | None
    ) -> None:
        super().__init__()
        if config.codes < 2 or config.muzero.consistency is not None:
            raise BadConfig(
                "Stochastic MuZero takes 2 codes or more and no consistency loss, but got "
                f"{config.codes} and {config.muzero.consistency}. Choose others."
            )
        self.config, self.observations = config, observations
        self.actions: Space = acting_in(actions, observations)
        sizes, stack = config.muzero.sizes, config.muzero.stack
        inputs, outputs = action_width(self.actions), policy_width(self.actions)
        rewards, values = config.muzero.reward.width(1), config.muzero.value.width(1)
        self.representation = Representation(observations, sizes, stack)
        self.prediction = sizes.network(sizes.latent, outputs + values)
        self.after = sizes.network(sizes.latent + inputs, sizes.latent)  # phi
        self.expectation = sizes.network(sizes.latent, config.codes + values)  # psi
        self.dynamics = sizes.network(sizes.latent + config.codes, sizes.latent + rewards)
        self.looks = Representation(observations, sizes, stack)  # of e, at one observation
        self.names = sizes.network(2 * sizes.latent, config.codes)  # of e, what came between two

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
        z: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """phi, a chance code z (B,) int64, or one drawn from sigma, g, then f."""
        if action is None:
            raise SpaceMismatch(f"MuZero acts in {self.actions}, but got no action. Give one.")
        afterstate = self.moved(state.latent, action)
        if z is None:
            likely = self.expected(afterstate)[0].softmax(-1)
            z = torch.multinomial(likely, 1, generator=generator)[:, 0]
        latent, raw = self.step(afterstate, F.one_hot(z, self.config.codes).float())
        policy, value = self.said(latent)
        reward = self.config.muzero.reward.mean(raw)[:, 0]
        return State(latent, policy, value, reward, torch.ones_like(state.legal))

    def chances(self, state: State, action: Tensor) -> tuple[Tensor, Tensor]:
        """What chance may do after an action: (B, C) probabilities, and the codes (B, C)."""
        likely = self.expected(self.moved(state.latent, action))[0].softmax(-1)
        return likely, torch.arange(self.config.codes, device=likely.device).expand(likely.shape)

    def moved(self, latent: Tensor, action: Tensor) -> Tensor:
        """phi: the afterstate (B, D) in [0, 1]."""
        return stretch(self.after(torch.cat([latent, as_input(action, self.actions)], -1)))

    def expected(self, afterstate: Tensor) -> tuple[Tensor, Tensor]:
        """psi: logits of the codes (..., C), and Q, raw (..., W), of afterstates (..., D)."""
        codes, value = self.expectation(afterstate).tensor_split([self.config.codes], -1)
        return codes, value

    def step(self, afterstate: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """g: the next latent (B, D), and what it says of the reward, raw (B, W)."""
        after = self.dynamics(torch.cat([afterstate, code], -1))
        size = self.config.muzero.latent
        return stretch(after[:, :size]), after[:, size:]

    def said(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """f: the raw policy (B, W) and the value (B,) of latents (B, D)."""
        policy, value = self.prediction(latent).tensor_split([policy_width(self.actions)], -1)
        return policy, self.config.muzero.value.mean(value)[..., 0]

    @property
    def heads(self) -> Heads:
        """What f and g said where the state was made; aleatoric is the entropy of sigma, nats."""
        return Heads(
            owner=self.card.name,
            reward=lambda s, a, n: n.reward,
            value=lambda s: s.value,
            policy=lambda s: distribution(s.policy, s.legal, self.actions),
            features=lambda s: s.latent,
            aleatoric=self._entropy,
        )

    def _entropy(self, state: State, action: Tensor) -> Tensor:
        """(B,) nats of what chance may do."""
        likely = self.expected(self.moved(state.latent, action))[0].log_softmax(-1)
        return -(likely.exp() * likely).sum(-1)

    def parts(self) -> tuple[Part, ...]:
        """All of it, with one optimizer."""
        return (Part("model", self, self.loss, self.config.muzero.optim),)

    def loss(self, batch: Batch, states: Any = None) -> Loss:
        """MuZero's losses, and at each afterstate the chance code that came and the return.

        Args:
            batch: as for `MuZero.loss`.
            states: ignored.

        Source: Antonoglou et al. 2022, equations 6 to 8; commitment: van den Oord et al. 2017.
        """
        del states
        check_batch(batch, self.observations, self.actions)
        config, aims = self.config.muzero, self.targets(batch)
        depth = aims.reward.shape[1]
        actions, named = taken(batch, self.actions, depth), self.named(batch, depth)
        codes = F.one_hot(named.argmax(-1), self.config.codes).float()  # (B, K, C)
        passed = codes + named - named.detach()  # the gradient goes straight through to e
        obs = {name: x[:, 0] for name, x in batch.obs.items()}
        latents, afters, rewards = [self.representation(obs)], [], []
        for k in range(depth):
            afters.append(self.moved(halved(latents[-1]), actions[:, k]))
            latent, reward = self.step(afters[-1], passed[:, k])
            latents.append(latent)
            rewards.append(reward)
        policy, value = self.prediction(torch.stack(latents, 1)).tensor_split(
            [policy_width(self.actions)], -1
        )
        chance, worth = self.expected(torch.stack(afters, 1))
        surprise = -(codes * chance.float().log_softmax(-1)).sum(-1)
        aim = aims.value[..., None]
        lost = {
            "policy": aims.acted * policy_loss(policy, aims, self.actions),
            "value": aims.known * config.value.loss(value, aim),
            "reward": aims.lasting * config.reward.loss(torch.stack(rewards, 1), aims.reward),
            "after value": aims.lasting * config.value.loss(worth, aim[:, :depth]),
            "chance": aims.seen * surprise,
            "commitment": aims.seen * (named - codes).square().mean(-1),
        }
        weights = {
            "policy": 1.0,
            "value": config.value_weight,
            "reward": config.reward_weight,
            "after value": config.value_weight,
            "chance": self.config.chance_weight,
            "commitment": self.config.commitment_weight,
        }
        return summed(batch, lost, weights)

    def named(self, batch: Batch, depth: int) -> Tensor:
        """e: (B, K, C) raw, which code came between each two of the first K+1 observations."""
        obs = {n: batch.obs[n][:, : depth + 1].flatten(0, 1) for n in self.observations}
        seen = self.looks(obs).unflatten(0, (-1, depth + 1))
        return self.names(torch.cat([seen[:, :-1], seen[:, 1:]], -1))

    def targets(self, batch: Batch) -> Targets:
        """What the unrolled steps are to say. See `search_targets.targets`."""

        def value() -> Tensor:
            steps = batch.mask.shape[1]
            obs = {name: batch.obs[name][:, :steps].flatten(0, 1) for name in self.observations}
            with torch.no_grad():
                return self.said(self.representation(obs))[1].view(batch.mask.shape)

        return targets(batch, self.actions, self.config.muzero.goal, value)


def default() -> StochasticMuZero:
    """A middling size, untrained, for 4 x 4 boards of 2048: 16 cells of 18 kinds, 32 codes."""
    board: dict[str, Space] = {"vector": Box((288,), 0.0, 1.0), LEGAL: Box((4,), 0.0, 1.0)}
    config = MuZeroConfig(latent=256, units=512, layers=2, steps=10, discount=0.999)
    return StochasticMuZero(StochasticConfig(config), board, Discrete(4))


def small() -> StochasticMuZero:
    """The same wiring, thin, for a vector and a picture."""
    spaces: dict[str, Space] = {
        "vector": Box((3,), -2.0, 2.0),
        "image": Box((3, 16, 16), 0, 255, "uint8"),
    }
    thin = replace(MuZeroConfig(), latent=8, units=16, unroll=3, stack=Halving(2, pooled=False))
    thin = replace(thin, reward=Support(3), value=Support(3))
    return StochasticMuZero(StochasticConfig(thin, codes=4), spaces, Discrete(3))
