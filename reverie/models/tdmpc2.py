"""TD-MPC2: a latent world without pictures, learned from what it is for.

Encoder, dynamics, reward and an ensemble of Qs learn together from short segments: an imagined
latent must be what the encoder says of the next observation, and rewards and Qs must be told from
imagined latents. A policy learns to please the Qs. It acts by MPPI over three imagined steps, with
proposals from the policy and a Q at the end: see `recipes/tdmpc2.py`. In the scaffold: Enc is an
MLP or convolutions to simplices, Pred an MLP to simplices, there is no z.

Read `_loss` first, then `_policy_loss`. Imports core and nn. Letters: L latent, E task embedding,
A numbers of an action, Q an ensemble of values, rho the weight of later steps, N rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core import tree
from reverie.core.errors import BadConfig, BadData, SpaceMismatch
from reverie.core.model import Part, WorldModel
from reverie.core.types import Batch, Box, Card, Heads, Loss, Optim, Space, check_batch
from reverie.nn.likelihood import SymlogTwoHot
from reverie.nn.normed import (
    Critics,
    Encoder,
    OnSimplices,
    Slow,
    Tasks,
    joined,
    linear,
    normed_mlp,
    readable,
)
from reverie.nn.percentiles import Percentiles
from reverie.nn.prior import acted


@dataclass(frozen=True)
class TDMPC2Config:
    """Sizes, weights and rates; the defaults are those of the size 5M."""

    latent: int = 512  # L
    units: int = 512  # of every hidden layer behind the encoder
    encoder: int = 256  # units of the encoder of vectors
    encoder_layers: int = 2  # of it, the last one included
    critics: int = 5  # Q
    simplex: int = 8  # numbers of the latent that sum to 1
    channels: int = 32  # of the convolutions
    task: int = 96  # E, where there are tasks
    discount: float = 0.99  # a decision; `discount_of` has the paper's rule
    episodic: bool = False  # whether a head says when episodes end
    rho: float = 0.5
    consistency: float = 20.0  # weights of the losses; the head for endings has 1
    reward: float = 0.1
    value: float = 0.1
    entropy: float = 1e-4  # weight of the policy's, times A
    dropout: float = 0.01  # in the Qs
    momentum: float = 0.01  # of the Qs that targets come from
    lr: float = 3e-4
    encoder_rate: float = 0.3  # share of the learning rate that the encoder gets


# name -> (encoder, its layers, units, latent, critics)
SIZES: dict[str, tuple[int, int, int, int, int]] = {
    "1M": (256, 2, 384, 128, 2),
    "5M": (256, 2, 512, 512, 5),
    "19M": (1024, 3, 1024, 768, 5),
    "48M": (1792, 4, 1792, 768, 5),
    "317M": (4096, 5, 4096, 1376, 8),
}


def sized(name: str, **changes: Any) -> TDMPC2Config:
    """A size of `SIZES`.

    Args:
        name: "1M" to "317M".
        changes: of other fields.

    Raises:
        BadConfig: if there is no such size.
    """
    if name not in SIZES:
        raise BadConfig(f"size is '{name}'. Choose one of {', '.join(SIZES)}.")
    encoder, layers, units, latent, critics = SIZES[name]
    wide = {"encoder": encoder, "encoder_layers": layers, "critics": critics}
    return TDMPC2Config(latent=latent, units=units, **wide, **changes)


def discount_of(length: int) -> float:
    """The paper's rule for episodes of so many decisions: 0.95 to 0.995."""
    share = length / 5
    return min(max((share - 1) / share, 0.95), 0.995)


class State(NamedTuple):
    """What the model knows at one moment."""

    z: Tensor  # (B, L) on simplices
    task: Tensor  # (B, E) embedding of the task; E is 0 where there is one


class TDMPC2(WorldModel[State]):
    """Encoder, dynamics, reward, Qs and a policy prior behind the contract.

    It remembers nothing: what one observation does not show (a velocity in a single picture) it
    cannot know. Several tasks are told apart by a Discrete observation 'task'.

    Args:
        config: sizes, weights and rates.
        observations: uint8 pictures (C, H, W) and float vectors (D,), at least one; 'task'.
        actions: Box in [-1, 1], or Discrete.

    Raises:
        SpaceMismatch: if a modality has no encoder here, or the actions are of no use.
        BadConfig: if the latent is no whole number of simplices.
    """

    card = Card(
        name="tdmpc2",
        title="TD-MPC2",
        family="C",
        state="latent on simplices",
        z="none",
        objective="consistency of latents + two-hot reward and Q (TD)",
        policy="MPPI with a learned prior",
        couplings=("planning", "search", "imagination"),
        heads=("reward", "value", "policy", "embed", "features"),
        paper="Hansen et al. 2024, arXiv:2310.16828",
    )

    def __init__(
        self, config: TDMPC2Config, observations: Mapping[str, Space], actions: Space | None
    ) -> None:
        super().__init__()
        reads = readable(self.card.title, observations)
        self.acts = acted(self.card.title, actions)
        if config.latent % config.simplex:
            raise BadConfig(
                f"latent is {config.latent}, which is no multiple of simplex, {config.simplex}. "
                "Choose another of the two."
            )
        self.config, self.observations, self.actions = config, dict(observations), actions
        c, e = config, config.task if reads.tasks else 0
        seen, done = c.latent + e, c.latent + e + self.acts.size  # (s), (s, a)
        self.bins = SymlogTwoHot()
        self.tasks = Tasks(reads.tasks, e) if reads.tasks else None
        sizes = (c.encoder_layers - 1, c.encoder, c.channels)
        self.encoder = Slow(Encoder(reads, e, sizes, c.latent, c.simplex), c.encoder_rate)
        self.dynamics = nn.Sequential(
            *normed_mlp(done, 2, c.units), OnSimplices(c.units, c.latent, c.simplex)
        )
        self.reward = _mlp(done, c.units, self.bins.width(1), last=0.0)
        self.cont = _mlp(seen, c.units, 1) if c.episodic else None  # log-odds of going on
        self.critics = Critics(c.critics, done, c.units, self.bins.width(1), c.dropout)
        self.targets = Critics(c.critics, done, c.units, self.bins.width(1), 0.0)
        self.targets.load_state_dict(self.critics.state_dict())
        self.targets.requires_grad_(requires_grad=False)
        self.actor = _mlp(seen, c.units, self.acts.width)
        self.range = Percentiles(c.momentum)  # of the Qs that the policy is to please

    def encode(self, obs: dict[str, Tensor]) -> State:
        """The latent (B, L) of observations (B, ...), and the task's embedding."""
        if self.tasks is None:
            task = next(iter(obs.values())).new_zeros(len(next(iter(obs.values()))), 0).float()
        else:
            task = self.tasks(obs["task"])
        return State(self.encoder(obs, task), task)

    def observe(
        self,
        state: State | None,
        action: Tensor | None,
        h: State,
        *,
        first: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """What was seen is the state; what was before does not count."""
        del state, action, first, generator
        return h

    def predict(
        self,
        state: State,
        action: Tensor | None,
        *,
        z: None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """One step of the dynamics. See `WorldModel.predict`."""
        del z, generator
        if action is None:
            raise SpaceMismatch(f"{self.card.title} predicts under actions, but action is None.")
        return State(self.dynamics(joined(*state, self.acts.numbers(action))), state.task)

    @property
    def heads(self) -> Heads:
        """reward, value, policy, embed, features; cont where it is learned."""
        return Heads(
            owner=self.card.name,
            reward=self._reward,
            cont=None if self.cont is None else self._cont,
            value=self._value,
            policy=self._policy,
            embed=lambda s: s.z,
            features=lambda s: s.z,
        )

    def _reward(self, state: State, action: Tensor, after: State) -> Tensor:
        """(B,) in the world's units."""
        del after
        given = joined(*state, self.acts.numbers(action))
        return self.bins.mean(self.reward(given))[:, 0]

    def _cont(self, after: State) -> Tensor:
        """(B,) probability that the episode goes on."""
        return self.cont(joined(*after))[:, 0].float().sigmoid()  # type: ignore[misc]

    def _value(self, state: State) -> Tensor:
        """(B,) mean of two Qs at the policy's likeliest action."""
        action = self.acts.numbers(self._policy(state).mode)
        raw = self.critics(joined(*state, action), slice(2))
        return self.bins.mean(raw).mean(0)[:, 0]

    def _policy(self, state: State) -> Any:
        """Distribution over actions (B, ...)."""
        return self.acts.policy(self.actor(joined(*state)))

    def parts(self) -> tuple[Part, ...]:
        """The model, then the policy; each has an optimizer of its own."""
        c = self.config
        learned = [self.encoder, self.dynamics, self.reward, self.critics]
        learned += [net for net in (self.cont, self.tasks) if net is not None]
        model = Optim("model", c.lr, clip_norm=20.0)
        policy = Optim("policy", c.lr, eps=1e-5, clip_norm=20.0)
        return (
            Part("model", nn.ModuleList(learned), self._loss, model, self._follow),
            Part("policy", self.actor, self._policy_loss, policy),
        )

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the Qs that targets come from."""
        pairs = zip(self.targets.parameters(), self.critics.parameters(), strict=True)
        for slow, quick in pairs:
            slow.lerp_(quick, self.config.momentum)

    def _loss(self, batch: Batch, states: Any) -> Loss:
        """Unroll from the first observation, and judge what each imagined latent says.

        Later steps weigh less, by powers of rho. A step counts if all before it is one episode.
        The states that are handed on are those that were seen, without a graph.
        """
        del states
        check_batch(batch, self.observations, self.actions)
        if batch.reward is None or batch.action is None:
            raise BadData(f"{self.card.title} learns from rewards. Choose data that has some.")
        c, steps = self.config, batch.mask.shape[1]
        start = self.encode({name: batch.obs[name][:, 0] for name in self.observations})
        with torch.no_grad():
            seen = self._seen(batch, start)
            target = self._targets(batch.reward, batch.terminated, seen)
        action = self.acts.numbers(batch.action)
        z, task = self._unrolled(start, action), start.task[:, None].expand(-1, steps, -1)
        given = joined(z[:, :-1], task, action).flatten(0, 1)
        alive = batch.mask.long().cumprod(1).float()
        weight = _weights(alive, c.rho)
        every = target.flatten()[:, None].expand(c.critics, -1, -1)
        q = self.bins.loss(self.critics(given, slice(None)), every)
        reward = self.bins.loss(self.reward(given), batch.reward.flatten()[:, None])
        terms = {
            "consistency": ((z[:, 1:] - seen.z[:, 1:]).square().mean(-1) * weight).sum(),
            "reward": (reward.view_as(weight) * weight).sum(),
            "value": (q.mean(0).view_as(weight) * weight).sum(),
        }
        weights = {"consistency": c.consistency, "reward": c.reward, "value": c.value}
        if self.cont is not None:
            goes_on = (~batch.terminated).float()
            logit = self.cont(joined(z[:, 1:], task))[..., 0].float()
            error = F.binary_cross_entropy_with_logits(logit, goes_on, reduction="none")
            terms["cont"], weights["cont"] = (error * _weights(alive, 1.0)).sum(), 1.0
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return Loss(total, {name: term.detach() for name, term in terms.items()}, seen)

    def _seen(self, batch: Batch, start: State) -> State:
        """(B, T+1, ...) what the encoder says of every observation; the first is given."""
        later = {name: batch.obs[name][:, 1:] for name in self.observations}
        flat = self.encode({name: x.flatten(0, 1) for name, x in later.items()})
        after = tree.map(lambda x: x.view(*batch.mask.shape, x.shape[-1]), flat)
        return tree.map(lambda x, y: torch.cat([x[:, None], y], 1), start, after)

    def _targets(self, reward: Tensor, terminated: Tensor, seen: State) -> Tensor:
        """(B, T) reward and the least of two slow Qs at the policy's action after it."""
        flat = tree.map(lambda x: x[:, 1:].flatten(0, 1), seen)
        action = self.acts.numbers(self._policy(flat).sample())
        raw = self.targets(joined(*flat, action), self._two())
        q = self.bins.mean(raw).amin(0).view_as(reward)
        return reward + self.config.discount * (~terminated) * q

    def _unrolled(self, start: State, action: Tensor) -> Tensor:
        """(B, T+1, L) latents imagined under actions (B, T, A)."""
        found = [start.z]
        for one in action.unbind(1):
            found.append(self.dynamics(joined(found[-1], start.task, one)))
        return torch.stack(found, 1)

    def _two(self) -> Tensor | slice:
        """Two critics, drawn."""
        count = self.config.critics
        return slice(2) if count <= 2 else torch.randperm(count, device=self.device)[:2]

    def _policy_loss(self, batch: Batch, states: State) -> Loss:
        """Please two Qs, on the scale of their range, at all imagined latents of a segment."""
        with torch.no_grad():
            start = tree.map(lambda x: x[:, 0], states)
            z = self._unrolled(start, self.acts.numbers(batch.action))  # type: ignore[arg-type]
        task = start.task[:, None].expand(-1, z.shape[1], -1)
        flat, which = tree.flatten(State(z, task)), self._two()

        def q(action: Tensor) -> Tensor:
            raw = self.critics(joined(*flat, action), which, frozen=True)
            return self.bins.mean(raw).mean(0)[:, 0]

        value, entropy = self.acts.worth(self._policy(flat), q)
        value, entropy = value.view(z.shape[:2]), entropy.view(z.shape[:2])
        scale = self.range(value[:, 0])
        alive = F.pad(batch.mask.long().cumprod(1).float(), (1, 0), value=1.0)
        weight = _weights(alive, self.config.rho)
        total = -((value / scale + self.config.entropy * entropy) * weight).sum()
        terms = {"value": (value * weight).sum() / weight.sum(), "scale": scale}
        terms["entropy"] = (entropy * weight).sum() / weight.sum()
        return Loss(total, {name: term.detach() for name, term in terms.items()})


def _weights(alive: Tensor, rho: float) -> Tensor:
    """(B, T) of a mean over T of the means over the rows that count, each times rho^t."""
    steps = alive.shape[1]
    later = rho ** torch.arange(steps, device=alive.device)
    return alive * later / (alive.sum(0).clamp(min=1) * steps)


def _mlp(inputs: int, units: int, outputs: int, last: float = 0.02) -> nn.Sequential:
    """Two normed layers and a linear one, whose weights begin with deviation `last`."""
    return nn.Sequential(*normed_mlp(inputs, 2, units), linear(units, outputs, last))


PIXELS: dict[str, Space] = {"image": Box((3, 64, 64), 0, 255, "uint8")}


def default() -> TDMPC2:
    """The size 5M, untrained, for 24 numbers and six actions."""
    return TDMPC2(TDMPC2Config(), {"vector": Box((24,), -10.0, 10.0)}, Box((6,)))


def small() -> TDMPC2:
    """The same wiring, thin, for a picture, a vector and two actions; episodes end."""
    thin = TDMPC2Config(latent=16, units=16, encoder=16, critics=3, channels=4, episodic=True)
    return TDMPC2(thin, PIXELS | {"vector": Box((3,), -2.0, 2.0)}, Box((2,)))
